"""The steps of the suite, in the order of what matters most.

A step is a command in a process of its own. ``seconds`` is what it is expected to take on a large
accelerator; it is begun only if so much time is left. After ``limit`` seconds it is ended. Whatever
it has measured by then is in its file, and the next start goes on from there.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from launch.timing.accelerator import jobs

PACKAGES = ("absl", "jax", "flax", "optax", "chex", "numpy")  # of every step


class Setting(NamedTuple):
    """What all steps share."""

    out: pathlib.Path
    rehearse: bool
    data_dir: str | None


class Step(NamedTuple):
    """One step."""

    name: str
    about: str
    seconds: float  # expected
    limit: float
    command: tuple[str, ...]  # what Python is started with
    file: str | None = None  # of rows, in the folder ``rows``
    needs: tuple[str, ...] = PACKAGES  # modules
    data: str | None = None  # a data set that must be there
    fills: tuple[str, ...] = ()  # rows of documents, as ``document: row``


def all_steps(setting: Setting) -> list[Step]:
    """Every step, in order."""
    return [device(setting), *rounds(setting, first=True), *rounds(setting, first=False)]


def rows_of(setting: Setting, name: str) -> pathlib.Path:
    return setting.out / "rows" / f"{name}.jsonl"


def _module(name: str, **asked: object) -> tuple[str, ...]:
    return ("-m", f"{__package__}.{name}", json.dumps(asked))


def device(setting: Setting) -> Step:
    path = str(rows_of(setting, "device"))
    command = _module("device", path=path, rehearse=setting.rehearse)
    return Step("device", "what this device is", 40, 90, command, "device")


def rounds(setting: Setting, *, first: bool) -> list[Step]:
    """Rounds of every job at the default precision, or at the other ones."""
    precisions = jobs.PRECISIONS[:1] if first else jobs.PRECISIONS[1:]
    found = []
    for name, job in jobs.JOBS.items():
        title = f"rounds-{name}" if first else f"rounds-{name}-{'-'.join(precisions)}"
        asked = dict(job=name, precisions=precisions, rehearse=setting.rehearse)
        command = _module("rounds", path=str(rows_of(setting, title)), **asked)
        about = f"{job.sizes.clients} clients of {job.sizes.examples}, {', '.join(precisions)}"
        expected, limit = (35, 90) if first else (60, 120)
        fills = (f"timing: {name}",)
        found.append(
            Step(title, f"{job.workload}: {about}", expected, limit, command, title, fills=fills)
        )
    return found


def argv(step: Step) -> list[str]:
    return [sys.executable, "-W", "ignore", *step.command]


def shown(command: Sequence[str]) -> str:
    """A command as a line for a shell."""
    import shlex

    return "python " + shlex.join(command)
