"""Ends what is left of a federation once its launcher is gone, whatever ended it.

    python watch.py PID HOME

PID is the launcher. HOME is the FLWR_HOME that it gave to every process that it started. They all
have it, and those that they started too. Flower ends most of them by itself. But a ServerApp that
waits for its SuperLink may go on for minutes, and its folder stays locked. Needs /proc.
"""

import contextlib
import os
import pathlib
import signal
import sys
import time


def left(home: str) -> list[int]:
    """Processes whose FLWR_HOME is this one, but for the one that asks."""
    mark, found = f"FLWR_HOME={home}".encode(), []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or one that has just ended
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return [number for number in found if number != os.getpid()]


def end(home: str, seconds: float = 3) -> None:
    """Ends them: in order, or by force after these seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for number in left(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, sign)
        until = time.monotonic() + seconds
        while left(home) and time.monotonic() < until:
            time.sleep(0.1)


if __name__ == "__main__":
    launcher, place = sys.argv[1:]
    while os.getppid() == int(launcher):
        time.sleep(0.2)
    end(place)
