"""What scripts print, be it to a terminal with few signs, a pipe, a full disk or a closed stream.

A terminal without signs such as ± gets letters instead. A reader that has gone away stops nothing.
"""

import codecs
import os
import sys
from collections.abc import Sequence
from typing import TextIO

LONGEST = 1800  # letters in an error message
# What to print instead of a sign that a terminal lacks.
LETTERS = {"±": "+-", "≥": ">=", "≤": "<=", "Δ": "d", "−": "-", "–": "-", "✓": "yes", "✗": "no"}


def prepare() -> None:
    """Prepares the standard streams for all output; must be called before any file is opened.

    A stream that was closed is opened on the null device. Otherwise a file that is opened later
    could take its number, and would receive what a library prints. Signs that an encoding lacks are
    spelt out.
    """
    codecs.register_error("jfu.letters", letters)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="jfu.letters")


def letters(error: UnicodeError) -> tuple[str, int]:
    r"""Spells out what an encoding lacks, for ``codecs.register_error``.

    >>> codecs.register_error("jfu.letters", letters)
    >>> "92.0 ± 0.1, Änne".encode("ascii", "jfu.letters")
    b'92.0 +- 0.1, \\xc4nne'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    escaped = lambda sign: sign.encode("ascii", "backslashreplace").decode()
    lacking = error.object[error.start : error.end]
    return "".join(LETTERS.get(sign) or escaped(sign) for sign in lacking), error.end


def plain(text: str) -> str:
    r"""Escapes control characters in a text, so that a name or a file cannot change a terminal.

    >>> plain("client \x1b[2J\nis new")
    'client \\x1b[2J\nis new'
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    from jfu.files import shown  # imported late, because few texts need it

    return shown(text, lines=True)


def one_line(text: str) -> str:
    r"""A text on one line and of limited length, whatever a library or a file has put into it.

    >>> one_line("it says\n" + 9000 * "x")[:20], len(one_line(9000 * "x"))
    ('it says\\nxxxxxxxxxxx', 1805)
    """
    line = plain(text).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-300:]}"


def show(text: str) -> None:
    """Prints a result to standard output.

    A reader that has gone away stops nothing: the files are written, and work may remain to be
    done.

    Raises:
      OSError: the output could not be written, for example because a disk is full.
    """
    try:
        print(plain(text), flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise OSError(error.errno, error.strerror, "standard output") from None


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["results", "table", "curves.png"])
    'results, table and curves.png'
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def tell(text: str) -> None:
    """Prints a message to standard error; an error in printing is ignored."""
    try:
        print(plain(text), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Sends the rest of a stream's buffer, and all later output, to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
