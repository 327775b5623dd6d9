"""Control: the unchanged model, presented as unlearned. An audit must detect it."""

import jax.numpy as jnp

from jfu.fedavg import summarise
from jfu.types import FederatedAlgorithm, Key, LocalInfo, PyTree, RoundInfo, Split, Unlearner


def none(fed: FederatedAlgorithm) -> Unlearner:
    """Changes nothing. In its rounds no client takes part, and they cost nothing."""

    def perturb(trained, request, key):
        del request, key
        return fed.init(trained.variables)

    return Unlearner(perturb, idle)


def idle(state: PyTree, request: Split, key: Key) -> tuple[PyTree, RoundInfo]:
    """A round in which no client takes part and nothing changes."""
    del key
    zeros = jnp.zeros(request.retain.id.shape, jnp.float32)
    nobody = LocalInfo(*[zeros] * len(LocalInfo._fields))
    return state, RoundInfo(nobody, summarise(nobody), request.retain.id)
