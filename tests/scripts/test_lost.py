"""Nothing lost: runs that are killed, that find no room or no right to write, or foreign files."""

import dataclasses
import errno
import os
import pickle
import platform
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import jfu.io
from helpers.crashes import CELL, FEW, POINTS, TRAIN, files, kept, refused, results, until
from helpers.federation import bits
from helpers.forks import Runs
from helpers.scripts import rare
from helpers.spoilt import Bomb, Killed, flip, resaved
from helpers.workdirs import CONFIG, LAYOUT
from jfu.io import load_notes
from launch.records import records
from launch.report import figures
from launch.running import shadows
from launch.setup import identity
from launch.shell.say import sentence
from launch.workdir import checkpoints, locks, outcome, secret, workdir


@pytest.fixture(scope="module")
def half_of_a_run(forks, tmp_path_factory):
    """A work directory whose training was killed when its first round was kept."""
    folder = tmp_path_factory.mktemp("half") / "A"
    ended = forks.run(*TRAIN, f"--workdir={folder}", kill=("replaced", CELL, 1))
    assert ended.killed, ended.said
    assert forks.written() == [(CELL, 1)]
    return folder


@pytest.fixture
def half(half_of_a_run, tmp_path):
    """A copy of it."""
    return shutil.copytree(half_of_a_run, tmp_path / "half")


# ---------------------------------------------------------------- killed

FILES = ("config.json", CELL, "results.jsonl", "history.safetensors", "model.safetensors")
FILES += ("ledger.jsonl",)
EVERY = [(point, name) for name in FILES for point in POINTS]
SOME = [("half", FILES[0]), *((point, CELL) for point in POINTS[1:])]
SOME += [("half", FILES[2]), ("written", FILES[3]), ("replaced", FILES[4])]


@pytest.mark.parametrize("kills", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=len)
def test_a_training_killed_at_named_points_of_its_writes(forks, small_training, tmp_path, kills):
    """In one work directory: each start is killed a little later than the one before."""
    folder = tmp_path / "w"
    for point, name in kills:
        before = kept(folder) if folder.exists() else {}
        ended = forks.run(*TRAIN, f"--workdir={folder}", kill=(point, name, 1))
        assert ended.killed, f"{point} {name}: {ended.said}"
        after = kept(folder)
        place = f"cells/{name}" if name == CELL else name
        assert (after.get(place) == before.get(place)) == (point != "replaced")
        halves = [n for n in after if n.endswith(".jfu-part")]
        assert len(halves) == (point in ("half", "written"))
        for other, content in before.items():  # what was there is there, and as it was
            if other != place and not other.endswith(".jfu-part") and other != f"cells/{CELL}":
                assert after[other] == content
    # No round that a checkpoint kept was run again.
    ended = forks.run(*TRAIN, f"--workdir={folder}")
    assert ended.status == 0, ended.said
    assert forks.written() == [(CELL, 1), (CELL, 2), (CELL, 3)]
    assert results(folder) == results(small_training)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_unlearning_and_comparing_killed_at_every_point_of_every_write(
    forks, small_training, tmp_path
):
    source = shutil.copytree(small_training, tmp_path / "A")  # whose ledger says what begins there
    unlearn = ["unlearn", f"--init_from={source}", "--devices=1", "--checkpoint_every=1"]
    out = tmp_path / "out.msgpack"
    unlearn += ["--stop=budget", "--recovery_rounds=2", f"--export_params={out}"]
    compare = ["compare", *FEW, "--rounds=2", "--seeds=1", "--methods=retrain,not"]
    tables = ["results.jsonl", "table.md", "table.json"]
    own = ["0-not.safetensors", "model.safetensors", "out.msgpack", *tables, "ledger.jsonl"]
    theirs = ["plan.json", "0-original.safetensors", "0-not.safetensors", "ledger.jsonl"]
    theirs += ["curves.png", "costs.png", *tables]
    for script, written in ((unlearn, own), (compare, theirs)):
        one, two = tmp_path / f"{script[0]}-one", tmp_path / f"{script[0]}-two"
        for name in ["config.json", *written]:
            for point in POINTS:
                ended = forks.run(*script, f"--workdir={two}", kill=(point, name, 1))
                assert ended.killed, f"{point} {name}: {ended.said}"
        assert forks.run(*script, f"--workdir={two}").status == 0
        numbers = [number for number in forks.written() if number[0] == "0-not.safetensors"]
        rounds = 2 if script is unlearn else 1
        assert numbers == [("0-not.safetensors", n + 1) for n in range(rounds)]
        out.unlink(missing_ok=True)
        assert forks.run(*script, f"--workdir={one}").status == 0
        forks.written()
        assert results(one) == results(two)


def test_a_figure_is_written_at_once_or_not_at_all(tmp_path, monkeypatch):
    from matplotlib import pyplot

    figure, place = pyplot.figure(), tmp_path / "a.png"
    place.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            figures.save(figure, str(place))
    assert files(tmp_path) == {"a.png": b"old"}
    figures.save(figure, str(place))
    assert place.read_bytes()[:4] == b"\x89PNG"
    pyplot.close(figure)


# ---------------------------------------------------------------- two processes


def test_a_second_process_is_told_of_the_first_and_touches_nothing(forks, half, small_training):
    pid = forks.start(*TRAIN, f"--workdir={half}")
    until(lambda: str(pid) in (half / "lock").read_text())
    os.kill(pid, signal.SIGSTOP)
    before = files(half)
    ended = forks.run(*TRAIN, f"--workdir={half}")
    assert refused(ended, f"{half} is in use by process {pid} on ", "nothing was touched")
    assert files(half) == before
    os.kill(pid, signal.SIGKILL)
    assert forks.wait(pid).killed
    assert str(pid) in (half / "lock").read_text()  # and stops nobody
    assert forks.run(*TRAIN, f"--workdir={half}").status == 0
    assert results(half) == results(small_training)
    forks.written()


def test_an_audit_is_told_too(forks, small_training, tmp_path):
    folder = shutil.copytree(small_training, tmp_path / "w")
    with locks.hold(folder):
        before = files(folder)
        ended = forks.run("audit", f"--workdir={folder}")
        assert refused(ended, f"{folder} is in use by process {os.getpid()} on ")
        assert files(folder) == before


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


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", ".config.json.abcdefgh.jfu-part"]])
def test_a_directory_whose_run_was_killed_too_early_is_new(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("process 1 on mars\n")
    work = workdir.open_workdir(str(tmp_path), CONFIG, "train")
    assert work.layout is None
    workdir.begin(work, CONFIG, "train", LAYOUT).lock.close()
    assert sorted(os.listdir(tmp_path)) == ["cells", "config.json", "lock"]


@pytest.fixture
def lockless(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_where_files_cannot_be_locked_one_stands_for_it(tmp_path, lockless, capsys):
    """Whoever made it is told; one of a process that has ended here is taken over."""
    for _ in range(2):
        locks.hold(tmp_path).close()
        assert os.listdir(tmp_path) == ["lock"]
    assert capsys.readouterr().err.count("the file lock.held is used instead") == 1
    held = locks.hold(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .*remove .*held\)"):
        locks.hold(tmp_path)
    locks.check(tmp_path, held)
    held.close()
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
    checkpoints.write_cell(work, 0, "not", LIKE, NOTES)
    sides = SimpleNamespace(mask=np.ones(2, bool))
    request = SimpleNamespace(retain=sides, forget=sides)
    os.unlink(tmp_path / "w" / "lock")
    writes = (
        lambda: checkpoints.write_cell(work, 0, "not", OTHER, NOTES),
        lambda: outcome.write_results(work, []),
        lambda: checkpoints.write_history(work, LIKE, ["last"]),
        lambda: checkpoints.write_model(work, LIKE),
        lambda: workdir.keep_draws(work, 0, identity.Draws("a", None, (), {})),
        lambda: outcome.write_plan(work, ["not"], [0]),
        lambda: records.write(work, "asked"),
        lambda: shadows.write_block(work, work.path / "shadows" / "0-8-0-7.safetensors", {}, {}),
        lambda: secret.key(work, 0, "not", LIKE, request, begun=False),
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
    with pytest.raises(ValueError, match="lock is no plain file; remove it"):
        locks.hold(tmp_path)


# ---------------------------------------------------------------- no room


def test_a_file_that_may_not_grow_is_told_and_nothing_is_lost(forks, half):
    """EFBIG from the kernel at the second round's checkpoint."""
    before = kept(half)
    size = (half / "cells" / CELL).stat().st_size
    ended = forks.run(*TRAIN, f"--workdir={half}", limit=size - 1)
    place = half / "cells" / CELL
    assert refused(ended, f"{place} could not be written (File too large)", "; free some space and")
    assert kept(half) == before


MOUNTS = """
set -e
mount -t tmpfs -o size=16m none "$1"
mount -t tmpfs none "$2"
cp -r "$3" "$2/w"
mount -o remount,ro "$2"
shift 3
exec "$@"
"""


@pytest.fixture(scope="module")
def apart(tmp_path_factory, half_of_a_run):
    """Runs that see a small disk and a read-only one, with half a run, which no others see."""
    alone = ("unshare", "--user", "--map-root-user", "--mount")
    small, fixed = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("fixed")
    within = (*alone, "sh", "-c", MOUNTS, "sh", str(small), str(fixed), str(half_of_a_run))
    try:
        done = subprocess.run([*within, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare, with which to mount a small disk")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    forks = Runs(tmp_path_factory.mktemp("apart"), within)
    yield forks, small, fixed
    forks.end()


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_lost(apart, small_training):
    forks, small, _ = apart
    seen = Path(f"/proc/{forks.process.pid}/root{small}")  # as the runs see it
    until(lambda: seen.exists() and forks.process.poll() is None and os.path.ismount(seen))
    cell = (small_training / "cells" / CELL).stat().st_size
    room = os.statvfs(seen)
    free = room.f_bavail * room.f_frsize
    (seen / "filler").write_bytes(bytes(free - cell * 3 // 2))  # for one checkpoint, not for two
    ended = forks.run(*TRAIN, f"--workdir={small / 'w'}")
    place = small / "w" / "cells" / CELL
    assert refused(
        ended, f"{place} could not be written (No space left on device)", "; free some space"
    )
    assert forks.written() == [(CELL, 1)]
    there = {"config.json", "cells", f"cells/{CELL}", "draws", "draws/0.json"}
    assert set(kept(seen / "w")) == there
    assert load_notes(seen / "w" / "cells" / CELL)["round"] == 1
    (seen / "filler").unlink()
    assert forks.run(*TRAIN, f"--workdir={small / 'w'}").status == 0
    assert forks.written() == [(CELL, 2), (CELL, 3)]
    assert results(seen / "w") == results(small_training)


# ---------------------------------------------------------------- no right to write


def test_a_read_only_disk_is_told_before_training(apart):
    forks, _, fixed = apart
    ended = forks.run(*TRAIN, f"--workdir={fixed / 'w'}")
    words = "no file can be written in", fixed / "w", "(Read-only file system); make it writable"
    assert refused(ended, *words)
    assert "training, seed" not in ended.said


@pytest.mark.parametrize("closed", ["cells", *rare(".")])
def test_a_read_only_work_directory_is_told_before_training(forks, half, closed):
    before = kept(half)
    (half / closed).chmod(0o555)
    ended = forks.run(*TRAIN, f"--workdir={half}", powerless=True)
    (half / closed).chmod(0o755)
    assert refused(ended, f"no file can be written in {half / closed} (Permission denied)")
    assert "training, seed" not in ended.said
    assert kept(half) == before


def test_a_work_directory_that_cannot_be_made_is_told(forks):
    ended = forks.run(*TRAIN, "--workdir=/proc/jfu")
    assert refused(ended, "the folder /proc/jfu cannot be made")
    assert "training, seed" not in ended.said


def test_a_folder_to_export_to_is_tried_before_unlearning(forks, small_training, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    flags = [
        f"--init_from={small_training}",
        "--devices=1",
        f"--export_params={out / 'm.safetensors'}",
    ]
    ended = forks.run("unlearn", *flags, f"--workdir={tmp_path / 'w'}", powerless=True)
    assert refused(ended, f"no file can be written in {out} (Permission denied)")
    assert not (tmp_path / "w").exists()


def test_what_the_system_refuses_is_a_sentence():
    plain = ValueError("as it is"), FileNotFoundError("there is no file x")
    assert [sentence(error) for error in plain] == ["as it is", "there is no file x"]
    full = OSError(errno.ENOSPC, "a could not be written (No space left on device)")
    assert sentence(full).startswith(
        "a could not be written (No space left on device); free some space"
    )
    assert sentence(IsADirectoryError(errno.EISDIR, "Is a directory", "/a")) == "/a: Is a directory"


# ---------------------------------------------------------------- truncated, foreign

LIKE = {"variables": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}}
OTHER = {"variables": {"v": np.ones(2)}}
NOTES = dict(round=1, rows=[], spent={}, finished=False)


def _cell(folder, *, seed=0, method="not", state=LIKE, config=CONFIG):
    """The path of a cell in a work directory of its own."""
    work = workdir.open_workdir(str(folder), config, "compare")
    work = workdir.begin(work, config, "compare", LAYOUT)
    checkpoints.write_cell(work, seed, method, state, NOTES)
    work.lock.close()
    return work.cell(seed, method)


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
    "a model": (lambda path, _: save_file(LIKE["variables"], path), "unreadable as a checkpoint"),
    "a history": (
        lambda path, _: jfu.io.save_state(path, LIKE, dict(keep=["start"])),
        "is not a checkpoint of jfu; restore it, or remove it",
    ),
    "another model's": (
        lambda path, tmp: shutil.copy(_cell(tmp / "b", state=OTHER), path),
        "holds other arrays than expected",
    ),
    "another method's": (
        lambda path, tmp: shutil.copy(_cell(tmp / "b", method="mode"), path),
        "method mode, seed 0, not of ",
    ),
    "another seed's": (
        lambda path, tmp: shutil.copy(_cell(tmp / "b", seed=7), path),
        "method not, seed 7, not of ",
    ),
    "another run's": (
        lambda path, tmp: shutil.copy(_cell(tmp / "b", config=OTHER_RUN), path),
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
        lambda path, _, name=name: jfu.io.save_state(path, LIKE, NOTES | {name: ODD[name]}),
        "is not a checkpoint of jfu",
    )
    for name in ODD
}
FOREIGN |= {
    f"{name} of a row of another type": (
        lambda path, _, name=name: jfu.io.save_state(
            path,
            LIKE,
            NOTES | dict(rows=[dict(method="not", seed=0, round=1) | {name: ODD_ROWS[name]}]),
        ),
        "is not a checkpoint of jfu",
    )
    for name in ODD_ROWS
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_the_cells_checkpoint_is_refused_and_kept(tmp_path, what):
    path = _cell(tmp_path / "w")
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    state, notes = checkpoints.read_cell(work, 0, "not", LIKE)
    assert bits(state) == bits(LIKE) and notes["round"] == 1
    plant, words = FOREIGN[what]
    plant(path, tmp_path)
    before = files(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        checkpoints.read_cell(work, 0, "not", LIKE)
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert "\n" not in sentence(caught.value) and "[Errno" not in sentence(caught.value)
    assert files(tmp_path) == before
    assert not (tmp_path / "mark").exists()


def test_cells_of_one_run_on_two_machines_can_be_gathered(tmp_path):
    """Where data lies does not tell runs apart, nor does a cell from before cells were named."""
    path = _cell(tmp_path / "w")
    shutil.copy(_cell(tmp_path / "b", config=dataclasses.replace(CONFIG, data_dir="/x")), path)
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    assert checkpoints.read_cell(work, 0, "not", LIKE)
    jfu.io.save_state(path, LIKE, NOTES)
    assert checkpoints.read_cell(work, 0, "not", LIKE)
    assert checkpoints.read_cell(work, 0, "mode", LIKE) is None


def test_a_planted_checkpoint_ends_a_run_in_one_sentence(forks, half, tmp_path):
    """End to end: a pickle, whose payload is not run."""
    cell, mark = half / "cells" / CELL, tmp_path / "mark"
    cell.write_bytes(pickle.dumps(Bomb(mark)))
    before = kept(half)
    assert refused(forks.run(*TRAIN, f"--workdir={half}"), cell, "unreadable as a checkpoint")
    assert kept(half) == before and not mark.exists()


@pytest.mark.parametrize("content", [b'{"method": "not", "se', b"\xff\n", b'{"a": 1}\n', b"3\n"])
def test_unreadable_results_are_told_before_time_is_spent(tmp_path, content):
    path = _cell(tmp_path / "w").parents[1] / "results.jsonl"
    path.write_bytes(content)
    before = kept(tmp_path)
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    with pytest.raises(ValueError, match="results.jsonl is unreadable .* remove it and start") as e:
        workdir.begin(work, CONFIG, "compare", LAYOUT)
    assert "\n" not in str(e.value)
    assert kept(tmp_path) == before
