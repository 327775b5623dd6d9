"""What a work directory says of itself, to scripts that go on from another's model or rows."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from launch import hosts
from launch.devices import Layout
from launch.flags import Config
from launch.private import unknown
from launch.workdir import (
    CONFIG,
    MODEL,
    WorkDir,
    changed,
    digests,
    fingerprint,
    masks,
    read_results,
)


class Run(NamedTuple):
    """What a work directory says of itself."""

    script: str
    config: Config
    more: dict[str, Any]
    layout: Layout
    versions: dict[str, str]
    files: dict[str, str]
    fingerprint: str
    source: dict[str, str] | None = None  # of the model that it began with


def read_run(path: str) -> Run:
    """Reads config.json of any script's work directory."""
    notes = pathlib.Path(path) / CONFIG
    if not notes.is_file():
        raise FileNotFoundError(f"{path} is no work directory of jfu: it has no {CONFIG}")
    return parse_run(path, notes.read_text())


def parse_run(path: str, text: str) -> Run:
    """What the text of a work directory's config.json says."""
    notes = pathlib.Path(path) / CONFIG
    try:
        kept = json.loads(text)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["config"].items()}
        config, layout = Config(**values), Layout(**kept["layout"])
        known = kept["versions"], kept["files"], fingerprint(kept), kept.get("source")
        return Run(kept["script"], config, kept["more"], layout, *known)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notes} is unreadable ({error!r})") from None


def read_model(path: str) -> tuple[Config, int]:
    """The model of a finished training, or of a request that was answered.

    Returns:
      ``(config, seed)``: the configuration that trained it, with what was forgotten since.
    """
    where = pathlib.Path(path)

    def text():
        known = read_run(path)
        if others := changed(digests(masks(known.config)), known.files):
            raise ValueError(
                f"{others[0]} has changed since {path} forgot what it named; restore it, and give "
                "another mask another name"
            )
        return (where / CONFIG).read_text()

    run = parse_run(path, hosts.agreed(text))
    if run.script not in ("train", "unlearn"):
        raise ValueError(
            f"{path} holds a run of launch.{run.script}; --init_from wants launch.train's or "
            "launch.unlearn's"
        )
    if not hosts.agreed((where / MODEL).is_file):
        raise ValueError(
            f"{path} holds no model: it was erased, or the run has not finished; start launch."
            f"{run.script} --workdir={path} again with its flags to go on"
        )
    config, rounds = run.config, run.more.get("further") or run.config.rounds
    if run.script == "unlearn":
        rows = hosts.agreed(lambda: read_results(WorkDir(where, run.layout)))
        rounds = max(row["round"] for row in rows)
        config = dataclasses.replace(config, past=(*config.past, f"-{config.forget}"), forget="")
    before = None if unknown(config) else config.rounds_before + rounds
    return dataclasses.replace(config, rounds_before=before), run.more["seed"]
