"""The results of a run, ``results.jsonl``, and its plan, ``plan.json``.

``results.jsonl`` is always rewritten whole from the checkpoints. The plan has the methods and seeds
of the last command, so that a table can mark what is missing. It is no part of the configuration;
the frozen ``config.json`` has neither.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jfu.io
import jfu.ledger
from jfu import results
from jfu.files import read_json, read_lines
from launch.shell import hosts
from launch.workdir.locks import check as check_lock
from launch.workdir.places import PLAN, RESULTS, WorkDir

# Columns of a row that must be numbers or null, if they are there.
MEASURED = (*results.NUMBERS, "gap")


def read_results(work: WorkDir) -> list[results.Row]:
    path = work.path / RESULTS
    if not os.path.lexists(path):
        return []
    try:
        rows = read_lines(path, most=2**28, finite=False)
        check_rows(rows)
    except ValueError as error:
        raise ValueError(
            f"{path} is unreadable ({error}); restore it, or remove it and start the same "
            "command again, which rewrites it from the checkpoints"
        ) from None
    return rows


def check_rows(rows: Any) -> None:
    """Refuses what is not a list of rows, which are objects with method, seed and round.

    Raises:
      ValueError: the first row that is wrong.
    """
    if not isinstance(rows, list):
        raise ValueError("its rows are not a list")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {"method", "seed", "round"} <= row.keys():
            raise ValueError(f"row {number} names no method, seed and round")
        kinds = dict(method=str, seed=int, round=int)
        if bad := [name for name, kind in kinds.items() if type(row[name]) is not kind]:
            raise ValueError(f"{bad[0]} of row {number} is {row[bad[0]]!r:.50}")
        kinds = dict.fromkeys(MEASURED, (int, float, type(None)))
        for name, value in row.items():
            if not isinstance(value, kinds.get(name, (int, float, str, type(None)))):
                raise ValueError(f"{name} of row {number} is {value!r:.50}")


def write_results(work: WorkDir, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces results.jsonl, but keeps rows of other methods and seeds than these."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    new = {(row["method"], row["seed"]) for row in rows}
    kept = [row for row in read_results(work) if (row["method"], row["seed"]) not in new]
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in [*rows, *kept])
    jfu.io.write_bytes(work.path / RESULTS, text.encode())


def write_plan(work: WorkDir, names: list[str], seeds: list[int]) -> None:
    """Writes the methods and seeds of the last command; a table can mark what is missing."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    content = dict(cells=names, seeds=seeds)
    text = json.dumps(content | dict(sha256=_of_plan(content)))
    jfu.io.write_bytes(work.path / PLAN, f"{text}\n".encode())


def _of_plan(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_plan(path: pathlib.Path) -> tuple[list[str], list[int]]:
    """The methods and seeds of the last command; empty without a plan."""
    notes = path / PLAN
    if not os.path.lexists(notes):
        return [], []
    try:
        kept = read_json(notes)
        plan = dict(cells=kept["cells"], seeds=kept["seeds"])
        if kept.get("sha256", _of_plan(plan)) != _of_plan(plan):
            raise ValueError("it was changed")
        if not all(type(n) is str for n in plan["cells"]):
            raise TypeError("a method's name must be a text")
        if not all(type(n) is int for n in plan["seeds"]):
            raise TypeError("a seed must be a number")
        return plan["cells"], plan["seeds"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{notes} is unreadable ({error}); remove it") from None
