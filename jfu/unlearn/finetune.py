"""Fine-tuning: train on the retained data, and do nothing else ("natural" unlearning).

The model forgets through drift alone. The trained model's loss is nearly stationary, so the drift
is slow. A backdoor survives a hundred rounds of it.
"""

import functools

from jfu.types import FederatedAlgorithm, RecoverFn, Unlearner


def finetune(fed: FederatedAlgorithm) -> Unlearner:
    """Keeps the trained model and runs rounds of ``fed`` on the retained data."""

    def perturb(trained, request, key):
        del request, key
        return fed.init(trained.variables)

    return Unlearner(perturb, on_retained(fed))


@functools.lru_cache(maxsize=64)
def on_retained(fed: FederatedAlgorithm) -> RecoverFn:
    """One round of ``fed`` on the retained data.

    The same federation always gives the same function. Methods with the same recovery therefore
    share one compiled program.
    """

    def recover(state, request, key):
        return fed.round(state, request.retain, key)

    return recover
