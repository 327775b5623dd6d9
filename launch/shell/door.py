"""What is wrong with flags whatever they mean: asked of every script before it does anything.

Numbers that are none (NaN, infinities) and counts that no machine has, texts that are empty, flags
that do nothing without another, and files of flags that are no plain text. What a flag means to a
federation is asked in ``launch.setup.federation`` and ``launch.setup.idle``.
"""

import math
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

MOST = 2**31 - 1  # of every whole number: rows, rounds and seconds are counted in 32 bits
SEEDS = 2**32 - 1  # JAX takes no more bits of a seed

# Flags that name a file or a folder, or several; and those whose value names one after a word.
PATHS = ("workdir", "data_dir", "init_from", "init_params", "export_params", "key_file", "gone")
PATHS += ("new_key_file", "compilation_cache", "json", "plot", "record")
WORDS = dict(dataset="", partition="file:", forget="mask:")

# A flag, and the one without which it does nothing.
NEEDS = dict(
    host_timeout="coordinator",
    coordinator_bind="coordinator",
    gone="prove_erased",
    cold_runs="cold",
    shadows_chunk="shadows",
)

# Lists that may be empty though they are not by default.
NOBODY = ("peers",)

LARGEST = 2**20  # bytes of a file of flags


def check(flags: Any) -> None:
    """Refuses flags that can mean nothing, and writes out the ``~`` of those that name files.

    Args:
      flags: parsed, such as ``absl.flags.FLAGS``.

    Raises:
      ValueError: one of them, in a sentence.
    """
    for name in flags:
        flag = flags[name]
        if flag.present and not _text(flag.value):
            raise ValueError(f"--{name}={flag.value} has bytes that are no text; write UTF-8")
        if flag.value in ("", []) and flag.value != flag.default and name not in NOBODY:
            raise ValueError(f"--{name}= is empty; give it a value, or leave it out")
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            raise ValueError(f"--{name}={flag.value} is no finite number; give one")
        most = SEEDS if name in ("seed", "first_seed") else MOST
        if type(flag.value) is int and abs(flag.value) > most:
            raise ValueError(f"--{name}={flag.value} is too large; the most is {most}")
        if (other := NEEDS.get(name)) and flag.present and not flags[other].value:
            raise ValueError(f"--{name} does nothing without --{other}; add it, or leave it out")
        if name in PATHS or name in WORDS:
            flag.value = _at_home(name, flag.value)


def _text(value: Any) -> bool:
    """Whether what a flag says can be written down, as configurations and ledgers are.

    >>> _text("Zoë"), _text(["a", "\\udcff"]), _text(3)
    (True, False, True)
    """
    try:
        "".join([value] if isinstance(value, str) else value).encode()
        return True
    except (UnicodeEncodeError, TypeError) as error:
        return isinstance(error, TypeError)


def _at_home(name: str, value: Any) -> Any:
    """
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
        raise ValueError(f"--{name}={value}: there is no such home; write the path out")
    return word + path


def check_files(words: Iterable[str], seen: Sequence[str] = ()) -> None:
    """Refuses what --flagfile names where it is no plain text, before it is read.

    Args:
      words: of a command line, or lines of such a file, which may name others.

    Raises:
      ValueError: it is none.
      OSError: it cannot be read.
    """
    words = [word.strip() for word in words]
    named = [w.partition("=")[2] for w in words if w.lstrip("-").startswith("flagfile=")]
    named += [b for a, b in zip(words, words[1:], strict=False) if a.lstrip("-") == "flagfile"]
    for path in map(os.path.expanduser, named):
        if path in seen:
            continue
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode) or mode.st_size > LARGEST:
            raise ValueError(f"--flagfile={path} is no file of flags, a line each")
        with open(path, "rb") as file:
            content = file.read(LARGEST)
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"--flagfile={path} is no file of flags: it is no text") from None
        check_files(lines, [*seen, path])
