"""Differential privacy of whole clients: clipped updates, noise at the server, an accountant.

    update = (sum_k u_k min(1, clip / |u_k|) + N(0, (noise clip)^2)) / cohort

One client more or less moves the sum by at most ``clip``, whatever its data and its messages. So
each round is a Gaussian mechanism with the multiplier ``noise``. Clients count alike, whatever
their sizes. The divisor is a constant, which does not depend on who took part.

This protects the models against everybody who does not know the key of noise and samples. A key
that others know or can guess hides nothing. ``jax.random.key(0)`` is such a key, and so is one from
any seed that is written down. ``secret_key`` makes one that nobody can guess. Sums are float32, so
a client moves them by ``clip`` up to rounding. Epsilon does not cover anything else that is
published, such as accuracies on clients' examples, or which clients were left out.

McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models. ICLR
2018, arXiv 1710.06963.
"""

import functools
import math
import secrets
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jfu import chacha
from jfu.aggregate import Aggregator
from jfu.types import Key, PyTree, Variables, is_whole


def secret_key(secret: bytes | None = None) -> Key:
    """A key that nobody can guess, for the rounds of one private run: 256 bits, for a cipher.

    Anyone who has it can remove the noise. Store it apart from the models, and no longer than the
    run. Two runs with one key draw the same noise, and the difference of their models would reveal
    what it hides.

    Args:
      secret: 32 bytes, such as ``secrets.token_bytes(32)``, for a run that may be stopped and
        continued. If not given, new ones from the system, which nobody ever sees.

    >>> one, other = secret_key(), secret_key()
    >>> bool((jax.random.key_data(one) == jax.random.key_data(other)).all())
    False
    """
    return chacha.key(secrets.token_bytes(chacha.BYTES) if secret is None else secret)


def private_mean(clip: float, noise: float, cohort: float) -> Aggregator:
    """The noisy mean of clipped updates; the server sees only their sum.

    The rounds need a key from ``secret_key``: ``jfu.rounds(step, state, clients,
    jfu.privacy.secret_key(), stop=80)``. Sums and noise are at least float32, whatever the type of
    the parameters. A client that sends NaN or infinity counts as one that sends zeros, so it cannot
    stop a round. Every client has weight 1, whatever it claims.

    Args:
      clip: Euclidean length that a whole update is clipped to, above 0.
      noise: standard deviation of the noise on each number of the sum, in units of ``clip``.
      cohort: clients expected in a round, above 0: the divisor.

    Raises:
      ValueError: a number is not finite, or is too small.

    >>> aggregator = private_mean(1.0, 0.0, 2)
    >>> sent = aggregator.encode({"a": jnp.array([3.0, 4.0])}, jnp.float32(17))
    >>> aggregator.decode(sent, (), secret_key())[0]["a"]  # (3, 4) / 5 / 2
    Array([0.3, 0.4], dtype=float32)
    """
    if not (0 < clip < math.inf and 0 <= noise < math.inf and 0 < cohort < math.inf):
        raise ValueError(
            f"private_mean was given clip={clip}, noise={noise}, cohort={cohort}; noise must be at "
            "least 0, clip and cohort above 0, and all finite"
        )

    def init(variables: Variables) -> PyTree:
        del variables
        return ()

    def encode(update, weight):
        # A weight of one: sizes are data too. Zero where there is nothing, or nothing usable.
        return clipped(update, clip, weight > 0)

    def decode(total, state, key):
        flat, unflatten = ravel_pytree(total)
        drawn = gaussian(key, flat.size, flat.dtype)
        return unflatten((flat + noise * clip * drawn) / cohort), state

    return Aggregator(init, encode, decode)


def clipped(update: PyTree, clip: float, there: jax.Array) -> PyTree:
    """``u min(1, clip / |u|)``, zeros where a client is not there or ``u`` is not finite.

    Numbers are divided by the largest first, so that no square overflows.

    >>> clipped({"a": jnp.array([3e30, 4e30])}, 1.0, jnp.array(True))["a"]
    Array([0.6, 0.8], dtype=float32)
    >>> clipped({"a": jnp.array([jnp.nan, 4.0])}, 1.0, jnp.array(True))["a"]
    Array([0., 0.], dtype=float32)
    """
    update = jax.tree.map(lambda u: u.astype(jnp.promote_types(u.dtype, jnp.float32)), update)
    largest = functools.reduce(
        jnp.maximum, [abs(u).max(initial=0) for u in jax.tree.leaves(update)]
    )
    there = there & jnp.isfinite(largest)
    unit = jnp.where(there & (largest > 0), largest, 1)
    parts = jax.tree.map(lambda u: jnp.where(there, u / unit, 0), update)
    length = jnp.sqrt(sum((part**2).sum() for part in jax.tree.leaves(parts)))
    scale = jnp.minimum(unit, clip / jnp.maximum(length, 1e-30))
    return jax.tree.map(lambda part: part * scale.astype(part.dtype), parts)


@functools.partial(jax.jit, static_argnums=(1, 2))
def gaussian(key: Key, size: int, dtype: Any) -> jax.Array:
    """``size`` draws of N(0, 1), each half the sum of four.

    A single float32 draw has 2^23 values. Whoever guesses a sum could therefore check whether a
    published number is that sum plus one of them. Sums of four have too many values (Holohan and
    Braghin. Secure Random Sampling in Differential Privacy. ESORICS 2021, arXiv 2107.10138; n = 2
    in its section 5.1).

    >>> gaussian(jax.random.key(0), 3, jnp.float32).shape
    (3,)
    """

    def add(i, total):
        return total + jax.random.normal(jax.random.fold_in(key, i), (size,), dtype)

    return jax.lax.fori_loop(0, 4, add, jnp.zeros(size, dtype)) / 2


def spent(
    noise: float,
    rounds: int,
    delta: float,
    *,
    present: float = 1.0,
    sample: tuple[int, int] | None = None,
) -> float:
    """Epsilon of ``rounds`` rounds at ``delta``, by the accountant of Google's dp-accounting.

    Renyi differential privacy of the Gaussian mechanism (Mironov, 2017, arXiv 1702.07476), with
    amplification where chance decides who takes part. Neighbouring federations differ by one
    client more or less; with ``sample`` by another client in the place of one.

    Args:
      noise: the multiplier of ``private_mean``.
      delta: in (0, 1), usually below one over the number of clients.
      present: probability with which each client takes part, independently of others.
      sample: ``(clients, drawn)`` if each round draws ``drawn`` of the clients with examples,
        without replacement. If fewer have examples, all of them take part.

    Returns:
      ``inf`` without noise, or with too little for any number.

    Raises:
      ValueError: a number is out of range.
      ImportError: dp-accounting is not installed.
    """
    clients, drawn = sample or (None, None)
    return composed(noise, [(rounds, clients)], delta, present=present, drawn=drawn)


def composed(
    noise: float,
    phases: Sequence[tuple[int, int | None]],
    delta: float,
    *,
    present: float = 1.0,
    drawn: int | None = None,
) -> float:
    """Epsilon of several phases one after another, such as training and what follows a request.

    The fewer clients there are to draw from, the more a round reveals about each.

    Args:
      noise, delta, present: as for ``spent``.
      phases: ``(rounds, clients)`` each: the rounds, and the clients that then had examples.
      drawn: clients drawn each round without replacement, out of those; all if not given, and
        then their number does not matter.

    >>> composed(0.0, [(80, 10), (40, 9)], 1e-3, drawn=5)  # without noise
    inf
    """
    if not 0 <= noise < math.inf:
        raise ValueError(
            f"epsilon was asked for with noise {noise}; it must be a finite number of at least 0"
        )
    rounds = [many for many, _ in phases]
    whole = all(is_whole(many, 0) for many in rounds)
    if not 0 < delta < 1 or not whole or not 0 < present <= 1:
        raise ValueError(
            f"epsilon was given delta={delta}, {sum(rounds)} rounds and present={present}; delta "
            "must lie in (0, 1), present in (0, 1], and rounds must be whole and at least 0"
        )
    if drawn is not None and min(drawn, *(clients or 0 for _, clients in phases)) < 1:
        of = ", ".join(str(clients) for _, clients in phases)
        raise ValueError(
            f"epsilon was asked for with {drawn} clients drawn of {of}; both must be at least 1"
        )
    phases = [(many, clients) for many, clients in phases if many]
    if not phases:
        return 0.0
    if noise < 1e-100:  # its square underflows
        return float("inf")
    share = lambda clients: None if drawn is None else (clients, min(drawn, clients))
    costs = [(many, *_one_round(noise, present, share(clients))) for many, clients in phases]
    orders = costs[0][1]
    total = sum(many * each for many, _, each in costs)
    return float(_accountant().rdp.rdp_privacy_accountant.compute_epsilon(orders, total, delta)[0])


# Whole orders, since others may not converge; few of the large ones, which take long. Any choice
# gives a bound, and the best order is large only where epsilon is tiny.
ORDERS = (*range(2, 65), *range(72, 257, 8))


@functools.cache
def _one_round(noise: float, present: float, sample: tuple[int, int] | None) -> tuple[Any, Any]:
    """``(orders, divergences)`` of a single round: what takes long, and is the same for each."""
    accounting = _accountant()
    event, relation, orders = accounting.GaussianDpEvent(noise), "ADD_OR_REMOVE_ONE", None
    if sample is not None:
        # Another client in the place of one moves the sum by twice the clipping length.
        event = accounting.GaussianDpEvent(noise / 2)
        event = accounting.SampledWithoutReplacementDpEvent(*sample, event)
        relation, orders = "REPLACE_ONE", ORDERS
    elif present < 1:
        event, orders = accounting.PoissonSampledDpEvent(present, event), ORDERS
    accountant = accounting.rdp.RdpAccountant(orders, accounting.NeighboringRelation[relation])
    accountant.compose(event)
    return accountant.orders, accountant.rdp


def _accountant() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError as error:
        raise ImportError(
            "the privacy accountant is the package dp-accounting; install it, or jfu[privacy]"
        ) from error
    return dp_accounting
