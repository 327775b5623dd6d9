"""The model as it was, passed off as unlearned: what an audit must catch."""

import jax.numpy as jnp

from jfu.fedavg import summarise
from jfu.types import FederatedAlgorithm, LocalInfo, RoundInfo, Unlearner


def none(fed: FederatedAlgorithm) -> Unlearner:
    """Changes nothing; its rounds involve nobody and cost nothing."""

    def perturb(trained, request, key):
        del request, key
        return fed.init(trained.variables)

    def recover(state, request, key):
        del key
        zeros = jnp.zeros(request.retain.id.shape, jnp.float32)
        idle = LocalInfo(*[zeros] * len(LocalInfo._fields))
        return state, RoundInfo(idle, summarise(idle), request.retain.id)

    return Unlearner(perturb, recover)
