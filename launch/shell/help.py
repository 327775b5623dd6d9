"""The text of ``--help``: flags in groups, each under a heading, in the order of the source."""

import sys
from collections.abc import Iterable, Iterator

from absl import flags

WAYS = ("--help", "-help", "--helpshort", "-helpshort", "-?")


def wanted(words: Iterable[str]) -> bool:
    """Whether a command line requests help.

    >>> wanted(["--rounds=3", "--help"]), wanted(["--rounds=3"])
    (True, False)
    """
    return any(word in WAYS for word in words)


def text(known: flags.FlagValues, script: str, about: str) -> str:
    """The purpose of a script, then its own flags, then those of ``launch.shell.flags``.

    Args:
      script: the name by which absl knows the script's own flags, ``sys.argv[0]``.
      about: the script's docstring.
    """
    parts = [about.strip()]
    for heading, group in groups(known, script):
        parts.append("\n\n".join([heading, *(one(flag) for flag in group)]))
    return "\n\n\n".join([*parts, "--helpfull lists the flags of libraries too."])


def groups(known: flags.FlagValues, script: str) -> Iterator[tuple[str, list[flags.Flag]]]:
    """Headings and flags in the order of their definitions; the script's own come first."""
    for module in sorted(known.flags_by_module_dict(), key=lambda module: module != script):
        if module == script or module.startswith("launch."):
            about = "This script" if module == script else sys.modules[module].__doc__ or module
            yield about.strip().split("\n")[0].rstrip("."), known.get_flags_for_module(module)


def one(flag: flags.Flag) -> str:
    """A flag with its values, its meaning and its default.

    >>> known = flags.FlagValues()
    >>> _ = flags.DEFINE_enum("norm", "none", ["none", "group"], "Of layers.", known)
    >>> _ = flags.DEFINE_boolean("debug", False, "Show more.", known)
    >>> print(one(known["norm"]))
      --norm=none|group
          Of layers. (default: none)
    >>> print(one(known["debug"]))
      --[no]debug
          Show more. (default: false)
    """
    values = "|".join(getattr(flag.parser, "enum_values", ()))
    does = (flag.help or "").removeprefix(f"<{values}>: ")
    default = (flag.default_as_str or "").strip("'")
    more = [f"default: {default}"] * bool(default) + [flag.parser.syntactic_help or ""]
    notes = "; ".join(filter(None, more))
    head = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}"
    body = f"{does} ({notes})" if notes else does
    return f"{head}={values}\n" * bool(values) + f"{head}\n" * (not values) + _indented(body)


def _indented(words: str) -> str:
    return flags.text_wrap(words, indent=" " * 6)
