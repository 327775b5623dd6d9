"""What no flag can mean, and scripts that ask before anything is made."""

import os
import re

import numpy as np
import pytest
from absl import flags as absl_flags

from helpers.scripts import ROOT
from helpers.workdirs import parsed
from launch.shell import door


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr=nan"], "--lr=nan is not a finite number; give one"),
        (["--target=inf"], "--target=inf is not a finite number"),
        (["--lr=1e999"], "--lr=inf is not a finite number"),
        (
            ["--rounds=99999999999"],
            "--rounds=99999999999 is too large; it may be 2147483647 at most",
        ),
        (["--rounds=-99999999999"], "--rounds=-99999999999 is too large"),
        (["--seed=4294967296"], "--seed=4294967296 is too large; it may be 4294967295 at most"),
        (["--workdir="], "--workdir= is empty; give it a value, or leave it out"),
        (["--methods="], "--methods= is empty"),
        (["--host_timeout=3"], "--host_timeout does nothing without --coordinator; add it, or"),
        (["--shadows_chunk=3", "--shadows=0"], "--shadows_chunk does nothing without --shadows"),
        (["--dataset=a\udcff.npz"], "has bytes that are not text; write UTF-8"),
        (["--methods=a,\udcff"], "has bytes that are not text"),
        (["--gone=A"], "--gone does nothing without --prove_erased"),
        (["--workdir=~nobody at all/x"], "there is no such home folder; write the whole path"),
    ],
)
def test_what_no_flag_can_mean_is_refused(words, sentence):
    known = parsed(*words)
    absl_flags.DEFINE_string("prove_erased", None, "", flag_values=known)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        door.check(known)


def test_every_real_flag_of_every_script_is_asked():
    """The check is of all flags that there are, by their values' type and not by name."""
    known = parsed("--lr=0.5", "--seed=4294967295", "--faults=", "--rounds=2147483647")
    door.check(known)
    known.lr = np.nan
    with pytest.raises(ValueError, match="--lr=nan"):
        door.check(known)


def test_a_home_is_written_out_in_every_flag_that_names_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--workdir=~/w", "--dataset=~/own.npz", "--forget=mask:~/m.npy", "--methods=~/a"]
    known = parsed(*words, "--partition=file:~/p.json")
    door.check(known)
    assert (known.workdir, known.dataset) == (f"{tmp_path}/w", f"{tmp_path}/own.npz")
    assert known.forget == f"mask:{tmp_path}/m.npy"
    assert known.partition == f"file:{tmp_path}/p.json"
    assert known.methods == ["~/a"]
    known = parsed("--forget=client:~/a", "--workdir=a~")
    door.check(known)
    assert (known.forget, known.workdir) == ("client:~/a", "a~")


def test_files_of_flags_are_plain_text(tmp_path):
    nested = tmp_path / "nested.flags"
    (tmp_path / "good.flags").write_text(f"--lr=1\n--flagfile={nested}\n")
    nested.write_text(f"--flagfile={tmp_path}/good.flags\n")  # which absl says itself
    door.check_files(["--lr=1", f"--flagfile={tmp_path}/good.flags", "flagfile"])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / "bytes"):
        for words in ([f"--flagfile={path}"], ["-flagfile", str(path)]):
            with pytest.raises(ValueError, match="is not a file of flags"):
                door.check_files(words)
        nested.write_text(f"--flagfile={path}\n")
        with pytest.raises(ValueError, match="is not a file of flags"):
            door.check_files([f"--flagfile={tmp_path}/good.flags"])
    with pytest.raises(FileNotFoundError):
        door.check_files(["--flagfile=nowhere"])


LITTLE = ["--dataset=synthetic", "--train_size=100", "--rounds=1", "--devices=1", "--model=mlp1"]


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("compare", ["--weight_decay=nan"], "--weight_decay=nan is not a finite number"),
        ("train", ["--momentum=0.9", "--optimizer=adam"], "--momentum does nothing with"),
        ("unlearn", ["--init_params=a.msgpack", "--method=none", "--stop=regained"], "--stop=reg"),
        ("compare", ["--keep_history=start", "--init_params=a.msgpack"], "--keep_history does"),
        ("audit", ["--workdir="], "--workdir= is empty"),
        ("ledger", ["--prove_erased="], "--prove_erased= is empty"),
    ],
)
def test_scripts_ask_at_the_door(forks, script, flags, words, tmp_path):
    given = [] if script == "audit" else [f"--workdir={tmp_path / 'w'}"]
    little = LITTLE if script in ("compare", "train", "unlearn") else []
    ended = forks.run(script, *little, *given, *flags, after=60)
    assert (ended.status, ended.said.count("\n")) == (2, 1), ended.said
    assert ended.said.startswith(f"error: {words}")
    assert not (tmp_path / "w").exists()


def test_a_home_is_where_the_work_goes(forks, tmp_path, monkeypatch):
    """And not into a folder of that name; a preset's flag that does nothing is a note."""
    preset = tmp_path / "my.flags"
    preset.write_text("--momentum=0.9\n--trim=0.2\n")
    inside = os.path.relpath(tmp_path, os.path.expanduser("~"))
    flags = [*LITTLE, f"--flagfile={preset}", f"--workdir=~/{inside}/w", "--clients=2"]
    ended = forks.run("train", *flags, after=120)
    assert ended.status == 0, ended.said
    assert "note: --trim from the file of flags does nothing here" in ended.said
    assert (tmp_path / "w" / "model.safetensors").is_file()
    assert not (ROOT / "~").exists()
    assert forks.run("train", *flags, "--trim=0.2", after=120).status == 0  # as it was begun
