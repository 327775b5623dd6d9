"""Work directories of a trained model and of answers to requests, without any training."""

import dataclasses
import os

import numpy as np

import jfu.io
from helpers.workdirs import CONFIG, LAYOUT
from launch.records import records
from launch.workdir import checkpoints, outcome, runs, workdir

NOTES = dict(round=1, rows=[], spent={}, finished=True)
SETTINGS = dataclasses.replace(CONFIG, forget="", rounds=1, rounds_before=0, init_params=None)
MEASURES = dict(retain=90.0, forget=80.0, test=85.0)


def begun(folder, config, what, **more):
    """A work directory as a run has it that has written all but its ledger."""
    work = workdir.open_workdir(str(folder), config, what, seed=0, **more)
    work = workdir.begin(work, config, what, LAYOUT, seed=0, **more)
    work.lock.close()
    for name in {"train": ["train"], "compare": ["original", "not"]}.get(what, ["original", "not"]):
        checkpoints.write_cell(work, 0, name, {"w": np.ones(2)}, NOTES)
    rows = [dict(method=m, seed=0, round=r, **MEASURES) for m, r in (("original", 0), ("not", 1))]
    outcome.write_results(work, rows)
    if what != "train":
        (folder / "table.md").write_text("| a table |\n")
    return work, rows


def model(work, value):
    jfu.io.save_params(work.path / "model.safetensors", {"params": {"w": np.full(2, value)}})


def train(folder, value=1.0, history=False):
    work, _ = begun(folder, SETTINGS, "train", keep_history=[], further=0)
    if history:
        jfu.io.save_state(folder / "history.safetensors", {"norms": np.full(3, value)}, {})
    model(work, value)
    records.trained(work, SETTINGS, 0, 3, 1, history=history)
    return work


def unlearn(folder, source, forget, value, until="answered"):
    """Up to a point: ``begun``, ``followed``, ``asked``, ``answered``."""
    config = runs.read_model(str(source)).config
    place = os.path.join(os.path.realpath(source), "model.safetensors")
    config = dataclasses.replace(config, forget=forget, init_params=place)
    work, rows = begun(folder, config, "unlearn", method="not", stop="budget")
    steps = [
        lambda: (records.follow(work, str(source)), records.begun(work, config)),
        lambda: records.asked(work, config, "not"),
        lambda: (model(work, value), records.answered(work, config, "not", rows, ["table.md"])),
    ]
    for step in steps[: ["begun", "followed", "asked", "answered"].index(until)]:
        step()
    return work, config
