"""Requests as an operator or a web service drops them in: lines of JSON, read between rounds.

    {"id": "2026-17", "forget": ["8211"]}
    {"id": "2026-18", "returns": ["8211"]}

A line names nodes by their id, by the SHA-256 of their public key, or by their name. Other fields
are left to the writer. A line counts once its end is written, so a line may be read while it is
being appended. A line that is no request becomes one that is refused: a federation never ends
because of what somebody wrote there.
"""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

from jfu import files
from jfu.ledger import canonical

MOST = 2**24  # bytes of a file of requests


class Request(NamedTuple):
    """One line: a request to forget nodes, or to let nodes return."""

    id: str
    forget: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()
    digest: str = ""  # of its content: a request is answered once
    wrong: str = ""  # why it is no request


def read(path: str | os.PathLike[str]) -> list[Request]:
    """The requests of a file, or of all files ``*.jsonl`` of a folder by name; none without it.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.jsonl").write_text('{"id": "7", "forget": ["12"]}\\n{"id": "8", "forg')
    >>> [(request.id, request.forget) for request in read(folder)]
    [('7', ('12',))]
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        return []
    some = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [request for file in some for request in _of_file(file)]


def _of_file(path: pathlib.Path) -> list[Request]:
    try:
        *lines, _ = files.read_bytes(path, most=MOST).split(b"\n")  # the last is being written
    except (ValueError, OSError) as error:
        return [_wrong(path.name, str(error), str(error).encode())]
    places = [(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1)]
    return [parse(line, place) for place, line in places if line.strip()]


def parse(line: bytes, place: str) -> Request:
    """The request of one line; ``place`` is its id if it has none.

    >>> parse(b'{"id": "7", "forget": ["12"], "returns": ["3"]}', "requests.jsonl:1").wrong
    'it must have either forget or returns, a list of nodes'
    """
    try:
        value = files.parse_json(line, place)
    except ValueError as error:
        return _wrong(place, str(error), line)
    if not isinstance(value, dict):
        return _wrong(place, "it is no JSON object", line)
    name, kinds = value.get("id"), [kind for kind in ("forget", "returns") if kind in value]
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        return _wrong(place, "it has no id", line)
    name = str(name)
    if len(kinds) != 1 or not isinstance(value[kinds[0]], list):
        return _wrong(name, "it must have either forget or returns, a list of nodes", line)
    named: list[Any] = value[kinds[0]]
    if not all(isinstance(node, str | int) and not isinstance(node, bool) for node in named):
        return _wrong(name, "a node is named by text or a whole number", line)
    content = canonical({"id": name, kinds[0]: sorted({str(node) for node in named})})
    digest = hashlib.sha256(content.encode()).hexdigest()
    nodes = tuple(dict.fromkeys(str(node) for node in named))
    forget, returns = (nodes, ()) if kinds[0] == "forget" else ((), nodes)
    return Request(name, forget, returns, digest)


def _wrong(name: str, why: str, content: bytes) -> Request:
    return Request(name, digest=hashlib.sha256(content).hexdigest(), wrong=why)
