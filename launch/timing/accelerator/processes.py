"""The processes of steps. Each ends with the suite, however that ends.

``fresh`` starts Python anew, as a user would:

  python -m launch.timing.accelerator.processes MODULE ARGUMENTS

A rehearsal has fifty small steps, which would import for longer than they run. So ``Forks`` is one
process that has imported what they need, and forks for each step. Without arguments this module is
that process. It reads a line of JSON for each step, ``[module, arguments, log]``. It answers with
two lines: the process id at once, and ``[exit status, CPU seconds]`` at the end.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# What most steps import; a machine may lack some of it. None of these defines flags.
COMMON = ("jfu", "flax.linen", "optax", "jfu.models", "launch.shell.entry")
COMMON += ("launch.running.comparison", "launch.running.auditing", "launch.running.table")
COMMON += ("launch.report.figures", "sklearn.linear_model", "sklearn.model_selection")
PR_SET_PDEATHSIG = 1  # of Linux
NAME = "launch.timing.accelerator.processes"  # this module, which may be __main__
GRACE = 5.0  # seconds between the request to end and the kill


class Running(NamedTuple):
    """A step's process, which leads a group of its own."""

    pid: int
    # Waits for so many seconds; exit status and CPU seconds, or None if it still runs.
    wait: Callable[[float | None], tuple[int, float] | None]


def with_parent() -> None:
    """Lets the system end this process when its parent ends, where the system can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fresh(command: Sequence[str], log: str, env: Mapping[str, str], cwd: str) -> Running:
    """Starts Python with a command; ``-m MODULE`` ends with this process."""
    before = used(resource.RUSAGE_CHILDREN)
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *below(command)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,  # so that what it has started ends with it
        )

    def wait(seconds: float | None) -> tuple[int, float] | None:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return code, used(resource.RUSAGE_CHILDREN) - before

    return Running(process.pid, wait)


def below(command: Sequence[str]) -> list[str]:
    """What Python is started with, so that a module's process ends with its parent.

    >>> below(["-m", "json.tool", "--help"])
    ['-m', 'launch.timing.accelerator.processes', 'json.tool', '--help']
    """
    first, *rest = command
    return ["-m", NAME, *rest] if first == "-m" else [first, *rest]


def used(whose: int) -> float:
    """CPU seconds of a process, or of those that it has started and waited for."""
    found = resource.getrusage(whose)
    return found.ru_utime + found.ru_stime


class Forks:
    """The process that forks, as seen from the suite; one step at a time."""

    def __init__(self, env: Mapping[str, str], cwd: str):
        pipe = subprocess.PIPE
        alone = dict(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # no threads to fork
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", NAME],
            **dict(stdin=pipe, stdout=pipe, bufsize=0, env={**env, **alone}, cwd=cwd),
        )

    def start(self, module: str, arguments: Sequence[str], log: str) -> Running:
        """Runs a module as ``python -m`` does."""
        self.process.stdin.write((json.dumps([module, arguments, log]) + "\n").encode())
        answer: Any = self.process.stdout
        pid = json.loads(answer.readline())

        def wait(seconds: float | None) -> tuple[int, float] | None:
            return _answer(answer) if select.select([answer], [], [], seconds)[0] else None

        return Running(pid, wait)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _answer(out: Any) -> tuple[int, float]:
    code, seconds = json.loads(out.readline())
    return code, seconds


def end(running: Running) -> tuple[int, float]:
    """Ends a process that still runs, and all that it has started; its status and CPU seconds."""
    _signal(running, signal.SIGTERM)
    ended = running.wait(GRACE)
    _signal(running, signal.SIGKILL)  # also what it has started and left
    return ended or running.wait(None) or (1, 0.0)


def _signal(running: Running, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, number)


def run(module: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Runs a module in a fork of this process; its exit status, and what it has printed."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reads)
        _become(module, arguments, writes)
    os.close(writes)
    with open(reads, errors="replace") as out:
        text = out.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def _become(module: str, arguments: Sequence[str], out: int) -> None:
    """Makes this process one that runs a module, whose output goes to a file descriptor."""
    code = 1
    try:
        with_parent()
        for number in (1, 2):
            os.dup2(out, number)
        # Streams remember whether the file before could be sought in.
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Imports, and forks for every line of standard input."""
    with_parent()
    for name in COMMON:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    tell = lambda what: answers.write(json.dumps(what) + "\n")
    for line in iter(sys.stdin.readline, ""):
        module, arguments, log = json.loads(line)
        pid = os.fork()
        if not pid:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _become(module, arguments, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        tell(pid)
        _, status, usage = os.wait4(pid, 0)
        tell([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime])


def run_alone(module: str, *arguments: str) -> None:
    """Runs a module in this process."""
    with_parent()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run_alone(*sys.argv[1:]) if sys.argv[1:] else serve()
