"""What the scripts write into a work directory's ledger, and what its files must agree with.

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

``results.jsonl`` must be what the ledger says, or before a run has ended what the checkpoints say
(``believe``); an audit wants the ledger (``settle``). A checkpoint that is gone is written down
when the run goes on, so that the one that is made anew may differ from it.

The digest of ``config.json`` also finds an edited one. A proof reads the ledgers of all work
directories on the way, each of which must hold the lines that the next one began with.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from absl import flags

import jfu.io
import jfu.ledger
from jfu.files import MOST, read_bytes, shown
from jfu.io import check_size, check_state, load_params, load_seal, write_bytes
from jfu.results import SPENT, as_original
from launch.setup.identity import DRAWS
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.say import say
from launch.workdir import locks
from launch.workdir.checkpoints import own_notes
from launch.workdir.outcome import read_results
from launch.workdir.places import CONFIG, HISTORY, MODEL, RESULTS, WorkDir
from launch.workdir.runs import read_run

LEDGER = "ledger.jsonl"
LARGE = 2**28  # bytes of results, which are 600,000 rows

# What of a row of results.jsonl stands in the ledger.
EVIDENCE = ("retain", "forget", "test", "mia_matched", "asr", "epsilon")


def key(flag: str = "key_file") -> bytes | None:
    """The secret of --key_file, or of another flag that names a file with one."""
    path = getattr(flags.FLAGS, flag) if flag in flags.FLAGS else None
    if path is None:
        return None
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no file {path} with a key")
    warn_of_readers(path)
    secret = read_bytes(path, most=2**16).strip()
    if len(secret) < 16:
        raise ValueError(f"the key in {path} has {len(secret)} bytes; it must have at least 16")
    return secret


@functools.cache  # said once
def warn_of_readers(path: str) -> None:
    """Says that others than its owner may read a file with a key."""
    mode = os.stat(path).st_mode & 0o777
    if mode & 0o077:
        say(
            f"note: others than its owner may read or write {path} (mode {mode:o}), and who has "
            f"the key can forge the ledger; close it with chmod 600 {path}"
        )


def by_first(write: Callable[..., None]) -> Callable[..., None]:
    """What the first of several hosts does alone."""

    @functools.wraps(write)
    def alone(*args, **kwargs):
        if hosts.first():
            write(*args, **kwargs)

    return alone


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
    lines = _lines(path, head, key())
    bound = [line for line in lines if "config" in line]
    if bound and bound[-1]["config"] != settings(path):
        raise ValueError(
            f"{path / CONFIG} is not what line {bound[-1]['number']} of its ledger says: it was "
            "changed, lines were removed, or the run in this folder has not finished"
        )
    mine = own(path, lines)
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
    mine = own(path, _lines(path, None, key()))
    _check_cells(path, mine)
    told, results = [line for line in mine if "results" in line], path / RESULTS
    if not os.path.lexists(results):
        return
    if not (told and jfu.ledger.digest(results, most=LARGE) == told[-1]["results"]):
        _check_rows(path, told[-1] if told else {}, named_cells(mine))


def settle(path: pathlib.Path) -> None:
    """As ``believe``, for whoever judges a run that has ended: every finished cell is named.

    Raises:
      ValueError: as ``believe``, or a run has not finished since the ledger's last line.
    """
    mine = own(path, _lines(path, None, key()))
    if not any("results" in line for line in mine):
        return believe(path)
    read(path, source=True)
    named = named_cells(mine)
    there = {cell.stem for cell in (path / "cells").glob("*.safetensors")}
    if named and (more := sorted(there - named.keys())):
        raise ValueError(
            f"{path / 'cells'} holds {shown(more[0])}, which its ledger does not name: a run has "
            "not finished, or it was put there; start the same command again"
        )


def _check_cells(path: pathlib.Path, mine: list[dict[str, Any]], whole: bool = False) -> None:
    """Each cell that a line names is the one it names, where it is there at all."""
    for name, (number, seal) in named_cells(mine).items():
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


def named_cells(mine: Sequence[dict[str, Any]]) -> dict[str, tuple[int, str]]:
    """Digests of cells by name, as the last line says that names them, and that line's number."""
    found: dict[str, tuple[int, str]] = {}
    for line in mine:
        found |= {name: (line["number"], seal) for name, seal in line.get("cells", {}).items()}
        for name in line.get("missing", []):
            found.pop(name, None)
    return found


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


@by_first
def reopen(work: WorkDir) -> None:
    """Before a run goes on: what it goes on from is believed, and cells that are gone are told.

    Those are run anew, and take other seconds at least, so that what they were no longer binds.
    """
    believe(work.path)
    lines = check(work.path)
    known = named_cells(own(work.path, lines))
    there = lambda name: os.path.lexists(work.path / "cells" / f"{name}.safetensors")
    if gone := sorted(name for name in known if not there(name)):
        write(work, "missing", missing=gone, since=lines[-1]["hash"])  # twice is not once


def cells_of(work: WorkDir, names: Iterable[tuple[int, str]]) -> dict[str, str]:
    """The digests of a run's cells by seed and name, for its line of the ledger."""
    found = [work.cell(seed, name) for seed, name in sorted(set(names))]
    return {path.stem: load_seal(path) for path in found if path.exists()}


def _lines(path: pathlib.Path, head: str | None, secret: bytes | None) -> list[dict[str, Any]]:
    lines = jfu.ledger.read(path / LEDGER, head=head, key=secret)
    if not lines and os.path.lexists(path / LEDGER):
        raise ValueError(f"{path / LEDGER} is empty: its lines were removed")
    for line in lines:
        named = [line.get(name, {}) for name in ("files", "cells", "wrote", "draws")]
        named = all(isinstance(one, dict) for one in named)
        if not (named and isinstance(line.get("event"), str)) or not isinstance(
            line.get("missing", []), list
        ):
            raise ValueError(
                f"line {line['number']} of {path / LEDGER} is none that jfu's scripts write"
            )
    return lines


def settings(path: pathlib.Path) -> str | None:
    """The digest of a work directory's config.json."""
    notes = path / CONFIG
    return jfu.ledger.digest(notes, most=MOST) if notes.is_file() else None


def own(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of this work directory's run, without those that came with its model.

    A ledger in which no line says whose it is, of before lines did, is its own as a whole.
    """
    if not any("config" in line for line in lines):
        return list(lines)
    mine = settings(path)
    return [line for line in lines if line.get("config") == mine]


def erased(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The files of a work directory that were to be removed, with their digests."""
    mine = [line for line in own(path, lines) if line["event"] == "erased"]
    return {name: digest for line in mine for name, digest in line.get("files", {}).items()}


def _check_model(path: pathlib.Path, mine: list[dict[str, Any]], source: bool) -> None:
    model, named = path / MODEL, [line for line in mine if "model" in line]
    if model.exists():
        check_size(model)  # before it is read whole
        if not named or jfu.ledger.digest(model) != named[-1]["model"]:
            raise ValueError(
                f"{model} is not the model that {path / LEDGER} names last: it was changed, lines "
                "were removed, or the run that writes it has not finished"
            )
    elif named and not source and MODEL not in erased(path, mine):
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


def draws(mine: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The files of draws that a work directory's lines name, with their digests."""
    told = [line["draws"] for line in mine if isinstance(line.get("draws"), dict)]
    return told[-1] if told else {}


def _check_draws(path: pathlib.Path, mine: list[dict[str, Any]]) -> None:
    for name, digest in draws(mine).items():
        if not (path / name).is_file() or jfu.ledger.digest(path / name) != digest:
            raise ValueError(
                f"{path / name}, which says what requests took out, is not what its ledger names; "
                "restore it"
            )


def vouched(mine: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Digests of a work directory's files by name, as the last line that names them says."""
    alone = dict(config=CONFIG, results=RESULTS, model=MODEL, history=HISTORY)
    found: dict[str, str] = {}
    for line in mine:
        found |= {name: line[field] for field, name in alone.items() if field in line}
        found |= line.get("draws", {}) | line.get("wrote", {})
    return found


def check(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines, if the chain holds and more can be written: before any work is done."""
    secret = key()
    lines = _lines(path, None, secret)
    if secret is None and jfu.ledger.keyed(lines):
        raise ValueError(f"{path / LEDGER} is kept with a key; give --key_file")
    return lines


@by_first
def follow(work: WorkDir, source: str | None) -> None:
    """Begins the ledger of a new work directory where that of the model's own one ends.

    What else was begun from that model since is not this run's story, and is left out.
    """
    before = source and pathlib.Path(source) / LEDGER
    if before and before.exists() and not (work.path / LEDGER).exists():
        text = read_bytes(before, most=jfu.ledger.MOST).decode()
        lines = jfu.ledger.verify(text)
        while lines and lines[-1]["event"] == "begun":
            lines.pop()
        kept = text.split("\n")[: len(lines)]
        write_bytes(work.path / LEDGER, "".join(f"{line}\n" for line in kept).encode())


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
    if met not in [line.get("model") for line in _lines(folder, None, None)]:
        return
    content = dict(run=settings(work.path), path=here)
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
    if not (work.path / LEDGER).is_file():
        return
    lines, now = _lines(work.path, None, None), outputs(work, names)
    known = vouched(own(work.path, lines))
    if all(known.get(name) == digest for name, digest in now.items()):
        return
    if jfu.ledger.keyed(lines) and key() is None:
        say(f"note: the ledger is kept with a key and says nothing of {', '.join(now)} without")
        return
    write(work, "wrote", wrote=now, since=lines[-1]["hash"])  # what comes again is told again


def outputs(work: WorkDir, names: Iterable[str]) -> dict[str, str]:
    """The digests of files that a script has just written."""
    there = [name for name in names if (work.path / name).is_file()]
    return {name: jfu.ledger.digest(work.path / name) for name in there}


def write(work: WorkDir, event: str, **content: Any) -> None:
    locks.check(work.path, work.lock)
    content = dict(event=event, config=settings(work.path), **content)
    if "results" in content and (kept := sorted((work.path / DRAWS).glob("*.json"))):
        content |= dict(draws={f"{DRAWS}/{path.name}": jfu.ledger.digest(path) for path in kept})
    jfu.ledger.append(work.path / LEDGER, content, key=key())


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
    lines = [line for line in own(work.path, check(work.path)) if line["event"] == "answered"]
    if not lines or not (work.path / MODEL).is_file():
        return False
    run = read_run(str(work.path))
    met = run.files.get(run.config.init_params)  # which may lie elsewhere by now
    mine = (config.forget, method, met)
    if mine not in [tuple(map(line.get, ("request", "method", "from"))) for line in lines]:
        return False
    read(work.path)
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
