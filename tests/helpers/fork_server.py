"""The process that runs of scripts are forked off: it has imported everything, and JAX waits.

Reads tasks, a line of JSON each, from its standard input: to start a run, whose process id it
answers with, or to wait for one, whose exit status it answers with.
"""

import ctypes
import gc
import importlib
import io
import json
import os
import pathlib
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot

import jfu.io
import launch
from launch.shell import entry

OTHERS = ("launch.timing.peers", "launch.prepare")  # import what need not be installed
# What runs import only when they need it, which is half of a small run's time.
LATER = ["jfu.models", "safetensors.numpy", "tarfile", "urllib.request"]
LATER += ["sklearn.datasets", "sklearn.linear_model", "sklearn.model_selection", "sklearn.svm"]


class Half:
    """A file that writes half of what it is given, strikes, and writes the rest if still alive."""

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
    """Makes this run kill itself by a signal, at the number-th time at that point of a write."""
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
    """Permission bits hold for root too, once it has given up its capabilities."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def wait(pid, after):
    """The status of a run, killed if it lasts longer."""
    until = time.monotonic() + after
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.002)


def serve():
    """Answers tasks; returns in each run that is forked off, with its task."""
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            print(wait(task["wait"], task["after"]), flush=True)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX is imported and has started no thread
            pid = os.fork()
        if pid == 0:
            return task
        print(pid, flush=True)
    raise SystemExit


def run(task):
    """What ``python -m launch.SCRIPT`` does, with the faults of the task."""
    writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(task["out"], writes), 1)
    os.dup2(os.open(task["err"], writes) if task["err"] else 1, 2)
    os.chdir(task["cwd"])
    arm(*(task["kill"] or ("", "", 0)), task["log"], task["slow"], task["by"])
    if task["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
    if task["powerless"]:
        powerless()
    script = importlib.import_module(f"launch.{task['script']}")
    sys.modules["__main__"] = script  # whose docstring is its --help
    sys.argv = [script.__file__, *task["flags"]]
    script.define()
    entry.run(getattr(script, task["script"]))


names = [module.name for module in pkgutil.walk_packages(launch.__path__, "launch.")]
for name in [*names, *LATER]:
    if name not in OTHERS:
        importlib.import_module(name)
matplotlib.pyplot.figure().text(0.5, 0.5, "fonts are read at the first text")
matplotlib.pyplot.savefig(io.BytesIO())
matplotlib.pyplot.close()
gc.collect()
gc.freeze()  # what is imported is garbage in no run
gc.set_threshold(1_000_000, 20, 100)
run(serve())
