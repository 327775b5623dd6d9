"""Control: the chosen layers drawn again by the model's initialiser. Tensors keep their norms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jfu.select import select
from jfu.sums import norm
from jfu.types import FederatedAlgorithm, Key, Params, PyTree, Selector, Unlearner, Variables
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.noise import each_selected, rescaled


def redraw(params: Params, mask: PyTree, fresh: Params, key: Key) -> Params:
    """Replaces the selected leaves by those of ``fresh``, scaled to the old norms.

    A leaf of ``fresh`` that is all zeros, as initial biases are, is replaced by Gaussian noise.

    >>> redraw({"w": jnp.array([3.0, 4.0])}, {"w": True}, {"w": jnp.array([0.0, 2.0])},
    ...        jax.random.key(0))
    {'w': Array([0., 5.], dtype=float32)}
    """

    def one(p, key, new):
        gaussian = jax.random.normal(key, p.shape, p.dtype)
        return rescaled(jnp.where((new == 0).all(), gaussian, new), norm(p))

    return each_selected(one, params, mask, key, fresh)


def reinit(
    fed: FederatedAlgorithm, selector: Selector, init: Callable[[Key], Variables]
) -> Unlearner:
    """Re-initialises where NoT would negate, then rounds of ``fed``."""

    def perturb(trained, request, key):
        del request
        init_key, key = jax.random.split(key)
        params = trained.variables["params"]
        fresh = init(init_key)["params"]
        drawn = redraw(params, select(params, selector), fresh, key)
        return fed.init({**trained.variables, "params": drawn})

    return Unlearner(perturb, on_retained(fed))
