"""Compiled programs, kept by what they were made from; what is slow in them is said.

Compiled programs hold no data. ``--compilation_cache`` keeps what XLA made of shapes; a program
that arrays were written into, as FUKD's images are, is compiled and not kept (``holds_data``). The
programs of an audit's shadows hold the numbers of the rows that were to be forgotten, no examples.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jfu.conv import slow_convs
from launch.shell.say import say

LARGE = 512  # values of an array that may be data; fewer are constants of a formula


class Programs:
    """Compiled functions by what they were made from: rounds are compiled once for all cells."""

    def __init__(self):
        self._compiled: dict[Any, Callable] = {}

    def __call__(
        self, fn: Callable, *args, donate: tuple[int, ...] = (), quick: bool = False
    ) -> Callable:
        """``fn`` compiled for these arguments; ``quick`` where it runs once and is small."""
        shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), args)
        signature = (fn, tuple(jax.tree.leaves(shapes)), jax.tree.structure(args))
        if signature not in self._compiled:
            mesh = jax.sharding.get_mesh()
            sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            options = {} if mesh.empty else dict(out_shardings=sharding)
            if quick:
                options["compiler_options"] = {"xla_backend_optimization_level": 0}
            traced = looked_at(jax.jit(fn, donate_argnums=donate, **options).trace(*args))
            with not_kept() if holds_data(traced.jaxpr) else contextlib.nullcontext():
                self._compiled[signature] = traced.lower().compile()
        return self._compiled[signature]


def holds_data(closed: Any) -> bool:
    """Whether a program holds arrays itself, as one that a method's images were written into.

    >>> images = np.zeros((64, 8, 8))
    >>> holds_data(jax.make_jaxpr(lambda x: x * images.sum())(1.0))
    False
    >>> holds_data(jax.make_jaxpr(jax.jit(lambda x: x * jnp.asarray(images).sum()))(1.0))
    True
    """
    inside = [closed]
    while inside:
        one = inside.pop()
        if any(np.size(value) >= LARGE for value in getattr(one, "consts", ())):
            return True
        for eqn in one.eqns:
            parts = [part for value in eqn.params.values() for part in (value, *_items(value))]
            inside += [part for part in parts if hasattr(part, "eqns")]
    return False


def _items(value: Any) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else ()


@contextlib.contextmanager
def not_kept() -> Iterator[None]:
    """While this lasts no program is written into --compilation_cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    least = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, least)


def looked_at(traced: jax.stages.Traced) -> jax.stages.Traced:
    """The same. Convolutions in it that a CPU would run slowly are named in a note."""
    if jax.default_backend() == "cpu":
        for text in dict.fromkeys(slow_convs(traced.jaxpr)):
            say(f"note: {text}")
    return traced
