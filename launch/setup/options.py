"""Options of methods, from ``--options``."""

import ast
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jfu.unlearn import UNLEARNERS


def read_options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``--options`` as keyword arguments by method."""
    options: dict[str, dict[str, Any]] = {}
    for text in given:
        found = re.fullmatch(r"(\w+)\.(\w+)=(.+)", text)
        if not found:
            raise ValueError(
                f"--options={text} is not understood; write METHOD.OPTION=VALUE, such as "
                "pgd.lr=0.003"
            )
        method, name, value = found.groups()
        if name not in (known := options_of(method)):
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"--options={text}: {method} has no option {name}; {there}")
        value = {"true": "True", "false": "False"}.get(value, value)
        with contextlib.suppress(ValueError, SyntaxError):  # a word stays a text
            value = ast.literal_eval(value)
        like = (float, int) if isinstance(known[name], float | None) else (type(known[name]),)
        if type(value) not in like:
            raise ValueError(f"--options={text}: {name} must be of the type {like[0].__name__}")
        if not np.isfinite(value if isinstance(value, float) else 0):
            raise ValueError(f"--options={text}: {name} must be a finite number")
        options.setdefault(method, {})[name] = value
    return options


def options_of(method: str) -> Mapping[str, Any]:
    """The options that ``--options`` may set for a method, with their published values."""
    if method not in UNLEARNERS:
        raise ValueError(f"there is no method {method}; the methods are {', '.join(UNLEARNERS)}")
    return UNLEARNERS[method].options
