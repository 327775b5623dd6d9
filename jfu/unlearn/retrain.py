"""Retraining: start again without the forgotten data. The yardstick of every other method."""

from collections.abc import Callable

from jfu.types import FederatedAlgorithm, Key, Unlearner, Variables
from jfu.unlearn.finetune import on_retained


def retrain(fed: FederatedAlgorithm, init: Callable[[Key], Variables]) -> Unlearner:
    """Draws a fresh model by ``init(key)`` and runs rounds of ``fed`` on the retained data."""

    def perturb(trained, request, key):
        del trained, request
        return fed.init(init(key))

    return Unlearner(perturb, on_retained(fed))
