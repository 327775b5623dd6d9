"""The lines that scripts write into a work directory's ledger.

trained   a model, with the number of clients; perhaps trained further from an earlier one
asked     a request to a model
answered  a method's answer: from one model to another, with the measures before and after
compared  methods on a request, over seeds
begun     a run in another work directory, from this one's model
wrote     tables, figures and reports
missing   checkpoints that were missing when a run continued, and are made again
key       a new key for the lines that follow, or the first key
erased    files with data that was to be forgotten
audited   an audit's verdicts, and the digests of its report
exported  evidence that was handed over, with the hashes of the lines that it shows
received  a request that has arrived; ``due`` and ``refused`` are about one, too (``life``)

Each line has the digest of its work directory's config.json (``config``). A later run's ledger
begins with a copy of its source's lines. So this digest shows which lines are the later run's own.

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
from launch.records import ledgers, life, verification
from launch.setup.identity import DRAWS
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.say import say
from launch.workdir import locks
from launch.workdir.places import CONFIG, HISTORY, MODEL, RESULTS, WorkDir
from launch.workdir.runs import read_run

# Columns of results.jsonl that the ledger has too.
EVIDENCE = ("retain", "forget", "test", "mia_matched", "asr", "epsilon")


def by_first(write: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that only the first of several hosts calls."""

    @functools.wraps(write)
    def alone(*args, **kwargs):
        if hosts.first():
            write(*args, **kwargs)

    return alone


@by_first
def reopen(work: WorkDir) -> None:
    """Checks a run before it continues, and writes into the ledger which checkpoints are missing.

    Missing checkpoints are made again, with other times at least. So their old digests no longer
    count.
    """
    verification.believe(work.path)
    lines = ledgers.check(work.path)
    known = ledgers.named_cells(ledgers.own(work.path, lines))
    there = lambda name: os.path.lexists(work.path / "cells" / f"{name}.safetensors")
    if gone := sorted(name for name in known if not there(name)):
        write(work, "missing", missing=gone, since=lines[-1]["hash"])  # a line of its own each time


def cells_of(work: WorkDir, names: Iterable[tuple[int, str]]) -> dict[str, str | None]:
    """The digests of checkpoints by seed and method, for a line of the ledger."""
    found = [work.cell(seed, name) for seed, name in sorted(set(names))]
    return {path.stem: load_seal(path) for path in found if path.exists()}


@by_first
def follow(work: WorkDir, source: str | None) -> None:
    """Begins the ledger of a new work directory with the lines of its model's own ledger.

    Lines about other runs that were begun from that model are left out.
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
    """Writes into the ledger of the model's own work directory which run was begun, and where.

    So ``--erase`` and a proof of erasure there find this run.

    Raises:
      ValueError: another process works there, or its ledger has another key.
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
            f"note: nothing can be written in {folder} ({error.strerror}), so its ledger does not "
            f"say that {work.path} was begun from it; remember this when you erase {folder}"
        )


@by_first
def wrote(work: WorkDir, names: Iterable[str]) -> None:
    """Writes the digests of tables, figures and reports, if there is a ledger and its key.

    A proof of erasure accepts a file as jfu's if a line has its digest.
    """
    now = outputs(work, names)
    if not (lines := _open_to(work, now)):
        return
    known = ledgers.vouched(ledgers.own(work.path, lines))
    if not all(known.get(name) == digest for name, digest in now.items()):
        write(work, "wrote", wrote=now, since=lines[-1]["hash"])  # a line of its own each time


@by_first
def audited(work: WorkDir, report: dict[str, Any], names: Iterable[str]) -> None:
    """Writes an audit's verdicts and the digests of its files, if there is a ledger and its key.

    Args:
      report: the content of audit.json; every method and question in it is taken.
      names: the files that the audit wrote.
    """
    now = outputs(work, names)
    if not (lines := _open_to(work, now)):
        return
    mine, request = ledgers.own(work.path, lines), report["asked"]["request"]
    answers = [x for x in mine if x["event"] == "answered" and x["request"] == request]
    ids = sorted({name for line in answers for name in line.get(life.IDS, [])})
    content = dict(
        request=request,
        seeds=report["seeds"],
        verdicts={name: entry["verdicts"] for name, entry in report["methods"].items()},
        wrote=now,
        **({life.IDS: ids} if ids else {}),
    )
    before = [line for line in mine if line["event"] == "audited"]
    if not (before and content.items() <= before[-1].items()):
        write(work, "audited", **content, since=lines[-1]["hash"])


def _open_to(work: WorkDir, now: dict[str, str]) -> list[dict[str, Any]]:
    """The ledger's lines; none if there is no ledger, or, with a note, if its key is missing."""
    if not (work.path / ledgers.LEDGER).is_file():
        return []
    lines = ledgers.lines_of(work.path, None, None)
    if jfu.ledger.keyed(lines) and ledgers.key() is None:
        say(
            f"note: the ledger has a key, so without --key_file it gets no line about "
            f"{', '.join(now)}"
        )
        return []
    return lines


def outputs(work: WorkDir, names: Iterable[str]) -> dict[str, str]:
    """The digests of the files that a script has just written."""
    there = [name for name in names if (work.path / name).is_file()]
    return {name: jfu.ledger.digest(work.path / name) for name in there}


def write(work: WorkDir, event: str, **content: Any) -> None:
    locks.check(work.path, work.lock)
    lines = ledgers.lines_of(work.path, None, None)
    # A line that names its run would disown the lines of an older ledger, none of which does.
    older = bool(lines) and not any("config" in line for line in lines)
    named = {} if older else dict(config=ledgers.settings(work.path))
    content = dict(event=event, **named, **content)
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
    about = {"request": config.forget, "method": method, "from": met}
    lines = ledgers.lines_of(work.path, None, None)
    if not _asked(work.path, lines, about):  # else a run that continues
        ids = life.waiting(lines, config.forget)
        write(work, "asked", **about, **({life.IDS: ids} if ids else {}))


def _asked(
    path: pathlib.Path, lines: list[dict[str, Any]], about: dict[str, Any]
) -> list[dict[str, Any]]:
    """The run's own lines in which it began to answer a request."""
    mine = [line for line in ledgers.own(path, lines) if line["event"] == "asked"]
    return [line for line in mine if about.items() <= line.items()]


@by_first
def answered(
    work: WorkDir,
    config: Config,
    method: str,
    rows: list[dict[str, Any]],
    names: Iterable[str] = (),
) -> None:
    """The first row is of the original model, the last of the answer.

    Args:
      names: files that were written beside the model.
    """
    kept = (work.path / HISTORY).exists()  # statistics of those who stay, for the next request
    pick = lambda row, names: {n: row[n] for n in names if row.get(n) is not None}
    exact = rows[-1].get("outside_epsilon", "").split(", ")
    exact = ", ".join(name for name in exact if name in EVIDENCE + SPENT)
    met = jfu.ledger.digest(config.init_params)
    about = {"request": config.forget, "method": method, "from": met}
    began = _asked(work.path, ledgers.lines_of(work.path, None, None), about)
    ids = began[-1].get(life.IDS) if began else None
    write(
        work,
        "answered",
        **about,
        **({life.IDS: ids} if ids else {}),
        model=jfu.ledger.digest(work.path / MODEL),
        rounds=rows[-1]["round"],
        **({"history": jfu.ledger.digest(work.path / HISTORY)} if kept else {}),
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
    """A digest of a model's parameters without their signs, which someone could change back."""
    tree = load_params(path)
    flat = jfu.io.flatten(tree.get("params", tree))
    return jfu.io.digest({name: np.abs(a) for name, a in flat.items()})


def is_answered(work: WorkDir, config: Config, method: str) -> bool:
    """Whether the answer to exactly this request is there, and in the ledger.

    Raises:
      ValueError: the ledger says so, but the files are not those that it names.
    """
    lines = [
        line
        for line in ledgers.own(work.path, ledgers.check(work.path))
        if line["event"] == "answered"
    ]
    if not lines or not (work.path / MODEL).is_file():
        return False
    run = read_run(str(work.path))
    met = run.files.get(run.config.init_params)  # the model itself may have moved
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
