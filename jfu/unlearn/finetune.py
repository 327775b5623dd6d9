"""Fine-tuning: do nothing but train on what is retained ("natural" unlearning).

Forgetting happens through drift alone. The trained model's loss is nearly stationary, so
the drift is slow; a backdoor outlives a hundred rounds of it.
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

    The same function for the same federation, so that methods which recover alike share
    one compiled program.
    """

    def recover(state, request, key):
        return fed.round(state, request.retain, key)

    return recover
