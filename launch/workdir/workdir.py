"""Opens a work directory and begins a run in it: one script, one configuration.

Its other files have modules of their own: names of files (``places``), a run's fingerprint
(``fingerprint``), checkpoints (``checkpoints``), results and plan (``outcome``), and draws
(``launch.setup.identity``). One process at a time works in a work directory (``locks``).

A partial file is named ``.NAME.RANDOM.jfu-part``, with NAME a file that the scripts write. Each
start removes partial files in the work directory and in its ``cells``, ``shadows`` and ``draws``,
and nowhere else.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

import jfu.io
import jfu.ledger
from jfu.files import read_json
from launch.setup import identity, private
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.devices import Layout
from launch.shell.folders import make_folder
from launch.shell.say import say
from launch.shell.software import versions
from launch.workdir.checked import check, with_digest
from launch.workdir.fingerprint import (
    changed,
    files,
    fingerprint,
    later,
    named_by_content,
    named_files,
    place,
)
from launch.workdir.locks import HELD, LOCK, half_of, take
from launch.workdir.locks import check as check_lock
from launch.workdir.outcome import read_results
from launch.workdir.places import CONFIG, WorkDir

FLAGS = flags.FLAGS


def open_workdir(path: str, config: Config, script: str, **more: Any) -> WorkDir:
    """Opens a work directory for one script and configuration, or names a new one.

    Only the first of several hosts reads it. The others need no such directory.

    Args:
      more: further settings that must stay the same, such as the seed.

    Raises:
      ValueError: it has another script's run or another configuration; nothing is changed.
    """

    def look():
        work = _look(path, config, script, **more)
        return work.layout and work.layout._asdict(), work.more, work.run, work.data

    layout, *kept = hosts.agreed(look)
    return WorkDir(pathlib.Path(path), layout and Layout(**layout), *kept)


def as_begun(path: str, config: Config) -> Config:
    """The configuration with the work directory's own --eval_every, unless the flag is given.

    Its default was 1 in older versions. ``open_workdir`` refuses what cannot be read.
    """
    if FLAGS["eval_every"].present:
        return config

    def kept() -> Any:
        try:
            return read_json(pathlib.Path(path) / CONFIG, finite=False)["config"]["eval_every"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    every = hosts.agreed(kept)
    return dataclasses.replace(config, eval_every=every) if isinstance(every, int) else config


def _look(path: str, config: Config, script: str, **more: Any) -> WorkDir:
    where = pathlib.Path(path)
    notes = where / CONFIG
    if not notes.exists():
        if not untouched(where):
            raise ValueError(
                f"{where} exists and is not a work directory of jfu; choose another --workdir; "
                "nothing was changed"
            )
        return WorkDir(where, None)
    try:
        kept = read_json(notes, finite=False)  # older ones contain infinities
        check(kept)
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
        raise ValueError(f"{where} has a run of launch.{script_kept}; choose another --workdir")
    by_content = kept.get("data") is not None  # then begin compares the data itself
    if others := changed(files(config, data=not by_content), files_kept):
        raise ValueError(
            f"{', '.join(others)} has changed since {where} was begun; restore it, or choose "
            "another --workdir"
        )
    now = dataclasses.asdict(config) | more
    same = dict(config=dataclasses.asdict(config), data=kept.get("data"))
    given = named_by_content(same | dict(files=files_kept | files(config))) | more
    given = json.loads(json.dumps(given))
    differing = [n for n in given if n != "data_dir" and known.get(n, ...) != given[n]]
    if differing:
        had = ", ".join(f"{n}={had.get(n)}" for n in differing)
        now = ", ".join(f"{n}={now[n]}" for n in differing)
        raise ValueError(
            f"{where} has a run with {had}, and the flags say {now}; use the same flags to "
            "continue it, or another --workdir"
        )
    identity.same_numerics(kept.get("numerics"), where)
    # Older work directories do not name Python.
    if was := [f"{n} {v}" for n, v in versions_kept.items() if v != versions().get(n)]:
        was = ", ".join(was)
        say(f"note: {where} was begun with {was}; results from now on may differ in the last bits")
    return WorkDir(where, layout, kept["more"], run, kept.get("data"))


def untouched(folder: pathlib.Path) -> bool:
    """Whether a run may begin in a folder: it has at most what a run left that was killed early."""
    if not os.path.lexists(folder):
        return True
    left = re.compile(
        rf"{LOCK}|{HELD}|{half_of(re.escape(CONFIG))}|\.{re.escape(CONFIG)}\..*\.part"
    )
    return folder.is_dir() and all(left.fullmatch(path.name) for path in folder.iterdir())


def same_history(work: WorkDir, keep: list[str], names: list[str]) -> list[str]:
    """The history that a comparison was begun with; refuses methods that need more."""
    kept = work.more["keep_history"]
    if missing := [kind for kind in keep if kind not in kept]:
        raise ValueError(
            f"training in {work.path} did not keep {', '.join(missing)}, which {', '.join(names)} "
            "needs; begin another --workdir with these methods, or with "
            f"--keep_history={','.join(keep)} if you will add them later"
        )
    return kept


def begin(
    work: WorkDir,
    config: Config,
    script: str,
    layout: Layout,
    data: dict[str, Any] | None = None,
    **more: Any,
) -> WorkDir:
    """Locks a work directory for writing, and writes the configuration of a new one.

    Args:
      data: digests of the data that were read (``identity.of_data``).

    Raises:
      ValueError: another process works in it, or it has other data; nothing is changed.
      OSError: nothing can be written in it.
    """
    locked = {}
    if data:
        identity.same_data(work.data, data, work.path)

    def write():
        locked["lock"] = take(work.path)
        return _write_begin(work, config, script, layout, data, **more)

    run = hosts.agreed(write)
    work = work._replace(lock=locked.get("lock"), run=run, data=work.data or data)
    return work if work.layout is not None else work._replace(layout=layout)


def _write_begin(
    work: WorkDir, config: Config, script: str, layout: Layout, data: Any, **more: Any
) -> str:
    cells = work.path / "cells"
    if work.layout is None and (work.path / CONFIG).exists():
        raise ValueError(
            f"another process has just begun a run in {work.path}; start the same command again to "
            "continue that run, or choose another --workdir"
        )
    if work.layout is not None:
        make_folder(cells)
        read_results(work)  # an unreadable file is an error now, before any training
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
    content = with_digest(json.loads(json.dumps(content | private.config_notes(config))))
    text = json.dumps(content, indent=1) + "\n"
    jfu.io.write_bytes(work.path / CONFIG, text.encode())
    make_folder(cells)
    return fingerprint(json.loads(text))


def taken(work: WorkDir, seeds: Sequence[int]) -> dict[int, identity.Draws]:
    """The rows that the seeds' requests took out, if the directory has them.

    Other seeds are drawn. Their checkpoints name their draws, and are refused if these differ.
    """
    return identity.read(work.path, seeds)


def with_draws(work: WorkDir, seed: int, draws: identity.Draws) -> WorkDir:
    """The same, with the digest of a seed's draws, which its checkpoints must have."""
    return work._replace(drawn={**work.drawn, seed: draws.digest()})


def keep_draws(work: WorkDir, seed: int, draws: identity.Draws) -> WorkDir:
    """The same, after writing a seed's draws."""
    check_lock(work.path, work.lock)
    identity.write(work.path, seed, draws)
    return with_draws(work, seed, draws)
