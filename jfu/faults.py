"""Clients that fail: what a round does without, and faults to try it with.

A client that answers too late, sends what is no number, or sends an update far too long is left
out of its round: it weighs nothing, the others' mean is what it would be without it, and the
reason is counted in ``RoundInfo.metrics``. Each client judges itself, before anything is summed,
so this holds where the server sees sums alone; then only the counts are known, not who.

``local_sgd`` leaves out what is not finite by itself. ``fedavg`` leaves its model as it was where
what it got in sum is not finite, whatever its clients do. So do the rounds that methods make their
own, which also leave out any client whose update is not finite.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu.types import ClientFn, Key, Unlearner

# Why an update was left out: the values of LocalInfo.left_out, and names of the metrics.
LATE, NOT_FINITE, TOO_LONG = 1, 2, 3
REASONS = {"late": LATE, "not_finite": NOT_FINITE, "too_long": TOO_LONG}

DRAW = np.uint32(2**32 - 3)  # a place in a client's key that its training does not use


def censored(local: ClientFn, max_norm: float | None = None) -> ClientFn:
    """The same work, of which nothing is sent that would harm the model.

    An update whose squares do not add up to a finite number, or that is longer than
    ``max_norm``, becomes zero with weight zero. For a client's work of one's own; ``fedavg``
    does it to every client where it is given ``max_update_norm``.

    Args:
      max_norm: Euclidean length that a whole update may have; any if not given.

    >>> from jfu.types import LocalInfo
    >>> one = jnp.ones(())
    >>> bad = lambda shared, client, key: (jnp.array([jnp.nan]), LocalInfo(one, one, one, one))
    >>> update, info = censored(bad)(None, None, None)
    >>> update.tolist(), float(info.weight), int(info.left_out) == NOT_FINITE
    ([0.0], 0.0, True)
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"updates may have a length of {max_norm}; it must be above 0")

    def work(shared, client, key: Key):
        update, info = local(shared, client, key)
        square = optax.tree.norm(update, squared=True)
        why = jnp.where(jnp.isfinite(square), 0.0, NOT_FINITE)
        if max_norm is not None:
            why = jnp.where(square > max_norm**2, jnp.where(why > 0, why, TOO_LONG), why)
        stays = (why == 0) & (info.left_out == 0)
        # A client that had nothing to do is not counted among those that are left out; one that
        # left itself out has said why.
        why = jnp.where(info.left_out > 0, info.left_out, jnp.where(info.weight > 0, why, 0.0))
        update = jax.tree.map(lambda u: jnp.where(stays, u, jnp.zeros_like(u)), update)
        return update, info._replace(
            weight=jnp.where(stays, info.weight, 0.0),
            loss=jnp.where(stays, info.loss, 0.0),
            left_out=why.astype(jnp.float32),
        )

    return finite(work)


def finite(work: ClientFn) -> ClientFn:
    """Marks work that leaves itself out where its update is not finite, so nobody looks again."""
    work.finite = True
    return work


def guarded(local: ClientFn) -> ClientFn:
    """The same work, of which nothing is sent that is not finite.

    For the rounds that a method makes its own. Work that sees to that itself, as ``local_sgd``'s
    and ``censored`` work do, stays as it is, so that no update is walked through twice.
    """
    return local if getattr(local, "finite", False) else censored(local)


def faulty(
    local: ClientFn, *, late: float = 0.0, nan: float = 0.0, long: float = 0.0, factor: float = 1e3
) -> ClientFn:
    """The same work by clients that fail at random: for tests, and to see what a method bears.

    Args:
      late, nan, long: probabilities, in each round and for each client, that it answers too late,
        that it sends NaN, that its update is ``factor`` times too long; at most 1 together. A
        client's key decides, so a run that goes on sees the same faults. A late client sends
        nothing, with weight 0; the others need ``censored``, or ``fedavg``'s ``max_update_norm``.

    >>> work = faulty(lambda shared, client, key: None, late=0.1, nan=0.05)
    """
    rates = (late, nan, long)
    if min(rates) < 0 or sum(rates) > 1:
        raise ValueError(
            f"faults were to come with probabilities {late}, {nan} and {long}; each must be at "
            "least 0, and all together at most 1"
        )

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
    """The same method, whose own rounds each move the model by at most ``max_norm``.

    Those are bounded in which the leaving client works; one that means harm can move it no further,
    and where the move is not finite the model stays. Each of these rounds is bounded for itself:
    ``method.own`` of them together may move the model ``method.own`` times as far. Ordinary rounds
    are as they were: their clients are bounded by ``fedavg(..., max_update_norm=...)``.

    Args:
      max_norm: Euclidean length of the move of all parameters and statistics in a round, above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"a round may move the model by {max_norm}; it must be above 0")
    if not (method.own and method.needs.target):
        return method

    def recover(state, request, key):
        new, info = method.recover(state, request, key)
        before = dict(state.variables)
        move = optax.tree.sub(dict(new.variables), before)
        length = optax.tree.norm(move)
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(length, 1e-30))

        def held(old, change):
            step = jnp.where(jnp.isfinite(length), change * scale.astype(change.dtype), 0)
            return old + step.astype(old.dtype)

        near = jax.tree.map(held, before, move)
        inside = (length <= max_norm) | (state.round >= method.own)
        pick = lambda as_is, kept: jnp.where(inside, as_is, kept)
        near = jax.tree.map(pick, dict(new.variables), near)
        return _with_variables(new, near), info

    return method._replace(recover=recover)


def _with_variables(state, variables):
    """The state with another model, whatever is beside it."""
    if hasattr(state, "inner"):
        return state._replace(inner=_with_variables(state.inner, variables))
    return state._replace(variables=variables)
