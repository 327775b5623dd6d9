"""The steps of the suite, in the order of what matters most.

A step is a command in a process of its own. ``seconds`` is what it is expected to take on a large
accelerator; it is begun only if so much time is left. After ``limit`` seconds it is ended. Whatever
it has measured by then is in its file, and the next start goes on from there.
"""

import json
import pathlib
import shlex
from typing import NamedTuple

from jfu.data import packed, tfds
from launch.report import paper
from launch.timing.accelerator import jobs, row

PACKAGES = ("absl", "jax", "flax", "optax", "chex", "numpy")  # of every step
SCRIPTS = (*PACKAGES, "sklearn", "matplotlib")  # of those that run scripts
MINUTES = '"{minutes}"'  # stands in a command for the minutes that it may take
ENDING = 10.0  # seconds that a script needs at its end, to write its last checkpoint
REHEARSAL = 600.0  # the limit of a rehearsed step, seconds
ROOT = pathlib.Path(__file__).parents[3]  # where presets are found

# Seconds of a row of the paper on a large accelerator, by its model: 3 seeds of 200 rounds of
# training and two times retraining, and 100 of each of five methods, are 3,300 rounds. The
# operations of a round of 45,000 images, at the share of the device's rate that the page of
# expectations assumes, take 0.2 s (CNN) and 2 s (ResNet-18). 7,800 images of a ViT take 8 s.
PAPER_SECONDS = dict(cnn=900, resnet18=6600, vit_base=27000)


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
    """Every step, in order. A rehearsal may meet a busy machine, so its limits are long."""
    every = [
        device(setting),
        *rounds(setting, first=True),
        start(setting),
        profile(setting),
        *the_row(setting),
        *shadows(setting),
        *rounds(setting, first=False),
        *papers(setting),
    ]
    return [step._replace(limit=REHEARSAL) for step in every] if setting.rehearse else every


def rows_of(setting: Setting, name: str) -> pathlib.Path:
    return setting.out / "rows" / f"{name}.jsonl"


def _module(module: str, /, **asked: object) -> tuple[str, ...]:
    return ("-m", f"{__package__}.{module}", json.dumps(asked))


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


def start(setting: Setting) -> Step:
    """The cold start, with and without compiled programs kept from an earlier one."""
    path = rows_of(setting, "startup")
    command = ("-m", "launch.startup", "--runs=1", f"--json={path}")
    about = "the quickstart's first round, cold and warm"
    return Step("startup", about, 60, 120, command, "startup", needs=SCRIPTS)


def profile(setting: Setting) -> Step:
    """A trace of rounds; the table of the longest operations is in the step's log."""
    small = ("--workload=mlp", "--clients=2", "--examples=32")
    job = small if setting.rehearse else ("--workload=resnet18",)
    command = ("-m", "launch.bench", *job, f"--profile={setting.out / 'profile'}")
    return Step("profile", "where the time of a round of resnet18 goes", 50, 90, command)


def _row(setting: Setting, do: str, **asked: object) -> tuple[str, ...]:
    folder = setting.data_dir and str(pathlib.Path(setting.data_dir).absolute())
    common = dict(do=do, out=str(setting.out), data_dir=folder, rehearse=setting.rehearse)
    common |= dict(packed=is_packed(setting, "cifar10"), minutes=MINUTES.strip('"'))
    return _module("row", **common, **asked)


def is_packed(setting: Setting, name: str) -> bool:
    """Whether only a packed part of a data set is here."""
    return packed.find(name, tfds.folder(setting.data_dir)) is not None


def the_row(setting: Setting) -> list[Step]:
    """Calibration of the CIFAR-10/CNN recipe, then the row's runs seed by seed."""
    rates = row.RATES if is_packed(setting, "cifar10") or setting.rehearse else row.WHOLE_RATES
    scale = 1 if is_packed(setting, "cifar10") else 4
    common = dict(file="row", needs=SCRIPTS, data="cifar10")
    found = [
        Step(
            f"calibrate-{rate}",
            f"retraining at the rate {rate}, on seed {row.NOT_REPORTED}",
            *(40 * scale, 60 * scale),
            _row(setting, "calibrate", lr=rate),
            **common,
        )
        for rate in rates[: 1 if setting.rehearse else None]
    ]
    for seed in range(3):
        about = f"retrain, not, finetune and a second retraining, seed {seed}"
        command = _row(setting, "seed", seed=seed)
        fills = ("rows: cifar10_cnn_iid",)
        seconds = (50 * scale, 120 * scale)
        found.append(Step(f"row-seed{seed}", about, *seconds, command, fills=fills, **common))
    return found


def shadows(setting: Setting) -> list[Step]:
    """An audit of the quickstart with shadow federations, and the comparison that it audits."""
    first = ("quickstart", "the quickstart, five seeds", 60, 120, _row(setting, "quickstart"))
    second = ("shadows", "an audit with 64 shadows", 60, 180, _row(setting, "shadows"))
    return [Step(*first, needs=SCRIPTS), Step(*second, needs=SCRIPTS)]


def papers(setting: Setting) -> list[Step]:
    """The other rows of the paper, and the runs beside them that its page asks for."""
    found = []
    for name, known in paper.ROWS.items():
        if name != "cifar10_cnn_iid":
            found.append(_paper(setting, name, known, name, []))
    first, group = paper.ROWS["cifar10_cnn_iid"], paper.ROWS["cifar10_resnet18_group"]
    cuts = ["--methods=retrain,fcu,not,not_deepest"]
    return [
        *found,
        _paper(setting, "cifar10_cnn_iid", first, "cifar10_cnn_iid-bf16", ["--precision=bf16"]),
        _paper(setting, "cifar10_cnn_iid", first, "cifar10_cnn_iid-deepest", cuts),
        _paper(setting, "cifar10_resnet18_group", group, "cifar10_resnet18_group-deepest", cuts),
    ]


def _paper(setting: Setting, preset: str, known: paper.Row, name: str, more: list[str]) -> Step:
    dataset, model = known.config["dataset"], known.config["model"]
    seconds = PAPER_SECONDS[model] / (10 if is_packed(setting, dataset) else 1)
    command = _row(setting, "paper", row=preset, name=name, more=more)
    fills = (f"rows: {preset}",)
    common = dict(needs=SCRIPTS, data=dataset, fills=fills)
    return Step(f"paper-{name}", known.title, seconds, 2 * seconds, command, **common)


def argv(step: Step, limit: float) -> list[str]:
    """What Python is started with, for a process that may take ``limit`` seconds."""
    minutes = f"{max(limit - ENDING, 3) / 60:.3f}"
    return [word.replace(MINUTES, minutes) for word in step.command]


def shown(step: Step) -> str:
    """The step's command as a line for a shell."""
    return "python " + shlex.join(argv(step, step.limit))
