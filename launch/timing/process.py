"""Timed processes, and the output of their results."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from launch.shell.printing import show

# The module that shows whether a library is installed.
PEERS = dict(torch="torch", fedjax="fedjax", drjax="drjax", flower="flwr")


class Worker:
    """A process of ``launch.timing.workers``: it waits for a signal, and reports each event."""

    def __init__(self, asked: dict, python: str):
        self.asked, self.began, self.peak = asked, time.perf_counter(), 0
        # With unfiltered tracebacks, the last line of an error is the error itself.
        settings = dict(XLA_PYTHON_CLIENT_PREALLOCATE="false", JAX_TRACEBACK_FILTERING="off")
        env = os.environ | settings
        command = [python, "-W", "ignore", "-m", f"{__package__}.workers", json.dumps(asked)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env
        )
        # Both pipes are read all the time, because a full pipe would stop the worker.
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stderr or ():
            self.said.append(line.rstrip())

    def wait(self, event: str) -> dict | None:
        """The worker's message with this event; None if the worker has ended before."""
        for line in self.process.stdout or ():
            line = json.loads(line)
            if line["event"] == event:
                return line
        return None

    def go(self) -> float | None:
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self.wait("round")
        return answer["seconds"] if answer else None

    def why(self) -> str:
        """The last line of an error."""
        self.process.wait()
        return next((line for line in reversed(self.said) if line.strip()), "it ended")

    def close(self):
        self.process.stdin.close()
        answer = self.wait("end")
        self.process.wait()
        return answer or {}

    def watch(self):
        """Follows the process's memory until it ends, in a thread."""

        def follow():
            while self.process.poll() is None:
                began = time.perf_counter()
                self.peak = max(self.peak, _resident(self.process.pid))
                # Not too often, so that it does not slow down what is timed.
                time.sleep(max(0.05, 50 * (time.perf_counter() - began)))

        threading.Thread(target=follow, daemon=True).start()


def _resident(pid: int) -> int:
    """Bytes of a process and its children, with their shares of common memory; 0 if unknown."""
    own, started = 0, []
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            own = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as text:
                started += map(int, text.read().split())
    except OSError:  # it has ended, or the system does not say
        pass
    return own + sum(map(_resident, started))


def free(path: str | None) -> None:
    """Refuses an output file that exists, before anything is measured."""
    if not path:
        return
    if os.path.lexists(path) and (not os.path.isfile(path) or os.path.getsize(path)):
        raise FileExistsError(f"{path} exists already; choose another name or remove it first")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(f"there is no folder to write {path} into")
    from jfu.io import check_writable

    check_writable(os.path.dirname(path) or ".")


def publish(path: str | None, rows: list[dict], text: str) -> None:
    """Writes the results, if a file was named, and prints their table in any case."""
    from jfu.io import write_bytes

    try:
        if path:
            write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    finally:
        show(text)


def told_by(function: Callable, given: dict) -> dict:
    """The JSON that a function prints, in a fresh process of its own."""
    module, name = function.__module__, function.__name__
    code = f"import json, sys; from {module} import {name}; {name}(json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps(given)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        why = (ended.stderr.strip() or "it ended").splitlines()[-1]
        raise ValueError(f"{name} failed on {given}: {why}")
    return json.loads(ended.stdout.splitlines()[-1])
