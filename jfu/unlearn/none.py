"""Control: the unchanged model, presented as unlearned. An audit must detect it."""

import jax.numpy as jnp

from jfu.fedavg import summarise
from jfu.types import FederatedAlgorithm, LocalInfo, RoundInfo, Unlearner


def none(fed: FederatedAlgorithm) -> Unlearner:
    """Changes nothing. In its rounds no client takes part, and they cost nothing."""

    def perturb(trained, request, key):
        del request, key
        return fed.init(trained.variables)

    def recover(state, request, key):
        del key
        zeros = jnp.zeros(request.retain.id.shape, jnp.float32)
        idle = LocalInfo(*[zeros] * len(LocalInfo._fields))
        return state, RoundInfo(idle, summarise(idle), request.retain.id)

    return Unlearner(perturb, recover)
