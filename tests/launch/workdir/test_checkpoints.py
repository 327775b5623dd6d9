"""A run's checkpoint, its own or another's."""

import dataclasses
import os
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

import jfu.io
from helpers.crashes import files
from helpers.federation import bits
from helpers.spoilt import Bomb, flip, resaved
from helpers.workdirs import CONFIG, NOTES, STATE, a_checkpoint
from launch.shell.say import sentence
from launch.workdir import checkpoints, workdir

OTHER = {"variables": {"v": np.ones(2)}}

OTHER_RUN = dataclasses.replace(CONFIG, lr=0.7)

FOREIGN = {
    "a text": (lambda path, _: path.write_text("my thesis"), "unreadable as a checkpoint"),
    "nothing": (lambda path, _: path.write_bytes(b""), "unreadable as a checkpoint"),
    "its head": (lambda path, _: os.truncate(path, 40), "may be truncated: restore it"),
    "its body": (
        lambda path, _: os.truncate(path, path.stat().st_size - 1),
        "may be truncated: restore it",
    ),
    "a pickle": (
        lambda path, tmp: path.write_bytes(pickle.dumps(Bomb(tmp / "mark"))),
        "unreadable as a checkpoint",
    ),
    "a model": (
        lambda path, _: save_file(STATE["variables"], path),
        "unreadable as a checkpoint",
    ),
    "a history": (
        lambda path, _: jfu.io.save_state(path, STATE, dict(keep=["start"])),
        "is not a checkpoint of jfu; restore it, or remove it",
    ),
    "another model's": (
        lambda path, tmp: shutil.copy(a_checkpoint(tmp / "b", state=OTHER), path),
        "holds other arrays than expected",
    ),
    "another method's": (
        lambda path, tmp: shutil.copy(a_checkpoint(tmp / "b", method="mode"), path),
        "method mode, seed 0, not of ",
    ),
    "another seed's": (
        lambda path, tmp: shutil.copy(a_checkpoint(tmp / "b", seed=7), path),
        "method not, seed 7, not of ",
    ),
    "another run's": (
        lambda path, tmp: shutil.copy(a_checkpoint(tmp / "b", config=OTHER_RUN), path),
        "is the checkpoint of run ",
    ),
    "a link to nowhere": (
        lambda path, _: (path.unlink(), path.symlink_to("/nowhere/else")),
        "it is a link to /nowhere/else",
    ),
    "a folder": (lambda path, _: (path.unlink(), path.mkdir()), "not a plain file"),
    "a flipped bit": (lambda path, _: flip(path, path.stat().st_size - 1), "was changed since"),
    "arrays that are NaN": (
        lambda path, _: resaved(path, {"variables/w": np.full((2, 3), np.nan, np.float32)}),
        "was changed since",
    ),
    "no digest": (lambda path, _: resaved(path, None, "sha256", "arrays"), "has no digest"),
}

ODD = dict(rows=[3], spent=3, round="1", finished="yes")

ODD_ROWS = dict(retain="x", seconds="y", method=3, seed=True, round=1.5, more=[1], test={})

FOREIGN |= {
    f"{name} of another type": (
        lambda path, _, name=name: jfu.io.save_state(path, STATE, NOTES | {name: ODD[name]}),
        "is not a checkpoint of jfu",
    )
    for name in ODD
}

FOREIGN |= {
    f"{name} of a row of another type": (
        lambda path, _, name=name: jfu.io.save_state(
            path,
            STATE,
            NOTES | dict(rows=[dict(method="not", seed=0, round=1) | {name: ODD_ROWS[name]}]),
        ),
        "is not a checkpoint of jfu",
    )
    for name in ODD_ROWS
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_the_runs_checkpoint_is_refused_and_kept(tmp_path, what):
    path = a_checkpoint(tmp_path / "w")
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    state, notes = checkpoints.read_cell(work, 0, "not", STATE)
    assert bits(state) == bits(STATE) and notes["round"] == 1
    plant, words = FOREIGN[what]
    plant(path, tmp_path)
    before = files(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        checkpoints.read_cell(work, 0, "not", STATE)
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert "\n" not in sentence(caught.value) and "[Errno" not in sentence(caught.value)
    assert files(tmp_path) == before
    assert not (tmp_path / "mark").exists()


def test_checkpoints_of_two_machines_can_be_gathered(tmp_path):
    """Data in another place makes no other run. Earlier checkpoints do not name their run."""
    path, moved = a_checkpoint(tmp_path / "w"), dataclasses.replace(CONFIG, data_dir="/x")
    shutil.copy(a_checkpoint(tmp_path / "b", config=moved), path)
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    assert checkpoints.read_cell(work, 0, "not", STATE)
    jfu.io.save_state(path, STATE, NOTES)
    assert checkpoints.read_cell(work, 0, "not", STATE)
    assert checkpoints.read_cell(work, 0, "mode", STATE) is None
