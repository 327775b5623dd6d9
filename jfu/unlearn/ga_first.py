"""Ascent by the gradients of the first epoch, on chosen layers only.

    theta'_l = theta*_l - scale sum_{k leaves} p_k D_k,l   for l in the chosen layers
    theta'_l = theta*_l                                    elsewhere

D_k is the first update that client k sent, minus the rate times the gradients of its first local
epochs. So this ascends along gradients of the first epoch that training stored. p_k is the client's
share of the examples: with ``scale`` 1 the model loses what that update added to the first mean.
Then the others train on.

The paper finds that gradients of the first epoch unlearn better than those of all epochs. It also
finds that the embedding, GPT-2's first layer, is enough, and that its output layers have no effect.
The server then needs to store the first layer's updates alone. The length of the ascent is to be
calibrated: a short one leaves a model that still knows the data.

Zagardo. A More Practical Approach to Machine Unlearning. 2024, arXiv 2406.09391. Its abstract was
read, not its update rule.

Differences: the paper stores gradients of examples; a federation has those of clients. It has no
clients that stay, and ends after the ascent. ``jfu.recorded`` stores all layers.
"""

import jax
import jax.numpy as jnp

from jfu.select import select, where
from jfu.stacking import weights
from jfu.sums import plus, wide
from jfu.types import FederatedAlgorithm, Needs, Selector, Unlearner, check_numbers
from jfu.unlearn.finetune import on_retained


def ga_first(fed: FederatedAlgorithm, selector: Selector, *, scale: float = 1.0) -> Unlearner:
    """Takes the leaving clients' first updates back from chosen layers, then rounds of ``fed``.

    It is the server's own work. A client that missed the first round has nothing to take back.

    Args:
      selector: the parameters to change: ``jfu.by_layer(model, 0)`` is the embedding of a language
        model, ``jfu.by_layer(model, [-2, -1])`` the last two layers.
      scale: the length of the ascent, in first updates.

    Raises:
      ValueError: ``scale`` is not a number from 0 on.

    >>> ga_first(fed, lambda path, leaf: True, scale=3.0).needs.history
    ('first',)
    """
    check_numbers("ga_first", "[0, inf)", scale=scale)

    def perturb(trained, request, key):
        del key
        stay, leave = weights(request.retain), weights(request.forget)
        share = -scale * leave / jnp.maximum((stay + leave).sum(), 1)
        params, mask = trained.variables["params"], select(trained.variables["params"], selector)

        def climb(p, first, chosen):
            back = lambda: plus(p, jnp.tensordot(share.astype(first.dtype), first, 1))
            return where(chosen, back, p)

        new = jax.tree.map(climb, params, wide(trained.history["first"]), mask)
        return fed.init({**trained.variables, "params": new})

    needs = Needs(history=("first",), per_client=True, whole_clients=True)
    return Unlearner(perturb, on_retained(fed), needs)
