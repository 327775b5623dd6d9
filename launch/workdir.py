"""A work directory: its configuration, its cells, and the files made from them.

A cell is one method on one seed. It is one checkpoint file that holds the state and the
measured rows up to the same round, replaced at once, so a kill at any moment leaves a cell
that can go on. ``results.jsonl`` is always rewritten whole from the cells.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import jfu.io
from launch import hosts
from launch.devices import Layout
from launch.flags import Config
from launch.main import say

MODEL, HISTORY = "model.safetensors", "history.safetensors"


class WorkDir(NamedTuple):
    path: pathlib.Path
    layout: Layout | None  # as the directory was begun, None if it is new
    more: dict[str, Any] | None = None  # what else it was begun with

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
        return work.layout and work.layout._asdict(), work.more

    layout, kept = hosts.agreed(look)
    return WorkDir(pathlib.Path(path), layout and Layout(**layout), kept)


def _look(path: str, config: Config, script: str, **more: Any) -> WorkDir:
    where = pathlib.Path(path)
    asked = json.loads(json.dumps(dataclasses.asdict(config) | more))
    notes = where / "config.json"
    if not notes.exists():
        half = re.compile(r"\.config\.json\..*\.part")  # killed before it had begun
        if where.exists() and not (
            where.is_dir() and all(half.fullmatch(p.name) for p in where.iterdir())
        ):
            raise ValueError(
                f"{where} exists and is no work directory of jfu; choose another --workdir, "
                "nothing was touched"
            )
        return WorkDir(where, None)
    try:
        kept = json.loads(notes.read_text())
        config_kept, layout = kept["config"] | kept["more"], Layout(**kept["layout"])
        files_kept, versions_kept = kept["files"], kept["versions"]
        script_kept = kept["script"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{notes} is unreadable ({error!r}); restore it or choose another --workdir"
        ) from None
    if script_kept != script:
        raise ValueError(f"{where} holds a run of launch.{script_kept}; choose another --workdir")
    moved = ("data_dir",)  # where data lies does not change it
    differing = [n for n in asked if n not in moved and config_kept.get(n, ...) != asked[n]]
    if differing:
        had = ", ".join(f"{n}={config_kept.get(n)}" for n in differing)
        now = ", ".join(f"{n}={asked[n]}" for n in differing)
        raise ValueError(
            f"{where} holds a run with {had}, and {now} was asked for; use the same flags to go "
            "on with it, or another --workdir"
        )
    if changed := [name for name, digest in files(config).items() if files_kept[name] != digest]:
        raise ValueError(
            f"{', '.join(changed)} has changed since {where} was begun; restore it, or choose "
            "another --workdir"
        )
    if versions_kept != versions():
        was = ", ".join(f"{n} {v}" for n, v in versions_kept.items() if v != versions()[n])
        say(f"note: {where} was begun with {was}; what is run now may differ in its last bits")
    return WorkDir(where, layout, kept["more"])


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


def files(config: Config) -> dict[str, str]:
    """Digests of the files that a configuration names, so that a changed one is noticed."""
    named = [config.init_params, config.dataset if config.dataset.endswith(".npz") else None]
    named += [config.forget.partition("mask:")[2], config.partition.partition("file:")[2]]
    found = [name for name in named if name and os.path.isfile(name)]
    return {name: hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest() for name in found}


def versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")
    return {name: importlib.metadata.version(name) for name in packages}


def begin(work: WorkDir, config: Config, script: str, layout: Layout, **more: Any) -> WorkDir:
    """Writes the configuration of a new work directory; an old one is left as it is."""
    hosts.agreed(lambda: _write_begin(work, config, script, layout, **more))
    return work if work.layout is not None else work._replace(layout=layout)


def _write_begin(work: WorkDir, config: Config, script: str, layout: Layout, **more: Any) -> None:
    if work.layout is not None:
        for half in work.path.rglob(".*.part"):  # of a run that was killed
            half.unlink()
        (work.path / "cells").mkdir(exist_ok=True)
        return
    work.path.mkdir(parents=True, exist_ok=True)
    content = dict(
        script=script,
        config=dataclasses.asdict(config),
        more=more,
        layout=layout._asdict(),
        files=files(config),
        versions=versions(),
    )
    jfu.io.write_bytes(work.path / "config.json", (json.dumps(content, indent=1) + "\n").encode())
    (work.path / "cells").mkdir(exist_ok=True)


class Run(NamedTuple):
    """What a work directory says of itself."""

    script: str
    config: Config
    more: dict[str, Any]
    layout: Layout
    versions: dict[str, str]


def read_run(path: str) -> Run:
    """Reads config.json of any script's work directory."""
    notes = pathlib.Path(path) / "config.json"

    def read():
        if not notes.is_file():
            raise FileNotFoundError(f"{path} is no work directory of jfu: it has no config.json")
        return notes.read_text()

    text = hosts.agreed(read)
    try:
        kept = json.loads(text)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["config"].items()}
        config, layout = Config(**values), Layout(**kept["layout"])
        return Run(kept["script"], config, kept["more"], layout, kept["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notes} is unreadable ({error!r})") from None


def read_training(path: str) -> tuple[Config, int]:
    """A finished training: its configuration and its seed."""
    run = read_run(path)
    if run.script != "train":
        raise ValueError(
            f"{path} holds a run of launch.{run.script}; --init_from wants launch.train's"
        )
    if not hosts.agreed((pathlib.Path(path) / MODEL).is_file):
        raise ValueError(
            f"the training in {path} has not finished; start launch.train --workdir={path} again "
            "with its flags to go on"
        )
    return run.config, run.more["seed"]


def read_results(work: WorkDir) -> list[dict[str, Any]]:
    path = work.path / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_results(work: WorkDir, rows: list[dict[str, Any]]) -> None:
    """Replaces results.jsonl; rows of methods and seeds that are not among these are kept."""
    if not hosts.first():
        return
    new = {(row["method"], row["seed"]) for row in rows}
    kept = [row for row in read_results(work) if (row["method"], row["seed"]) not in new]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *kept])
    jfu.io.write_bytes(work.path / "results.jsonl", text.encode())


def export(path: pathlib.Path, variables: Any) -> None:
    """Writes a model unless the same is there already; refuses to overwrite another."""
    if not hosts.first():
        return
    if path.exists():
        same = jfu.io.flatten(jfu.io.load_params(path)), jfu.io.flatten(variables)
        if same[0].keys() == same[1].keys() and all(
            (same[0][name] == same[1][name]).all() for name in same[0]
        ):
            return
    jfu.io.save_params(path, variables)
