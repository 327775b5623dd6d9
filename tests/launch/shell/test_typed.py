"""What was typed, beside what a file of flags says."""

import sys

from helpers.workdirs import parsed
from launch.shell.typed import said


def test_what_was_typed_is_told_from_what_a_file_says(monkeypatch, tmp_path):
    known = parsed("--lr=0.5", "--rounds=3")
    monkeypatch.setattr("absl.flags.FLAGS", known)
    monkeypatch.setattr(sys, "argv", ["script", "--flagfile=a", "-lr", "0.5"])
    assert said() == dict(given={"lr"}, preset={"rounds"})
    # A run that has begun goes on with what it was begun with.
    known = parsed("--lr=0.5", f"--workdir={tmp_path}")
    monkeypatch.setattr("absl.flags.FLAGS", known)
    (tmp_path / "config.json").write_text("")
    assert said() == dict(given=set(), preset={"lr", "workdir"})
