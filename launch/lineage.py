"""Where the model of a work directory came from: the work directories before it, and what is gone.

A run's config.json says where the model lay that it began with, and its ledger holds the lines
that it found there. So a work directory is one that another came from if its ledger names that
model and goes on from those lines; a folder that was put in its place does not pass for it.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jfu.ledger
from launch import records
from launch.identity import same_data
from launch.requests import NEVER, meant
from launch.runs import Run, read_run
from launch.workdir import CONFIG, MODEL


class Step(NamedTuple):
    """A work directory that a model came through."""

    folder: pathlib.Path
    run: Run
    wanted: frozenset  # which of its requests are meant
    draws: frozenset[str] = frozenset()  # its files of draws, as its ledger names them


class Lineage(NamedTuple):
    steps: list[Step]  # the newest first
    elsewhere: list[pathlib.Path]  # models that no work directory holds
    missing: list[tuple[pathlib.Path, pathlib.Path]]  # work directories, and models they began with


def trace(path: pathlib.Path, wanted: str) -> Lineage:
    """The work directory and all that its model came from, each with a ledger that holds.

    Args:
      wanted: the request that is meant, as text.

    Raises:
      ValueError: a ledger does not hold, or its files are not those that it names.
    """
    run = read_run(str(path))
    found, seen = Lineage([], [], []), set()
    waiting = [(path, run, meant(wanted, asked(run)), None)]
    while waiting:
        folder, run, meaning, head = waiting.pop(0)
        if (place := os.path.realpath(folder)) in seen:
            continue
        seen.add(place)
        lines = bound(folder, records.read(folder, head, source=folder != path))
        found.steps.append(Step(folder, run, meaning, frozenset(records.draws(lines))))
        before = list(sources(folder, run))
        for model in before:
            if not _is_named(model, run):
                found.elsewhere.append(model)
                continue
            earlier = read_run(str(model.parent))
            if earlier.data:
                same_data(earlier.data, run.data or {}, model.parent)
            goes_on = run.config.past[: len(asked(earlier))] == asked(earlier)
            first = lines[0]["previous"]
            head = None if first == jfu.ledger.FIRST else first
            waiting.append((model.parent, earlier, meaning if goes_on else NEVER, head))
        if run.config.init_params and not before:
            found.missing.append((folder, candidates(folder, run)[0]))
    return found


def bound(folder: pathlib.Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a work directory's own run, which say what config.json they are of."""
    mine = [line for line in records.own(folder, lines) if "config" in line]
    if not mine:
        raise ValueError(
            f"no line of {folder / records.LEDGER} says which {CONFIG} it is of, so what that says "
            "of the files cannot be relied on; the run was made before lines did, or has not "
            "finished"
        )
    return mine


def asked(run: Run) -> tuple[str, ...]:
    """The requests up to a run's end; what a comparison asks for changes no model to go on from."""
    now = (f"-{run.config.forget}",) if run.script in ("unlearn", "compare") else ()
    return (*run.config.past, *now)


def candidates(folder: pathlib.Path, run: Run) -> list[pathlib.Path]:
    """Where the model that a run began with may lie: where it was, and where it was from here."""
    if not run.config.init_params:
        return []
    if run.source is None:  # of before both were written down
        return [pathlib.Path(os.path.abspath(run.config.init_params))]
    beside = os.path.normpath(os.path.join(os.path.realpath(folder), run.source["beside"]))
    return [pathlib.Path(place) for place in dict.fromkeys((run.source["path"], beside))]


def sources(folder: pathlib.Path, run: Run) -> Iterator[pathlib.Path]:
    """Where the model lies that a run began with, or lay while its work directory is there."""
    digest = run.files.get(run.config.init_params)
    for model in candidates(folder, run):
        if _is_named(model, run) or (model.is_file() and jfu.ledger.digest(model) == digest):
            yield model


def _is_named(model: pathlib.Path, run: Run) -> bool:
    """Whether the ledger beside a model's place names the model that a run began with."""
    folder, digest = model.parent, run.files.get(run.config.init_params)
    if model.name != MODEL or not (folder / CONFIG).is_file():
        return False
    return any(line.get("model") == digest for line in jfu.ledger.read(folder / records.LEDGER))
