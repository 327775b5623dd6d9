"""Folders that one process at a time writes in, by the system's lock on a file in them.

A killed process leaves no lock of the system (flock on the file ``lock``) behind. Before each write
a process looks whether the file is still the one that it locked, and ends if somebody removed it:
another may have begun. Where the file system has no locks, ``lock.held``, which only one can make,
stands for one. What a process of the same machine left that has ended is taken over.
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
# What the scripts write into a work directory itself.
OURS = "(config|plan|results|table|stopping|curves|costs|rounds|audit|tuning|options|pays|theory"
OURS += r"|model|history|ledger|outputs)\.(json|jsonl|md|png|html|flags|safetensors)"


def take(folder: pathlib.Path) -> BinaryIO:
    """Makes a folder a writer's: it is there, writable, held, and rid of its own halves of files.

    Raises:
      ValueError: another process works in it; nothing is changed.
      OSError: nothing can be written in it.
    """
    make_folder(folder)
    lock = hold(folder)
    for half in halves(folder):  # of a run that was killed
        half.unlink()
    return lock


def halves(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files in the making that jfu left in a work directory, at the places where it writes.

    Nothing else is looked at: no other folder, and no folder that a link leads to or that is a
    work directory of its own.
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
    """The pattern of a file in the making that becomes one of a pattern."""
    return rf"\.{name}\.[a-z0-9_]{{8}}{re.escape(PART)}"


def hold(folder: pathlib.Path) -> BinaryIO:
    """Takes a folder for this process, until what is returned is closed or the process ends.

    The lock is the system's (flock), so that a killed process holds nothing. The file tells who
    took it last; it stays, for to remove it would take it from under whoever waits. Where the file
    system has no locks, a file that only one process can make stands for one.

    Raises:
      ValueError: another process holds it; nothing is changed.
    """
    if os.path.lexists(folder / LOCK) and not (folder / LOCK).is_file():
        raise ValueError(f"{folder / LOCK} is no plain file; remove it")
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
        tell_once(f"files cannot be locked in {folder} ({error}); {HELD} stands for a lock there")
        return _hold_without(folder)
    if not _is_there(folder / LOCK, file):  # removed since it was opened
        file.close()
        return hold(folder)
    with contextlib.suppress(OSError):  # a disk that is full is told where it matters
        file.truncate(0)
        file.write(f"{_me()}\n".encode())
    return file


def wait(folder: pathlib.Path, seconds: float = 30) -> BinaryIO:
    """As ``hold``, for a moment's work in a folder that another may hold for as long.

    Raises:
      ValueError: another process holds it all the time; nothing is changed.
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
def tell_once(text: str) -> None:
    say(f"note: {text}")


def check(folder: pathlib.Path, lock: BinaryIO | None) -> None:
    """Refuses to go on where a lock is this process's no more: before each write.

    Raises:
      ValueError: its file was removed or replaced, so that another process may have begun.
    """
    if lock is not None and not (lock.closed or _is_there(pathlib.Path(lock.name), lock)):
        raise ValueError(
            f"{lock.name} was removed or replaced while this process worked in {folder}, so that "
            "another may work there too; nothing more was written: see that none does, and start "
            "the same command again"
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
        f"{folder} is in use by {who or 'another process'}; wait until that has ended{more}, or "
        "choose another --workdir, nothing was touched"
    )


class _Lock(io.FileIO):
    """Held until the process ends: no file that somebody forgot to close, as Python warns of."""

    def __del__(self) -> None:
        self.close()


class _Held(_Lock):
    """A file that stands for a lock while it is there; closing removes it."""

    def close(self) -> None:
        if not self.closed and _is_there(pathlib.Path(self.name), self):
            os.unlink(self.name)
        super().close()


def _hold_without(folder: pathlib.Path) -> BinaryIO:
    """Takes a folder by a file that is there already for whoever comes second.

    One that a process of this machine left that has ended is taken over; of another machine's
    nothing can be known.
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
