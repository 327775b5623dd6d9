"""Checkpoints, one file for each method and seed in the folder ``cells``; models and histories.

A checkpoint has the state and the measured rows up to the same round. It is replaced atomically, so
a run that was killed at any moment can continue. It names its method, seed and run, so a checkpoint
in another's place is refused.
"""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jfu.io
import jfu.ledger
from jfu.files import read_json
from launch.shell import hosts
from launch.shell.say import open_up
from launch.workdir.locks import check as check_lock
from launch.workdir.outcome import check_rows
from launch.workdir.places import CONFIG, HISTORY, MODEL, WorkDir


def read_cells(path: pathlib.Path, run: str) -> dict[tuple[int, str], dict[str, Any]]:
    """The notes of every checkpoint, by seed and method; no arrays are read.

    Raises:
      ValueError: a file is not a checkpoint, or its run, seed or method differs from its name.
    """
    found = {}
    for file in sorted((path / "cells").glob("*.safetensors")):
        seed, _, name = file.stem.partition("-")
        if not (seed.isdigit() and re.fullmatch(r"\w+", name)):
            raise ValueError(
                f"{file} does not have a checkpoint's name, SEED-METHOD.safetensors; move it "
                "elsewhere"
            )
        found[int(seed), name] = own_notes(file, dict(run=run, method=name, seed=int(seed)))
    return found


def write_cell(work: WorkDir, seed: int, method: str, state: Any, notes: dict[str, Any]) -> None:
    """Replaces the checkpoint of a method and seed."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    jfu.io.save_state(work.cell(seed, method), state, notes | dict(of=_of(work, seed, method)))


def read_cell(work: WorkDir, seed: int, method: str, like: Any) -> tuple[Any, dict] | None:
    """The checkpoint of a method and seed; None if there is none.

    Raises:
      FileNotFoundError: it is a link to a missing file.
      ValueError: it is truncated, of another kind, or of another run; nothing is changed.
    """
    notes = cell_notes(work, seed, method)
    if notes is None:
        return None
    return jfu.io.load_state(hosts.opened(work.cell(seed, method)), like)


def cell_notes(work: WorkDir, seed: int, method: str) -> dict[str, Any] | None:
    """The notes of a checkpoint, without its state; as ``read_cell``."""
    return hosts.agreed(lambda: _cell_notes(work, seed, method))


def _cell_notes(work: WorkDir, seed: int, method: str) -> dict[str, Any] | None:
    path = work.cell(seed, method)
    if not os.path.lexists(path):
        return None
    return own_notes(path, _of(work, seed, method))


def _of(work: WorkDir, seed: int, method: str) -> dict[str, Any]:
    """The run, method and seed that a checkpoint belongs to."""
    drawn = dict(draws=work.drawn[seed]) if seed in work.drawn else {}
    return dict(run=work.run, method=method, seed=seed) | drawn


def is_of(said: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether a checkpoint belongs to a run, method and seed; older ones lack their draws."""
    return all(said.get(k, v if k == "draws" else None) == v for k, v in mine.items())


def own_notes(path: pathlib.Path, mine: dict[str, Any]) -> dict[str, Any]:
    """The notes of a file, if it is a checkpoint of this run, method and seed."""
    notes = jfu.io.load_notes(path)
    if not isinstance(notes, dict) or not {"round", "rows", "spent"} <= notes.keys():
        raise ValueError(
            f"{path} is not a checkpoint of jfu; restore it, or remove it to start this run again"
        )
    number = lambda value: type(value) in (int, float)
    try:
        check_rows(notes["rows"])
        if type(notes["round"]) is not int or type(notes.get("finished", False)) is not bool:
            raise ValueError(f"its round is {notes['round']!r:.50}")
        if not (isinstance(notes["spent"], dict) and all(map(number, notes["spent"].values()))):
            raise ValueError("its costs are not numbers")
    except ValueError as error:
        raise ValueError(
            f"{path} is not a checkpoint of jfu ({error}); restore it, or remove it to start this "
            "run again"
        ) from None
    check_own(path, notes.get("of"), mine)
    return notes


def check_own(path: pathlib.Path, said: Any, mine: dict[str, Any]) -> None:
    """Refuses a checkpoint of another run, and one that lacks a digest that it should have.

    Older checkpoints do not name their run. Older work directories do not require digests; their
    configuration does not say ``sealed``.
    """
    if jfu.io.load_seal(path) is None and sealed(path.parents[1]):
        raise ValueError(
            f"{path} has no digest, unlike all checkpoints of its work directory; it was changed "
            "or comes from elsewhere; restore it, or remove it to start this run again"
        )
    if said is None or (isinstance(said, dict) and is_of(said, mine)):
        return
    if not isinstance(said, dict):
        raise ValueError(
            f"{path} is not a checkpoint of jfu; restore it, or remove it to start this run again"
        )
    what = ", ".join(f"{name} {value}" for name, value in said.items())
    wanted = ", ".join(f"{name} {value}" for name, value in mine.items())
    differ = any(said.get(name) != mine.get(name) for name in ("run", "draws"))
    raise ValueError(
        f"{path} is the checkpoint of {what}, not of {wanted}"
        + ", and its flags, data, draws, history or devices differ" * differ
        + "; move it back to its own place and restore this one, or remove it to start this run "
        "again"
    )


def sealed(folder: pathlib.Path) -> bool:
    """Whether a work directory is recent enough that all its checkpoints have digests."""
    notes = folder / CONFIG
    return os.path.lexists(notes) and "sealed" in read_json(notes, finite=False)


def write_history(work: WorkDir, history: Any, keep: Sequence[str]) -> None:
    """Replaces the history that training keeps, and notes its kinds."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    jfu.io.save_state(work.path / HISTORY, history, dict(keep=list(keep)))


def write_model(work: WorkDir, variables: Any) -> None:
    """Writes a run's model, as ``export``."""
    check_lock(work.path, work.lock)
    export(work.path / MODEL, variables)


def export(path: pathlib.Path, variables: Any, *, shown: bool = False) -> None:
    """Writes a model unless the same one is there already; refuses to overwrite another.

    Args:
      shown: a user named the file, so users other than its owner may read it.
    """
    if not hosts.first():
        return
    if os.path.lexists(path):
        same = jfu.io.flatten(jfu.io.load_params(path)), jfu.io.flatten(variables)
        if same[0].keys() == same[1].keys() and all(
            (same[0][name] == same[1][name]).all() for name in same[0]
        ):
            return
    jfu.io.save_params(path, variables)
    if shown:
        open_up(path)
