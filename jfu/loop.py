"""The loop over rounds."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from jfu.types import Key, PyTree, RoundInfo


class Done(NamedTuple):
    """A finished round. The next round may reuse the state's memory, so copy what you keep."""

    round: int  # counts from 1
    state: PyTree
    info: RoundInfo
    seconds: float  # wall clock of this round, result in hand


def rounds(
    step: Callable, state: PyTree, data: PyTree, key: Key, *, stop: int, start: int = 0
) -> Iterator[Done]:
    """Runs rounds ``start + 1 ... stop`` and yields each when it is done.

    Round ``r`` (from 0) uses ``fold_in(key, r)``. A run that continues from a stored state
    therefore draws the same numbers as one that was never interrupted.

    Args:
      step: ``(state, data, key) -> (state, info)``, jitted or compiled; a federation's
        ``round`` with its clients as data, or an unlearner's ``recover`` with a request.

    >>> count = lambda state, data, key: (state + data, None)
    >>> [done.state for done in rounds(count, 0, 2, jax.random.key(0), stop=3)]
    [2, 4, 6]
    """
    for number in range(start, stop):
        here = jax.random.fold_in(key, number)
        began = time.perf_counter()
        state, info = jax.block_until_ready(step(state, data, here))
        yield Done(number + 1, state, info, time.perf_counter() - began)
