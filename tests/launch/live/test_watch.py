"""What a federation started ends with its launcher, whatever ends that."""

import os
import signal
import subprocess
import sys
import time

import pytest

from helpers.scripts import ROOT
from launch.live import watch

LAUNCHER = """
import subprocess, sys, time
from launch.live import processes
variables = dict(FLWR_HOME={home!r})
with processes.watched(variables):
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleep, env=variables, start_new_session=True)
    print("started", flush=True)
    time.sleep({seconds})
"""


def gone(home, seconds=20):
    until = time.monotonic() + seconds
    while watch.left(home) and time.monotonic() < until:
        time.sleep(0.05)
    return not watch.left(home)


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
@pytest.mark.parametrize("killed", [True, False])
def test_processes_end_with_their_launcher(killed, tmp_path):
    home = str(tmp_path / "home")
    code = LAUNCHER.format(home=home, seconds=600 if killed else 0)
    own = dict(env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], **own) as launcher:
        assert launcher.stdout.readline() == b"started\n"
        if killed:
            assert len(watch.left(home)) == 1 and watch.left(home + "2") == []
            launcher.send_signal(signal.SIGKILL)
    assert gone(home)
