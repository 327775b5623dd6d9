"""Control: Gaussian noise on the chosen layers. Each tensor keeps its norm.

p' = ||p|| (p + n) / ||p + n||,   n Gaussian with ||n|| = ||p||
"""

import jax

from jfu.select import select, where
from jfu.sums import narrow, norm, wide
from jfu.types import FederatedAlgorithm, Key, Params, PyTree, Selector, Unlearner
from jfu.unlearn.finetune import on_retained


def add_noise(params: Params, mask: PyTree, key: Key) -> Params:
    """Adds noise of the leaf's own norm to each selected leaf, then restores that norm.

    >>> norm(add_noise({"w": jax.numpy.full(4, 2.0)}, {"w": True}, jax.random.key(0)))
    Array(4., dtype=float32)
    """

    def one(p, key):
        noisy = p + rescaled(jax.random.normal(key, p.shape, p.dtype), norm(p))
        return rescaled(noisy, norm(p))

    return each_selected(one, params, mask, key)


def rescaled(p: jax.Array, length: jax.Array) -> jax.Array:
    """``p`` with the Euclidean norm ``length``; zeros stay zeros."""
    own = norm(p)
    return narrow(wide(p) * jax.numpy.where(own > 0, length / own, 0.0), p)


def each_selected(fn, params: Params, mask: PyTree, key: Key, *others: Params) -> Params:
    """``fn(leaf, key, ...)`` on the selected leaves, each with a key of its own.

    Of a leaf of which single weights are selected, these get what ``fn`` makes of the whole leaf.
    """
    leaves, treedef = jax.tree.flatten(params)
    rest = [treedef.flatten_up_to(other) for other in others]
    chosen = treedef.flatten_up_to(mask)
    keys = jax.random.split(key, len(leaves))
    rows = zip(leaves, chosen, keys, *rest, strict=True)
    one = lambda p, m, k, *o: where(m, lambda: fn(p, k, *o), p)
    return treedef.unflatten(one(*row) for row in rows)


def noise(fed: FederatedAlgorithm, selector: Selector) -> Unlearner:
    """Adds noise where NoT would negate, then rounds of ``fed``."""

    def perturb(trained, request, key):
        del request
        params = trained.variables["params"]
        noisy = add_noise(params, select(params, selector), key)
        return fed.init({**trained.variables, "params": noisy})

    return Unlearner(perturb, on_retained(fed))
