"""Aggregators: what a client sends, and what the server makes of it.

A sum-only aggregator is a pair of ends, ``encode`` at the client and ``decode`` at the
server, with a plain sum between them; that is all that secure aggregation can do, and its
type shows that single updates are never seen. ``stacked`` aggregators see each client's.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.sums import norm, wide
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

    Where nobody took part the update is zero. What is sent and its mean are in float32 at least,
    whatever the type of the parameters; integers are averaged as floats (``jfu.sums``).
    """

    def init(variables: Params) -> PyTree:
        del variables
        return ()

    def encode(update, weight):
        return jax.tree.map(lambda u: u * weight.astype(u.dtype), wide(update)), weight

    def decode(total, state, key):
        del key
        update, weight = total
        weight = jnp.where(weight > 0, weight, 1)
        return jax.tree.map(lambda u: u / weight.astype(u.dtype), update), state

    return Aggregator(init, encode, decode)


def clipped_mean(max_norm: float) -> Aggregator:
    """FedAvg's mean of updates no longer than ``max_norm``: ``u_k min(1, max_norm / |u_k|)``.

    A client that sends a long update moves the model no further than its share of ``max_norm``.
    Clients clip, so a sum is enough (McMahan, Ramage, Talwar, Zhang. Learning Differentially
    Private Recurrent Language Models. ICLR 2018, arXiv 1710.06963).

    Args:
      max_norm: Euclidean length of a whole update, above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"updates were to be clipped to the length {max_norm}; it must be above 0")
    mean = weighted_mean()

    def encode(update, weight):
        update = wide(update)  # rounded after it was cut, it could be longer
        length = norm(update)
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(length, 1e-30))
        return mean.encode(jax.tree.map(lambda u: u * scale.astype(u.dtype), update), weight)

    return mean._replace(encode=encode)


def coordinate_median() -> Aggregator:
    """The median of each coordinate over the clients that took part, whatever their sizes
    (Yin, Chen, Ramchandran, Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018, arXiv 1803.01498)."""

    def decode(stacked, state, key):
        del key
        update, present = wide(stacked[0]), stacked[1] > 0

        def median(u):
            return jnp.nan_to_num(jnp.nanmedian(jnp.where(_beside(present, u), u, jnp.nan), axis=0))

        return jax.tree.map(median, update), state

    return _seen(decode)


def trimmed_mean(share: float = 0.1) -> Aggregator:
    """The mean of each coordinate without its ``floor(share n)`` largest and smallest values,
    over the ``n`` clients that took part, whatever their sizes (Yin et al., ICML 2018, arXiv
    1803.01498).

    Args:
      share: in [0, 0.5).
    """
    if not 0 <= share < 0.5:
        raise ValueError(
            f"a share of {share} was to be trimmed at either end; it must lie in [0, 0.5)"
        )

    def decode(stacked, state, key):
        del key
        update, present = wide(stacked[0]), stacked[1] > 0
        count = present.sum()
        cut = jnp.floor(share * count).astype(jnp.int32)

        def mean(u):
            # Those who are absent come last, and ranks from count - cut on are not taken. What is
            # no number counts as the largest.
            shown = _beside(present, u) & ~jnp.isnan(u)
            ordered = jnp.sort(jnp.where(shown, u, jnp.inf), axis=0)
            rank = jnp.arange(len(u))
            taken = (rank >= cut) & (rank < count - cut)
            kept = jnp.where(_beside(taken, u), ordered, 0)
            return kept.sum(0) / jnp.maximum(count - 2 * cut, 1).astype(u.dtype)

        return jax.tree.map(mean, update), state

    return _seen(decode)


def krum(byzantine: int = 1, *, chosen: int = 1) -> Aggregator:
    """The update with the smallest sum of squared distances to its ``n - byzantine - 2`` nearest
    among the ``n`` clients that took part, whatever their sizes (Blanchard, El Mhamdi, Guerraoui,
    Stainer. Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent. NeurIPS 2017).

    Args:
      byzantine: clients that may send anything; meant for ``n >= 2 byzantine + 3``.
      chosen: how many of the best are averaged; more than one is Multi-Krum.
    """
    if byzantine < 0 or chosen < 1:
        raise ValueError(
            f"krum was given byzantine={byzantine} and chosen={chosen}; they must be at least 0 "
            "and 1"
        )

    def decode(stacked, state, key):
        del key
        update, present = wide(stacked[0]), stacked[1] > 0
        flat = jnp.concatenate([u.reshape(len(u), -1) for u in jax.tree.leaves(update)], axis=1)
        # One row after the other: all differences at once would be K times all updates.
        apart = jax.lax.map(lambda one: ((flat - one[None]) ** 2).sum(1), flat)
        itself = jnp.eye(len(flat), dtype=bool)
        shown = present[:, None] & present[None] & ~itself & jnp.isfinite(apart)
        near = jnp.sort(jnp.where(shown, apart, jnp.inf), axis=1)
        count = present.sum()
        # With fewer clients than the method is meant for, the nearest one still counts.
        many = jnp.clip(count - byzantine - 2, 1, jnp.maximum(count - 1, 1))
        within = jnp.arange(len(flat))[None] < many
        scores = jnp.where(within, near, 0).sum(1)
        order = jnp.argsort(jnp.where(present, jnp.minimum(scores, 3e38), jnp.inf))
        best = jnp.zeros(len(flat)).at[order[:chosen]].set(1.0) * present
        share = best / jnp.maximum(best.sum(), 1)

        def mean(u):
            weighed = jnp.where(_beside(share > 0, u), u * _beside(share, u).astype(u.dtype), 0)
            return weighed.sum(0)

        return jax.tree.map(mean, update), state

    return _seen(decode)


def _seen(decode: Callable) -> Aggregator:
    """An aggregator to which clients send what they have, and which sees each one's."""
    return Aggregator(lambda variables: (), lambda *sent: sent, decode, stacked=True)


def _beside(per_client: jax.Array, u: jax.Array) -> jax.Array:
    """``[K]`` shaped to multiply or choose among ``[K, ...]``."""
    return per_client.reshape(per_client.shape + (1,) * (u.ndim - 1))
