"""Locks: one process at a time writes in a folder. A lock is the system's, on a file in the folder.

The system's lock (flock on the file ``lock``) ends with its process, even with a killed one. Before
each write a process checks that the file is still the one it locked. If the file was removed, the
process ends, because another one may have begun. Some file systems have no locks. There the file
``lock.held``, which only one process can make, serves as the lock. If its process ran on the same
machine and has ended, the lock is taken over.
"""

import atexit
import contextlib
import functools
import io
import os
import pathlib
import platform
import re
import stat
import time
from typing import BinaryIO

from jfu import files
from jfu.atomic import PART
from launch.shell.folders import make_folder
from launch.shell.say import say

LOCK, HELD = "lock", "lock.held"
WHO = re.compile(r"process (\d+) on ([\w.-]+)")
# Files that the scripts write directly into a work directory.
OURS = "(config|plan|results|table|stopping|curves|costs|rounds|audit|tuning|options|pays|theory"
OURS += r"|model|history|ledger|outputs)\.(json|jsonl|md|png|html|flags|safetensors)"


def take(folder: pathlib.Path) -> BinaryIO:
    """Opens a folder for writing: makes it, locks it, and removes jfu's partial files in it.

    Raises:
      ValueError: another process works in it; nothing is changed.
      OSError: nothing can be written in it.
    """
    make_folder(folder)
    lock = hold(folder)
    for half in halves(folder):  # left by a run that was killed
        half.unlink()
    return lock


def halves(folder: pathlib.Path) -> list[pathlib.Path]:
    """The partial files that jfu left in a work directory, at the places where it writes.

    Other places are not searched. Nor are linked folders, and work directories in this one.
    """
    places = {".": OURS, "cells": r"\d+-.+\.safetensors", "shadows": r"[\d-]+\.safetensors"}
    places |= {"draws": r"\d+\.json", "controls/cells": places["cells"]}
    found = []
    for place, name in places.items():
        here = folder / place
        own = place == "." or not (here.is_symlink() or (here / "config.json").exists())
        if own and here.is_dir():
            pattern = re.compile(half_of(name))
            found += [p for p in sorted(here.iterdir()) if pattern.fullmatch(p.name)]
    return [path for path in found if stat.S_ISREG(os.lstat(path).st_mode)]


def half_of(name: str) -> str:
    """The pattern of partial files for files of a pattern."""
    return rf"\.{name}\.[a-z0-9_]{{8}}{re.escape(PART)}"


def hold(folder: pathlib.Path) -> BinaryIO:
    """Locks a folder for this process, until the returned file is closed or the process ends.

    The lock is the system's (flock), so it ends with a killed process. The file names the last
    process that locked it. It is never removed, because another process may be waiting for it. On a
    file system without locks, a file that only one process can make serves as the lock.

    Raises:
      ValueError: another process has the lock; nothing is changed.
    """
    if os.path.lexists(folder / LOCK) and not (folder / LOCK).is_file():
        raise ValueError(f"{folder / LOCK} is not a plain file; remove it")
    file = _Lock(folder / LOCK, "ab+")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = WHO.match(file.read(200).decode(errors="replace"))
        file.close()
        raise _in_use(folder, who and who.group()) from None
    except (ImportError, OSError) as error:
        file.close()
        say_once(f"files cannot be locked in {folder} ({error}); the file {HELD} is used instead")
        return _hold_without(folder)
    if not _is_there(folder / LOCK, file):  # removed since it was opened
        file.close()
        return hold(folder)
    with contextlib.suppress(OSError):  # a full disk is reported when results are written
        file.truncate(0)
        file.write(f"{_me()}\n".encode())
    return file


def wait(folder: pathlib.Path, seconds: float = 30) -> BinaryIO:
    """As ``hold``, but waits if another process has the lock for a moment.

    Raises:
      ValueError: another process keeps the lock for so long; nothing is changed.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return hold(folder)
        except ValueError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@functools.cache
def say_once(text: str) -> None:
    say(f"note: {text}")


def check(folder: pathlib.Path, lock: BinaryIO | None) -> None:
    """Refuses to continue if this process has lost its lock; called before each write.

    Raises:
      ValueError: the lock's file was removed or replaced, so another process may have begun.
    """
    if lock is not None and not (lock.closed or _is_there(pathlib.Path(lock.name), lock)):
        raise ValueError(
            f"{lock.name} was removed or replaced while this process worked in {folder}; another "
            "process may work there too, so nothing more was written; check that none does, and "
            "start the same command again"
        )


def _is_there(path: pathlib.Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _me() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _in_use(folder: pathlib.Path, who: str | None, more: str = "") -> ValueError:
    return ValueError(
        f"{folder} is in use by {who or 'another process'}; wait until it has ended{more}, or "
        "choose another --workdir; nothing was changed"
    )


class _Lock(io.FileIO):
    """A file that stays open until the process ends, without Python's warning about open files."""

    def __del__(self) -> None:
        self.close()


class _Held(_Lock):
    """A file that serves as a lock while it exists; closing removes it."""

    def close(self) -> None:
        if not self.closed and _is_there(pathlib.Path(self.name), self):
            os.unlink(self.name)
        super().close()


def _hold_without(folder: pathlib.Path) -> BinaryIO:
    """Locks a folder by making a file, which fails if the file exists.

    The file of a process of this machine that has ended is taken over. Of processes on other
    machines nothing is known.
    """
    path = folder / HELD
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with files.opened(path) as file:
            who = WHO.match(file.read(200).decode(errors="replace"))
        if not (who and who[2] == platform.node() and not _alive(int(who[1]))):
            more = f" (or, if it has ended, remove {path})"
            raise _in_use(folder, who and who.group(), more) from None
        os.unlink(path)
        return _hold_without(folder)
    os.write(handle, f"{_me()}\n".encode())
    os.close(handle)
    held = _Held(path, "r")
    atexit.register(held.close)
    return held


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
