"""Retraining: start again without the forgotten data. It is the reference for other methods."""

from collections.abc import Callable

from jfu.types import FederatedAlgorithm, Key, Unlearner, Variables
from jfu.unlearn.finetune import on_retained


def retrain(fed: FederatedAlgorithm, init: Callable[[Key], Variables]) -> Unlearner:
    """Draws a new model with ``init(key)`` and runs rounds of ``fed`` on the retained data."""

    def perturb(trained, request, key):
        del trained, request
        return fed.init(init(key))

    return Unlearner(perturb, on_retained(fed))
