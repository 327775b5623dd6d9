"""Whether the files of a work directory are what its ledger says.

``results.jsonl`` must be what the ledger says, or before a run has ended what the checkpoints say
(``believe``); an audit wants the ledger (``settle``). A checkpoint that is gone is written down
when the run goes on, so that the one that is made anew may differ from it.

The digest of ``config.json`` also finds an edited one. A proof reads the ledgers of all work
directories on the way, each of which must hold the lines that the next one began with.
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jfu.io
import jfu.ledger
from jfu.files import shown
from jfu.io import check_size, check_state, load_seal
from jfu.results import as_original
from launch.records import ledgers
from launch.workdir.checkpoints import own_notes
from launch.workdir.outcome import read_results
from launch.workdir.places import CONFIG, HISTORY, MODEL, RESULTS, WorkDir
from launch.workdir.runs import read_run

LARGE = 2**28  # bytes of results, which are 600,000 rows


def read(
    path: pathlib.Path, head: str | None = None, *, source: bool = False
) -> list[dict[str, Any]]:
    """The ledger of a work directory, if its chain holds and its files are those it names.

    Args:
      head: a line's hash that must be among them.
      source: only what is there need agree: the model may have been taken away.

    Raises:
      ValueError: a line that is not what it should be, or a file that is not what a line says.
    """
    lines = ledgers.lines_of(path, head, ledgers.key())
    bound = [line for line in lines if "config" in line]
    if bound and bound[-1]["config"] != ledgers.settings(path):
        raise ValueError(
            f"{path / CONFIG} is not what line {bound[-1]['number']} of its ledger says: it was "
            "changed, lines were removed, or the run in this folder has not finished"
        )
    mine = ledgers.own(path, lines)
    _check_model(path, mine, source)
    _check_results(path, mine)
    _check_history(path, mine)
    _check_draws(path, mine)
    _check_cells(path, mine, whole=True)
    return lines


def believe(path: pathlib.Path) -> None:
    """Refuses cells and results of a work directory that may have been changed since.

    Before a run has ended no line of the ledger says what its results are; then they must be what
    its cells say, which have digests of their own.

    Raises:
      ValueError: the ledger, a cell or the results are not what they must be.
    """
    mine = ledgers.own(path, ledgers.lines_of(path, None, ledgers.key()))
    _check_cells(path, mine)
    told, results = [line for line in mine if "results" in line], path / RESULTS
    if not os.path.lexists(results):
        return
    if not (told and jfu.ledger.digest(results, most=LARGE) == told[-1]["results"]):
        _check_rows(path, told[-1] if told else {}, ledgers.named_cells(mine))


def settle(path: pathlib.Path) -> None:
    """As ``believe``, for whoever judges a run that has ended: every finished cell is named.

    Raises:
      ValueError: as ``believe``, or a run has not finished since the ledger's last line.
    """
    mine = ledgers.own(path, ledgers.lines_of(path, None, ledgers.key()))
    if not any("results" in line for line in mine):
        return believe(path)
    read(path, source=True)
    named = ledgers.named_cells(mine)
    there = {cell.stem for cell in (path / "cells").glob("*.safetensors")}
    if named and (more := sorted(there - named.keys())):
        raise ValueError(
            f"{path / 'cells'} holds {shown(more[0])}, which its ledger does not name: a run has "
            "not finished, or it was put there; start the same command again"
        )


def _check_cells(path: pathlib.Path, mine: list[dict[str, Any]], whole: bool = False) -> None:
    """Each cell that a line names is the one it names, where it is there at all."""
    for name, (number, seal) in ledgers.named_cells(mine).items():
        cell = path / "cells" / f"{name}.safetensors"
        if not os.path.lexists(cell):
            continue
        if load_seal(cell) != seal:
            raise ValueError(
                f"{cell} is not what line {number} of its ledger says: it was changed or is "
                "another's; restore it, or remove it and start the same command again"
            )
        if whole:
            check_state(cell)


def _check_rows(path: pathlib.Path, last: dict[str, Any], cells: Iterable[str]) -> None:
    """The results are what the cells say, by method and seed, and all that a line named is there.

    Args:
      last: the last line that says what results were; a run that goes on only adds to them.
      cells: the names of those that lines name.
    """
    run = read_run(str(path))
    work = WorkDir(path, run.layout, run.more, run.fingerprint)
    of = lambda seed, method: dict(run=run.fingerprint, method=method, seed=seed)
    groups: dict[tuple, list] = {}
    for row in read_results(work):
        groups.setdefault((row["seed"], row["method"]), []).append(row)
    known = {(seed, name) for seed in last.get("seeds", []) for name in last.get("methods", [])}
    parts = [cell.partition("-") for cell in cells]
    known |= {(int(seed), name) for seed, _, name in parts if seed.isdecimal()}
    groups |= {place: [] for place in sorted(known - groups.keys())}
    for (seed, method), rows in groups.items():
        own = "train" if (method, run.script) == ("original", "train") else method
        cell = work.cell(seed, own)
        said = own_notes(cell, of(seed, own))["rows"] if os.path.lexists(cell) else []
        said = [as_original(row) for row in said[-1:]] if method == "original" else said
        if json.dumps(rows, sort_keys=True) != json.dumps(said, sort_keys=True):
            raise ValueError(
                f"{path / RESULTS} is not what its ledger says, nor what the checkpoint of "
                f"{method} on seed {seed} does: it was changed; restore it, or remove it and start "
                "the same command again, which writes it anew"
            )


def _check_model(path: pathlib.Path, mine: list[dict[str, Any]], source: bool) -> None:
    model, named = path / MODEL, [line for line in mine if "model" in line]
    if model.exists():
        check_size(model)  # before it is read whole
        if not named or jfu.ledger.digest(model) != named[-1]["model"]:
            raise ValueError(
                f"{model} is not the model that {path / ledgers.LEDGER} names last: it was "
                "changed, lines were removed, or the run that writes it has not finished"
            )
    elif named and not source and MODEL not in ledgers.erased(path, mine):
        number = named[-1]["number"]
        raise ValueError(f"{model}, which line {number} of its ledger names, is not there")


def _check_results(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    results, told = path / RESULTS, [line for line in mine if "results" in line]
    there = results.exists() and jfu.ledger.digest(results, most=LARGE)
    if told and there != told[-1]["results"]:
        raise ValueError(
            f"{results} is not what line {told[-1]['number']} of its ledger says: it was changed, "
            "or a run that adds to it has not finished"
        )


def _check_history(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    """One that no line names may be of another federation, and would pass for this one's."""
    history, named = path / HISTORY, [line for line in mine if "model" in line]
    if named and history.exists():
        check_size(history)
    if named and history.exists() and jfu.ledger.digest(history) != named[-1].get("history"):
        raise ValueError(
            f"{history} is not the history that line {named[-1]['number']} of its ledger names: it "
            "is another run's or was changed; restore it, or remove it and choose a method that "
            "needs none"
        )


def _check_draws(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    for name, digest in ledgers.draws(mine).items():
        if not (path / name).is_file() or jfu.ledger.digest(path / name) != digest:
            raise ValueError(
                f"{path / name}, which says what requests took out, is not what its ledger names; "
                "restore it"
            )
