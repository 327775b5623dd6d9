"""A work directory: its configuration, its cells, and the files made from them.

A cell is one method on one seed. It is one checkpoint file that holds the state and the
measured rows up to the same round, replaced at once, so a kill at any moment leaves a cell
that can go on. ``results.jsonl`` is always rewritten whole from the cells. One process at a time
works in a work directory (``launch.workdir.locks``).

A checkpoint says which method, seed and run it is of, so one that was put in another's place is
refused. A file in the making is ``.NAME.RANDOM.jfu-part``, NAME one of the files that the scripts
write. A start removes such files in the work directory and its ``cells``, ``shadows`` and
``draws``, and looks nowhere else.

A plan is no part of the configuration. Which methods and seeds were asked for last is in
``plan.json``, so that a table can mark what is missing; the frozen ``config.json`` knows neither.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import jfu.io
import jfu.ledger
from jfu import results
from jfu.files import read_json, read_lines
from launch.setup import identity, private
from launch.shell import hosts
from launch.shell.config import FIELDS, Config, having
from launch.shell.devices import Layout
from launch.shell.folders import make_folder
from launch.shell.say import open_up, say
from launch.shell.software import versions
from launch.workdir.checked import check_types
from launch.workdir.locks import HELD, LOCK, half_of, take
from launch.workdir.locks import check as check_lock

MODEL, HISTORY = "model.safetensors", "history.safetensors"
CONFIG, RESULTS, PLAN = "config.json", "results.jsonl", "plan.json"
# What must be a number or nothing in a row, where it is there.
MEASURED = (*results.NUMBERS, "gap")
# What a configuration that is older than these fields was run with.
LATER = {name: FIELDS[name].default for name in having("later")}


def later(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that a configuration of before there were any lacks, as it was run.

    Noise then came from the seed, which hides nothing: so it is not taken for a secret's.
    """
    return LATER | dict(dp_noise_from_seed=config.get("dp_clip") is not None)


class WorkDir(NamedTuple):
    path: pathlib.Path
    layout: Layout | None  # as the directory was begun, None if it is new
    more: dict[str, Any] | None = None  # what else it was begun with
    run: str = ""  # the fingerprint of what it was begun with
    data: dict[str, Any] | None = None  # digests of the data that it was made of
    drawn: Mapping[int, str] = MappingProxyType({})  # by seed, the digest of its draws
    lock: BinaryIO | None = None  # while this process may write in it

    def cell(self, seed: int, method: str) -> pathlib.Path:
        return self.path / "cells" / f"{seed}-{method}.safetensors"


def open_workdir(path: str, config: Config, script: str, **more: Any) -> WorkDir:
    """Opens a work directory for one script and configuration, or names a new one.

    Of several hosts the first one looks, and the others need no such directory.

    Args:
      more: what else must stay the same, such as the seed.

    Raises:
      ValueError: it holds another script's run or another configuration; nothing is changed.
    """

    def look():
        work = _look(path, config, script, **more)
        return work.layout and work.layout._asdict(), work.more, work.run, work.data

    layout, *kept = hosts.agreed(look)
    return WorkDir(pathlib.Path(path), layout and Layout(**layout), *kept)


def _look(path: str, config: Config, script: str, **more: Any) -> WorkDir:
    where = pathlib.Path(path)
    notes = where / CONFIG
    if not notes.exists():
        if not untouched(where):
            raise ValueError(
                f"{where} exists and is no work directory of jfu; choose another --workdir, "
                "nothing was touched"
            )
        return WorkDir(where, None)
    try:
        kept = read_json(notes, finite=False)  # an infinity stands in older ones
        check_types(kept)
        had = later(kept["config"]) | kept["config"] | kept["more"]
        known = later(kept["config"]) | named_by_content(kept) | kept["more"]
        layout = Layout(**kept["layout"])
        files_kept, versions_kept = kept["files"], kept["versions"]
        script_kept, run = kept["script"], fingerprint(kept)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{notes} is unreadable ({error!r}); restore it or choose another --workdir"
        ) from None
    if script_kept != script:
        raise ValueError(f"{where} holds a run of launch.{script_kept}; choose another --workdir")
    by_content = kept.get("data") is not None  # then begin compares what was read
    if others := changed(files(config, data=not by_content), files_kept):
        raise ValueError(
            f"{', '.join(others)} has changed since {where} was begun; restore it, or choose "
            "another --workdir"
        )
    now = dataclasses.asdict(config) | more
    same = dict(config=dataclasses.asdict(config), data=kept.get("data"))
    asked = named_by_content(same | dict(files=files_kept | files(config))) | more
    asked = json.loads(json.dumps(asked))
    differing = [n for n in asked if n != "data_dir" and known.get(n, ...) != asked[n]]
    if differing:
        had = ", ".join(f"{n}={had.get(n)}" for n in differing)
        now = ", ".join(f"{n}={now[n]}" for n in differing)
        raise ValueError(
            f"{where} holds a run with {had}, and {now} was asked for; use the same flags to go "
            "on with it, or another --workdir"
        )
    identity.same_numerics(kept.get("numerics"), where)
    if versions_kept != versions():
        was = ", ".join(f"{n} {v}" for n, v in versions_kept.items() if v != versions().get(n))
        say(f"note: {where} was begun with {was}; what is run now may differ in its last bits")
    return WorkDir(where, layout, kept["more"], run, kept.get("data"))


def untouched(folder: pathlib.Path) -> bool:
    """Whether a run may begin there: it holds at most what one left that was killed too early."""
    if not os.path.lexists(folder):
        return True
    left = re.compile(
        rf"{LOCK}|{HELD}|{half_of(re.escape(CONFIG))}|\.{re.escape(CONFIG)}\..*\.part"
    )
    return folder.is_dir() and all(left.fullmatch(path.name) for path in folder.iterdir())


def fingerprint(kept: dict[str, Any]) -> str:
    """Names a run by what config.json says that its bits depend on.

    Where data lies is not among it, nor are versions: so cells of one run that was shared out
    over machines can be gathered in one work directory. Nor are later fields that change nothing.
    """
    what = {name: kept[name] for name in ("script", "more", "layout")}
    known = ("data", "numerics") if kept.get("data") else ("files",)
    what |= {name: kept.get(name) for name in known}
    older = later(kept["config"]).items()
    matters = lambda name, value: name != "data_dir" and (name, value) not in older
    config = named_by_content(kept) if kept.get("data") else kept["config"]
    what["config"] = {n: v for n, v in config.items() if matters(n, v)}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def named_by_content(kept: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a config.json with digests in place of the names of files.

    A file that has moved is the same. Own data has no digest here: what was read of it is compared
    (``identity.same_data``), however it was written. Of before that was kept, its name counts.
    """
    config, digests = kept["config"], kept["files"]
    own = kept.get("data") is not None and config["dataset"].endswith(".npz")
    named = lambda text, kind: kind + digests.get(text.removeprefix(kind), text.removeprefix(kind))
    changes = dict(init_params=digests.get(config["init_params"], config["init_params"]))
    for name, kind in dict(partition="file:", forget="mask:").items():
        if config[name].startswith(kind):
            changes[name] = named(config[name], kind)
    return config | changes | (dict(dataset=".npz") if own else {})


def same_history(work: WorkDir, keep: list[str], names: list[str]) -> list[str]:
    """The history that a comparison was begun with, which more methods must make do with."""
    kept = work.more["keep_history"]
    if missing := [kind for kind in keep if kind not in kept]:
        raise ValueError(
            f"training in {work.path} did not remember {', '.join(missing)}, which is needed for "
            f"{', '.join(names)}; begin another --workdir with these methods, or with "
            f"--keep_history={','.join(keep)} if they are to join later"
        )
    return kept


def files(config: Config, data: bool = True) -> dict[str, str]:
    """Digests of the files that a configuration names, so that a changed one is noticed."""
    return digests([*named_files(config, data), config.init_params])


def named_files(config: Config, data: bool = True) -> list[str]:
    """The files of data, lists of clients and masks that a configuration names."""
    own = [config.dataset] if data and config.dataset.endswith(".npz") else []
    return [*own, *masks(config), config.partition.partition("file:")[2]]


def masks(config: Config) -> list[str]:
    """The files of the requests, this one and those before, that name examples by a mask."""
    return [text.partition("mask:")[2] for text in (config.forget, *config.past)]


def digests(named: Iterable[str | None]) -> dict[str, str]:
    found = [name for name in named if name and os.path.isfile(name)]
    return {name: jfu.ledger.digest(name) for name in found}


def changed(now: dict[str, str], kept: dict[str, str]) -> list[str]:
    """The files that are not what they were; older work directories do not name all masks."""
    return [name for name, digest in now.items() if kept.get(name, digest) != digest]


def place(name: str | None, path: pathlib.Path) -> dict[str, str] | None:
    """Where a file lies that a run begins with, also from its work directory if both move."""
    if not name:
        return None
    where = os.path.abspath(name)
    return dict(path=where, beside=os.path.relpath(where, os.path.realpath(path)))


def begin(
    work: WorkDir,
    config: Config,
    script: str,
    layout: Layout,
    data: dict[str, Any] | None = None,
    **more: Any,
) -> WorkDir:
    """Takes a work directory to write in, and writes the configuration of a new one.

    Args:
      data: digests of the data that were read (``identity.of_data``).

    Raises:
      ValueError: another process works in it, or it was made of other data; nothing is changed.
      OSError: nothing can be written in it.
    """
    held = {}
    if data:
        identity.same_data(work.data, data, work.path)

    def write():
        held["lock"] = take(work.path)
        return _write_begin(work, config, script, layout, data, **more)

    run = hosts.agreed(write)
    work = work._replace(lock=held.get("lock"), run=run, data=work.data or data)
    return work if work.layout is not None else work._replace(layout=layout)


def _write_begin(
    work: WorkDir, config: Config, script: str, layout: Layout, data: Any, **more: Any
) -> str:
    cells = work.path / "cells"
    if work.layout is None and (work.path / CONFIG).exists():
        raise ValueError(
            f"another process has begun a run in {work.path} meanwhile; start the same command "
            "again to go on with it, or choose another --workdir"
        )
    if work.layout is not None:
        make_folder(cells)
        read_results(work)  # what is unreadable is told before time is spent
        return work.run
    content = dict(
        script=script,
        config=dataclasses.asdict(config),
        more=more,
        layout=layout._asdict(),
        files=files(config),
        versions=versions(),
        source=place(config.init_params, work.path),
        places={name: place(name, work.path) for name in named_files(config) if name},
        data=data,
        numerics=identity.numerics(),
        sealed=True,  # checkpoints have digests
    )
    content |= private.config_notes(config)
    text = json.dumps(content, indent=1) + "\n"
    jfu.io.write_bytes(work.path / CONFIG, text.encode())
    make_folder(cells)
    return fingerprint(json.loads(text))


def plan(work: WorkDir, names: list[str], seeds: list[int]) -> None:
    """Writes which cells were asked for last, so that a table can tell those that are missing."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    content = dict(cells=names, seeds=seeds)
    text = json.dumps(content | dict(sha256=_of_plan(content)))
    jfu.io.write_bytes(work.path / PLAN, f"{text}\n".encode())


def _of_plan(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_plan(path: pathlib.Path) -> tuple[list[str], list[int]]:
    """The cells and seeds that were asked for last; empty where nothing says so."""
    notes = path / PLAN
    if not os.path.lexists(notes):
        return [], []
    try:
        kept = read_json(notes)
        asked = dict(cells=kept["cells"], seeds=kept["seeds"])
        if kept.get("sha256", _of_plan(asked)) != _of_plan(asked):
            raise ValueError("it was changed")
        if not all(type(n) is str for n in asked["cells"]):
            raise TypeError("names are text")
        if not all(type(n) is int for n in asked["seeds"]):
            raise TypeError("seeds are numbers")
        return asked["cells"], asked["seeds"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{notes} is unreadable ({error}); remove it") from None


def taken(work: WorkDir, seeds: Sequence[int]) -> dict[int, identity.Draws]:
    """What the seeds' requests took out, where the directory says so.

    A seed of which it says nothing is drawn; its checkpoints, if there are any, name what they were
    drawn from, and are refused where that is another.
    """
    return identity.read(work.path, seeds)


def with_draws(work: WorkDir, seed: int, draws: identity.Draws) -> WorkDir:
    """The same, knowing of a seed what its checkpoints must have been made of."""
    return work._replace(drawn={**work.drawn, seed: draws.digest()})


def keep_draws(work: WorkDir, seed: int, draws: identity.Draws) -> WorkDir:
    """The same, with what was drawn for a seed written down."""
    check_lock(work.path, work.lock)
    identity.write(work.path, seed, draws)
    return with_draws(work, seed, draws)


def read_cells(path: pathlib.Path, run: str) -> dict[tuple[int, str], dict[str, Any]]:
    """The notes of every cell that there is, by seed and name; no arrays are read.

    Raises:
      ValueError: one is no cell, or another run's, seed's or method's than its place says.
    """
    found = {}
    for file in sorted((path / "cells").glob("*.safetensors")):
        seed, _, name = file.stem.partition("-")
        if not (seed.isdigit() and re.fullmatch(r"\w+", name)):
            raise ValueError(
                f"{file} has no cell's name, which is SEED-METHOD.safetensors; move it elsewhere"
            )
        found[int(seed), name] = own_notes(file, dict(run=run, method=name, seed=int(seed)))
    return found


def read_results(work: WorkDir) -> list[dict[str, Any]]:
    path = work.path / RESULTS
    if not os.path.lexists(path):
        return []
    try:
        rows = read_lines(path, most=2**28, finite=False)
        check_rows(rows)
    except ValueError as error:
        raise ValueError(
            f"{path} is unreadable ({error}); restore it, or remove it and start the same "
            "command again, which writes it anew from the cells"
        ) from None
    return rows


def check_rows(rows: Any) -> None:
    """Refuses what are no rows: objects of numbers and texts that say their method, seed, round.

    Raises:
      ValueError: the first that is none.
    """
    if not isinstance(rows, list):
        raise ValueError("its rows are no list")
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


def write_results(work: WorkDir, rows: list[dict[str, Any]]) -> None:
    """Replaces results.jsonl; rows of methods and seeds that are not among these are kept."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    new = {(row["method"], row["seed"]) for row in rows}
    kept = [row for row in read_results(work) if (row["method"], row["seed"]) not in new]
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in [*rows, *kept])
    jfu.io.write_bytes(work.path / RESULTS, text.encode())


def write_cell(work: WorkDir, seed: int, method: str, state: Any, notes: dict[str, Any]) -> None:
    """Replaces a cell's checkpoint."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    jfu.io.save_state(work.cell(seed, method), state, notes | dict(of=_of(work, seed, method)))


def write_history(work: WorkDir, history: Any, keep: Sequence[str]) -> None:
    """Replaces what a training remembers of its clients, and says what that is."""
    if not hosts.first():
        return
    check_lock(work.path, work.lock)
    jfu.io.save_state(work.path / HISTORY, history, dict(keep=list(keep)))


def write_model(work: WorkDir, variables: Any) -> None:
    """Writes a run's model, as ``export``."""
    check_lock(work.path, work.lock)
    export(work.path / MODEL, variables)


def read_cell(work: WorkDir, seed: int, method: str, like: Any) -> tuple[Any, dict] | None:
    """A cell's checkpoint, None if there is none.

    Raises:
      FileNotFoundError: it is a link that leads nowhere.
      ValueError: it is truncated, of another kind, or another cell's; nothing is changed.
    """
    notes = cell_notes(work, seed, method)
    if notes is None:
        return None
    return jfu.io.load_state(hosts.opened(work.cell(seed, method)), like)


def cell_notes(work: WorkDir, seed: int, method: str) -> dict[str, Any] | None:
    """What a cell's checkpoint says beside its state; as ``read_cell``."""
    return hosts.agreed(lambda: _cell_notes(work, seed, method))


def _cell_notes(work: WorkDir, seed: int, method: str) -> dict[str, Any] | None:
    path = work.cell(seed, method)
    if not os.path.lexists(path):
        return None
    return own_notes(path, _of(work, seed, method))


def _of(work: WorkDir, seed: int, method: str) -> dict[str, Any]:
    """Whose a checkpoint is."""
    drawn = dict(draws=work.drawn[seed]) if seed in work.drawn else {}
    return dict(run=work.run, method=method, seed=seed) | drawn


def is_of(said: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is what it should be; one of before draws were kept names none."""
    return all(said.get(k, v if k == "draws" else None) == v for k, v in mine.items())


def own_notes(path: pathlib.Path, mine: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says beside its state, if it is a cell and of this run, method and seed."""
    notes = jfu.io.load_notes(path)
    if not isinstance(notes, dict) or not {"round", "rows", "spent"} <= notes.keys():
        raise ValueError(f"{path} is no cell of jfu; restore it, or remove it to begin anew")
    number = lambda value: type(value) in (int, float)
    try:
        check_rows(notes["rows"])
        if type(notes["round"]) is not int or type(notes.get("finished", False)) is not bool:
            raise ValueError(f"its round is {notes['round']!r:.50}")
        if not (isinstance(notes["spent"], dict) and all(map(number, notes["spent"].values()))):
            raise ValueError("what it spent are no numbers")
    except ValueError as error:
        raise ValueError(
            f"{path} is no cell of jfu ({error}); restore it, or remove it to begin anew"
        ) from None
    check_own(path, notes.get("of"), mine)
    return notes


def check_own(path: pathlib.Path, said: Any, mine: dict[str, Any]) -> None:
    """Refuses a checkpoint that says it is another's, and one that has no digest but must.

    What says nothing of whose it is is older than this; so is a work directory whose
    configuration does not say that its checkpoints have digests.
    """
    if jfu.io.load_seal(path) is None and sealed(path.parents[1]):
        raise ValueError(
            f"{path} has no digest, which all checkpoints of its work directory have; it was "
            "changed or comes from elsewhere: restore it, or remove it to begin anew"
        )
    if said is None or (isinstance(said, dict) and is_of(said, mine)):
        return
    if not isinstance(said, dict):
        raise ValueError(f"{path} is no checkpoint of jfu; restore it, or remove it to begin anew")
    what = ", ".join(f"{name} {value}" for name, value in said.items())
    wanted = ", ".join(f"{name} {value}" for name, value in mine.items())
    differ = any(said.get(name) != mine.get(name) for name in ("run", "draws"))
    raise ValueError(
        f"{path} is the checkpoint of {what}, not of {wanted}"
        + ", which has other flags, data, draws, history or devices" * differ
        + "; put it back where it belongs and restore this one, or remove it to begin anew"
    )


def sealed(folder: pathlib.Path) -> bool:
    """Whether a work directory was begun since checkpoints have digests."""
    notes = folder / CONFIG
    return os.path.lexists(notes) and "sealed" in read_json(notes, finite=False)


def export(path: pathlib.Path, variables: Any, *, shown: bool = False) -> None:
    """Writes a model unless the same is there already; refuses to overwrite another.

    Args:
      shown: a user asked for it by name, so it need not be its owner's alone.
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
