"""The lock of a work directory: one process, and what stands for a lock where there is none."""

import errno
import os
import platform
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.crashes import kept
from helpers.workdirs import CONFIG, LAYOUT, NOTES, STATE
from launch.records import records
from launch.running import shadows
from launch.setup import identity
from launch.workdir import checkpoints, locks, outcome, secret, workdir


def test_the_lock_holds_until_it_is_closed(tmp_path):
    with locks.hold(tmp_path):
        with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .*; wait"):
            locks.hold(tmp_path)
        (tmp_path / "lock").write_bytes(b"\xff process 1\n")
        with pytest.raises(ValueError, match="in use by another process; wait"):
            locks.hold(tmp_path)
        assert (tmp_path / "lock").read_bytes() == b"\xff process 1\n"
    locks.hold(tmp_path).close()
    assert os.listdir(tmp_path) == ["lock"]


def test_two_that_begin_at_once(tmp_path):
    """The second looked before the first had begun, and comes to write when it has ended."""
    first, second = (workdir.open_workdir(str(tmp_path / "w"), CONFIG, "train") for _ in range(2))
    workdir.begin(first, CONFIG, "train", LAYOUT).lock.close()
    before = kept(tmp_path)
    with pytest.raises(ValueError, match="another process has just begun a run in"):
        workdir.begin(second, CONFIG, "train", LAYOUT)
    assert kept(tmp_path) == before


@pytest.fixture
def lockless(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_where_files_cannot_be_locked_one_stands_for_it(tmp_path, lockless, capsys):
    """The error names who made it; one of a process that has ended here is taken over."""
    for _ in range(2):
        locks.hold(tmp_path).close()
        assert os.listdir(tmp_path) == ["lock"]
    assert capsys.readouterr().err.count("the file lock.held is used instead") == 1
    lock = locks.hold(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .*remove .*held\)"):
        locks.hold(tmp_path)
    locks.check(tmp_path, lock)
    lock.close()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "lock.held").write_text(f"process {ended.pid} on {platform.node()}\n")
    locks.hold(tmp_path).close()
    for other in (f"process {ended.pid} on mars\n", "who?"):
        (tmp_path / "lock.held").write_text(other)
        with pytest.raises(ValueError, match=r"is in use by .*, if it has ended, remove"):
            locks.hold(tmp_path)
        assert (tmp_path / "lock.held").read_text() == other


def test_a_lock_that_was_removed_or_replaced_stops_every_write(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    work = workdir.begin(work, CONFIG, "compare", LAYOUT)
    checkpoints.write_cell(work, 0, "not", STATE, NOTES)
    sides = SimpleNamespace(mask=np.ones(2, bool))
    request = SimpleNamespace(retain=sides, forget=sides)
    os.unlink(tmp_path / "w" / "lock")
    writes = (
        lambda: checkpoints.write_cell(work, 0, "not", OTHER, NOTES),
        lambda: outcome.write_results(work, []),
        lambda: checkpoints.write_history(work, STATE, ["last"]),
        lambda: checkpoints.write_model(work, STATE),
        lambda: workdir.keep_draws(work, 0, identity.Draws("a", None, (), {})),
        lambda: outcome.write_plan(work, ["not"], [0]),
        lambda: records.write(work, "asked"),
        lambda: shadows.write_block(work, work.path / "shadows" / "0-8-0-7.safetensors", {}, {}),
        lambda: secret.key(work, 0, "not", STATE, request, begun=False),
    )

    def refused_all():
        before = kept(tmp_path)
        for write in writes:
            with pytest.raises(ValueError, match="lock was removed or replaced while this process"):
                write()
        assert kept(tmp_path) == before

    refused_all()
    with locks.hold(tmp_path / "w") as second:  # another may begin now, and is alone
        refused_all()
        locks.check(tmp_path / "w", second)


def test_a_lock_that_is_no_file_is_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(ValueError, match="lock is not a plain file; remove it"):
        locks.hold(tmp_path)


OTHER = {"variables": {"v": np.ones(2)}}
