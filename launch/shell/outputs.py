"""Tables, figures and reports in a work directory. A file that jfu did not write is never replaced.

``outputs.json`` has the digests of the files that jfu wrote. Each digest is written before its
file. A file with another digest is the user's own, or was edited by the user. It is renamed before
a new file is written at its place.
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
    """Writes a table, figure or report atomically, and keeps a file at its place that is not jfu's.

    Outside of work directories the user chose the place, and an existing file is replaced.
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
        say(f"note: {path} is not as jfu wrote it; it is now {kept}, and a new one is written")
        there = None
    # Both digests, because the process may be killed between the two writes.
    content_of = known | {name: list(dict.fromkeys([new, *([there] if there else [])]))}
    if content_of != known:
        text = json.dumps(content_of, sort_keys=True) + "\n"
        jfu.io.write_bytes(folder / OUTPUTS, text.encode())
    jfu.io.write_bytes(path, content)


def read(folder: pathlib.Path) -> dict[str, list[str]]:
    """The digests of jfu's own files in a work directory, by name.

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
    """Whether a value is a dictionary from names to one or two digests each, and nothing else.

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
    """Whether a file has names and digests alone, as jfu writes them."""
    try:
        return is_plain(read_json(path, most=2**16))
    except ValueError:
        return False


def _digest(path: pathlib.Path) -> str | None:
    """The digest of a file; empty for what is no plain file, None if nothing is there."""
    if not os.path.lexists(path):
        return None
    plain = path.is_file() and not path.is_symlink()
    return jfu.ledger.digest(path) if plain else ""


def _sealed(folder: pathlib.Path) -> bool:
    """Whether the work directory is recent enough to have digests of its files."""
    return "sealed" in read_json(folder / CONFIG, finite=False)
