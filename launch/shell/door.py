"""Checks of flags that need no data or model; every script makes them before anything else.

They refuse numbers that are not finite, counts that are too large, and empty texts. They also
refuse flags that do nothing without another, and files of flags that are not plain text.
``launch.setup.federation`` and ``launch.setup.idle`` check what a flag means for a federation.
"""

import math
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

MOST = 2**31 - 1  # limit of every whole number: rows, rounds and seconds have 32 bits
SEEDS = 2**32 - 1  # JAX takes no more bits of a seed

# Flags that name files or folders; then flags that name a file after a word.
PATHS = (
    "workdir",
    "data_dir",
    "init_from",
    "init_params",
    "features",
    "export_params",
    "key_file",
    "gone",
)
PATHS += ("new_key_file", "compilation_cache", "json", "plot", "record", "out")
PATHS += ("audit", "export", "sign_key", "pack", "profile")
WORDS = dict(dataset="", partition="file:", forget="mask:", model="")

# A flag, and the one without which it does nothing.
NEEDS = dict(
    host_timeout="coordinator",
    coordinator_bind="coordinator",
    gone="prove_erased",
    cold_runs="cold",
    shadows_chunk="shadows",
    shadows_part="shadows",
    minutes="suite",
    out="suite",
    rehearse="suite",
    audit="export",
    sign_key="export",
    timestamp_url="export",
    requester="receive",
    submitted="receive",
)

# Lists that may be empty, although their default is not.
MAY_BE_EMPTY = ("peers",)

LARGEST = 2**20  # most bytes of a file of flags


def check(flags: Any) -> None:
    """Refuses flags that cannot be right, and expands the ``~`` in names of files.

    Args:
      flags: parsed, such as ``absl.flags.FLAGS``.

    Raises:
      ValueError: the first such flag, in a sentence.
    """
    for name in flags:
        flag = flags[name]
        if flag.present and not _text(flag.value):
            raise ValueError(f"--{name}={flag.value} has bytes that are not text; write UTF-8")
        if flag.value in ("", []) and flag.value != flag.default and name not in MAY_BE_EMPTY:
            raise ValueError(f"--{name}= is empty; give it a value, or leave it out")
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            raise ValueError(f"--{name}={flag.value} is not a finite number; give one")
        most = SEEDS if name in ("seed", "first_seed") else MOST
        if type(flag.value) is int and abs(flag.value) > most:
            raise ValueError(f"--{name}={flag.value} is too large; it may be {most} at most")
        if (other := NEEDS.get(name)) and flag.present and not flags[other].value:
            raise ValueError(f"--{name} does nothing without --{other}; add it, or leave it out")
        if name in PATHS or name in WORDS:
            flag.value = _at_home(name, flag.value)


def _text(value: Any) -> bool:
    """Whether a flag's value can be written as UTF-8, into configurations and ledgers.

    >>> _text("Zoë"), _text(["a", "\\udcff"]), _text(3)
    (True, False, True)
    """
    try:
        "".join([value] if isinstance(value, str) else value).encode()
        return True
    except (UnicodeEncodeError, TypeError) as error:
        return isinstance(error, TypeError)


def _at_home(name: str, value: Any) -> Any:
    """A flag's value with ``~`` expanded where it begins the name of a file.

    >>> home = os.path.expanduser("~")
    >>> _at_home("forget", "mask:~/a.npy") == f"mask:{home}/a.npy", _at_home("workdir", "a~")
    (True, 'a~')
    """
    if isinstance(value, list):
        return [_at_home(name, one) for one in value]
    word = WORDS.get(name, "")
    if not isinstance(value, str) or not value.startswith(f"{word}~"):
        return value
    path = os.path.expanduser(value.removeprefix(word))
    if path.startswith("~"):
        raise ValueError(f"--{name}={value}: there is no such home folder; write the whole path")
    return word + path


def check_files(words: Iterable[str], seen: Sequence[str] = ()) -> None:
    """Refuses a file of ``--flagfile`` that is not plain text, before absl reads it.

    Args:
      words: of a command line, or lines of such a file, which may name others.

    Raises:
      ValueError: a file that is not plain text.
      OSError: a file that cannot be read.
    """
    words = [word.strip() for word in words]
    named = [w.partition("=")[2] for w in words if w.lstrip("-").startswith("flagfile=")]
    named += [b for a, b in zip(words, words[1:], strict=False) if a.lstrip("-") == "flagfile"]
    for path in map(os.path.expanduser, named):
        if path in seen:
            continue
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode) or mode.st_size > LARGEST:
            raise ValueError(f"--flagfile={path} is not a file of flags; write one flag a line")
        with open(path, "rb") as file:
            content = file.read(LARGEST)
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError:
            raise ValueError(
                f"--flagfile={path} is not a file of flags: it is not UTF-8 text"
            ) from None
        check_files(lines, [*seen, path])
