"""Negation by name: which arrays a selector picks, and their negatives."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from jfu.types import Selector

Choice: TypeAlias = Selector | Sequence[int] | None
Arrays: TypeAlias = Mapping[str, np.ndarray]


def chosen(arrays: Arrays, select: Choice) -> list[str]:
    """The names of the arrays that are negated, in the model's order.

    Args:
      arrays: name -> array. The names are those of the model: ``conv1.weight`` in PyTorch,
        ``stem/kernel`` in Flax.
      select: a selector such as ``jfu.by_path(r"conv1\\..*")``, or positions in the model's order
        for models without names, or None for no array (a control).

    Raises:
      ValueError: nothing is picked, a position does not exist, or a picked array has no sign.

    >>> model = {"conv1.weight": np.ones(2), "conv1.bias": np.ones(1), "fc.weight": np.ones(3)}
    >>> from jfu.select import by_path
    >>> chosen(model, by_path(r"conv1\\..*")), chosen(model, [0]), chosen(model, None)
    (['conv1.weight', 'conv1.bias'], ['conv1.weight'], [])
    """
    names = list(arrays)
    if select is None:
        return []
    if callable(select):
        picked = [name for name in names if select(name, arrays[name])]
    else:
        if beyond := [i for i in select if not -len(names) <= i < len(names)]:
            raise ValueError(
                f"position {beyond[0]} is beyond the model's {len(names)} arrays; positions count "
                "from 0"
            )
        picked = [names[i] for i in sorted({i % len(names) for i in select})]
    if not picked:
        raise ValueError(
            "the selector picks no array; patterns must match a whole name, and the names are "
            f"{', '.join(names)}"
        )
    if bad := [name for name in picked if np.asarray(arrays[name]).dtype.kind in "bu"]:
        raise ValueError(f"{bad[0]} is {arrays[bad[0]].dtype}, which has no sign; do not pick it")
    return picked


def negated(arrays: Arrays, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The model with these arrays times -1. Doing so twice restores the same bits.

    Khalil, Brunswic, Lamghari, Li, Beitollahi, Chen. NoT: Federated Unlearning via Weight
    Negation. CVPR 2025, arXiv 2503.05657.

    >>> negated({"stem": np.array([2.0, 0.0]), "head": np.array([3.0])}, ["stem"])
    {'stem': array([-2., -0.]), 'head': array([3.])}
    """
    return {name: -np.asarray(a) if name in names else a for name, a in arrays.items()}
