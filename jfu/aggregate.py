"""Aggregators: what a client sends, and what the server makes of it.

A sum-only aggregator is a pair of ends, ``encode`` at the client and ``decode`` at the
server, with a plain sum between them; that is all that secure aggregation can do, and its
type shows that single updates are never seen. ``stacked`` aggregators see each client's.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.types import Key, Params, PyTree


class Aggregator(NamedTuple):
    init: Callable[[PyTree], PyTree]  # variables -> state
    encode: Callable[[PyTree, jax.Array], PyTree]  # (update, weight []) -> what is sent
    decode: Callable[[PyTree, PyTree, Key], tuple[PyTree, PyTree]]
    # (sum of what was sent, or [K, ...] if stacked; state; key) -> (update, state)
    stacked: bool = False


def weighted_mean() -> Aggregator:
    """FedAvg's mean, ``sum_k n_k u_k / sum_k n_k`` (McMahan et al., Communication-Efficient
    Learning of Deep Networks from Decentralized Data, AISTATS 2017, arXiv 1602.05629).

    Where nobody took part the update is zero.
    """

    def init(variables: Params) -> PyTree:
        del variables
        return ()

    def encode(update, weight):
        return jax.tree.map(lambda u: u * weight.astype(u.dtype), update), weight

    def decode(total, state, key):
        del key
        update, weight = total
        weight = jnp.where(weight > 0, weight, 1)
        return jax.tree.map(lambda u: u / weight.astype(u.dtype), update), state

    return Aggregator(init, encode, decode)


def coordinate_median() -> Aggregator:
    """The median of each coordinate over the clients that took part, whatever their sizes
    (Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, arXiv 1803.01498)."""

    def init(variables: Params) -> PyTree:
        del variables
        return ()

    def encode(update, weight):
        return update, weight

    def decode(stacked, state, key):
        del key
        update, weight = stacked
        present = weight > 0

        def median(u):
            shown = present.reshape(present.shape + (1,) * (u.ndim - 1))
            return jnp.nan_to_num(jnp.nanmedian(jnp.where(shown, u, jnp.nan), axis=0))

        return jax.tree.map(median, update), state

    return Aggregator(init, encode, decode, stacked=True)
