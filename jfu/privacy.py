"""Differential privacy of whole clients: clipped updates, noise at the server, an accountant.

    update = (sum_k u_k min(1, clip / |u_k|) + N(0, (noise clip)^2)) / cohort

One client more or less moves the sum by at most ``clip``, whatever it holds and sends, so each
round is a Gaussian mechanism with the multiplier ``noise``. Clients count alike, whatever their
sizes, and the divisor is a number that does not depend on who came.

McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models. ICLR
2018, arXiv 1710.06963.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jfu.aggregate import Aggregator, clipped_mean
from jfu.types import PyTree, Variables


def private_mean(clip: float, noise: float, cohort: float) -> Aggregator:
    """The noisy mean of clipped updates; a sum is all that the server sees of them.

    Args:
      clip: Euclidean length that a whole update is clipped to, above 0.
      noise: standard deviation of the noise on each number of the sum, in units of ``clip``.
      cohort: clients expected in a round, above 0: the divisor.

    >>> aggregator = private_mean(1.0, 0.0, 2)
    >>> sent = aggregator.encode({"a": jnp.array([3.0, 4.0])}, jnp.float32(17))
    >>> aggregator.decode(sent, (), jax.random.key(0))[0]["a"]  # (3, 4) / 5 / 2
    Array([0.3, 0.4], dtype=float32)
    """
    if noise < 0 or not cohort > 0:
        raise ValueError(
            f"a private mean was asked for with noise {noise} and a cohort of {cohort}; noise must "
            "be at least 0 and the cohort above 0"
        )
    clipped = clipped_mean(clip)

    def init(variables: Variables) -> PyTree:
        del variables
        return ()

    def encode(update, weight):
        # A weight of one: sizes are data too. Zero where there is nothing, or nothing usable.
        return clipped.encode(update, (weight > 0).astype(jnp.float32))[0]

    def decode(total, state, key):
        leaves, treedef = jax.tree.flatten(total)
        keys = jax.random.split(key, len(leaves))
        noisy = [
            (a + noise * clip * jax.random.normal(k, a.shape, a.dtype)) / cohort
            for a, k in zip(leaves, keys, strict=True)
        ]
        return treedef.unflatten(noisy), state

    return Aggregator(init, encode, decode)


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
      sample: ``(clients, drawn)`` where each round draws so many without replacement, out of the
        clients that have examples; where fewer have any, all of them take part.

    Returns:
      ``inf`` without noise.

    Raises:
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

    The fewer clients there are to draw from, the more a round tells of each.

    Args:
      noise, delta, present: as for ``spent``.
      phases: ``(rounds, clients)`` each: the rounds, and the clients that then had examples.
      drawn: clients drawn each round without replacement, out of those; all if not given, and
        then their number does not matter.

    >>> composed(0.0, [(80, 10), (40, 9)], 1e-3, drawn=5)  # without noise
    inf
    """
    rounds = [many for many, _ in phases]
    if not 0 < delta < 1 or min(rounds, default=0) < 0 or not 0 < present <= 1:
        raise ValueError(
            f"epsilon was asked for at delta={delta}, {sum(rounds)} rounds and present={present}; "
            "delta must lie in (0, 1), present in (0, 1], and rounds be at least 0"
        )
    if drawn is not None and min(drawn, *(clients or 0 for _, clients in phases)) < 1:
        of = ", ".join(str(clients) for _, clients in phases)
        raise ValueError(
            f"epsilon was asked for with {drawn} clients drawn of {of}; both must be at least 1"
        )
    phases = [(many, clients) for many, clients in phases if many]
    if not phases:
        return 0.0
    if noise <= 0:
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
