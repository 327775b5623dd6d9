"""Runs of scripts in processes of their own, forked off one that has imported everything.

Importing takes as long as these small runs do. A run meets the faults that a test names: it is
killed where or when the test says, or is short of room or rights. What kills it is SIGKILL.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from helpers.scripts import ROOT, environment, of_scripts


class Ended(NamedTuple):
    status: int  # of the exit, or minus the signal that ended it
    said: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Runs:
    """Starts runs, one after another or at once."""

    def __init__(self, scratch: Path, within: tuple[str, ...] = ()):
        """``within``: a command that is to run the process from which runs are forked."""
        self.scratch, self.log, self.outs = scratch, scratch / "log", {}
        scratch.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        alone = dict(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # no threads to fork
        self.process = subprocess.Popen(
            [*within, sys.executable, "-P", str(ROOT / "tests" / "helpers" / "fork_server.py")],
            cwd=ROOT,
            env=environment() | alone,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **task) -> int:
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self,
        script,
        *flags,
        kill=None,
        slow=0,
        limit=0,
        powerless=False,
        by=signal.SIGKILL,
        cwd=ROOT,
        err=None,
    ) -> int:
        """The process id of a run.

        Args:
          kill: ``(point, name, number)``: at that point of the number-th write of files of a name,
            ``*`` for all; or of the number-th removal, before (unlink) or after it (unlinked).
          by: the signal that kills.
          slow: seconds that every file takes to reach the disk.
          limit: bytes beyond which no file may grow.
          powerless: permission bits hold, also for root.
          cwd: the folder that it runs in.
          err: a file for what it writes to standard error; together with its output otherwise.
        """
        flags, out = list(map(str, flags)), self.scratch / f"out-{len(os.listdir(self.scratch))}"
        faults = dict(kill=kill, slow=slow, limit=limit, by=by, powerless=powerless)
        places = dict(out=out, err=err or "", log=self.log, cwd=cwd)
        places = {name: str(place) for name, place in places.items()}
        spoils, began = bool(limit), time.time()
        pid = self._ask(script=script, flags=flags, **faults, **places)
        self.outs[pid] = out, began, spoils
        return pid

    def wait(self, pid: int, after: float = 300) -> Ended:
        """Its end; it is killed if that does not come after so many seconds."""
        status, (out, began, spoils) = self._ask(wait=pid, after=after), self.outs.pop(pid)
        if spoils or status not in (0, 1, 2):  # half of a compiled program may be left behind
            for program in Path(of_scripts()["JAX_COMPILATION_CACHE_DIR"]).glob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if program.stat().st_mtime >= began - 1:
                        program.unlink()
        return Ended(status, out.read_text())

    def run(self, script, *flags, after: float = 300, **faults) -> Ended:
        return self.wait(self.start(script, *flags, **faults), after)

    def written(self) -> list[tuple[str, int]]:
        """The checkpoints written since this was last asked, and the rounds they are at."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return [(name, int(number)) for name, number in lines]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@functools.cache
def server() -> Runs:
    """The one of this process of tests; ``conftest.py`` ends it."""
    return Runs(Path(tempfile.mkdtemp(prefix="forks-", dir=os.environ["JFU_TEST_CACHE"])))


def launch(script: str, *flags: str, cwd: Path = ROOT, expect: int = 0) -> tuple[str, str]:
    """Runs a script; returns what it printed, out and err."""
    err = server().scratch / f"err-{len(os.listdir(server().scratch))}"
    ended = server().run(script, *flags, cwd=cwd, err=err, after=500)
    assert ended.status == expect, ended.said + err.read_text()
    return ended.said, err.read_text()
