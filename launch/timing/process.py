"""Processes that are timed, and where what they tell goes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from launch.shell.printing import show

# The module that a peer is found by.
PEERS = dict(torch="torch", fedjax="fedjax", drjax="drjax", flower="flwr")


class Worker:
    """A process of ``launch.timing.workers``: it is told to go and says when it is done."""

    def __init__(self, asked: dict, python: str):
        self.asked, self.began, self.peak = asked, time.perf_counter(), 0
        # Unfiltered, an error's last line is the error.
        settings = dict(XLA_PYTHON_CLIENT_PREALLOCATE="false", JAX_TRACEBACK_FILTERING="off")
        env = os.environ | settings
        command = [python, "-W", "ignore", "-m", f"{__package__}.workers", json.dumps(asked)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env
        )
        # Both are read all the time: a full pipe would stop the worker.
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stderr:
            self.said.append(line.rstrip())

    def wait(self, event: str) -> dict | None:
        """What it said with this event; None if it ended before."""
        for line in self.process.stdout:
            told = json.loads(line)
            if told["event"] == event:
                return told
        return None

    def go(self) -> float | None:
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        told = self.wait("round")
        return told and told["seconds"]

    def why(self) -> str:
        """The last line of an error."""
        self.process.wait()
        return next((line for line in reversed(self.said) if line.strip()), "it ended")

    def close(self):
        self.process.stdin.close()
        told = self.wait("end")
        self.process.wait()
        return told or {}

    def watch(self):
        """Follows the process's memory until it ends, in a thread."""

        def follow():
            while self.process.poll() is None:
                began = time.perf_counter()
                self.peak = max(self.peak, _resident(self.process.pid))
                # Not so often that looking slows down what is timed.
                time.sleep(max(0.05, 50 * (time.perf_counter() - began)))

        threading.Thread(target=follow, daemon=True).start()


def _resident(pid: int) -> int:
    """Bytes of a process and all that it started, of common memory its share; 0 if not told."""
    own, started = 0, []
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            own = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as text:
                started += map(int, text.read().split())
    except OSError:  # it ended meanwhile, or the system does not tell
        pass
    return own + sum(map(_resident, started))


def free(path: str | None) -> None:
    """Refuses a file that holds something already, before anything is measured."""
    if not path:
        return
    if os.path.lexists(path) and (not os.path.isfile(path) or os.path.getsize(path)):
        raise FileExistsError(f"{path} exists already; choose another name or remove it first")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(f"there is no folder to write {path} into")
    from jfu.io import check_writable

    check_writable(os.path.dirname(path) or ".")


def publish(path: str | None, rows: list[dict], text: str) -> None:
    """Writes what was measured, if a file was named, and prints its table in any case."""
    from jfu.io import write_bytes

    try:
        if path:
            write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    finally:
        show(text)


def told_by(function: Callable, given: dict) -> dict:
    """What a function prints, as JSON, in a fresh process of its own."""
    module, name = function.__module__, function.__name__
    code = f"import json, sys; from {module} import {name}; {name}(json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps(given)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        why = (told.stderr.strip() or "it ended").splitlines()[-1]
        raise ValueError(f"{name} failed on {given}: {why}")
    return json.loads(told.stdout.splitlines()[-1])
