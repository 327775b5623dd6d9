"""Where the model of a work directory came from, what came from that, and what of both is gone.

A run's config.json says where the model lay that it began with, and its ledger holds the lines
that it found there. So a work directory is one that another came from if its ledger names that
model and goes on from those lines; a folder that was put in its place does not pass for it.
That ledger also names the runs that were begun from the model since, by the digest of their
config.json, and where they are.

A source that is missing is not assumed to be erased. It is looked for where it lay and where that
is from the work directory, so that both may be moved together. A user who removed it on purpose
says so (``--gone``). The proof repeats that this is the user's word: nothing on the disk could show
it.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jfu.ledger
from launch.records import ledgers, verification
from launch.setup.identity import same_data
from launch.setup.requests import NEVER, identify
from launch.workdir.places import CONFIG, MODEL
from launch.workdir.runs import Run, read_run


class Step(NamedTuple):
    """A work directory that a model came through, or that came from such a one."""

    folder: pathlib.Path
    run: Run
    wanted: frozenset  # which of its requests are meant
    lines: list[dict[str, Any]]  # its own ones of its ledger
    since: pathlib.Path | None = None  # the work directory that it was begun from or lies in
    other: bool = False  # whether it is of other data


class Missing(NamedTuple):
    """What is not where a work directory says that it is."""

    place: pathlib.Path
    folder: pathlib.Path  # the work directory that says so
    since: bool  # whether it was begun from that, which else came from it


class Lineage(NamedTuple):
    steps: list[Step]  # the newest first, then what was begun from them
    elsewhere: list[pathlib.Path]  # models that no work directory holds
    missing: list[Missing]
    broken: list[tuple[pathlib.Path, str]]  # work directories that came since, and what is wrong


def trace(path: pathlib.Path, wanted: str) -> Lineage:
    """The work directory, all that its model came from, and all that was begun from those.

    Args:
      wanted: the request that is meant, as text.

    Raises:
      ValueError: a ledger does not hold, or its files are not those that it names, of the work
        directory or of one that it came from.
    """
    run = read_run(str(path))
    found, seen = Lineage([], [], [], []), set()
    waiting = [(path, run, identify(wanted, asked(run)), None)]
    while waiting:
        folder, run, meaning, head = waiting.pop(0)
        if (place := os.path.realpath(folder)) in seen:
            continue
        seen.add(place)
        lines = bound(folder, verification.read(folder, head, source=folder != path))
        found.steps.append(Step(folder, run, meaning, lines))
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
            found.missing.append(Missing(candidates(folder, run)[0], folder, False))
    _add_since(found, seen)
    return found


def _add_since(found: Lineage, seen: set[str]) -> None:
    """Adds what was begun from the work directories that were found, and from those in turn."""
    waiting = list(found.steps)
    while waiting:
        step = waiting.pop(0)
        told = {(str(x.get("path")), x.get("run")): x for x in step.lines if x["event"] == "begun"}
        there = {key: place for key, line in told.items() if (place := _begun_at(step, line))}
        # One that was moved alone is not where it was; a step without another line is that.
        taken = {os.path.realpath(place) for place in there.values()}
        spare = [s for s in found.steps if os.path.realpath(s.folder) not in taken]
        for key in sorted(told.keys() - there.keys(), key=str):
            same = [s for s in spare if s is not step and ledgers.settings(s.folder) == key[1]]
            if same:
                spare.remove(same[0])
            else:
                found.missing.append(Missing(pathlib.Path(key[0]), step.folder, True))
        for place in there.values():
            if os.path.realpath(place) not in seen:
                seen.add(os.path.realpath(place))
                if (more := later(place, step, found)) is not None:
                    waiting.append(more)


def _begun_at(step: Step, line: dict[str, Any]) -> pathlib.Path | None:
    """Where the run lies that a line names: where it was, or where that is from here."""
    beside = os.path.join(os.path.realpath(step.folder), str(line.get("beside")))
    for place in (str(line.get("path")), os.path.normpath(beside)):
        if ledgers.settings(pathlib.Path(place)) == line.get("run"):
            return pathlib.Path(place)
    return None


def later(folder: pathlib.Path, step: Step, found: Lineage) -> Step | None:
    """Adds a work directory that was begun from another or lies in it; None if it does not hold."""
    try:
        run = read_run(str(folder))
        lines = [
            x for x in ledgers.own(folder, verification.read(folder, source=True)) if "config" in x
        ]
    except (ValueError, OSError) as error:
        found.broken.append((folder, str(error)))
        return None
    so_far = asked(step.run)
    goes_on = run.config.past[: len(so_far)] == so_far
    other = bool(run.data and step.run.data and run.data["train"] != step.run.data["train"])
    found.steps.append(
        Step(folder, run, step.wanted if goes_on else NEVER, lines, step.folder, other)
    )
    return found.steps[-1]


def bound(folder: pathlib.Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a work directory's own run, which say what config.json they are of."""
    mine = [line for line in ledgers.own(folder, lines) if "config" in line]
    if not mine:
        raise ValueError(
            f"no line of {folder / ledgers.LEDGER} says which {CONFIG} it is of, so what that says "
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
    return any(line.get("model") == digest for line in jfu.ledger.read(folder / ledgers.LEDGER))
