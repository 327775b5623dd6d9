"""Nothing lost: runs that are killed, that find no room or no right to write, or foreign files."""

import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from helpers.crashes import CHECKPOINT, FEW, POINTS, TRAIN, files, kept, refused, results, until
from helpers.forks import Runs
from helpers.scripts import rare
from helpers.spoilt import Bomb
from helpers.workdirs import CONFIG, LAYOUT, a_checkpoint
from jfu.io import load_notes
from launch.workdir import locks, workdir


@pytest.fixture(scope="module")
def half_of_a_run(forks, tmp_path_factory):
    """A work directory whose training was killed when its first round was kept."""
    folder = tmp_path_factory.mktemp("half") / "A"
    ended = forks.run(*TRAIN, f"--workdir={folder}", kill=("replaced", CHECKPOINT, 1))
    assert ended.killed, ended.said
    assert forks.written() == [(CHECKPOINT, 1)]
    return folder


@pytest.fixture
def half(half_of_a_run, tmp_path):
    """A copy of it."""
    return shutil.copytree(half_of_a_run, tmp_path / "half")


FILES = ("config.json", CHECKPOINT, "results.jsonl", "history.safetensors", "model.safetensors")

FILES += ("ledger.jsonl",)

EVERY = [(point, name) for name in FILES for point in POINTS]

SOME = [("half", FILES[0]), *((point, CHECKPOINT) for point in POINTS[1:])]

SOME += [("half", FILES[2]), ("written", FILES[3]), ("replaced", FILES[4])]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [SOME, EVERY], ids=len)
def test_a_training_killed_at_named_points_of_its_writes(forks, small_training, tmp_path, kills):
    """In one work directory: each start is killed a little later than the one before."""
    folder = tmp_path / "w"
    for point, name in kills:
        before = kept(folder) if folder.exists() else {}
        ended = forks.run(*TRAIN, f"--workdir={folder}", kill=(point, name, 1))
        assert ended.killed, f"{point} {name}: {ended.said}"
        after = kept(folder)
        place = f"cells/{name}" if name == CHECKPOINT else name
        assert (after.get(place) == before.get(place)) == (point != "replaced")
        halves = [n for n in after if n.endswith(".jfu-part")]
        assert len(halves) == (point in ("half", "written"))
        for other, content in before.items():  # what was there is there, and as it was
            if (
                other != place
                and not other.endswith(".jfu-part")
                and other != f"cells/{CHECKPOINT}"
            ):
                assert after[other] == content
    # No round that a checkpoint kept was run again.
    ended = forks.run(*TRAIN, f"--workdir={folder}")
    assert ended.status == 0, ended.said
    assert forks.written() == [(CHECKPOINT, 1), (CHECKPOINT, 2), (CHECKPOINT, 3)]
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
    own = ["0-not_blend.safetensors", "model.safetensors", "out.msgpack", *tables, "ledger.jsonl"]
    theirs = ["plan.json", "0-original.safetensors", "0-not.safetensors", "ledger.jsonl"]
    theirs += ["curves.png", "costs.png", *tables]
    for script, written in ((unlearn, own), (compare, theirs)):
        one, two = tmp_path / f"{script[0]}-one", tmp_path / f"{script[0]}-two"
        for name in ["config.json", *written]:
            for point in POINTS:
                ended = forks.run(*script, f"--workdir={two}", kill=(point, name, 1))
                assert ended.killed, f"{point} {name}: {ended.said}"
        assert forks.run(*script, f"--workdir={two}").status == 0
        rounds = 2 if script is unlearn else 1
        name = "0-not_blend.safetensors" if script is unlearn else "0-not.safetensors"
        numbers = [number for number in forks.written() if number[0] == name]
        assert numbers == [(name, n + 1) for n in range(rounds)]
        out.unlink(missing_ok=True)
        assert forks.run(*script, f"--workdir={one}").status == 0
        forks.written()
        assert results(one) == results(two)


def test_a_second_process_is_told_of_the_first_and_touches_nothing(forks, half, small_training):
    pid = forks.start(*TRAIN, f"--workdir={half}")
    until(lambda: str(pid) in (half / "lock").read_text())
    os.kill(pid, signal.SIGSTOP)
    before = files(half)
    ended = forks.run(*TRAIN, f"--workdir={half}")
    assert refused(ended, f"{half} is in use by process {pid} on ", "nothing was changed")
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


def test_a_file_that_may_not_grow_is_told_and_nothing_is_lost(forks, half):
    """EFBIG from the kernel at the second round's checkpoint."""
    before = kept(half)
    size = (half / "cells" / CHECKPOINT).stat().st_size
    ended = forks.run(*TRAIN, f"--workdir={half}", limit=size - 1)
    place = half / "cells" / CHECKPOINT
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
    cell = (small_training / "cells" / CHECKPOINT).stat().st_size
    room = os.statvfs(seen)
    free = room.f_bavail * room.f_frsize
    (seen / "filler").write_bytes(bytes(free - cell * 3 // 2))  # for one checkpoint, not for two
    ended = forks.run(*TRAIN, f"--workdir={small / 'w'}")
    place = small / "w" / "cells" / CHECKPOINT
    assert refused(
        ended, f"{place} could not be written (No space left on device)", "; free some space"
    )
    assert forks.written() == [(CHECKPOINT, 1)]
    there = {"config.json", "cells", f"cells/{CHECKPOINT}", "draws", "draws/0.json"}
    assert set(kept(seen / "w")) == there
    assert load_notes(seen / "w" / "cells" / CHECKPOINT)["round"] == 1
    (seen / "filler").unlink()
    assert forks.run(*TRAIN, f"--workdir={small / 'w'}").status == 0
    assert forks.written() == [(CHECKPOINT, 2), (CHECKPOINT, 3)]
    assert results(seen / "w") == results(small_training)


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


def test_a_planted_checkpoint_ends_a_run_in_one_sentence(forks, half, tmp_path):
    """End to end: a pickle, whose payload is not run."""
    cell, mark = half / "cells" / CHECKPOINT, tmp_path / "mark"
    cell.write_bytes(pickle.dumps(Bomb(mark)))
    before = kept(half)
    assert refused(forks.run(*TRAIN, f"--workdir={half}"), cell, "unreadable as a checkpoint")
    assert kept(half) == before and not mark.exists()


@pytest.mark.parametrize("content", [b'{"method": "not", "se', b"\xff\n", b'{"a": 1}\n', b"3\n"])
def test_unreadable_results_are_told_before_time_is_spent(tmp_path, content):
    path = a_checkpoint(tmp_path / "w").parents[1] / "results.jsonl"
    path.write_bytes(content)
    before = kept(tmp_path)
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    with pytest.raises(ValueError, match="results.jsonl is unreadable .* remove it and start") as e:
        workdir.begin(work, CONFIG, "compare", LAYOUT)
    assert "\n" not in str(e.value)
    assert kept(tmp_path) == before
