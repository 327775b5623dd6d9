"""Server optimizers of Adaptive Federated Optimization, as published, in optax's form.

    m <- b1 m + (1 - b1) D
    v <- b2 v + (1 - b2) D^2                        FedAdam
    v <- v - (1 - b2) D^2 sign(v - D^2)             FedYogi
    w <- w + lr m / (sqrt(v) + tau)                 m = 0 and v = tau^2 at the start

with D the mean update. Unlike ``optax.adam`` and ``optax.yogi`` they have no bias correction. If
all updates are equal, Adam's first step is as long as all others, and FedAdam's is shorter. The
smaller the updates are compared with ``tau``, the shorter it is.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan. Adaptive Federated Optimization.
ICLR 2021, arXiv 2003.00295, algorithm 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jfu.types import PyTree, check_numbers


class Moments(NamedTuple):
    """The server's moments of mean updates."""

    first: PyTree  # m
    second: PyTree  # v


def fedadam(
    lr: float, *, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """FedAdam, for ``jfu.fedavg(..., server=fedadam(0.1))``.

    Args:
      lr: the server's learning rate, at least 0.
      b1, b2: decay of the moments each round, in [0, 1).
      tau: keeps steps finite, above 0.

    Raises:
      ValueError: a number is out of range.

    >>> server = fedadam(1.0, tau=1.0)
    >>> step, _ = server.update(jnp.float32(-1), server.init(jnp.float32(0)))
    >>> print(f"{step:.3f}")  # 0.1 / (sqrt(0.99 + 0.01) + 1)
    0.050
    """
    second = lambda v, square: b2 * v + (1 - b2) * square
    return _adaptive("fedadam", lr, b1, b2, tau, second)


def fedyogi(
    lr: float, *, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """FedYogi, whose second moment moves by no more than the square of the update."""
    second = lambda v, square: v - (1 - b2) * square * jnp.sign(v - square)
    return _adaptive("fedyogi", lr, b1, b2, tau, second)


def _adaptive(
    name: str, lr: float, b1: float, b2: float, tau: float, second: Callable
) -> optax.GradientTransformation:
    check_numbers(name, "[0, inf)", lr=lr)
    check_numbers(name, "[0, 1)", b1=b1, b2=b2)
    check_numbers(name, "(0, inf)", tau=tau)

    def init(params: PyTree) -> PyTree:
        return Moments(
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(lambda p: jnp.full_like(p, tau**2), params),
        )

    def update(updates, state, params=None):
        del params
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, updates)
        v = jax.tree.map(lambda v, g: second(v, g**2), state.second, updates)
        step = jax.tree.map(lambda m, v: -lr * m / (jnp.sqrt(v) + tau), m, v)
        return step, Moments(m, v)

    return optax.GradientTransformation(init, update)
