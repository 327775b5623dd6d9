"""A ledger: requests to a model and what was done, one line each, chained by hashes.

Each line is one JSON object in canonical form (keys sorted, no spaces). It names the line before:

    hash_i = SHA-256(canonical(line i without hash and mac)),  previous_i = hash_(i-1)
    mac_i  = HMAC-SHA-256(key, hash_i), where there is a key

A line that is altered, removed, moved or inserted breaks the chain. A chain alone cannot detect two
things. Anyone who may write the file may rewrite the whole chain; a key prevents that. They may
also cut off its end. Only a head that was written down elsewhere detects this.

A key can begin later and can change, by a line that both keys sign (``rekey``):

    mac_i  = HMAC-SHA256(old key, hash_i), where there was one
    next_i = HMAC-SHA256(new key, hash_i)

Since hash_i depends on all earlier lines, the new key then also covers them.

S. Haber and W. S. Stornetta. How to time-stamp a digital document. Journal of Cryptology 3, 1991.
H. Krawczyk, M. Bellare and R. Canetti. HMAC: keyed-hashing for message authentication. RFC 2104,
1997.
"""

import datetime
import hashlib
import hmac
import itertools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from jfu import files
from jfu.io import write_bytes

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
MOST = 2**26  # bytes of a ledger, which is verified whole; a line has about 600
FIRST = "0" * 64  # what the first line names as the line before
CHAIN = (
    "number",
    "time",
    "previous",
    "hash",
    "mac",
    "next",
)  # the fields that are not the caller's


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
    """The entries of a ledger, if its chain is valid.

    Args:
      text: the file's content.
      head: a hash that was written down elsewhere: some line must have it, so that nothing up to
        there was changed or cut off since.
      key: every line must have been written with it, or before the line that made it the key. Then
        nobody without the key wrote or changed a line since.

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
            if line != canonical(entry) or not _TIME.fullmatch(entry["time"]):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{where} is none that jfu wrote") from None
        if own != _hash(entry):
            raise ValueError(f"{where} was altered: its hash is not that of its content")
        if named != (number, entries[-1]["hash"] if entries else FIRST):
            raise ValueError(
                f"{where} does not follow the one before: lines were put in or removed"
            )
        entries.append(entry)
    if key is not None:
        _check_key(entries, key)
    if head is not None and head not in [entry["hash"] for entry in entries]:
        raise ValueError(
            f"no line of the ledger has the hash {head}, which was its head once: lines were "
            "removed or the chain was rewritten"
        )
    return entries


def _check_key(entries: Sequence[dict[str, Any]], key: bytes) -> None:
    """The lines are vouched for by a key: each, or all up to a change to it at once."""

    def vouched(entry: dict[str, Any], name: str) -> bool:
        named, own = str(entry.get(name)), _mac(entry["hash"], key)
        return hmac.compare_digest(named.encode(), own.encode())

    since = max((n for n, entry in enumerate(entries) if vouched(entry, "next")), default=-1)
    for entry in entries[since + 1 :]:
        if "next" in entry:
            raise ValueError(
                f"line {entry['number']} of the ledger changed its key, and was not written with "
                "this key; give the one from there on"
            )
        if not vouched(entry, "mac"):
            raise ValueError(f"line {entry['number']} of the ledger was not written with this key")


def keyed(entries: Sequence[dict[str, Any]]) -> bool:
    """Whether lines that follow must be written with a key."""
    return bool(entries) and ("mac" in entries[-1] or "next" in entries[-1])


def backwards(entries: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers of lines with an earlier time than the line before them, which clocks may give.

    >>> first = chained({"event": "trained"}, [], time="2026-01-02T00:00:00Z")
    >>> second = chained({"event": "asked"}, [first], time="2026-01-01T00:00:00Z")
    >>> backwards([first, second])
    [2]
    """
    pairs = itertools.pairwise(entries)
    return [after["number"] for before, after in pairs if after["time"] < before["time"]]


def read(
    path: str | os.PathLike[str], *, head: str | None = None, key: bytes | None = None
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
    path: str | os.PathLike[str], content: dict[str, Any], *, key: bytes | None = None
) -> dict[str, Any]:
    """Adds a line, unless one with this very content is there; returns the entry.

    The file is verified before and replaced at once, so a kill leaves the old ledger or the new.

    Raises:
      ValueError: the ledger is not valid, or was written with another key, or with none.
    """
    path = pathlib.Path(path)
    entries = read(path, key=key)
    if key is None and keyed(entries):
        raise ValueError(f"{path} is kept with a key, and none was given; give --key_file")
    same = json.loads(canonical(content))
    for entry in entries:
        if {name: value for name, value in entry.items() if name not in CHAIN} == same:
            return entry
    entries.append(chained(same, entries, time=now(), key=key))
    _write(path, entries)
    return entries[-1]


def rekey(
    path: str | os.PathLike[str], content: dict[str, Any], *, new: bytes, key: bytes | None = None
) -> dict[str, Any]:
    """Adds a line from which on a ledger has another key, or its first; returns the entry.

    Args:
      new: the key of all lines that follow; it vouches for those that are there, too.
      key: the key until now, where there was one.

    Raises:
      ValueError: the ledger is not valid, or its key is not ``key``, or is already ``new``.
    """
    path = pathlib.Path(path)
    entries = read(path, key=key)
    if not entries:
        raise ValueError(f"{path} has no lines yet; its first is written with a key at once")
    if key is None and keyed(entries):
        raise ValueError(f"{path} is kept with a key, and none was given; give --key_file")
    if key == new:
        raise ValueError(f"{path} is kept with this key already; give another one")
    entry = chained(content, entries, time=now(), key=key)
    entries.append(entry | dict(next=_mac(entry["hash"], new)))
    _write(path, entries)
    return entries[-1]


def _write(path: pathlib.Path, entries: Sequence[dict[str, Any]]) -> None:
    write_bytes(path, "".join(canonical(entry) + "\n" for entry in entries).encode())


def now() -> str:
    """The time as lines have it: UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(path: str | os.PathLike[str], *, most: int | None = None) -> str:
    """SHA-256 of a plain file, as hexadecimal text.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no plain file, or has more than ``most`` bytes.
    """
    with files.opened(path) as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"{files.shown(path)} has more than {most} bytes, the most it may")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(entry: dict[str, Any]) -> str:
    bare = {name: value for name, value in entry.items() if name not in ("hash", "mac", "next")}
    return hashlib.sha256(canonical(bare).encode()).hexdigest()


def _mac(own: str, key: bytes) -> str:
    return hmac.new(key, own.encode(), hashlib.sha256).hexdigest()
