"""Reads work directories, for scripts that continue from another run's model or rows."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jfu.files import MOST, parse_json, read_bytes
from launch.setup import identity, network
from launch.setup.private import unknown
from launch.setup.requests import forgotten
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.devices import Layout
from launch.shell.say import say
from launch.workdir.checked import PARTS, check
from launch.workdir.fingerprint import changed, digests, fingerprint, later, masks
from launch.workdir.outcome import read_results
from launch.workdir.places import CONFIG, MODEL, WorkDir


class Run(NamedTuple):
    """The content of a work directory's config.json."""

    script: str
    config: Config
    more: dict[str, Any]
    layout: Layout
    versions: dict[str, str]
    files: dict[str, str]
    fingerprint: str
    source: dict[str, str] | None = None  # the place of the model that it began with
    places: dict[str, dict[str, str]] | None = None  # places of data, lists and masks, by name
    data: dict[str, Any] | None = None  # digests of what was read; None in older runs
    numerics: dict[str, Any] | None = None


def read_run(path: str) -> Run:
    """Reads config.json of any script's work directory."""
    notes = pathlib.Path(path) / CONFIG
    if not os.path.lexists(notes):
        raise FileNotFoundError(f"{path} is not a work directory of jfu: it has no {CONFIG}")
    return parse_run(path, _text(notes))


def _text(notes: pathlib.Path) -> str:
    return read_bytes(notes, most=MOST).decode(errors="replace")


def parse_run(path: str, text: str) -> Run:
    """A run from the text of a work directory's config.json."""
    notes = pathlib.Path(path) / CONFIG
    try:
        kept = parse_json(text.encode(), notes, finite=False)  # older ones contain infinities
        config, layout = config_of(kept["config"]), Layout(**kept["layout"])
        known = kept["versions"], kept["files"], fingerprint(kept)
        later = [kept.get(name) for name in PARTS]
        check(kept)
        return Run(kept["script"], config, kept["more"], layout, *known, *later)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{notes} is unreadable ({error!r})") from None


def config_of(values: Mapping[str, Any]) -> Config:
    """A configuration from JSON, which has lists for tuples; older ones lack some fields."""
    values = later(values) | values
    return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def found(run: Run, path: str, **moved: str | None) -> Config:
    """A run's configuration, with the present places of its files.

    Each file is searched at its name, at its old absolute place, and relative to the work
    directory. A file with the old content is preferred. One with other content is refused when it
    is read.

    Args:
      moved: dataset, data_dir, partition and model that a user gives now; None means no change.

    Raises:
      ValueError: a value means other data or another network, and not another place of the same.
    """
    config, places, said = run.config, run.places or {}, {}
    for name, value in moved.items():
        kept = getattr(config, name)
        if value in (None, kept):
            continue
        if not may_move(name, kept, value):
            raise ValueError(
                f"{path} was trained with {name}={kept}, not {value}; leave the flag out, or train "
                "a new model"
            )
        said[name] = value

    _check_own(run, path, moved.get("model"))

    def now(name: str) -> str:
        there = places.get(name)
        beside = [os.path.join(os.path.realpath(path), there["beside"])] if there else []
        tried = [name, *([there["path"]] if there else []), *map(os.path.normpath, beside)]
        tried = [place for place in tried if os.path.isfile(place)]
        kept = run.files.get(name)
        same = [place for place in tried if digests([place])[place] == kept]
        if tried and not same and kept and name != config.dataset:  # own data is compared later
            raise ValueError(f"{tried[0]} has changed since {path} was made; restore it")
        return (same or tried or [name])[0]

    changes = dict(dataset=now(config.dataset)) if config.dataset.endswith(".npz") else {}
    for name, kind in dict(partition="file:", forget="mask:").items():
        if (text := getattr(config, name)).startswith(kind):
            changes[name] = kind + now(text.removeprefix(kind))
    return dataclasses.replace(config, **(changes | said))


def _check_own(run: Run, path: str, given: str | None) -> None:
    """Refuses to run code that only a work directory names, and code that has changed.

    Args:
      given: what the user typed now.
    """
    kept = run.config.model
    place = network.place(kept)
    if not place:
        return
    if given is None:
        raise ValueError(
            f"{path} has a model of {kept}, a file of your own, and a work directory alone runs no "
            f"code; say that it may run with --model={kept}"
        )
    if may_move("model", kept, given) and network.digest(given) != run.files.get(place):
        raise ValueError(
            f"{network.place(given)} is not the file that {path} was made with; restore it"
        )


def may_move(name: str, kept: str | None, now: str | None) -> bool:
    """Whether a setting is only a place of data or code, whose content is compared instead.

    >>> may_move("dataset", "a.npz", "/b.npz"), may_move("dataset", "digits", "b.npz")
    (True, False)
    """
    pairs = dict(dataset=lambda text: text.endswith(".npz"))
    pairs |= dict(partition=lambda text: text.startswith("file:"))
    if name == "model":
        same = kept is not None and now is not None and kept.split(":")[-1] == now.split(":")[-1]
        return same and bool(network.place(kept) and network.place(now))
    return name == "data_dir" or (name in pairs and pairs[name](kept) and pairs[name](now))


def read_taken(path: str, run: Run, seed: int) -> dict[int, identity.Draws]:
    """The rows that all requests up to a run's end took out, for the next run."""
    known = identity.read(path, [seed], needed=run.data is not None)
    if seed not in known:
        if [text for text in (*run.config.past, run.config.forget) if "fraction:" in text]:
            say(
                f"note: {path} is too old to have the rows that requests took out; they are drawn "
                "again"
            )
        return known
    draws = known[seed]
    if run.script == "unlearn":
        draws = draws._replace(past=(*draws.past, draws.request), request=None)
    return {seed: draws}


def of_model(config: Config) -> dict[str, Any]:
    """The work directory of a model of --init_params, with digests of its data, if there is one.

    Raises:
      ValueError: the model has forgotten something, and this run would train on it again.
    """
    if not config.init_params:
        return {}
    model = pathlib.Path(config.init_params)
    folder = model.parent

    def known():
        if model.name != MODEL or not (folder / CONFIG).is_file():
            return {}
        run = read_run(str(folder))
        if run.script == "unlearn" or forgotten(run.config.past):
            raise ValueError(
                f"{model} has forgotten data by a request, and --init_params would train it on "
                "this data again; continue with launch.unlearn or launch.train --init_from="
                f"{folder}"
            )
        identity.same_numerics(run.numerics, folder)
        return {str(folder): run.data}

    return hosts.agreed(known)


class Met(NamedTuple):
    """The model of a work directory, for the next run."""

    config: Config  # the configuration of its training, with the requests since
    seed: int
    taken: dict[int, identity.Draws]  # the forgotten rows
    data: dict[str, Any] | None  # digests of its data


def read_model(path: str, **moved: str | None) -> Met:
    """The model of a finished training, or of a request that was answered.

    Args:
      moved: as in ``found``.

    Raises:
      ValueError: there is no model, or it was made with other settings of JAX.
    """
    where = pathlib.Path(path)

    def text():
        known = read_run(path)
        if others := changed(digests(masks(known.config)), known.files):
            raise ValueError(
                f"{others[0]} has changed since {path} forgot the examples in it; restore it, and "
                "give a new mask another name"
            )
        return _text(where / CONFIG)

    run = parse_run(path, hosts.agreed(text))
    if run.script not in ("train", "unlearn"):
        raise ValueError(
            f"{path} has a run of launch.{run.script}; --init_from needs a run of launch.train or "
            "launch.unlearn"
        )
    if not hosts.agreed((where / MODEL).is_file):
        raise ValueError(
            f"{path} has no model: it was erased, or the run has not finished; to continue, start "
            f"launch.{run.script} --workdir={path} again with the same flags"
        )
    identity.same_numerics(run.numerics, path)
    seed = run.more["seed"]
    taken = read_taken(path, run, seed)
    config = config_of(hosts.agreed(lambda: dataclasses.asdict(found(run, path, **moved))))
    rounds = run.more.get("further") or config.rounds
    if run.script == "unlearn":
        rows = hosts.agreed(lambda: read_results(WorkDir(where, run.layout)))
        rounds = max(row["round"] for row in rows)
        config = dataclasses.replace(config, past=(*config.past, f"-{config.forget}"), forget="")
    # Noise from the seed can be subtracted, so no bound is known. Later noise may be secret.
    bare = unknown(config) or config.dp_noise_from_seed
    before = None if bare else config.rounds_before + rounds
    config = dataclasses.replace(config, rounds_before=before, dp_noise_from_seed=False)
    return Met(config, seed, taken, run.data)
