"""Checks that the files of a work directory are those that its ledger names.

``results.jsonl`` must be what the ledger names. Before the end of a run it must be what the
checkpoints say (``believe``). An audit needs the ledger (``settle``). If a checkpoint is missing
when a run continues, the ledger gets a line, because the new checkpoint may differ.

The digest of ``config.json`` also reveals an edited configuration. A proof of erasure reads the
ledgers of all work directories that a model came through. Each of them must contain the lines with
which the next one began.
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

LARGE = 2**28  # most bytes of results, about 600,000 rows


def read(
    path: pathlib.Path, head: str | None = None, *, source: bool = False
) -> list[dict[str, Any]]:
    """The ledger of a work directory, if its chain is valid and its files are those that it names.

    Args:
      head: a line's hash that must be among them.
      source: check only the files that are there, because the model may have been removed.

    Raises:
      ValueError: a line that is not valid, or a file that is not what a line says.
    """
    lines = ledgers.lines_of(path, head, ledgers.key())
    bound = [line for line in lines if "config" in line]
    if bound and bound[-1]["config"] != ledgers.settings(path):
        raise ValueError(
            f"{path / CONFIG} is not what line {bound[-1]['number']} of its ledger says; it was "
            "changed, lines were removed, or the run has not finished; restore it or finish the run"
        )
    mine = ledgers.own(path, lines)
    _check_model(path, mine, source)
    _check_results(path, mine)
    _check_history(path, mine)
    _check_draws(path, mine)
    _check_cells(path, mine, whole=True)
    return lines


def believe(path: pathlib.Path) -> None:
    """Refuses checkpoints and results of a work directory that may have been changed.

    Before a run has ended, no line of the ledger has the digest of its results. Then they must be
    what its checkpoints say, which have digests of their own.

    Raises:
      ValueError: the ledger, a checkpoint or the results are not what they must be.
    """
    mine = ledgers.own(path, ledgers.lines_of(path, None, ledgers.key()))
    _check_cells(path, mine)
    named, results = [line for line in mine if "results" in line], path / RESULTS
    if not os.path.lexists(results):
        return
    if not (named and jfu.ledger.digest(results, most=LARGE) == named[-1]["results"]):
        _check_rows(path, named[-1] if named else {}, ledgers.named_cells(mine))


def settle(path: pathlib.Path) -> None:
    """As ``believe``, for a run that has ended: the ledger must name every finished checkpoint.

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
            f"{path / 'cells'} has {shown(more[0])}, which its ledger does not name: a run has not "
            "finished, or the file comes from elsewhere; start the same command again"
        )


def _check_cells(path: pathlib.Path, mine: list[dict[str, Any]], whole: bool = False) -> None:
    """Compares each checkpoint that is there with the digest in the ledger."""
    for name, (number, seal) in ledgers.named_cells(mine).items():
        cell = path / "cells" / f"{name}.safetensors"
        if not os.path.lexists(cell):
            continue
        if load_seal(cell) != seal:
            raise ValueError(
                f"{cell} is not what line {number} of its ledger says; it was changed or comes "
                "from elsewhere; restore it, or remove it and start the same command again"
            )
        if whole:
            check_state(cell)


def _check_rows(path: pathlib.Path, last: dict[str, Any], cells: Iterable[str]) -> None:
    """Compares the results with the checkpoints; all methods and seeds of a line must be there.

    Args:
      last: the last line with results; a run that continues only adds to them.
      cells: the names of the checkpoints that lines name.
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
                f"{path / RESULTS} was changed; neither its ledger nor the checkpoint of {method} "
                f"on seed {seed} has these rows; restore it, or remove it and start the same "
                "command again, which rewrites it"
            )


def _check_model(path: pathlib.Path, mine: list[dict[str, Any]], source: bool) -> None:
    model, named = path / MODEL, [line for line in mine if "model" in line]
    if model.exists():
        check_size(model)  # before it is read whole
        if not named or jfu.ledger.digest(model) != named[-1]["model"]:
            raise ValueError(
                f"{model} is not the model that {path / ledgers.LEDGER} names last; it was "
                "changed, lines were removed, or its run has not finished; restore it or finish "
                "the run"
            )
    elif named and not source and MODEL not in ledgers.erased(path, mine):
        number = named[-1]["number"]
        raise ValueError(
            f"{model}, which line {number} of its ledger names, is missing; restore it"
        )


def _check_results(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    results, named = path / RESULTS, [line for line in mine if "results" in line]
    there = results.exists() and jfu.ledger.digest(results, most=LARGE)
    if named and there != named[-1]["results"]:
        raise ValueError(
            f"{results} is not what line {named[-1]['number']} of its ledger says; it was changed, "
            "or a run that adds to it has not finished; restore it or finish the run"
        )


def _check_history(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    """Refuses a history that no line names, because it may come from another federation."""
    history, named = path / HISTORY, [line for line in mine if "model" in line]
    if named and history.exists():
        check_size(history)
    if named and history.exists() and jfu.ledger.digest(history) != named[-1].get("history"):
        raise ValueError(
            f"{history} is not the history that line {named[-1]['number']} of its ledger names; it "
            "was changed or comes from another run; restore it, or remove it and choose a method "
            "that needs no history"
        )


def _check_draws(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    for name, digest in ledgers.draws(mine).items():
        if not (path / name).is_file() or jfu.ledger.digest(path / name) != digest:
            raise ValueError(
                f"{path / name}, with the rows that requests took out, is not what its ledger "
                "names; restore it"
            )
