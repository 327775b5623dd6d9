"""A ledger: what was asked of a model and what was done, one line each, chained by hashes.

Each line is one JSON object in canonical form (keys sorted, no spaces). It names the line before:

    hash_i = SHA-256(canonical(line i without hash and mac)),  previous_i = hash_(i-1)
    mac_i  = HMAC-SHA-256(key, hash_i), where there is a key

so a line that is altered, removed, moved or put in breaks the chain. What a chain alone cannot
show is told apart: whoever may write the file may rewrite the whole chain, which a key stops, and
may cut off its end, which only a head that was written down elsewhere shows.

S. Haber and W. S. Stornetta. How to time-stamp a digital document. Journal of Cryptology 3, 1991.
H. Krawczyk, M. Bellare and R. Canetti. HMAC: keyed-hashing for message authentication. RFC 2104,
1997.
"""

import datetime
import hashlib
import hmac
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from jfu import files
from jfu.io import write_bytes

MOST = 2**26  # bytes of a ledger, which is verified whole; a line has about 600
FIRST = "0" * 64  # what the first line names as the line before
CHAIN = ("number", "time", "previous", "hash", "mac")  # the fields that are not the caller's


def canonical(entry: dict[str, Any]) -> str:
    """The only form in which an entry may stand in a ledger.

    >>> canonical({"b": 1, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(
    content: dict[str, Any], before: Sequence[dict], *, time: str, key: bytes | None = None
) -> dict[str, Any]:
    """The entry that follows ``before``: the content, its place, its hash, its mac.

    >>> first = chained({"event": "trained"}, [], time="2026-01-01T00:00:00Z")
    >>> second = chained({"event": "asked"}, [first], time="2026-01-02T00:00:00Z")
    >>> second["number"], second["previous"] == first["hash"]
    (2, True)
    """
    if taken := sorted(set(content) & set(CHAIN)):
        raise ValueError(f"{', '.join(taken)} is the ledger's own; name the content otherwise")
    previous = before[-1]["hash"] if before else FIRST
    entry = content | dict(number=len(before) + 1, time=time, previous=previous)
    entry["hash"] = _hash(entry)
    return entry | (dict(mac=_mac(entry["hash"], key)) if key is not None else {})


def verify(text: str, *, head: str | None = None, key: bytes | None = None) -> list[dict[str, Any]]:
    """The entries of a ledger, if its chain holds.

    Args:
      text: the file's content.
      head: a hash that was written down elsewhere: some line must have it, so that nothing up to
        there was changed or cut off since.
      key: every line must have been written with it, so that nobody without it wrote one.

    Raises:
      ValueError: the first line that is not what it should be.

    >>> line = canonical(chained({"event": "trained"}, [], time="2026-01-01T00:00:00Z"))
    >>> [entry["event"] for entry in verify(line + "\\n")]
    ['trained']
    >>> verify(line.replace("trained", "drained") + "\\n")
    Traceback (most recent call last):
    ValueError: line 1 of the ledger was altered: its hash is not that of its content
    """
    entries: list[dict[str, Any]] = []
    lines = text.split("\n")
    if lines.pop():
        raise ValueError(f"line {len(lines) + 1} of the ledger is cut off")
    for number, line in enumerate(lines, 1):
        where = f"line {number} of the ledger"
        try:
            entry = files.parse_json(line.encode(), where)
            own, named = entry["hash"], (entry["number"], entry["previous"])
            if line != canonical(entry):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{where} is none that jfu wrote") from None
        if own != _hash(entry):
            raise ValueError(f"{where} was altered: its hash is not that of its content")
        if named != (number, entries[-1]["hash"] if entries else FIRST):
            raise ValueError(
                f"{where} does not follow the one before: lines were put in or removed"
            )
        if key is not None and not hmac.compare_digest(str(entry.get("mac")), _mac(own, key)):
            raise ValueError(f"{where} was not written with this key")
        entries.append(entry)
    if head is not None and head not in [entry["hash"] for entry in entries]:
        raise ValueError(
            f"no line of the ledger has the hash {head}, which was its head once: lines were "
            "removed or the chain was rewritten"
        )
    return entries


def read(
    path: str | os.PathLike, *, head: str | None = None, key: bytes | None = None
) -> list[dict[str, Any]]:
    """The entries of a ledger's file, as ``verify``; none where there is no file.

    Raises:
      ValueError: as ``verify``, with the file's name; also where there is no file and a head is
        asked for.
    """
    path = pathlib.Path(path)
    try:
        text = files.read_bytes(path, most=MOST).decode() if os.path.lexists(path) else ""
        return verify(text, head=head, key=key)
    except ValueError as error:
        raise ValueError(f"{path} does not hold: {error}") from None


def append(
    path: str | os.PathLike, content: dict[str, Any], *, key: bytes | None = None
) -> dict[str, Any]:
    """Adds a line, unless one with this very content is there; returns the entry.

    The file is verified before and replaced at once, so a kill leaves the old ledger or the new.

    Raises:
      ValueError: the ledger does not hold, or was written with another key, or with none.
    """
    path = pathlib.Path(path)
    entries = read(path, key=key)
    if key is None and entries and "mac" in entries[-1]:
        raise ValueError(f"{path} is kept with a key, and none was given; give --key_file")
    same = json.loads(canonical(content))
    for entry in entries:
        if {name: value for name, value in entry.items() if name not in CHAIN} == same:
            return entry
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entries.append(chained(same, entries, time=now, key=key))
    write_bytes(path, "".join(canonical(entry) + "\n" for entry in entries).encode())
    return entries[-1]


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of a plain file, as hexadecimal text."""
    with files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(entry: dict[str, Any]) -> str:
    bare = {name: value for name, value in entry.items() if name not in ("hash", "mac")}
    return hashlib.sha256(canonical(bare).encode()).hexdigest()


def _mac(own: str, key: bytes) -> str:
    return hmac.new(key, own.encode(), hashlib.sha256).hexdigest()
