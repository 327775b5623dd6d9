"""Gradient ascent, the naive control: the leaving client ascends its own loss.

    theta <- theta + lr * grad L_u(theta),   gradients clipped to a largest norm

for a round of local epochs, then training on the retained data. The loss has no upper bound, so a
learning rate slightly too large, or one round too many, destroys the model. It is therefore only a
control.
"""

from collections.abc import Callable

import optax

from jfu.fedavg import fedavg
from jfu.local import classification, local_sgd
from jfu.types import (
    ClientFn,
    FederatedAlgorithm,
    LossFn,
    Model,
    Needs,
    RecoverFn,
    Unlearner,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.phases import borrowed, params_only, phases


def ga(
    fed: FederatedAlgorithm,
    model: Model,
    *,
    lr: float = 0.01,
    epochs: int = 1,
    clip: float = 5.0,
    batch_size: int = 32,
    rounds: int = 1,
    chunk: int | None = None,
) -> Unlearner:
    """Gradient ascent by the leaving clients, then rounds of ``fed``.

    Args:
      fed: the federation that recovers.
      lr: learning rate of the ascent.
      epochs: passes over the forgotten data in each round.
      clip: largest norm of a step's gradient.
      rounds: number of rounds of ascent.

    >>> ga(fed, model, lr=0.03).needs.target
    True
    """
    check_numbers("ga", "[0, inf)", lr=lr)
    check_numbers("ga", "(0, inf]", clip=clip)
    check_counts("ga", 1, epochs=epochs, batch_size=batch_size, rounds=rounds)
    climber = optax.chain(optax.clip_by_global_norm(clip), optax.sgd(lr))
    climb = local_sgd(uphill(model.apply), climber, epochs=epochs, batch_size=batch_size)
    recover = phases(rounds, on_forgotten(climb, chunk), on_retained(fed))
    needs = Needs(target=True, forget_data=True)
    return finetune(fed)._replace(recover=recover, needs=needs, own=rounds)


def uphill(apply: Callable) -> LossFn:
    """The negative of the classification loss."""
    loss = classification(apply)

    def negative(variables, batch, key):
        value, changed = loss(variables, batch, key)
        return -value, changed

    return negative


def on_forgotten(work: ClientFn, chunk: int | None) -> RecoverFn:
    """A round in which only the leaving clients work, on the data to be forgotten.

    Their batch statistics are not used, since they come from the forgotten data alone.
    """
    round = borrowed(fedavg(params_only(work), chunk=chunk))

    def recover(state, request, key):
        return round(state, request.forget, key)

    return recover
