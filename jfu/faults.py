"""Clients that fail: checks of updates, and faults for tests.

A client is left out of a round if it is too late, sends NaN or infinity, or sends a far too long
update. Its weight is then 0, and the others' mean is the same as without it. The reason is counted
in ``RoundInfo.metrics``. Each client checks its own update before anything is summed. The checks
therefore also work if the server sees only sums. It then knows the counts, but not the clients.

``fedavg`` and methods' own rounds run only work that is checked, by ``censored`` or by
``local_sgd`` itself. A client's weight is what it claims, but at most its live examples, which the
server knows. The model stays as it was if the sum or the new model is not finite.

A client's update is checked once. ``local_sgd`` checks its model, which is in the cache. Its weight
is its live examples. It marks itself as ``checked``. ``guarded`` checks all other work, both in
rounds of ``fedavg`` and in methods' own rounds. ``fedavg(..., weigh=...)`` changes the limit on
weights.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu.sums import plus, squares, wide
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    Key,
    LocalInfo,
    PyTree,
    Unlearner,
    check_numbers,
)

# Why an update was left out: the values of LocalInfo.left_out, and names of the metrics.
LATE, NOT_FINITE, TOO_LONG = 1, 2, 3
REASONS = {"late": LATE, "not_finite": NOT_FINITE, "too_long": TOO_LONG}

DRAW = np.uint32(2**32 - 3)  # a place in a client's key that its training does not use


def examples(client: ClientData) -> jax.Array:
    """A client's live examples, the most that it may weigh."""
    return client.mask.sum()


def censored(
    local: ClientFn,
    max_norm: float | None = None,
    *,
    weigh: Callable[[ClientData], jax.Array] = examples,
) -> ClientFn:
    """The same work without updates that would harm the model.

    An update becomes zero with weight zero if its sum of squares is not finite, or if it is longer
    than ``max_norm``. The same happens if its weight is negative or not finite; this counts as
    ``not_finite`` too. A weight above ``weigh(client)`` is reduced to it. A client of weight zero
    sends zeros.

    Args:
      max_norm: the largest Euclidean length of a whole update; no limit if not given.
      weigh: ``client -> []``, a client's largest weight; by default its live examples, which the
        server knows. ``lambda client: 1.0`` gives all clients that train the same weight.
        ``lambda client: jnp.inf`` accepts any weight, so one client can outweigh all others.

    >>> from jfu.types import LocalInfo
    >>> one, client = jnp.ones(()), ClientData(None, None, None, jnp.ones(3, bool), 0)
    >>> bad = lambda shared, client, key: (jnp.array([jnp.nan]), LocalInfo(one, one, one, one))
    >>> update, info = censored(bad)(None, client, None)
    >>> update.tolist(), float(info.weight), int(info.left_out) == NOT_FINITE
    ([0.0], 0.0, True)
    >>> greedy = lambda shared, client, key: (one, LocalInfo(1e9 * one, one, one, one))
    >>> float(censored(greedy)(None, client, None)[1].weight)  # it has three examples
    3.0
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"updates may have a length of {max_norm}; it must be above 0")

    def work(shared: Broadcast, client: ClientData, key: Key):
        update, info = local(shared, client, key)
        return judged(update, info, weigh(client), max_norm)

    return checked(work)


def judged(
    update: PyTree, info: LocalInfo, most: jax.Array | float, max_norm: float | None
) -> tuple[PyTree, LocalInfo]:
    """One client's update and its scalars after the checks of ``censored``.

    Args:
      most: the client's largest weight.
      max_norm: the update's largest Euclidean length; no limit if None.
    """
    square, said = squares(update), jnp.asarray(info.weight, jnp.float32)
    numeric = (said >= 0) & (said < jnp.inf)
    why = jnp.where(numeric & jnp.isfinite(square), 0.0, NOT_FINITE)
    if max_norm is not None:
        why = jnp.where(square > max_norm**2, jnp.where(why > 0, why, TOO_LONG), why)
    out = jnp.where(info.left_out >= 0, info.left_out, NOT_FINITE)
    stays = (why == 0) & (out == 0)
    # A client without examples does not count as left out. One that left itself out has given the
    # reason.
    counts = ~numeric | (said > 0)
    why = jnp.where(out > 0, out, jnp.where(counts, why, 0.0))
    weight = jnp.where(stays, jnp.minimum(said, jnp.asarray(most, jnp.float32)), 0.0)
    # A client without weight sends zeros, also where updates are not weighted.
    update = jax.tree.map(lambda u: jnp.where(weight > 0, u, jnp.zeros_like(u)), update)
    return update, info._replace(
        weight=weight,
        loss=jnp.where(stays, info.loss, 0.0),
        steps=_number(info.steps),
        forwards=_number(info.forwards),
        left_out=why.astype(jnp.float32),
    )


def _number(count: jax.Array) -> jax.Array:
    """A count that a client reports; 0 if it is no valid count."""
    return jnp.where(jnp.isfinite(count), count, 0)


def checked(work: ClientFn) -> ClientFn:
    """Marks work that checks its own updates, so that they are not checked again.

    The mark names the work itself. A wrapper that copies attributes, as ``functools.wraps`` does,
    is therefore checked.
    """
    vars(work)["checked"] = work
    return work


def guarded(local: ClientFn) -> ClientFn:
    """The same work with checks: its update is finite, and its weight within the limit.

    Work that checks itself, as ``local_sgd``'s and ``censored`` work do, stays as it is. So no
    update is checked twice.
    """
    return local if getattr(local, "checked", None) is local else censored(local)


def faulty(
    local: ClientFn, *, late: float = 0.0, nan: float = 0.0, long: float = 0.0, factor: float = 1e3
) -> ClientFn:
    """The same work by clients that fail at random, for tests and to study methods.

    The three probabilities are for each client in each round, and their sum is at most 1. A
    client's key decides, so a continued run has the same faults. A late client sends nothing, with
    weight 0. A client with too long an update is left out only with ``max_update_norm``.

    Args:
      late: probability that the client is too late.
      nan: probability that it sends NaN.
      long: probability that its update is ``factor`` times too long.

    >>> work = faulty(lambda shared, client, key: None, late=0.1, nan=0.05)
    """
    rates = (late, nan, long)
    if not (min(rates) >= 0 and sum(rates) <= 1):
        raise ValueError(
            f"faults were to come with probabilities {late}, {nan} and {long}; each must be at "
            "least 0, and all together at most 1"
        )
    check_numbers("faulty", "(-inf, inf)", factor=factor)

    def work(shared, client, key: Key):
        update, info = local(shared, client, key)
        draw = jax.random.uniform(jax.random.fold_in(key, DRAW))
        draw = jnp.where(info.weight > 0, draw, 1.0)  # who has nothing to do fails at nothing
        late_here = draw < late
        nan_here = (draw >= late) & (draw < late + nan)
        long_here = (draw >= late + nan) & (draw < late + nan + long)
        scale = jnp.where(nan_here, jnp.nan, jnp.where(long_here, factor, 1.0))
        sent = lambda u: jnp.where(late_here, jnp.zeros_like(u), u * scale.astype(u.dtype))
        return jax.tree.map(sent, update), info._replace(
            weight=jnp.where(late_here, 0.0, info.weight),
            loss=jnp.where(late_here, 0.0, info.loss),
            left_out=jnp.where(late_here, LATE, info.left_out).astype(jnp.float32),
        )

    return work


def bounded(method: Unlearner, max_norm: float) -> Unlearner:
    """The same method, but each of its own rounds moves the model by at most ``max_norm``.

    Whatever clients send, such a round moves the model no further. If the move is not finite, the
    model stays. Each round has its own bound, so ten rounds may move the model ten times as far.
    ``perturb`` is not bounded, since it is the server's work and involves no client. Ordinary
    rounds are not bounded either; ``fedavg(..., max_update_norm=...)`` bounds their clients. The
    bound also limits a method that negates or replaces layers in its own round, as ``deepest``
    does.

    Args:
      max_norm: Euclidean length of the move of all parameters and statistics in a round, above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"a round may move the model by {max_norm}; it must be above 0")
    if not method.own and method.own_now is None:
        return method
    own_now = method.own_now or (lambda state: state.round < method.own)

    def recover(state, request, key):
        new, info = method.recover(state, request, key)
        before = dict(state.variables)
        move = optax.tree.sub(wide(dict(new.variables)), wide(before))
        length = jnp.sqrt(squares(move))
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(length, 1e-30))
        inside = (length <= max_norm) | ~own_now(state)

        def nearer(new, old, change):
            step = jnp.where(jnp.isfinite(length), change * scale.astype(change.dtype), 0)
            return jnp.where(inside, new, _stepped(old, step))

        near = jax.tree.map(nearer, dict(new.variables), before, move)
        return with_variables(new, near), info

    return method._replace(recover=recover)


def _stepped(old: jax.Array, step: jax.Array) -> jax.Array:
    """``old + step`` in the dtype of ``old``, rounded so that it is no further away than that."""
    new = plus(old, step)
    if not jnp.issubdtype(old.dtype, jnp.floating):
        return new
    return jnp.where(abs(wide(new) - wide(old)) > abs(step), jnp.nextafter(new, old), new)


def with_variables(state, variables):
    """The state with another model, whatever is beside it."""
    if hasattr(state, "inner"):
        return state._replace(inner=with_variables(state.inner, variables))
    return state._replace(variables=variables)
