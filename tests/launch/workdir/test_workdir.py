"""Work directories: begun, killed before they had begun, swept, and of another configuration."""

import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import pytest

from helpers.workdirs import CONFIG, LAYOUT
from launch.workdir import locks, runs, workdir


def test_a_directory_killed_before_it_had_begun_is_new(tmp_path):
    (tmp_path / ".config.json.abc.part").write_text("half")  # as it was named once
    (tmp_path / ".config.json.abc_d3fg.jfu-part").write_text("half")
    assert workdir.open_workdir(str(tmp_path), CONFIG, "compare").layout is None


THEIRS = [".mine.part", "cells/.mine.part", ".config.json.x.part", "notes/.0-not.jfu-part"]

THEIRS += [
    "notes/.config.json.abcdefgh.jfu-part",
    ".thesis.abcdefgh.jfu-part",
    ".config.json.jfu-part",
]

THEIRS += [
    "inner/.config.json.abcdefgh.jfu-part",
    "inner/cells/.0-not.safetensors.abcdefgh.jfu-part",
]

THEIRS += ["shadows/.config.json.abcdefgh.jfu-part", "cells/.0-not.safetensors.ABCDEFGH.jfu-part"]

OURS = [".config.json.abcdefgh.jfu-part", "cells/.0-not.safetensors.a_3defgh.jfu-part"]

OURS += [
    "shadows/.0-8-0-7.safetensors.abcdefgh.jfu-part",
    "cells/.0-pgd[lr=0.1].safetensors.abcdefgh.jfu-part",
]


def test_what_half_a_write_left_is_swept_and_nothing_else(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    for name in THEIRS + OURS:
        (tmp_path / "w" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "w" / name).write_text("half")
    (tmp_path / "w" / ".plan.json.abcdefgh.jfu-part").mkdir()
    again = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(again, CONFIG, "compare", LAYOUT)
    left = {str(p.relative_to(tmp_path / "w")) for p in (tmp_path / "w").rglob(".*")}
    assert left == {*THEIRS, ".plan.json.abcdefgh.jfu-part"}


@pytest.mark.parametrize("name", ["cells", "shadows"])
def test_halves_of_others_folders_are_left(tmp_path, name):
    """A folder that a link leads to, or that is a work directory of its own."""
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    half = tmp_path / "away" / (".0-not.safetensors" if name == "cells" else ".0-8-0-7.safetensors")
    half = half.with_name(f"{half.name}.abcdefgh.jfu-part")
    half.parent.mkdir()
    half.write_text("half")
    (tmp_path / "w" / "cells").rmdir()
    (tmp_path / "w" / name).symlink_to(half.parent)
    locks.take(tmp_path / "w").close()
    assert half.exists()
    (tmp_path / "w" / name).unlink()
    shutil.copytree(half.parent, tmp_path / "w" / name)
    (tmp_path / "w" / name / "config.json").write_text("{}")
    locks.take(tmp_path / "w").close()
    assert (tmp_path / "w" / name / half.name).exists()


def test_a_named_file_that_changed_is_noticed(tmp_path):
    own = tmp_path / "own.npz"
    own.write_bytes(b"one")
    config = dataclasses.replace(CONFIG, dataset=str(own))
    work = workdir.open_workdir(str(tmp_path / "w"), config, "compare")
    workdir.begin(work, config, "compare", LAYOUT)
    own.write_bytes(b"two")
    with pytest.raises(ValueError, match=r"own\.npz has changed since"):
        workdir.open_workdir(str(tmp_path / "w"), config, "compare")


def test_where_data_lies_is_no_other_configuration(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT)
    moved = dataclasses.replace(CONFIG, data_dir="elsewhere")
    assert workdir.open_workdir(str(tmp_path / "w"), moved, "compare").layout == LAYOUT


def test_a_directory_older_than_a_flag_was_run_with_its_default(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    notes = tmp_path / "w" / "config.json"
    kept = json.loads(notes.read_text())
    del kept["config"]["precision"], kept["sha256"]  # as old as that: without a digest
    notes.write_text(json.dumps(kept))
    assert workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare").layout == LAYOUT
    assert runs.read_run(str(tmp_path / "w")).config == CONFIG
    half = dataclasses.replace(CONFIG, precision="bf16")
    with pytest.raises(ValueError, match="with precision=None, and the flags say precision=bf16"):
        workdir.open_workdir(str(tmp_path / "w"), half, "compare")


def test_a_directory_keeps_the_evaluations_that_it_was_begun_with(tmp_path, monkeypatch):
    """Their default was every round; a flag that is given still counts."""
    flag = SimpleNamespace(present=False)
    monkeypatch.setattr(workdir, "FLAGS", dict(eval_every=flag))
    now, earlier = (dataclasses.replace(CONFIG, eval_every=n) for n in (0, 1))
    where = str(tmp_path / "w")
    assert workdir.as_begun(where, now) == now
    work = workdir.open_workdir(where, earlier, "compare")
    workdir.begin(work, earlier, "compare", LAYOUT).lock.close()
    assert workdir.as_begun(where, now) == earlier
    flag.present = True
    assert workdir.as_begun(where, now) == now
    with pytest.raises(ValueError, match="with eval_every=1, and the flags say eval_every=0"):
        workdir.open_workdir(where, now, "compare")


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", ".config.json.abcdefgh.jfu-part"]])
def test_a_directory_whose_run_was_killed_too_early_is_new(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("process 1 on mars\n")
    work = workdir.open_workdir(str(tmp_path), CONFIG, "train")
    assert work.layout is None
    workdir.begin(work, CONFIG, "train", LAYOUT).lock.close()
    assert sorted(os.listdir(tmp_path)) == ["cells", "config.json", "lock"]
