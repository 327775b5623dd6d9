"""The cold start: processes that train for one round."""

import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

from launch.shell.say import say
from launch.timing.process import free, publish

FLAGS = flags.FLAGS
COMMAND = ["-m", "launch.train", "--rounds=1"]


def startup() -> None:
    free(FLAGS.json)
    with tempfile.TemporaryDirectory() as place:
        cached = [*COMMAND, f"--compilation_cache={os.path.join(place, 'cache')}"]
        once(cached)
        rows = [row("none", taken("none", COMMAND)), row("warm", taken("warm", cached))]
    publish(FLAGS.json, rows, markdown(rows))


def taken(cache: str, command: list[str]) -> list[float]:
    seconds = []
    for number in range(FLAGS.runs):
        seconds.append(once(command))
        say(f"cache {cache}, run {number + 1}/{FLAGS.runs}: {seconds[-1]:.2f} s")
    return seconds


def once(command: list[str]) -> float:
    """Seconds of one run.

    Raises:
      ValueError: it failed.
    """
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, *command, f"--workdir={os.path.join(work, 'w')}"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode:
        why = (done.stderr.strip() or "it ended").splitlines()[-1]
        raise ValueError(f"{' '.join(command[1:])} failed: {why}")
    return seconds


def row(cache: str, seconds: list[float]) -> dict[str, Any]:
    command = "python " + " ".join(COMMAND) + " --compilation_cache=C" * (cache == "warm")
    return dict(
        command=command,
        cache=cache,
        seconds=seconds,
        seconds_median=statistics.median(seconds),
        cores=os.cpu_count(),
        jax=importlib.metadata.version("jax"),
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    from jfu import tables

    lines = [["command", "min s", "median", "max"]]
    for row in rows:
        least, most = min(row["seconds"]), max(row["seconds"])
        figures = (least, row["seconds_median"], most)
        lines.append([row["command"], *(f"{seconds:.2f}" for seconds in figures)])
    return tables.aligned(lines)
