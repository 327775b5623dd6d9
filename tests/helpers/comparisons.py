"""Work directories as launch.compare leaves them, of made-up results."""

import dataclasses

import numpy as np

import jfu.io
from jfu import results
from launch.records import records
from launch.shell.config import FIELDS, Config, having
from launch.shell.devices import Layout
from launch.workdir import checkpoints, outcome, places, workdir

BLANK = {field.name: None for field in dataclasses.fields(Config)}
BLANK |= {name: FIELDS[name].default for name in having("later")}


CONFIG = Config(
    **BLANK
    | dict(dataset="cifar10", model="cnn", partition="iid", clients=10, forget="client:0")
    | dict(
        backdoor=False,
        layers=("first",),
        weights_only=False,
        rounds=4,
        recovery_rounds=2,
        train_size=500,
        past=(),
        recovery_warmup_rounds=0,
        lr_schedule="constant",
        recovery_lr_schedule="constant",
        federation="fedavg",
        penalty=1.0,
    )
    | dict(sample=0, absent=0.0, faults=(), aggregator="mean", follow_means=True)
    | dict(drop_labels=(), proxy=0.0)
)


LAYOUT = Layout("cpu", 2, 1)


RUNS = ["original", "retrain", "finetune", "not", "retrain_again"]


def row(name, seed, number, retain, seconds=1.0):
    measures = dict(retain=retain, forget=retain - 8.0, test=retain - 9.0, mia=50.0, asr=None)
    costs = dict(bytes_down=number, bytes_up=number, flops=1.0 * number, storage=0)
    return dict(method=name, seed=seed, round=number, **measures, **costs, seconds=seconds)


def whole(name, seed, seconds=1.0):
    """The notes of a finished run. Retained accuracy: 90 + seed, NoT one more, FT two more."""
    of = dict(original=4, retrain=4, retrain_again=4).get(name, 2)
    best = 90.0 + seed + dict(finetune=2, retrain_again=0.5).get(name, name == "not")
    quiet = name in ("original", "retrain_again")
    rounds = [of] if quiet else range(of + 1)
    rows = [row(name, seed, r, best - 10.0 * (of - r), seconds) for r in rounds]
    return dict(round=of, rows=rows, spent={}, finished=True)


def half(name, seed):
    notes = whole(name, seed)
    return notes | dict(round=1, rows=notes["rows"][:2], finished=False)


def directory(path, notes, seeds=(0, 1), config=CONFIG, names=RUNS, layout=LAYOUT):
    """A work directory as launch.compare leaves it, with these notes by seed and name."""
    work = workdir.begin(places.WorkDir(path, None), config, "compare", layout)
    outcome.write_plan(work, list(names), list(seeds))
    for (seed, name), content in notes.items():
        jfu.io.save_state(work.cell(seed, name), {"w": np.zeros(3)}, content)
    return path


def all_runs(seeds=(0, 1), names=RUNS):
    return {(seed, name): whole(name, seed) for seed in seeds for name in names}


def written(folder, *, ended=True):
    """A comparison of two seeds as a run leaves it, with other arrays in every checkpoint."""
    work = workdir.open_workdir(str(folder), CONFIG, "compare")
    work = workdir.begin(work, CONFIG, "compare", LAYOUT)
    work.lock.close()
    rows = []
    for place, ((seed, name), notes) in enumerate(all_runs().items()):
        state = {"variables": {"w": np.full(3, place, np.float32)}}
        checkpoints.write_cell(work, seed, name, state, notes)
        rows += [results.as_original(notes["rows"][-1])] if name == "original" else notes["rows"]
    outcome.write_results(work, rows)
    if ended:
        records.compared(work, CONFIG, rows)
    return work


def entry(value, low, high, margin=None, chance=1.0, *, seeds=5, halfway=None):
    """A measure: its difference to retraining, and how often chance alone shows as much memory."""
    spans = dict(value=value, low=low, high=high)
    known = dict(resampled="seeds", seeds=seeds, floor=dict(low=-0.1, high=0.1), halfway=halfway)
    return spans | known | dict(difference=spans, margin=margin, chance=chance)
