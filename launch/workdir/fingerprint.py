"""The fingerprint of a run: its configuration, with files identified by their content."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jfu.io
import jfu.ledger
from launch.setup import network
from launch.shell.config import FIELDS, Config, having

# Values of later fields with which older configurations were run, as JSON has them.
LATER = json.loads(json.dumps({name: FIELDS[name].default for name in having("later")}))


def later(config: dict[str, Any]) -> dict[str, Any]:
    """Values for fields that an older configuration lacks, as it was run.

    Older private runs drew noise from the seed, which hides nothing. So it does not count as
    secret.
    """
    return LATER | dict(dp_noise_from_seed=config.get("dp_clip") is not None)


def fingerprint(kept: dict[str, Any]) -> str:
    """A digest of everything in config.json that a run's bits depend on.

    The place of data and versions are left out. So machines can share a comparison, and one work
    directory can gather their checkpoints. Later fields with their default are left out too.
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
    """The configuration of a config.json with digests instead of names of files.

    So a file that was moved is the same file. Your own data (.npz) has no digest here, because its
    content is compared in any case (``identity.same_data``). In older directories its name counts.
    """
    config, digests = kept["config"], kept["files"]
    own = kept.get("data") is not None and config["dataset"].endswith(".npz")
    named = lambda text, kind: kind + digests.get(text.removeprefix(kind), text.removeprefix(kind))
    models = {name: config.get(name) for name in ("init_params", "features")}
    changes = {name: digests.get(path, path) for name, path in models.items()}
    for name, kind in dict(partition="file:", forget="mask:").items():
        if config[name].startswith(kind):
            changes[name] = named(config[name], kind)
    if (place := network.place(config["model"])) in digests:
        changes["model"] = digests[place] + config["model"].removeprefix(place)
    return config | changes | (dict(dataset=".npz") if own else {})


def files(config: Config, data: bool = True) -> dict[str, str]:
    """Digests of the files that a configuration names, so that a changed file is noticed."""
    found = digests([*named_files(config, data), config.init_params, config.features])
    place = network.place(config.model)
    return found | ({place: network.digest(config.model)} if place else {})


def named_files(config: Config, data: bool = True) -> list[str]:
    """The files of data, lists of clients and masks that a configuration names."""
    own = [config.dataset] if data and config.dataset.endswith(".npz") else []
    return [*own, *masks(config), config.partition.partition("file:")[2]]


def masks(config: Config) -> list[str]:
    """The mask files of the requests, both this one and the earlier ones."""
    return [text.partition("mask:")[2] for text in (config.forget, *config.past)]


def digests(named: Iterable[str | None]) -> dict[str, str]:
    found = [name for name in named if name and os.path.isfile(name)]
    return {name: jfu.ledger.digest(name) for name in found}


def changed(now: dict[str, str], kept: dict[str, str]) -> list[str]:
    """The files that have changed; older work directories do not name all masks."""
    return [name for name, digest in now.items() if kept.get(name, digest) != digest]


def place(name: str | None, path: pathlib.Path) -> dict[str, str] | None:
    """The place of a file that a run begins with; also relative to the work directory.

    So the file is found if both move together.
    """
    if not name:
        return None
    where = os.path.abspath(name)
    return dict(path=where, beside=os.path.relpath(where, os.path.realpath(path)))
