"""Tables, figures and reports in a work directory: what is not as jfu wrote it is never replaced.

``outputs.json`` has the digests of what was written at each place, written before it. A file there
with another digest is somebody's own, or was edited; it gets another name before a new one comes.
"""

import hashlib
import json
import os
import pathlib
import re

import jfu.io
import jfu.ledger
from jfu.files import read_json
from launch.shell.say import say

OUTPUTS, CONFIG = "outputs.json", "config.json"


def put(path: str | os.PathLike, content: bytes) -> None:
    """Writes a table, figure or report at once; keeps what is at its place and is not jfu's.

    Outside of work directories a place is where a user wants it, and what was there is replaced.
    """
    path = pathlib.Path(path)
    folder, name = path.parent, path.name
    if not (folder / CONFIG).is_file():
        jfu.io.write_bytes(path, content)
        return
    known, new = read(folder), hashlib.sha256(content).hexdigest()
    there = _digest(path)
    if there not in (None, new) and there not in known.get(name, []) and _sealed(folder):
        kept = next(p for n in range(1, 10_000) if not os.path.lexists(p := f"{path}.yours-{n}"))
        os.rename(path, kept)
        say(f"note: {path} is not as jfu wrote it; it is {kept} now, and a new one is written")
        there = None
    # Both, since a kill may come in between.
    told = known | {name: list(dict.fromkeys([new, *([there] if there else [])]))}
    if told != known:
        jfu.io.write_bytes(folder / OUTPUTS, (json.dumps(told, sort_keys=True) + "\n").encode())
    jfu.io.write_bytes(path, content)


def read(folder: pathlib.Path) -> dict[str, list[str]]:
    """The digests of what jfu wrote in a work directory, by name.

    Raises:
      ValueError: the file is not as jfu writes it.
    """
    path = folder / OUTPUTS
    if not os.path.lexists(path):
        return {}
    known = read_json(path, most=2**16)
    if not is_plain(known):
        raise ValueError(f"{path} is not as jfu wrote it; remove it")
    return known


def is_plain(known: object) -> bool:
    """Whether it is names with one or two digests each, and holds nothing else.

    >>> is_plain({"table.md": ["0" * 64]}), is_plain({"table.md": ["weights"]})
    (True, False)
    """
    return isinstance(known, dict) and all(
        re.fullmatch(r"[\w.-]{1,40}", name)
        and isinstance(digests, list)
        and 1 <= len(digests) <= 2
        and all(isinstance(d, str) and re.fullmatch(r"[0-9a-f]{64}", d) for d in digests)
        for name, digests in known.items()
    )


def holds_digests(path: pathlib.Path) -> bool:
    """Whether a file of this name is as jfu writes it: names and digests alone."""
    try:
        return is_plain(read_json(path, most=2**16))
    except ValueError:
        return False


def _digest(path: pathlib.Path) -> str | None:
    """Of what lies there; empty where that is no plain file, None where nothing is."""
    if not os.path.lexists(path):
        return None
    plain = path.is_file() and not path.is_symlink()
    return jfu.ledger.digest(path) if plain else ""


def _sealed(folder: pathlib.Path) -> bool:
    """Whether the work directory was begun since jfu writes digests of its files."""
    return "sealed" in read_json(folder / CONFIG, finite=False)
