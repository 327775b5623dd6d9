"""Runs of the scripts that meet a fault: killed where or when a test says, short of room or rights.

A run is a process of its own, and what kills it is SIGKILL. Importing takes as long as these small
runs do, so one process imports everything and forks a run off itself before JAX has started.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from helpers.federation import bits
from helpers.scripts import ROOT, environment
from jfu.io import load_arrays, load_notes

FEW = ["--dataset=synthetic", "--train_size=60", "--clients=2", "--model=mlp", "--devices=1"]
FEW += ["--nobackdoor", "--checkpoint_every=1"]
TRAIN = ["train", *FEW, "--rounds=3", "--keep_history=start,norms"]
CELL = "0-train.safetensors"

# Of every file that jfu.io.write_bytes writes: before its temporary file is made, when half of
# that is written, when it is whole and not yet in its place, and when it is there.
POINTS = ("before", "half", "written", "replaced")

SERVER = r"""
import ctypes, json, os, pathlib, resource, signal, sys, tempfile, time, warnings

import matplotlib, numpy, jax, jfu, jfu.io  # whatever all scripts import
from launch import audit, compare
from launch.records import erasure
from launch.report import figures
from launch.running import answering, auditing, cells, comparison, evidence
from launch.setup import evaluation, methods, study, trial
from launch.shell import devices
from jfu.audit import verdicts
from launch import ledger, train, unlearn
from launch.report import page, report
from launch.running import shadows, training
from launch.shell import entry
from launch.workdir import workdir

matplotlib.use("Agg")
import matplotlib.pyplot

SCRIPTS = dict(audit=audit, compare=compare, ledger=ledger, train=train, unlearn=unlearn)


class Half:
    # A file that writes half of what it is given, strikes, and writes the rest if still alive.
    def __init__(self, file, strike):
        self.file, self.strike = file, strike

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.strike()
        self.file.write(content[len(content) // 2 :])


def arm(point, name, number, log, slow, by):
    left, mine = [number], {}
    mkstemp, fdopen, fsync, replace = tempfile.mkstemp, os.fdopen, os.fsync, os.replace
    unlink = os.unlink

    def strike(at, what):
        if at == point and name in (what, "*"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), by)

    def mkstemp_(*args, **kwargs):
        if kwargs.get("suffix") != ".jfu-part":
            return mkstemp(*args, **kwargs)
        what = kwargs["prefix"][1:-1]
        strike("before", what)
        handle, path = mkstemp(*args, **kwargs)
        mine[handle] = what
        return handle, path

    def fdopen_(handle, *args, **kwargs):
        file = fdopen(handle, *args, **kwargs)
        if handle not in mine:
            return file
        what = mine.pop(handle)
        return Half(file, lambda: strike("half", what))

    def fsync_(handle):
        time.sleep(slow)
        fsync(handle)

    def replace_(source, target):
        target = pathlib.Path(target)
        strike("written", target.name)
        cell = target.parent.name == "cells"
        done = jfu.io.load_notes(source)["round"] if cell else None
        replace(source, target)
        if cell:
            with open(log, "ab", buffering=0) as file:
                file.write(f"{target.name} {done}\n".encode())
        strike("replaced", target.name)

    def unlink_(path, *args, **kwargs):
        strike("unlink", pathlib.Path(path).name)
        unlink(path, *args, **kwargs)
        strike("unlinked", pathlib.Path(path).name)

    tempfile.mkstemp, os.fdopen, os.fsync, os.replace = mkstemp_, fdopen_, fsync_, replace_
    os.unlink = unlink_


def powerless():
    # Permission bits hold for root too, once it has given up its capabilities.
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def wait(pid, after):
    # The status of a run, killed if it lasts longer.
    until = time.monotonic() + after
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.002)


for line in sys.stdin:
    task = json.loads(line)
    if "wait" in task:
        print(wait(task["wait"], task["after"]), flush=True)
        continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX is imported and has started no thread
        pid = os.fork()
    if pid == 0:
        break
    print(pid, flush=True)
else:
    sys.exit()

out = os.open(task["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(out, 1)
os.dup2(out, 2)
arm(*(task["kill"] or ("", "", 0)), task["log"], task["slow"], task["by"])
if task["limit"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
if task["powerless"]:
    powerless()
script = SCRIPTS[task["script"]]
sys.argv = [f"launch.{task['script']}", *task["flags"]]
script.define()
entry.run(getattr(script, task["script"]))
"""


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
        given = dict(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # no threads to fork
        given["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiling is most of the time
        self.process = subprocess.Popen(
            [*within, sys.executable, "-c", SERVER],
            cwd=ROOT,
            env=environment() | given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **task) -> int:
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self, script, *flags, kill=None, slow=0, limit=0, powerless=False, by=signal.SIGKILL
    ) -> int:
        """The process id of a run.

        Args:
          kill: ``(point, name, number)``: at that point of the number-th write of files of a name,
            ``*`` for all; or of the number-th removal, before (unlink) or after it (unlinked).
          by: the signal that kills.
          slow: seconds that every file takes to reach the disk.
          limit: bytes beyond which no file may grow.
          powerless: permission bits hold, also for root.
        """
        flags, out = list(map(str, flags)), self.scratch / f"out-{len(os.listdir(self.scratch))}"
        given = dict(script=script, flags=flags, kill=kill, slow=slow, limit=limit)
        pid = self._ask(**given, by=by, powerless=powerless, out=str(out), log=str(self.log))
        self.outs[pid] = out
        return pid

    def wait(self, pid: int, after: float = 300) -> Ended:
        """Its end; it is killed if that does not come after so many seconds."""
        return Ended(self._ask(wait=pid, after=after), self.outs.pop(pid).read_text())

    def run(self, script, *flags, after: float = 300, **faults) -> Ended:
        return self.wait(self.start(script, *flags, **faults), after)

    def written(self) -> list[tuple[str, int]]:
        """The cells that were written since this was last asked, and the rounds they are at."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return [(name, int(number)) for name, number in lines]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def files(folder: Path) -> dict[str, bytes | str | None]:
    """What lies in a folder: bytes of files, targets of links, None for folders."""
    content = lambda p: os.readlink(p) if p.is_symlink() else None if p.is_dir() else p.read_bytes()
    return {str(p.relative_to(folder)): content(p) for p in sorted(folder.rglob("*"))}


def kept(folder: Path) -> dict[str, bytes | str | None]:
    """``files`` but for the name of the process that took the folder last."""
    return {name: content for name, content in files(folder).items() if name != "lock"}


def results(folder: Path) -> dict[str, object]:
    """What a run has found, without the seconds that it took and the time of day."""
    found: dict[str, object] = kept(folder)
    found.pop("outputs.json", None)  # digests of what says how long it took
    # Of a ledger's lines; checkpoints and tables say how long they took, folders have names.
    timed = ("time", "previous", "hash", "results", "cells", "wrote", "since", "path", "beside")
    for name in found:
        path = folder / name
        if path.parent.name == "cells":
            arrays = {name: bits(a) for name, a in load_arrays(path).items()}
            found[name] = untimed(load_notes(path)), arrays
        elif path.suffix == ".jsonl":
            lines = [untimed(json.loads(line)) for line in found[name].splitlines()]
            plain = lambda line: {k: v for k, v in line.items() if k not in timed}
            found[name] = list(map(plain, lines)) if name == "ledger.jsonl" else lines
        elif path.suffix == ".json":
            found[name] = untimed(json.loads(found[name]))
        elif path.suffix == ".md":
            found[name] = without_column(found[name].decode(), "seconds")
    return found


def untimed(tree):
    """JSON without what was measured with a clock."""
    if isinstance(tree, dict):
        return {k: untimed(v) for k, v in tree.items() if not k.startswith("seconds")}
    return [untimed(value) for value in tree] if isinstance(tree, list) else tree


def without_column(table: str, name: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    lines = [[cell.strip(" -:") for cell in line.split("|")] for line in table.splitlines()]
    gone = next((line.index(name) for line in lines if name in line), None)
    return [[cell for i, cell in enumerate(line) if i != gone] for line in lines]


def until(happened, timeout: float = 120) -> None:
    """Waits for something to happen."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < timeout
        time.sleep(0.002)


def refused(ended, *words):
    """A run ended with one sentence; what went before it are notes and lines of progress."""
    assert ended.status == 2, ended.said
    last = ended.said.splitlines()[-1]
    assert last.startswith("error: ") and ended.said.count("error: ") == 1
    assert "Traceback" not in ended.said and "[Errno" not in ended.said
    for word in words:
        assert str(word) in last
    return True
