"""What scripts print, whoever reads it: a terminal of few signs, a pipe, a full disk, or nobody.

A terminal of few signs gets them in letters, and who has stopped reading stops nothing.
"""

import codecs
import os
import sys
from collections.abc import Sequence
from typing import TextIO

# The signs of tables and sentences where a terminal has letters alone.
LONGEST = 1800  # letters of a sentence that says what is wrong
LETTERS = {"±": "+-", "≥": ">=", "≤": "<=", "Δ": "d", "−": "-", "–": "-", "✓": "yes", "✗": "no"}


def prepare() -> None:
    """Makes standard streams fit for all that is said; to be called before any file is opened.

    A stream that was closed gets a place that nobody reads, so that no file that is opened later
    takes its number, and with it whatever a library prints. What an encoding lacks is spelt out.
    """
    codecs.register_error("jfu.letters", letters)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
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
    r"""A text in which nothing that came with a name or a file moves a terminal.

    >>> plain("client \x1b[2J\nis new")
    'client \\x1b[2J\nis new'
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    from jfu.files import shown  # which few texts need

    return shown(text, lines=True)


def one_line(text: str) -> str:
    r"""A sentence, whatever a library or a file has put into it.

    >>> one_line("it holds\n" + 9000 * "x")[:20], len(one_line(9000 * "x"))
    ('it holds\\nxxxxxxxxxx', 1805)
    """
    line = plain(text).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-300:]}"


def show(text: str) -> None:
    """Prints a result to standard output.

    A reader that has gone away stops nothing: the files are there, and work may be left to do.

    Raises:
      OSError: it could not be written, as on a disk that is full.
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
    """Prints a line beside the results, to standard error; nothing is lost where it cannot be."""
    try:
        print(plain(text), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Sends what a stream still holds, and all that comes, to where nobody reads it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
