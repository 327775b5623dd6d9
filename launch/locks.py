"""Folders that one process at a time writes in, by the system's lock on a file in them."""

import contextlib
import os
import pathlib
import platform
import re
import stat
from typing import BinaryIO

import jfu.io
from launch.main import say

LOCK = "lock"
# What the scripts write into a work directory itself.
OURS = "(config|plan|results|table|stopping|curves|costs|rounds|audit|tuning|options|pays|theory"
OURS += r"|model|history|ledger)\.(json|jsonl|md|png|html|flags|safetensors)"


def take(folder: pathlib.Path) -> BinaryIO | None:
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
    places |= {"draws": r"\d+\.json"}
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
    return rf"\.{name}\.[a-z0-9_]{{8}}{re.escape(jfu.io.PART)}"


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder, if it is not there, and sees that files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"the folder {folder} cannot be made ({error.strerror})"
        ) from error
    jfu.io.check_writable(folder)


def hold(folder: pathlib.Path) -> BinaryIO | None:
    """Takes a folder for this process, until what is returned is closed or the process ends.

    The lock is the system's (flock), so that a killed process holds nothing. The file tells who
    took it last; it stays, for to remove it would take it from under whoever waits.

    Raises:
      ValueError: another process holds it; nothing is changed.
    """
    file = open(folder / LOCK, "ab+", buffering=0)  # noqa: SIM115
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = re.match(r"process \d+ on [\w.-]+", file.read(200).decode(errors="replace"))
        file.close()
        raise ValueError(
            f"{folder} is in use by {who.group() if who else 'another process'}; wait until that "
            "has ended, or choose another --workdir, nothing was touched"
        ) from None
    except (ImportError, OSError) as error:
        say(f"note: files cannot be locked in {folder} ({error}); start no second run in it")
        return file
    with contextlib.suppress(OSError):  # a disk that is full is told where it matters
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
    return file
