"""NoT, blended with a fresh start: negate chosen layers, then go half the way to a new model.

    theta' = a n(theta*) + (1 - a) theta_0,   n negates the chosen layers,   theta_0 is drawn anew

Negation alone leaves a loss far above that of guessing, from which recovery may diverge. Training
on from trained weights also ends at a lower accuracy on unseen data than a fresh start does. The
average with a fresh model is meant against both. Its weights are about as long as at a start, so
recovery begins at the loss of guessing. The price is rounds: more has to be learnt again than after
negation alone. This is not in NoT's paper.

Negation: Khalil et al. NoT: Federated Unlearning via Weight Negation. CVPR 2025, arXiv 2503.05657.
Shrinking and perturbing: Ash, Adams. On Warm-Starting Neural Network Training. NeurIPS 2020, arXiv
1910.08475.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jfu.sums import narrow, wide
from jfu.types import FederatedAlgorithm, Key, PyTree, Selector, Unlearner, Variables
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.negation import negated


def blend(tree: PyTree, fresh: PyTree, keep: float | jax.Array) -> PyTree:
    """``keep * tree + (1 - keep) * fresh`` for every leaf of floats; other leaves stay.

    Args:
      tree: a pytree of arrays. Its types are kept, sums are float32 at least.
      fresh: one of the same structure and shapes.
      keep: the share of ``tree``, in [0, 1].

    >>> blend({"w": jnp.array([4.0, -2.0])}, {"w": jnp.array([0.0, 1.0])}, 0.5)
    {'w': Array([ 2. , -0.5], dtype=float32)}
    """

    def one(a, new):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return narrow(keep * wide(a) + (1 - keep) * wide(new), a)

    return jax.tree.map(one, tree, fresh)


def blended(
    fed: FederatedAlgorithm,
    selector: Selector,
    init: Callable[[Key], Variables],
    *,
    keep: float = 0.5,
    follows: Sequence[tuple[str, str]] = (),
) -> Unlearner:
    """NoT from a blended start: negate, average with a fresh model, then rounds of ``fed``.

    All variables are blended, running statistics too. With ``keep=1`` it is NoT, with ``keep=0``
    retraining.

    Args:
      fed: the federation that recovers.
      selector: the parameters to negate, such as ``jfu.by_layer(model, 0)``.
      init: draws a fresh model, ``model.init``.
      keep: the share a of the trained model.
      follows: running means that change their sign too; see ``negation``.

    Raises:
      ValueError: a share outside [0, 1].

    >>> from jfu.select import by_layer
    >>> from jfu.types import Trained
    >>> method = blended(fed, by_layer(model, 0), model.init)
    >>> trained = Trained(model.init(jax.random.key(0)))
    >>> state = method.perturb(trained, None, jax.random.key(1))
    >>> jax.tree.structure(state.variables) == jax.tree.structure(trained.variables)
    True
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep is {keep}; it is the trained model's share, in [0, 1]")

    def perturb(trained, request, key):
        del request
        turned = dict(negated(trained.variables, selector, follows))
        return fed.init(blend(turned, dict(init(key)), keep))

    return Unlearner(perturb, on_retained(fed))
