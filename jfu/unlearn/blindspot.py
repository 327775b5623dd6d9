"""Blindspot: the client learns what a model that never saw its data says of it. For regressions.

A second model starts from scratch, and the retained clients train it for ``exposed`` rounds. In one
further round all clients train the model for an epoch: those that stay on their targets y, the
leaving client on the predictions b(x) of this blindspot model,

    stays     minimise  mean |f(x) - y|
    leaves    minimises mean |f(x) - b(x)|  +  attention sum_l mean (A_l(f, x) - A_l(b, x))^2

    A_l = a_l / ||a_l||,   a_l = mean over channels of the squares of layer l's output, by position

The round's mean weights clients by their examples. Then the others train on.

Tarun, Chundawat, Mandal, Kankanhalli. Deep Regression Unlearning. ICML 2023, arXiv 2210.08196. The
formulas and numbers are those of the authors' code (ayu987/deep-regression-unlearning): two epochs
for the blindspot model, one for the model, Adam, attention 50. Their batches mix both kinds of
examples, and weight the two losses by their shares; the mean of clients does the same.

Differences: the blindspot model is trained by ordinary rounds of the federation. Layers' outputs
are those before the activation. A layer without positions, as in a perceptron, has one mean over
its channels and so A = 1: the attention term is zero there, as by the authors' formula.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jfu.aggregate import weighted_mean
from jfu.clients import sum_clients
from jfu.faults import guarded
from jfu.fedavg import sender
from jfu.types import (
    Broadcast,
    ClientFn,
    FederatedAlgorithm,
    LossFn,
    Model,
    Needs,
    Unlearner,
    Variables,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.phases import Beside, inside, moved, params_only, phases, together


def blindspot(
    fed: FederatedAlgorithm,
    model: Model,
    local: Callable[..., ClientFn],
    *,
    lr: float = 1e-3,
    attention: float = 50.0,
    exposed: int = 2,
    within: int | None = None,
    chunk: int | None = None,
) -> Unlearner:
    """Rounds that train a blindspot model, one that learns from it, then rounds of ``fed``.

    Args:
      model: with one output, ``[B, 1]``.
      local: ``local(loss=..., optimizer=..., epochs=...) -> ClientFn``, a client's training.
      lr: learning rate of Adam in the round that unlearns.
      attention: weight of the difference between the layers' outputs.
      exposed: rounds that train the blindspot model, at least 1.
      within: the budget of rounds; at most half of it trains the blindspot model.

    >>> blindspot(fed, model, local, within=40).own
    3
    """
    check_numbers("blindspot", "[0, inf)", lr=lr, attention=attention)
    check_counts("blindspot", 1, exposed=exposed)
    exposed = exposed if within is None else max(1, min(exposed, within // 2))
    how = dict(optimizer=optax.adam(lr), epochs=1)
    stays, mean = guarded(local(loss=absolute(model), **how)), weighted_mean()

    def perturb(trained, request, key):
        del request
        return Beside(fed.init(trained.variables), fed.init(model.init(key)))

    def expose(state, request, key):
        blind, info = fed.round(state.own, request.retain, key)
        inner = state.inner._replace(round=state.inner.round + 1)
        return Beside(inner, blind), info

    def unlearn(state, request, key):
        stay_key, leave_key = jax.random.split(key)
        blind, inner = state.own.variables, state.inner
        leaves = params_only(guarded(local(loss=towards(model, blind, attention), **how)))

        def told(shared, client, key):
            update, info = leaves(shared, client, key)
            return mean.encode(update, info.weight), info._replace(forwards=info.steps)

        shared = Broadcast(inner.variables, inner.round)
        sent, info = sum_clients(sender(stays, mean), chunk=chunk)(shared, request.retain, stay_key)
        gone, theirs = sum_clients(told, chunk=chunk)(shared, request.forget, leave_key)
        update, _ = mean.decode(jax.tree.map(jnp.add, sent, gone), (), key)
        inner, info = moved(inner, update, together(info, theirs, request.retain.id))
        # The leaving clients get the blindspot model too.
        metrics = {**info.metrics, "down": info.metrics["down"] + (theirs.weight > 0).sum()}
        return state._replace(inner=inner), info._replace(metrics=metrics)

    later = phases(exposed + 1, unlearn, inside(on_retained(fed)))
    recover = phases(exposed, expose, later)
    return Unlearner(perturb, recover, Needs(target=True, forget_data=True), own=exposed + 1)


def absolute(model: Model) -> LossFn:
    """The mean absolute error, over live rows."""

    def loss(variables, batch, key):
        outputs, changed = model.apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        return live_mean(jnp.abs(outputs[:, 0] - batch.y), batch.mask), changed

    return loss


def towards(model: Model, blind: Variables, attention: float) -> LossFn:
    """The leaving client's loss above, over live rows."""

    def loss(variables, batch, key):
        outputs, changed = model.apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        says, _ = model.apply(blind, batch.x)
        each = jnp.abs(outputs - says).mean(-1)
        if attention and model.outputs is not None:
            pairs = (model.outputs(v, batch.x) for v in (variables, blind))
            for ours, theirs in zip(*(tree.values() for tree in pairs), strict=True):
                if ours.ndim > 2:
                    apart = (looks(ours) - looks(theirs)) ** 2
                    each = each + attention * apart.mean(-1)
        return live_mean(each, batch.mask), changed

    return loss


def looks(outputs: jax.Array) -> jax.Array:
    """Where a layer's outputs ``[B, ..., C]`` are large, as vectors of length one, ``[B, P]``.

    >>> looks(jnp.array([[[0.0, 0.0], [3.0, 3.0], [4.0, -2.0]]]))[0, 0]  # of 0, 9 and 10
    Array(0., dtype=float32)
    >>> looks(jnp.array([[[3.0, -3.0], [2.0, 4.0]]])).shape
    (1, 2)
    """
    squares = (outputs.astype(jnp.float32) ** 2).mean(-1).reshape(outputs.shape[0], -1)
    # The root has no slope at 0, where padding is.
    length = jnp.sqrt(jnp.maximum((squares**2).sum(-1, keepdims=True), 1e-24))
    return squares / length


def live_mean(each: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean ``[]`` of values ``[B]`` over live rows; others may be NaN."""
    return jnp.where(mask > 0, each, 0).sum() / jnp.maximum(mask.sum(), 1)
