"""Processes of steps: what they return, and that none outlives the suite."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.crashes import until
from helpers.scripts import ROOT, environment
from launch.timing.accelerator import files, processes

MINE = dict(os.environ, PYTHONPATH=str(ROOT))


def begin(tmp_path, code):
    return processes.fresh(["-S", "-c", code], str(tmp_path / "log"), MINE, str(tmp_path))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def below(pid):
    """A process and all that it has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        started = [int(n) for task in tasks for n in (task / "children").read_text().split()]
    except FileNotFoundError:
        started = []
    return [pid, *(other for one in started for other in below(one))]


def test_a_process_says_how_it_ended_and_what_it_cost(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('seen'); raise SystemExit(7)"
    running = begin(tmp_path, busy)
    code, cpu = running.wait(20)
    assert code == 7 and 0.15 < cpu < 5
    assert (tmp_path / "log").read_text() == "seen\n"


def test_one_that_still_runs_is_ended_with_what_it_has_started(tmp_path):
    code = "import subprocess, sys, time\n"
    code += "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    running = begin(tmp_path, code)
    assert running.wait(0) is None
    until(lambda: (tmp_path / "log").read_text().endswith("\n"), 20)
    status, _ = processes.end(running)
    assert status == -signal.SIGTERM
    until(lambda: not alive(int((tmp_path / "log").read_text())), 20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    (tmp_path / "sleeps.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)")
    code = "import os, time\nfrom launch.timing.accelerator import processes\n"
    code += (
        f"made = processes.fresh(['-m', 'sleeps'], {str(tmp_path / 'log')!r}, os.environ, '.')\n"
    )
    code += "print(made.pid, flush=True)\ntime.sleep(60)"
    env = MINE | dict(PYTHONPATH=f"{ROOT}:{tmp_path}")
    with subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True
    ) as suite:
        pid = int(suite.stdout.readline())
        until(lambda: (tmp_path / "log").read_text() == "here\n", 20)
        assert alive(pid)
        suite.kill()
    until(lambda: not alive(pid), 20)


def test_a_fork_runs_a_module_and_gives_what_it_prints(tmp_path):
    (tmp_path / "said.py").write_text("import sys\nprint(sys.argv[1:])\nraise SystemExit(3)")
    (tmp_path / "broken.py").write_text("1 / 0")
    code = "import json\nfrom launch.timing.accelerator.processes import run\n"
    code += (
        "print(json.dumps([run('said', ['a', 'b']), run('broken', []), run('json.tool', ['-h'])]))"
    )
    env = MINE | dict(PYTHONPATH=f"{ROOT}:{tmp_path}")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    said, broken, tool = json.loads(done.stdout.splitlines()[-1])
    assert said == [3, "['a', 'b']\n"]
    assert broken[0] == 1 and "ZeroDivisionError" in broken[1]
    assert tool[0] == 0 and "usage" in tool[1]


@pytest.mark.slow
def test_a_suite_that_is_killed_leaves_whole_files_and_goes_on(tmp_path):
    """By SIGKILL in its first step, by SIGTERM in its second; then it runs until its time is up."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "launch.bench", "--suite=accelerator", "--rehearse"]

    def start(minutes):
        flags = [f"--minutes={minutes}", f"--out={out}"]
        return subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=environment(cached=False), stderr=subprocess.DEVNULL
        )

    rows = lambda name: files.read(out / "rows" / f"{name}.jsonl")
    moments = [
        (signal.SIGKILL, lambda: len(rows("device")) > 2),
        (signal.SIGTERM, lambda: len(rows("rounds-cifar_cnn-10")) > 0),
    ]
    before = []
    for signum, happened in moments:
        suite = start(60)
        until(happened, 200)
        every = below(suite.pid)
        assert len(every) == 3  # the suite, the process that forks, and the step
        suite.send_signal(signum)
        assert suite.wait(60) == -signum
        until(lambda every=every: not any(map(alive, every)), 20)
        for path in out.rglob("*.jsonl"):
            files.read(path)
        states = {row["step"]: row["state"] for row in files.read(out / "steps.jsonl")}
        assert len(states) > 40 and "# Measured on:" in (out / "report.md").read_text()
        for row in before:  # what was measured is not measured again
            assert row in rows("device")
        before = rows("device")
    assert states["device"] == "done" and states["rounds-cifar_cnn-10"] == "left"
    one = rows("rounds-cifar_cnn-10")[0]
    began = time.monotonic()
    assert start(0.4).wait(200) == 0
    assert time.monotonic() - began < 100
    ways = ("name", "strategy", "batch_size", "compile_seconds")
    assert [one[way] for way in ways] in [
        [row[way] for way in ways] for row in rows("rounds-cifar_cnn-10")
    ]
    states = {row["step"]: row for row in files.read(out / "steps.jsonl")}
    assert states["device"]["state"] == "done" and states["shadows"]["state"] == "left"
    assert "steps are not done" in (out / "report.md").read_text()
