"""NoT, blended with a fresh start: negate chosen layers, then mix in a new model.

    theta'_l = a_l n(theta*)_l + b_l theta_0,l                  for each tensor l
    a_l      = min(1 / sqrt(2), |theta_0,l| / |theta*_l|)
    b_l      = sqrt(1 - a_l^2) for kernels, 1 - a_l for vectors

n negates the chosen layers, theta_0 is a model drawn anew. Negation alone leaves a loss far above
that of guessing, from which recovery may diverge. Training on from trained weights may also end at
a lower accuracy on unseen data than a fresh start does (Ash and Adams). The blend addresses both.
It brings each tensor back to about the length of a fresh draw, and that draw replaces what is cut
off. A kernel has no more of the old model than of the new one. Its draw is at right angles to it. A
vector, such as a scale of a normalisation, has a constant draw in its own direction, hence the
other b. What begins at zero, as biases do, is zero again: a bias that stayed as long while its
kernel shrinks would leave units without activity. A user tunes nothing. A number for ``keep`` is
another rule, theta' = keep n(theta*) + (1 - keep) theta_0 for all tensors. Neither is in NoT's
paper.

Negation: Khalil et al. NoT: Federated Unlearning via Weight Negation. CVPR 2025, arXiv 2503.05657.
Shrinking and perturbing: Ash, Adams. On Warm-Starting Neural Network Training. NeurIPS 2020, arXiv
1910.08475.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jfu.sums import narrow, norm, wide
from jfu.types import (
    FederatedAlgorithm,
    Key,
    PyTree,
    Selector,
    Unlearner,
    Variables,
    check_numbers,
)
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.negation import negated

HALF = 0.5**0.5  # then squares of both shares are the same


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


def renewed(tree: PyTree, fresh: PyTree) -> PyTree:
    """Every leaf cut to the length of its fresh draw at most, with as much of the draw as was cut.

    ``a w + b w_0`` with ``a = min(1 / sqrt(2), |w_0| / |w|)``. For kernels, of rank 2 and more,
    ``b = sqrt(1 - a^2)``, for vectors ``b = 1 - a``. Where ``w_0`` is zero, as biases are, that is
    zero. Leaves that are not floats stay.

    Args:
      tree: a pytree of arrays. Its types are kept, sums are float32 at least.
      fresh: one of the same structure and shapes.

    >>> mixed = renewed(jnp.array([[0.0, 4.0]]), jnp.array([[2.0, 0.0]]))  # a = 0.5
    >>> [round(value, 3) for value in mixed[0].tolist()]
    [1.732, 2.0]
    """

    def one(a, new):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        own, start = norm(a), norm(new)
        kept = jnp.where(own > start / HALF, start / jnp.where(own > 0, own, 1.0), HALF)
        added = jnp.sqrt(1 - kept**2) if a.ndim > 1 else 1 - kept
        return narrow(kept * wide(a) + added * wide(new), a)

    return jax.tree.map(one, tree, fresh)


def blended(
    fed: FederatedAlgorithm,
    selector: Selector,
    init: Callable[[Key], Variables],
    *,
    keep: float | None = None,
    follows: Sequence[tuple[str, str]] = (),
) -> Unlearner:
    """NoT from a blended start: negate, mix in a fresh model, then rounds of ``fed``.

    All variables are blended, running statistics too. With ``keep=1`` it is NoT, with ``keep=0``
    retraining.

    Args:
      fed: the federation that recovers.
      selector: the parameters to negate, such as ``jfu.by_layer(model, 0)``.
      init: draws a fresh model, ``model.init``.
      keep: the share of the trained model in a plain average; None goes by each tensor's length.
      follows: running means that change their sign too; see ``negation``.

    Raises:
      ValueError: ``keep`` is not in [0, 1].

    >>> from jfu.select import by_layer
    >>> from jfu.types import Trained
    >>> method = blended(fed, by_layer(model, 0), model.init)
    >>> trained = Trained(model.init(jax.random.key(0)))
    >>> state = method.perturb(trained, None, jax.random.key(1))
    >>> jax.tree.structure(state.variables) == jax.tree.structure(trained.variables)
    True
    """
    check_numbers("blended", "[0, 1]", keep=keep)
    mix = renewed if keep is None else functools.partial(blend, keep=keep)

    def perturb(trained, request, key):
        del request
        turned = dict(negated(trained.variables, selector, follows))
        return fed.init(mix(turned, dict(init(key))))

    return Unlearner(perturb, on_retained(fed))
