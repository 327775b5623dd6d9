"""The lineage of a work directory's model: its sources, the runs begun from them, and missing ones.

A run's config.json has the place of the model that it began with. Its ledger begins with the lines
of that model's ledger. So a work directory is a source if its ledger names that model and has these
lines. Another folder at the same place does not pass as the source. A ledger also names the runs
that were begun from its model since, by the digest of their config.json, and their places.

A missing source is not assumed to be erased. It is searched at its old absolute place and at its
place relative to the work directory, so both may be moved together. A user who removed it on
purpose says so (``--gone``). The proof repeats that this is the user's statement, because no file
could show it.
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
    """A work directory that is a source of a model, or that was begun from one."""

    folder: pathlib.Path
    run: Run
    wanted: frozenset  # those of its requests that the proof is about
    lines: list[dict[str, Any]]  # its own lines of its ledger
    since: pathlib.Path | None = None  # the work directory that it was begun from or lies in
    other: bool = False  # whether it has other data


class Missing(NamedTuple):
    """A model or work directory that is not at the place that a work directory names."""

    place: pathlib.Path
    folder: pathlib.Path  # the work directory that names it
    since: bool  # whether it was begun from that directory; else it is a source


class Lineage(NamedTuple):
    steps: list[Step]  # the newest first, then what was begun from them
    elsewhere: list[pathlib.Path]  # models outside of work directories
    missing: list[Missing]
    broken: list[tuple[pathlib.Path, str]]  # later work directories that fail a check, and why


def trace(path: pathlib.Path, wanted: str) -> Lineage:
    """The work directory, all sources of its model, and all runs that were begun from those.

    Args:
      wanted: the request that the proof is about, as text.

    Raises:
      ValueError: a ledger of the work directory or of a source is not valid, or its files are not
        those that it names.
    """
    run = read_run(str(path))
    found, seen = Lineage([], [], [], []), set()
    waiting = [(path, run, identify(wanted, requests_of(run)), None)]
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
            before_it = requests_of(earlier)
            goes_on = run.config.past[: len(before_it)] == before_it
            first = lines[0]["previous"]
            head = None if first == jfu.ledger.FIRST else first
            waiting.append((model.parent, earlier, meaning if goes_on else NEVER, head))
        if run.config.init_params and not before:
            found.missing.append(Missing(candidates(folder, run)[0], folder, False))
    _add_since(found, seen)
    return found


def _add_since(found: Lineage, seen: set[str]) -> None:
    """Adds the runs that were begun from the work directories found so far, and so on."""
    waiting = list(found.steps)
    while waiting:
        step = waiting.pop(0)
        begun = {(str(x.get("path")), x.get("run")): x for x in step.lines if x["event"] == "begun"}
        there = {key: place for key, line in begun.items() if (place := _begun_at(step, line))}
        # A directory that was moved alone is not at its place. It is a step that no line names.
        taken = {os.path.realpath(place) for place in there.values()}
        spare = [s for s in found.steps if os.path.realpath(s.folder) not in taken]
        for key in sorted(begun.keys() - there.keys(), key=str):
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
    """The place of the run that a line names: its old place, or that relative to this directory."""
    beside = os.path.join(os.path.realpath(step.folder), str(line.get("beside")))
    for place in (str(line.get("path")), os.path.normpath(beside)):
        if ledgers.settings(pathlib.Path(place)) == line.get("run"):
            return pathlib.Path(place)
    return None


def later(folder: pathlib.Path, step: Step, found: Lineage) -> Step | None:
    """Adds a work directory that was begun from another or lies in it; None if a check fails."""
    try:
        run = read_run(str(folder))
        lines = [
            x for x in ledgers.own(folder, verification.read(folder, source=True)) if "config" in x
        ]
    except (ValueError, OSError) as error:
        found.broken.append((folder, str(error)))
        return None
    so_far = requests_of(step.run)
    goes_on = run.config.past[: len(so_far)] == so_far
    other = bool(run.data and step.run.data and run.data["train"] != step.run.data["train"])
    found.steps.append(
        Step(folder, run, step.wanted if goes_on else NEVER, lines, step.folder, other)
    )
    return found.steps[-1]


def bound(folder: pathlib.Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a work directory's own run, which name its config.json."""
    mine = [line for line in ledgers.own(folder, lines) if "config" in line]
    if not mine:
        raise ValueError(
            f"no line of {folder / ledgers.LEDGER} names its {CONFIG}, so nothing is known about "
            "the files; the run is too old, or has not finished"
        )
    return mine


def requests_of(run: Run) -> tuple[str, ...]:
    """The requests up to a run's end. A comparison's request counts, but changes no model."""
    now = (f"-{run.config.forget}",) if run.script in ("unlearn", "compare") else ()
    return (*run.config.past, *now)


def candidates(folder: pathlib.Path, run: Run) -> list[pathlib.Path]:
    """The possible places of the model that a run began with.

    They are its old absolute place, and its old place relative to the work directory.
    """
    if not run.config.init_params:
        return []
    if run.source is None:  # older runs name one place only
        return [pathlib.Path(os.path.abspath(run.config.init_params))]
    beside = os.path.normpath(os.path.join(os.path.realpath(folder), run.source["beside"]))
    return [pathlib.Path(place) for place in dict.fromkeys((run.source["path"], beside))]


def sources(folder: pathlib.Path, run: Run) -> Iterator[pathlib.Path]:
    """The places of the model that a run began with, also if only its work directory is left."""
    digest = run.files.get(run.config.init_params)
    for model in candidates(folder, run):
        if _is_named(model, run) or (model.is_file() and jfu.ledger.digest(model) == digest):
            yield model


def _is_named(model: pathlib.Path, run: Run) -> bool:
    """Whether the ledger in a model's folder names the model that a run began with."""
    folder, digest = model.parent, run.files.get(run.config.init_params)
    if model.name != MODEL or not (folder / CONFIG).is_file():
        return False
    return any(line.get("model") == digest for line in jfu.ledger.read(folder / ledgers.LEDGER))
