"""Which flags were given, and which of them were typed, not read from a file of flags."""

import os
import sys
from collections.abc import Collection, Sequence

from absl import flags


def given() -> set[str]:
    """The flags that were given, on the command line or in a file."""
    return {name for name in flags.FLAGS if flags.FLAGS[name].present}


def said() -> dict[str, set[str]]:
    """The flags that were typed (``given``), and those that only a file of flags has (``preset``).

    To continue a run in a work directory, a command repeats all of its flags. They count as
    ``preset``.
    """
    begun = os.path.exists(os.path.join(flags.FLAGS.workdir or "", "config.json"))
    known = set() if begun else typed(sys.argv[1:], flags.FLAGS)
    return dict(given=given() & known, preset=given() - known)


def typed(words: Sequence[str], known: Collection[str]) -> set[str]:
    """The flags in words of a command line.

    >>> sorted(typed(["--lr=1", "-clip", "2", "--nobackdoor"], ["lr", "clip", "backdoor"]))
    ['backdoor', 'clip', 'lr']
    """
    names = [word.lstrip("-").partition("=")[0] for word in words if word.startswith("-")]
    return {name if name in known else name.removeprefix("no") for name in names}
