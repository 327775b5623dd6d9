"""Compiled programs, one for each function and shapes; a note names what is slow in them.

Compiled programs contain no data. ``--compilation_cache`` keeps programs, which depend on shapes
only. Some programs contain arrays, such as FUKD's with its images. They are compiled and not kept
(``holds_data``). The programs of an audit's shadows contain the numbers of the rows to forget, but
no examples.
"""

import contextlib
import math
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from jfu.conv import slow_convs
from launch.shell.say import say

LARGE = 512  # an array with this many values may be data; smaller ones are constants


class Programs:
    """Compiled functions, by function and shapes, so that all methods share a compiled round."""

    def __init__(self):
        self._compiled: dict[Any, Callable] = {}

    def __call__(
        self, fn: Callable, *args, donate: tuple[int, ...] = (), quick: bool = False
    ) -> Callable:
        """``fn`` compiled for these arguments; ``quick`` is for a small function that runs once."""
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
    """Whether a program contains arrays itself, such as a method's images.

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
def not_kept() -> Generator[None]:
    """A context in which no program is written into --compilation_cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    least = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, least)


def looked_at(traced: jax.stages.Traced) -> jax.stages.Traced:
    """The same program; a note names its convolutions that are slow on a CPU."""
    if jax.default_backend() == "cpu":
        for text in dict.fromkeys(slow_convs(traced.jaxpr)):
            say(f"note: {text}")
    return traced
