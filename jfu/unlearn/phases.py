"""Recovery in phases: first a method's own rounds, then rounds of the federation.

Anything that communicates is a round and counts as one. ``perturb`` is work of the server.

Some methods need the leaving client once more; it takes part in their own rounds. Own rounds count
towards the same budget. They report their messages and steps in ``RoundInfo.metrics``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.clients import NOBODY
from jfu.fedavg import check_shapes, summarise
from jfu.sums import plus, squares
from jfu.types import (
    ClientFn,
    FederatedAlgorithm,
    LocalInfo,
    Params,
    PyTree,
    RecoverFn,
    RoundInfo,
    Variables,
)


class Beside(NamedTuple):
    """A federation's state ``inner``, and what a method keeps beside it, ``own``."""

    inner: PyTree
    own: PyTree

    @property
    def variables(self) -> Variables:
        return self.inner.variables

    @property
    def params(self) -> Params:
        return self.inner.params

    @property
    def round(self) -> jax.Array:
        return self.inner.round


def phases(rounds: int, early: RecoverFn, later: RecoverFn) -> RecoverFn:
    """``early`` for the first ``rounds`` rounds after the request, ``later`` from then on."""
    if rounds < 1:
        return later

    def recover(state, request, key):
        many = request.retain.id.shape[0]

        def alike(step):
            def run(state, request, key):
                new, info = step(state, request, key)
                same = lambda new, old: new if new.dtype == old.dtype else new.astype(old.dtype)
                return jax.tree.map(same, new, state), _of_all(info, many)

            return run

        early_, later_ = alike(early), alike(later)
        return jax.lax.cond(state.round < rounds, early_, later_, state, request, key)

    return recover


def _of_all(info: RoundInfo, many: int) -> RoundInfo:
    """The same facts padded to all clients, in case only a sample took part; without updates.

    Scalars are float32, so that both kinds of rounds have the same types.
    """
    missing = many - info.ids.shape[0]
    floats = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
    clients = jax.tree.map(lambda a: jnp.pad(a, (0, missing)), floats(info.clients))
    ids = jnp.pad(info.ids, (0, missing), constant_values=NOBODY)
    return info._replace(clients=clients, metrics=floats(info.metrics), ids=ids, updates=None)


def inside(step: RecoverFn) -> RecoverFn:
    """A round that changes only the inner state."""

    def recover(state, request, key):
        inner, info = step(state.inner, request, key)
        return state._replace(inner=inner), info

    return recover


def borrowed(fed: FederatedAlgorithm) -> Callable:
    """A round of another federation on this state's model, with a fresh server each time."""

    def round(state, clients, key):
        other = fed.init(state.variables)._replace(round=state.round)
        other, info = fed.round(other, clients, key)
        return state._replace(variables=other.variables, round=other.round), info

    return round


def params_only(work: ClientFn) -> ClientFn:
    """The same work, but only the parameters' update is sent."""

    def send(shared, client, key):
        update, info = work(shared, client, key)
        still = {name: jax.tree.map(jnp.zeros_like, tree) for name, tree in update.items()}
        return {**still, "params": update["params"]}, info

    return send


def moved(state: PyTree, update: Variables, info: RoundInfo) -> tuple[PyTree, RoundInfo]:
    """The state one round later: the update is added to the model, without the server optimizer.

    As in ``fedavg``, an update of other shapes is refused. The model stays as it was if the update
    or the new model is not finite; ``metrics["not_applied"]`` is then 1.
    """
    check_shapes(update, state.variables)
    old, update = dict(state.variables), dict(update)
    new = plus(old, update)
    usable = jnp.isfinite(squares(update)) & jnp.isfinite(squares(new))
    variables = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, old)
    metrics = {**info.metrics, "not_applied": 1.0 - usable.astype(jnp.float32)}
    state = state._replace(variables=variables, round=state.round + 1)
    return state, info._replace(metrics=metrics)


def together(first: LocalInfo, second: LocalInfo, ids: jax.Array) -> RoundInfo:
    """One round's facts from clients that worked on retained and on forgotten data."""
    weight = first.weight + second.weight
    loss = first.loss * first.weight + second.loss * second.weight
    info = LocalInfo(
        weight=weight,
        loss=loss / jnp.where(weight > 0, weight, 1),
        steps=first.steps + second.steps,
        forwards=first.forwards + second.forwards,
        left_out=jnp.maximum(first.left_out, second.left_out),
    )
    return RoundInfo(info, summarise(info), ids)
