"""Sentences for the user of a script: progress, what is wrong, and what to do about it."""

import errno
import os
import sys
from typing import NoReturn

from launch.shell.printing import one_line, tell

UMASK = os.umask(0o077)  # the user's own; a process can only read it by setting it
os.umask(UMASK)


def open_up(path: str | os.PathLike) -> None:
    """Gives a new file that a user named the same permissions as the user's other files."""
    os.chmod(path, 0o666 & ~UMASK)


def joined() -> bool:
    """Whether this is one of several hosts; imports nothing."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


ROOM = "free some space and start the same command again: all up to the last checkpoint is safe"
RIGHTS = "make it writable for you, or choose another place"
ADVICE = {errno.ENOSPC: ROOM, errno.EDQUOT: ROOM, errno.EFBIG: ROOM}
ADVICE |= {errno.EACCES: RIGHTS, errno.EPERM: RIGHTS, errno.EROFS: RIGHTS}


def sentence(error: Exception) -> str:
    """An error in the words for a user: what the system refused, where, and what to do.

    >>> sentence(OSError(errno.EROFS, "Read-only file system", "/cd/config.json"))
    '/cd/config.json: Read-only file system; make it writable for you, or choose another place'
    """
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    what = error.strerror or type(error).__name__
    return "; ".join([where + what] + [ADVICE[n] for n in [error.errno] if n in ADVICE])


def complain(sentence: str, status: int = 2) -> NoReturn:
    tell(f"error: {one_line(sentence)}")
    raise SystemExit(status)


def say(text: str) -> None:
    """Prints a line of progress; on several hosts only the first one prints."""
    if not joined() or sys.modules["jax"].process_index() == 0:
        tell(text)
