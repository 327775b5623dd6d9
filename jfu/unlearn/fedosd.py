"""FedOSD: steepest descent of an unlearning loss, orthogonal to every retained client's step.

In the first rounds all clients send a step of local training. The leaving client's loss is
``-log(1 - p_y / 2)``. It is bounded, while the negative of cross-entropy is not. The retained
clients' steps are the rows of G, and the leaving client's step is g:

    d = g - G^T (G G^T)^+ G g,   w <- w + d ||g|| / ||d||.

Afterwards the others train on. The part of each client's step u that leads back to the old model w*
is removed. With a = w - w*,

    u <- u - (u . a / ||a||^2) a,   scaled to its old length.

Pan, Wang, Li, Zheng, Wang, Tang, Zhao. Federated Unlearning with Gradient Descent and Conflict
Mitigation. AAAI 2025, arXiv 2412.20200.

Differences: steps (minus the rate times a gradient) take the place of gradients; the formulas are
the same for both. If several clients leave, g is their plain mean, as in the authors' code. In
recovery clients are weighted by their examples, as in the federation; the authors' mean is plain.
"""

import functools
from collections.abc import Callable

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from jfu.clients import map_clients
from jfu.faults import guarded
from jfu.fedavg import check_shapes, fedavg
from jfu.local import unknown
from jfu.sums import narrow, norm, squares, wide
from jfu.types import (
    Broadcast,
    ClientFn,
    FederatedAlgorithm,
    LossFn,
    Model,
    Needs,
    Params,
    Unlearner,
    check_counts,
    check_numbers,
)
from jfu.unlearn.phases import Beside, moved, phases, together


def fedosd(
    fed: FederatedAlgorithm,
    model: Model,
    local: Callable[..., ClientFn],
    *,
    lr: float = 4e-4,
    rounds: int = 100,
    within: int | None = None,
    around: Callable[[ClientFn], FederatedAlgorithm] | None = None,
    chunk: int | None = None,
) -> Unlearner:
    """Orthogonal steepest descent, then recovery without steps towards the old model.

    Args:
      local: ``local(loss=..., optimizer=...) -> ClientFn``, a client's training with another
        loss and optimizer; without arguments, the ordinary training, used for recovery.
      lr: learning rate of SGD in local training while unlearning.
      rounds: number of unlearning rounds.
      within: the budget of rounds for unlearning and recovery. At most half of it is used for
        unlearning, but at least one round.
      around: makes a federation from a client's work, with its server and sampling;
        plain averaging if not given.

    >>> fedosd(fed, model, local, lr=0.04, within=40).needs.per_client
    True
    """
    check_numbers("fedosd", "[0, inf)", lr=lr)
    check_counts("fedosd", 0, rounds=rounds)
    rounds = rounds if within is None else min(rounds, max(1, within // 2))
    around = around or functools.partial(fedavg, chunk=chunk)
    descend = guarded(local(optimizer=optax.sgd(lr)))
    unlearn = guarded(local(loss=bounded(model), optimizer=optax.sgd(lr)))

    def perturb(trained, request, key):
        del request, key
        return Beside(fed.init(trained.variables), trained.variables["params"])

    def early(state, request, key):
        stay_key, leave_key = jax.random.split(key)
        shared = Broadcast(state.variables, state.round)
        work = lambda fn: map_clients(fn, chunk=chunk)
        updates, info = work(descend)(shared, request.retain, stay_key)
        leaving, theirs = work(unlearn)(shared, request.forget, leave_key)
        for sent in (updates, leaving):
            check_shapes(jax.tree.map(lambda a: a[0], sent), state.variables)
        leave = theirs.weight > 0
        share = leave / jnp.maximum(leave.sum(), 1)
        g = jnp.tensordot(share, _rows(leaving["params"]), 1)
        d = orthogonal(g, _rows(updates["params"]))
        _, restore = jax.flatten_util.ravel_pytree(wide(state.params))
        still = {name: jax.tree.map(jnp.zeros_like, t) for name, t in state.variables.items()}
        update = {**still, "params": restore(d)}
        both = together(info, theirs, request.retain.id)
        # A client that keeps some examples and forgets others sends two steps.
        twice = ((info.weight > 0) & (theirs.weight > 0)).sum()
        both = both._replace(metrics={**both.metrics, "up": both.metrics["up"] + twice})
        inner, both = moved(state.inner, update, both)
        return state._replace(inner=inner), both

    def later(state, request, key):
        away = optax.tree.sub(wide(state.params), wide(state.own))
        work = not_back(guarded(local()), away)
        inner, info = around(work).round(state.inner, request.retain, key)
        return state._replace(inner=inner), info

    needs = Needs(target=True, forget_data=True, per_client=True)
    return Unlearner(perturb, phases(rounds, early, later), needs, own=rounds)


def bounded(model: Model) -> LossFn:
    """The unlearning cross-entropy ``-log(1 - p_y / 2)``, mean over live rows."""

    def loss(variables, batch, key):
        logits, changed = model.apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        p = jnp.exp(-optax.softmax_cross_entropy_with_integer_labels(logits, batch.y))
        each = jnp.where(unknown(batch.y, logits.shape[-1]), jnp.nan, -jnp.log1p(-p / 2))
        return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1), changed

    return loss


def orthogonal(g: jax.Array, others: jax.Array) -> jax.Array:
    """The part of ``g [P]`` orthogonal to the rows of ``others [K, P]``, scaled to ``||g||``.

    >>> orthogonal(jnp.array([3.0, 4.0]), jnp.array([[2.0, 0.0]]))
    Array([0., 5.], dtype=float32)
    """
    # Rows of length one have the same span and keep the inverse well conditioned.
    length = jnp.linalg.norm(others, axis=1, keepdims=True)
    rows = others / jnp.where(length > 0, length, 1)
    inverse = jnp.linalg.pinv(rows @ rows.T, rtol=1e-6, hermitian=True)
    d = g
    for _ in range(2):  # the second pass removes rounding errors of the first
        d = d - (inverse @ (rows @ d)) @ rows
    return d * (jnp.linalg.norm(g) / jnp.maximum(jnp.linalg.norm(d), 1e-30))


def not_back(local: ClientFn, away: Params) -> ClientFn:
    """A client's training without the part of its step along ``away``; the length stays."""
    squared = jnp.maximum(squares(away), 1e-30)

    def work(shared, client, key):
        update, info = local(shared, client, key)
        step = wide(update["params"])
        along = optax.tree.vdot(step, away) / squared
        turned = jax.tree.map(lambda u, a: u - along * a, step, away)
        scale = norm(step) / jnp.maximum(norm(turned), 1e-30)
        turned = jax.tree.map(lambda u: scale * u, turned)
        return {**update, "params": narrow(turned, update["params"])}, info

    return work


def _rows(updates: Params) -> jax.Array:
    """``[K, ...]`` leaves as one matrix ``[K, P]``, in the order of ``ravel_pytree``."""
    rows = [a.reshape(a.shape[0], -1) for a in jax.tree.leaves(wide(updates))]
    return jnp.concatenate(rows, 1)
