"""The ledger of a work directory: its lines, the run of each line, and the files that they name."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

import jfu.io
import jfu.ledger
from jfu.files import MOST, read_bytes
from launch.shell.say import say
from launch.workdir.places import CONFIG, HISTORY, MODEL, RESULTS

LEDGER = "ledger.jsonl"
# Texts that a line about a received request must have.
TEXTS = dict.fromkeys(("received", "due", "refused"), ("subject_request_id", "request"))
TEXTS["due"] += ("reason", "expected_completion_time")
TEXTS["refused"] += ("reason",)
TEXTS["received"] += ("requester", "submitted_time", "received_time", "expected_completion_time")


def key(flag: str = "key_file") -> bytes | None:
    """The secret of --key_file, or of another flag that names such a file."""
    path = getattr(flags.FLAGS, flag) if flag in flags.FLAGS else None
    if path is None:
        return None
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no key file {path}")
    warn_of_readers(path)
    secret = read_bytes(path, most=2**16).strip()
    if len(secret) < 16:
        raise ValueError(f"the key in {path} has {len(secret)} bytes; it must have at least 16")
    return secret


@functools.cache  # so that the note comes once
def warn_of_readers(path: str) -> None:
    """Prints a note if other users may read or write a key file."""
    mode = os.stat(path).st_mode & 0o777
    if mode & 0o077:
        say(
            f"note: other users may read or write {path} (mode {mode:o}), and with this key they "
            f"can forge the ledger; protect it with chmod 600 {path}"
        )


def lines_of(path: pathlib.Path, head: str | None, secret: bytes | None) -> list[dict[str, Any]]:
    """The lines, if the chain is valid and each line has the form that the scripts write.

    Args:
      head: a line's hash that must be among them.
      secret: the key; None does not compare keyed hashes.

    Raises:
      ValueError: a line that is not valid.
    """
    lines = jfu.ledger.read(path / LEDGER, head=head, key=secret)
    if not lines and os.path.lexists(path / LEDGER):
        raise ValueError(f"{path / LEDGER} is empty: its lines were removed; restore it")
    for line in lines:
        if not _is_formed(line):
            raise ValueError(
                f"line {line['number']} of {path / LEDGER} is not one that jfu's scripts write"
            )
    return lines


def _is_formed(line: dict[str, Any]) -> bool:
    """Whether the fields of a line that other code reads have the types that they must have."""
    named = ("files", "cells", "wrote", "draws", "verdicts", "lines", "named")
    if not all(isinstance(line.get(name, {}), dict) for name in named):
        return False
    if not all(isinstance(one, dict) for one in line.get("verdicts", {}).values()):
        return False
    lists = [line.get("missing", []), line.get("subject_request_ids", [])]
    if not all(isinstance(one, list) for one in lists):
        return False
    event = str(line.get("event"))
    # A live federation refuses requests that never got an id here (``jfu.live``).
    wanted = ("request", "why") if event == "refused" and "why" in line else TEXTS.get(event, ())
    texts = [line.get("event"), *map(line.get, wanted), *lists[1]]
    return all(isinstance(text, str) for text in texts)


def check(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines, if the chain is valid and lines can be added; called before any work."""
    secret = key()
    lines = lines_of(path, None, secret)
    if secret is None and jfu.ledger.keyed(lines):
        raise ValueError(f"{path / LEDGER} has a key; give it with --key_file")
    return lines


def settings(path: pathlib.Path) -> str | None:
    """The digest of a work directory's config.json."""
    notes = path / CONFIG
    return jfu.ledger.digest(notes, most=MOST) if notes.is_file() else None


def own(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of this work directory's run, without those that came with its model.

    In older ledgers no line names its run. Then all lines are the run's own.
    """
    if not any("config" in line for line in lines):
        return list(lines)
    mine = settings(path)
    return [line for line in lines if line.get("config") == mine]


def erased(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The files of a work directory that were to be erased, with their digests."""
    mine = [line for line in own(path, lines) if line["event"] == "erased"]
    return {name: digest for line in mine for name, digest in line.get("files", {}).items()}


def named_cells(mine: Sequence[dict[str, Any]]) -> dict[str, tuple[int, str]]:
    """Checkpoints by name, with the number of the last line that names them, and their digest."""
    found: dict[str, tuple[int, str]] = {}
    for line in mine:
        found |= {name: (line["number"], seal) for name, seal in line.get("cells", {}).items()}
        for name in line.get("missing", []):
            found.pop(name, None)
    return found


def draws(mine: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The files of draws that the lines name last, with their digests."""
    named = [line["draws"] for line in mine if isinstance(line.get("draws"), dict)]
    return named[-1] if named else {}


def vouched(mine: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Digests of a work directory's files by name, from the last line that names each."""
    alone = dict(config=CONFIG, results=RESULTS, model=MODEL, history=HISTORY)
    found: dict[str, str] = {}
    for line in mine:
        found |= {name: line[field] for field, name in alone.items() if field in line}
        found |= line.get("draws", {}) | line.get("wrote", {})
    return found
