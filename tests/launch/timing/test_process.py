"""The memory of a candidate with all its processes."""

import os
import subprocess
import sys

import pytest

from launch.timing import process


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_candidates_memory_is_that_of_all_its_processes():
    """Flower's clients are processes of their own; 64 MB of a grandchild are counted."""
    hold = "held = bytearray(b'1') * 2**26; print(flush=True); input()"
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    before = process._resident(os.getpid())
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", between], **pipes) as child:
        child.stdout.readline()
        during = process._resident(os.getpid())
        child.communicate(b"\n")
    assert during - before > 2**26
    assert process._resident(child.pid) == 0  # it has ended
