"""Control: the entries of the chosen tensors in random order. Norms stay the same."""

import jax

from jfu.select import select
from jfu.types import FederatedAlgorithm, Key, Params, PyTree, Selector, Unlearner
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.noise import each_selected


def shuffle(params: Params, mask: PyTree, key: Key) -> Params:
    """Permutes the entries of each selected leaf.

    >>> shuffled = shuffle({"w": jax.numpy.arange(4)}, {"w": True}, jax.random.key(0))["w"]
    >>> sorted(shuffled.tolist())
    [0, 1, 2, 3]
    """

    def one(p, key):
        return jax.random.permutation(key, p.ravel()).reshape(p.shape)

    return each_selected(one, params, mask, key)


def permute(fed: FederatedAlgorithm, selector: Selector) -> Unlearner:
    """Permutes where NoT would negate, then rounds of ``fed``."""

    def perturb(trained, request, key):
        del request
        params = trained.variables["params"]
        shuffled = shuffle(params, select(params, selector), key)
        return fed.init({**trained.variables, "params": shuffled})

    return Unlearner(perturb, on_retained(fed))
