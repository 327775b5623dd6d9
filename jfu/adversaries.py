"""Clients that mean harm: attacks on a round, to measure what an aggregator withstands.

An attack is a pure function ``(updates, weights, bad, key) -> (updates, weights)``. ``updates [K,
...]`` and ``weights [K]`` are what all clients would have sent, and bool ``bad [K]`` says who is
bad. The bad clients know everything, which is the worst case, and may act together. The others'
rows keep every bit. ``besieged`` puts an attack between the clients and an aggregator.

Which of these are likely in practice: Shejwalkar, Houmansadr, Kairouz, Ramage. Back to the Drawing
Board: A Critical Evaluation of Poisoning Attacks on Production Federated Learning. IEEE S&P 2022,
arXiv 2108.10241. They consider shares of bad clients as large as these to be the exception.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jfu.aggregate import Aggregator
from jfu.faults import judged
from jfu.sums import wide
from jfu.types import ClientData, Key, LocalInfo, PyTree, check_numbers

Attack = Callable[[PyTree, jax.Array, jax.Array, Key], tuple[PyTree, jax.Array]]


def sign_flip(scale: float = 1.0) -> Attack:
    """``-scale u_k``: each bad client sends the opposite of its own update, or more of it.

    >>> sent, _ = sign_flip(2.0)(jnp.array([3.0, 4.0]), jnp.ones(2), jnp.array([False, True]), None)
    >>> sent.tolist()
    [3.0, -8.0]
    """
    check_numbers("sign_flip", "(-inf, inf)", scale=scale)

    def attack(updates, weights, bad, key):
        del key
        return _in_place(updates, bad, lambda u: -scale * u), weights

    return attack


def gaussian_noise(scale: float = 1.0) -> Attack:
    """Gaussian noise in place of an update.

    Its standard deviation is ``scale`` times the root mean square of the client's own update (as
    Blanchard et al., NeurIPS 2017, draw it).
    """
    check_numbers("gaussian_noise", "[0, inf)", scale=scale)

    def attack(updates, weights, bad, key):
        leaves, treedef = jax.tree.flatten(updates)
        square = sum((u**2).reshape(len(u), -1).sum(1) for u in leaves)
        size = jnp.sqrt(square / sum(u[0].size for u in leaves))
        keys = jax.random.split(key, len(leaves))
        noise = [
            scale * _beside(size, u) * jax.random.normal(k, u.shape, u.dtype)
            for k, u in zip(keys, leaves, strict=True)
        ]
        drawn = treedef.unflatten(noise)
        return jax.tree.map(partial(_instead, bad), updates, drawn), weights

    return attack


def inner_product(epsilon: float = 0.5) -> Attack:
    """``-epsilon mean(good)``: all bad clients send a little of the opposite of the others' mean.

    It is close enough to the others to be taken for one of them (Xie, Koyejo, Gupta. Fall of
    Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation. UAI 2019, arXiv
    1903.03936).
    """
    check_numbers("inner_product", "(-inf, inf)", epsilon=epsilon)

    def attack(updates, weights, bad, key):
        del key
        mean, _ = _of_good(updates, weights, bad)
        harm = jax.tree.map(lambda m, u: jnp.broadcast_to(-epsilon * m, u.shape), mean, updates)
        return jax.tree.map(partial(_instead, bad), updates, harm), weights

    return attack


def little_is_enough(z: float | jax.Array | None = None) -> Attack:
    """``mean(good) - z std(good)``, coordinate by coordinate: within what the good ones differ by,
    and always to the same side (Baruch, Baruch, Goldberg. A Little Is Enough: Circumventing
    Defenses For Distributed Learning. NeurIPS 2019, arXiv 1902.06156).

    Args:
      z: how many deviations; the paper's ``deviations`` if not given.
    """
    check_numbers("little_is_enough", "(-inf, inf)", z=z)

    def attack(updates, weights, bad, key):
        del key
        many = deviations(weights, bad) if z is None else z
        mean, spread = _of_good(updates, weights, bad)
        away = jax.tree.map(lambda m, d: m - many * d, mean, spread)
        harm = jax.tree.map(lambda a, u: jnp.broadcast_to(a, u.shape), away, updates)
        return jax.tree.map(partial(_instead, bad), updates, harm), weights

    return attack


def deviations(weights: jax.Array, bad: jax.Array) -> jax.Array:
    """``Phi^-1((n - m - s) / (n - m))``, at least 0, with ``s = floor(n / 2 + 1) - m``.

    Of n clients that took part, m are bad. s good ones are expected further away than this. The bad
    clients and these s together are a majority on one side.

    >>> print(f"{deviations(jnp.ones(50), jnp.arange(50) < 12):.3f}")  # Phi^-1(24 / 38)
    0.336
    """
    there = weights > 0
    n, m = there.sum(), (bad & there).sum()
    s = jnp.floor(n / 2 + 1) - m
    share = (n - m - s) / jnp.maximum(n - m, 1)
    return jnp.maximum(ndtri(jnp.clip(share, 0.5, 1 - 1e-6)), 0)


def heavy(factor: float = 1e6, scale: float = 1.0) -> Attack:
    """``sign_flip(scale)`` by clients that claim ``factor`` times their examples."""
    check_numbers("heavy", "[0, inf]", factor=factor)
    flip = sign_flip(scale)

    def attack(updates, weights, bad, key):
        updates, weights = flip(updates, weights, bad, key)
        return updates, jnp.where(bad, factor * weights, weights)

    return attack


def not_a_number() -> Attack:
    """NaN in every number of the update."""

    def attack(updates, weights, bad, key):
        del key
        return _in_place(updates, bad, lambda u: jnp.full_like(u, jnp.nan)), weights

    return attack


def nothing() -> Attack:
    """No attack: bad clients send what the others would."""
    return lambda updates, weights, bad, key: (updates, weights)


def flip_labels(clients: ClientData, bad: jax.Array, classes: int) -> ClientData:
    """The clients, of whom the bad ones train on labels ``classes - 1 - y`` (Tolpegin, Truex,
    Gursoy, Liu. Data Poisoning Attacks Against Federated Learning Systems. ESORICS 2020, arXiv
    2007.08432 flip single classes; here all).

    An example that a good client also has keeps its label.
    """
    of = lambda who: (
        jnp.zeros(clients.y.shape, bool)
        .at[clients.index]
        .max(clients.mask & who[:, None], mode="drop")
    )
    flipped = of(bad) & ~of(~bad)
    return clients._replace(y=jnp.where(flipped, classes - 1 - clients.y, clients.y))


def besieged(
    aggregator: Aggregator, attack: Attack, bad: jax.Array, *, max_update_norm: float | None = None
) -> Aggregator:
    """The same aggregator, to which these clients send what the attack says.

    What they send is checked as in a round (``jfu.faults.judged``). What is not finite, or longer
    than ``max_update_norm``, is left out, and no client weighs more than its examples. The counts
    in a round's metrics are those before the attack.

    Args:
      bad: bool ``[K]``, in the order of the federation's clients.

    >>> from jfu.aggregate import weighted_mean
    >>> three = jnp.ones(3), jnp.ones(3)
    >>> siege = besieged(weighted_mean(), sign_flip(10.0), jnp.array([False, False, True]))
    >>> update, _ = siege.decode(three, (), jax.random.key(0))
    >>> float(update)  # (1 + 1 - 10) / 3
    -2.6666667461395264
    """

    def decode(stacked, state, key):
        attack_key, key = jax.random.split(key)
        updates, weights = wide(stacked[0]), stacked[1]
        updates, claimed = attack(updates, weights, bad & (weights > 0), attack_key)

        def taken(update, claim, weight):
            none = jnp.zeros(())
            info = LocalInfo(claim, none, none, none)
            update, info = judged(update, info, weight, max_update_norm)
            return aggregator.encode(update, info.weight)

        sent = jax.vmap(taken)(updates, claimed, weights)
        if not aggregator.stacked:
            sent = jax.tree.map(lambda a: a.sum(0), sent)
        return aggregator.decode(sent, state, key)

    seen = lambda *sent: sent
    return Aggregator(aggregator.init, seen, decode, stacked=True)


def _in_place(updates: PyTree, bad: jax.Array, harm: Callable) -> PyTree:
    return jax.tree.map(lambda u: _instead(bad, u, harm(u)), updates)


def _instead(bad: jax.Array, u: jax.Array, harm: jax.Array) -> jax.Array:
    return jnp.where(_beside(bad, u), harm, u)


def _of_good(updates: PyTree, weights: jax.Array, bad: jax.Array) -> tuple[PyTree, PyTree]:
    """Mean and standard deviation of each coordinate over the good clients that took part."""
    good = (weights > 0) & ~bad
    count = jnp.maximum(good.sum(), 1)
    over = lambda u: jnp.where(_beside(good, u), u, 0).sum(0) / count
    mean = jax.tree.map(over, updates)
    spread = jax.tree.map(lambda u, m: jnp.sqrt(over((u - m[None]) ** 2)), updates, mean)
    return mean, spread


def _beside(per_client: jax.Array, u: jax.Array) -> jax.Array:
    return per_client.reshape(per_client.shape + (1,) * (u.ndim - 1))
