"""Aggregators: what clients send, and how the server combines it.

A sum-only aggregator has ``encode`` at the client and ``decode`` at the server, with a plain sum
between them. Secure aggregation can do no more than that. The server then never sees single
updates. ``stacked`` aggregators see each client's update.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.sums import norm, wide
from jfu.types import Key, Params, PyTree, check_counts, check_numbers, is_whole

MOST = 1e12  # operations in a round to compare all pairs of clients: a quarter of an hour


class Aggregator(NamedTuple):
    init: Callable[[PyTree], PyTree]  # variables -> state
    encode: Callable[[PyTree, jax.Array], PyTree]  # (update, weight []) -> what is sent
    decode: Callable[[PyTree, PyTree, Key], tuple[PyTree, PyTree]]
    # (sum of what was sent, or [K, ...] if stacked; state; key) -> (update, state)
    stacked: bool = False


def weighted_mean() -> Aggregator:
    """FedAvg's mean, ``sum_k n_k u_k / sum_k n_k`` (McMahan et al., Communication-Efficient
    Learning of Deep Networks from Decentralized Data, AISTATS 2017, arXiv 1602.05629).

    The update is zero if no client took part. Messages and their mean are at least float32,
    whatever the type of the parameters. Integers are averaged as floats (``jfu.sums``).
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
    check_numbers("clipped_mean", "(0, inf]", max_norm=max_norm)
    mean = weighted_mean()

    def encode(update, weight):
        update = wide(update)  # rounding after clipping could make it longer
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
    """The mean of each coordinate without its ``floor(share n)`` largest and smallest values.

    It is over the ``n`` clients that took part, whatever their sizes (Yin et al., ICML 2018, arXiv
    1803.01498).

    Args:
      share: in [0, 0.5).
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"the share to trim at either end is {share}; it must lie in [0, 0.5)")

    def decode(stacked, state, key):
        del key
        update, present = wide(stacked[0]), stacked[1] > 0
        count = present.sum()
        cut = jnp.floor(share * count).astype(jnp.int32)

        def mean(u):
            # Absent clients come last, and ranks from count - cut on are not used. NaN counts as
            # the largest value.
            shown = _beside(present, u) & ~jnp.isnan(u)
            ordered = jnp.sort(jnp.where(shown, u, jnp.inf), axis=0)
            rank = jnp.arange(len(u))
            taken = (rank >= cut) & (rank < count - cut)
            kept = jnp.where(_beside(taken, u), ordered, 0)
            return kept.sum(0) / jnp.maximum(count - 2 * cut, 1).astype(u.dtype)

        return jax.tree.map(mean, update), state

    return _seen(decode)


def krum(byzantine: int = 1, *, chosen: int = 1, most: float = MOST) -> Aggregator:
    """The update with the smallest sum of squared distances to its nearest neighbours.

    The sum is over the ``n - byzantine - 2`` nearest of the ``n`` clients that took part, whatever
    their sizes (Blanchard, El Mhamdi, Guerraoui, Stainer. Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent. NeurIPS 2017).

    Args:
      byzantine: clients that may send anything; the method assumes ``n >= 2 byzantine + 3``.
      chosen: how many of the best are averaged; more than one is Multi-Krum.
      most: the most operations in a round to compare all clients; see ``check_pairs``.

    Raises:
      ValueError: a value is out of range. When a round is traced: there are too many clients to
        compare.
    """
    check_counts("krum", 0, byzantine=byzantine)
    check_counts("krum", 1, chosen=chosen)
    check_numbers("krum", "(0, inf]", most=most)

    def decode(stacked, state, key):
        del key
        update, present = wide(stacked[0]), stacked[1] > 0
        near = jnp.sort(_apart(update, present, most), axis=1)
        count, places = present.sum(), len(near)
        # With fewer clients than the method assumes, the nearest one still counts.
        many = jnp.clip(count - byzantine - 2, 1, jnp.maximum(count - 1, 1))
        within = jnp.arange(places)[None] < many
        scores = jnp.where(within, near, 0).sum(1)
        order = jnp.argsort(jnp.where(present, jnp.minimum(scores, 3e38), jnp.inf))
        best = jnp.zeros(places).at[order[:chosen]].set(1.0) * present
        share = best / jnp.maximum(best.sum(), 1)
        return _combined(update, share), state

    return _seen(decode)


def geometric_median(*, iterations: int = 16, smoothing: float = 1e-6) -> Aggregator:
    """The point with the smallest sum of distances to the updates of the clients that took part.

        v <- sum_k b_k u_k / sum_k b_k,   b_k = 1 / max(smoothing, |v - u_k|)

    These are Weiszfeld's steps, smoothed as in RFA (Pillutla, Kakade, Harchaoui. Robust Aggregation
    for Federated Learning. IEEE Transactions on Signal Processing 70, 2022, arXiv 1912.13445). RFA
    weights clients by their examples and starts at their mean. Here all clients have equal weight,
    as in the other aggregators that see single updates. The start is the coordinate median.

    Args:
      iterations: steps, at least 1.
      smoothing: the smallest divisor, in units of the updates, above 0.
    """
    check_counts("geometric_median", 1, iterations=iterations)
    check_numbers("geometric_median", "(0, inf)", smoothing=smoothing)
    start = coordinate_median()

    def decode(stacked, state, key):
        update, present = wide(stacked[0]), stacked[1] > 0
        first, state = start.decode(stacked, state, key)

        def step(_, v):
            away = jax.tree.map(lambda u, v: _beside_zero(present, u - v[None]), update, v)
            length = jnp.sqrt(sum((a**2).reshape(len(a), -1).sum(1) for a in jax.tree.leaves(away)))
            near = jnp.where(present & jnp.isfinite(length), 1 / jnp.maximum(length, smoothing), 0)
            return _combined(update, near / jnp.maximum(near.sum(), 1e-30))

        return jax.lax.fori_loop(0, iterations, step, wide(first)), state

    return _seen(decode)


def mixed(inner: Aggregator, byzantine: int = 1, *, most: float = MOST) -> Aggregator:
    """``inner`` after nearest neighbour mixing of the updates.

    Each update is first replaced by the mean of its ``n - byzantine`` nearest updates, itself
    included, of the ``n`` clients that took part. (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot,
    Stephan. Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity. AISTATS 2023,
    arXiv 2302.01772.)

    Args:
      inner: an aggregator that sees single updates, such as ``trimmed_mean(0.3)``.
      byzantine: clients that may send anything, fewer than half.
      most: the most operations in a round to compare all clients; see ``check_pairs``.
    """
    if not inner.stacked or not is_whole(byzantine, 0):
        raise ValueError(
            f"mixed was given byzantine={byzantine}; it must be at least 0, and the inner "
            "aggregator must see single updates, as trimmed_mean does"
        )
    check_numbers("mixed", "(0, inf]", most=most)

    def decode(stacked, state, key):
        update, weight = wide(stacked[0]), stacked[1]
        present = weight > 0
        apart = _apart(update, present, most)
        apart = jnp.where(jnp.eye(len(apart), dtype=bool) & present[:, None], 0, apart)
        rank = jnp.argsort(jnp.argsort(apart, axis=1), axis=1)
        near = (rank < jnp.maximum(present.sum() - byzantine, 1)) & jnp.isfinite(apart)
        share = near / jnp.maximum(near.sum(1, keepdims=True), 1)
        blend = lambda u: jnp.tensordot(share.astype(u.dtype), _beside_zero(present, u), 1)
        return inner.decode((jax.tree.map(blend, update), weight), state, key)

    return _seen(decode)._replace(init=inner.init)


def check_pairs(clients: int, parameters: int, most: float = MOST) -> None:
    """Raises an error if comparing every pair of clients would take too long.

    A round needs ``clients^2 parameters`` operations. A core does about 10^9 in a second.

    >>> check_pairs(100, 1_000_000)
    """
    if (operations := clients**2 * parameters) > most:
        raise ValueError(
            f"comparing each of {clients:,} clients with every other takes {operations:.1e} "
            f"operations a round, about {operations / 1e9 / 60:,.0f} minutes on a core, above the "
            f"limit of {most:.0e}. Sample fewer clients, or use an aggregator that compares none, "
            "such as the coordinate median"
        )


def _apart(update: PyTree, present: jax.Array, most: float) -> jax.Array:
    """Squared distances ``[K, K]`` between clients that took part; infinity elsewhere."""
    flat = jnp.concatenate([u.reshape(len(u), -1) for u in jax.tree.leaves(update)], axis=1)
    clients, parameters = flat.shape
    check_pairs(clients, parameters, most)
    # One row after the other, since all differences at once would be K times all updates.
    apart = jax.lax.map(lambda one: ((flat - one[None]) ** 2).sum(1), flat)
    shown = present[:, None] & present[None] & ~jnp.eye(len(flat), dtype=bool)
    return jnp.where(shown & jnp.isfinite(apart), apart, jnp.inf)


def _combined(update: PyTree, share: jax.Array) -> PyTree:
    """``sum_k share_k u_k``, over clients with a share above zero."""

    def one(u):
        weighed = _beside_zero(share > 0, u) * _beside(share, u).astype(u.dtype)
        return weighed.sum(0)

    return jax.tree.map(one, update)


def _beside_zero(who: jax.Array, u: jax.Array) -> jax.Array:
    """``u [K, ...]`` with zeros for all others, chosen and not multiplied: 0 times NaN is NaN."""
    return jnp.where(_beside(who, u), u, 0)


def _seen(decode: Callable) -> Aggregator:
    """An aggregator that sees each client's update as it is."""
    return Aggregator(lambda variables: (), lambda *sent: sent, decode, stacked=True)


def _beside(per_client: jax.Array, u: jax.Array) -> jax.Array:
    """``[K]`` shaped to multiply or choose among ``[K, ...]``."""
    return per_client.reshape(per_client.shape + (1,) * (u.ndim - 1))
