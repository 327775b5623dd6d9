"""What the scripts write into a work directory's ledger.

trained   a model, by so many clients, or further from an earlier one
asked     a request, of a model
answered  by a method: from one model to another, with the measures before and after
compared  methods on a request, over seeds
begun     a run in another work directory, from this one's model
wrote     tables, figures and reports
missing   checkpoints that were gone when a run went on, and are made anew
key       from here on another key, or the first
erased    files that held what was to be forgotten

Each line has the digest of its work directory's config.json (``config``). A later run's ledger
begins as a copy of its source's, so this says which lines are a work directory's own.

``ledgers`` reads the lines, and ``verification`` compares files with them.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import jfu.io
import jfu.ledger
from jfu.files import read_bytes
from jfu.io import load_params, load_seal, write_bytes
from jfu.results import SPENT
from launch.records import ledgers, verification
from launch.setup.identity import DRAWS
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.say import say
from launch.workdir import locks
from launch.workdir.places import CONFIG, HISTORY, MODEL, RESULTS, WorkDir
from launch.workdir.runs import read_run

# What of a row of results.jsonl stands in the ledger.
EVIDENCE = ("retain", "forget", "test", "mia_matched", "asr", "epsilon")


def by_first(write: Callable[..., None]) -> Callable[..., None]:
    """What the first of several hosts does alone."""

    @functools.wraps(write)
    def alone(*args, **kwargs):
        if hosts.first():
            write(*args, **kwargs)

    return alone


@by_first
def reopen(work: WorkDir) -> None:
    """Before a run goes on: what it goes on from is believed, and cells that are gone are told.

    Those are run anew, and take other seconds at least, so that what they were no longer binds.
    """
    verification.believe(work.path)
    lines = ledgers.check(work.path)
    known = ledgers.named_cells(ledgers.own(work.path, lines))
    there = lambda name: os.path.lexists(work.path / "cells" / f"{name}.safetensors")
    if gone := sorted(name for name in known if not there(name)):
        write(work, "missing", missing=gone, since=lines[-1]["hash"])  # twice is not once


def cells_of(work: WorkDir, names: Iterable[tuple[int, str]]) -> dict[str, str]:
    """The digests of a run's cells by seed and name, for its line of the ledger."""
    found = [work.cell(seed, name) for seed, name in sorted(set(names))]
    return {path.stem: load_seal(path) for path in found if path.exists()}


@by_first
def follow(work: WorkDir, source: str | None) -> None:
    """Begins the ledger of a new work directory where that of the model's own one ends.

    What else was begun from that model since is not this run's story, and is left out.
    """
    before = source and pathlib.Path(source) / ledgers.LEDGER
    if before and before.exists() and not (work.path / ledgers.LEDGER).exists():
        text = read_bytes(before, most=jfu.ledger.MOST).decode()
        lines = jfu.ledger.verify(text)
        while lines and lines[-1]["event"] == "begun":
            lines.pop()
        kept = text.split("\n")[: len(lines)]
        write_bytes(work.path / ledgers.LEDGER, "".join(f"{line}\n" for line in kept).encode())


@by_first
def begun(work: WorkDir, config: Config) -> None:
    """Says in the ledger of the model's own work directory what is begun from it, and where.

    So that who erases what that holds, or proves that nothing does, finds what came of it.

    Raises:
      ValueError: another process works there, or its ledger is kept with another key.
    """
    model = pathlib.Path(config.init_params or "")
    folder = model.parent
    if model.name != MODEL or not (folder / CONFIG).is_file():
        return
    met, here = jfu.ledger.digest(model), os.path.realpath(work.path)
    if met not in [line.get("model") for line in ledgers.lines_of(folder, None, None)]:
        return
    content = dict(run=ledgers.settings(work.path), path=here)
    content |= {"from": met, "beside": os.path.relpath(here, os.path.realpath(folder))}
    try:
        with locks.wait(folder) as lock:
            write(WorkDir(folder, None, lock=lock), "begun", **content)
    except OSError as error:
        say(
            f"note: {folder} cannot be written in ({error.strerror}), so that nothing there says "
            f"that {work.path} was begun from it: who erases it must know"
        )


@by_first
def wrote(work: WorkDir, names: Iterable[str]) -> None:
    """Says what tables, figures and reports are now, where there is a ledger and its key.

    A proof of erasure takes a file for jfu's if a line has its digest.
    """
    if not (work.path / ledgers.LEDGER).is_file():
        return
    lines, now = ledgers.lines_of(work.path, None, None), outputs(work, names)
    known = ledgers.vouched(ledgers.own(work.path, lines))
    if all(known.get(name) == digest for name, digest in now.items()):
        return
    if jfu.ledger.keyed(lines) and ledgers.key() is None:
        say(f"note: the ledger is kept with a key and says nothing of {', '.join(now)} without")
        return
    write(work, "wrote", wrote=now, since=lines[-1]["hash"])  # what comes again is told again


def outputs(work: WorkDir, names: Iterable[str]) -> dict[str, str]:
    """The digests of files that a script has just written."""
    there = [name for name in names if (work.path / name).is_file()]
    return {name: jfu.ledger.digest(work.path / name) for name in there}


def write(work: WorkDir, event: str, **content: Any) -> None:
    locks.check(work.path, work.lock)
    content = dict(event=event, config=ledgers.settings(work.path), **content)
    if "results" in content and (kept := sorted((work.path / DRAWS).glob("*.json"))):
        content |= dict(draws={f"{DRAWS}/{path.name}": jfu.ledger.digest(path) for path in kept})
    jfu.ledger.append(work.path / ledgers.LEDGER, content, key=ledgers.key())


@by_first
def trained(
    work: WorkDir, config: Config, seed: int, clients: int, rounds: int, *, history: bool = False
) -> None:
    more = {"from": jfu.ledger.digest(config.init_params)} if config.init_params else {}
    more |= {"history": jfu.ledger.digest(work.path / HISTORY)} if history else {}
    write(
        work,
        "trained",
        **more,
        dataset=config.dataset,
        clients=clients,
        past=list(config.past),
        rounds=rounds,
        seed=seed,
        model=jfu.ledger.digest(work.path / MODEL),
        results=jfu.ledger.digest(work.path / RESULTS),
        cells=cells_of(work, [(seed, "train")]),
        **({} if config.dp_clip is None else dict(outside_epsilon="clients")),
    )


@by_first
def asked(work: WorkDir, config: Config, method: str) -> None:
    met = jfu.ledger.digest(config.init_params)
    write(work, "asked", request=config.forget, method=method, **{"from": met})


@by_first
def answered(
    work: WorkDir,
    config: Config,
    method: str,
    rows: list[dict[str, Any]],
    names: Iterable[str] = (),
) -> None:
    """The first row is of the model that the request met, the last of its answer.

    Args:
      names: files that were written beside it.
    """
    pick = lambda row, names: {n: row[n] for n in names if row.get(n) is not None}
    exact = rows[-1].get("outside_epsilon", "").split(", ")
    exact = ", ".join(name for name in exact if name in EVIDENCE + SPENT)
    write(
        work,
        "answered",
        request=config.forget,
        method=method,
        **{"from": jfu.ledger.digest(config.init_params)},
        model=jfu.ledger.digest(work.path / MODEL),
        rounds=rows[-1]["round"],
        before=pick(rows[0], EVIDENCE),
        after=pick(rows[-1], EVIDENCE),
        costs=pick(rows[-1], SPENT),
        **(dict(outside_epsilon=exact) if exact else {}),
        results=jfu.ledger.digest(work.path / RESULTS),
        cells=cells_of(work, [(row["seed"], row["method"]) for row in rows]),
        weights=dict(met=unsigned(config.init_params), made=unsigned(work.path / MODEL)),
        wrote=outputs(work, names),
    )


def unsigned(path: str | os.PathLike) -> str:
    """A digest of a model's parameters without their signs, which whoever knows them puts back."""
    tree = load_params(path)
    flat = jfu.io.flatten(tree.get("params", tree))
    return jfu.io.digest({name: np.abs(a) for name, a in flat.items()})


def is_answered(work: WorkDir, config: Config, method: str) -> bool:
    """Whether the answer to this very request is there, and in the ledger.

    Raises:
      ValueError: the ledger says so, and the files are not those that it names.
    """
    lines = [
        line
        for line in ledgers.own(work.path, ledgers.check(work.path))
        if line["event"] == "answered"
    ]
    if not lines or not (work.path / MODEL).is_file():
        return False
    run = read_run(str(work.path))
    met = run.files.get(run.config.init_params)  # which may lie elsewhere by now
    mine = (config.forget, method, met)
    if mine not in [tuple(map(line.get, ("request", "method", "from"))) for line in lines]:
        return False
    verification.read(work.path)
    return True


@by_first
def compared(
    work: WorkDir, config: Config, rows: list[dict[str, Any]], names: Iterable[str] = ()
) -> None:
    write(
        work,
        "compared",
        request=config.forget,
        methods=sorted({row["method"] for row in rows}),
        seeds=sorted({row["seed"] for row in rows}),
        results=jfu.ledger.digest(work.path / RESULTS),
        cells=cells_of(work, [(row["seed"], row["method"]) for row in rows]),
        wrote=outputs(work, names),
    )
