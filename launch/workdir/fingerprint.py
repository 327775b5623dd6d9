"""What names a run: its configuration, with the files that it names known by their content."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jfu.io
import jfu.ledger
from launch.shell.config import FIELDS, Config, having

# What a configuration that is older than these fields was run with.
LATER = {name: FIELDS[name].default for name in having("later")}


def later(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that a configuration of before there were any lacks, as it was run.

    Noise then came from the seed, which hides nothing: so it is not taken for a secret's.
    """
    return LATER | dict(dp_noise_from_seed=config.get("dp_clip") is not None)


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
