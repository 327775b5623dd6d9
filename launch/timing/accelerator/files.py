"""Files of the suite: JSON lines that are whole at every moment, whenever a process is killed."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jfu.files import read_lines
from jfu.io import write_bytes

Row = dict[str, Any]


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file; none if it does not exist.

    Raises:
      ValueError: the file is not one of JSON lines.
    """
    path = pathlib.Path(path)
    return [dict(row) for row in read_lines(path)] if path.exists() else []


def write(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a file by these rows, atomically."""
    write_bytes(pathlib.Path(path), "".join(json.dumps(row) + "\n" for row in rows).encode())


def add(path: str | os.PathLike[str], row: Mapping[str, Any], key: Iterable[str]) -> None:
    """Adds a row, in place of an earlier one with the same values of ``key``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for value in (1, 2):
    ...         add(f"{folder}/a.jsonl", dict(what="copy", value=value), ["what"])
    ...     read(f"{folder}/a.jsonl")
    [{'what': 'copy', 'value': 2}]
    """
    same = lambda other: all(other.get(name) == row.get(name) for name in key)
    write(path, [*(other for other in read(path) if not same(other)), row])
