"""FedMemPrune: draw again the parameters that a round on retained data moves least.

    U         = how far one ordinary round of the retained clients moves theta*
    M         = the int(ratio n) of all n parameters with the smallest |U|
    theta'_M  = fresh draws;   the others stay as the round left them;   then further rounds

The idea is that what retained data does not move holds what was memorised of the rest. The order is
one over all tensors, not one for each. Fresh draws are Kaiming-uniform, U(-b, b) with b = sqrt(6 /
fan-in), for tensors of two axes and more, and U(-0.1, 0.1) for vectors and scalars. The fan-in is
the product of all axes but the last. The server needs the mean update alone.

Wei, Zhang, Zhang, Zhang, Chen, Ong, Zhang, Xiang. Rethinking Federated Unlearning via the Lens of
Memorization. KDD 2026, arXiv 2605.24545. The formulas are those of the authors' code
(JWei1999/Rethinking-Federated-Unlearning-via-the-Lens-of-Memorization on GitHub), with its ratios:
0.3 on CIFAR-10 and EMNIST, 0.4 there with clients that differ, 0.8 and 0.85 on CIFAR-100.

Differences: the code weights clients equally; here they are weighted as in every round. U is read
off the model, after the server's step. That keeps the order of |U| for every optimizer of jfu, but
for a small jump of yogi's. The code leaves batch normalisation out; here all parameters take part.
Its networks also start from these draws, those of jfu do not. A round that moves nothing, because
nobody took part or because it could not be applied, says nothing; the next one decides.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu.costs import entries
from jfu.sums import wide
from jfu.types import FederatedAlgorithm, Key, Params, PyTree, Unlearner, check_numbers
from jfu.unlearn.phases import Beside

DRAW = 0x6D656D70  # sets fresh parameters apart from all that a round draws


def fedmemprune(fed: FederatedAlgorithm, *, ratio: float = 0.3) -> Unlearner:
    """A round of ``fed``, after which the least moved parameters are drawn again; then its rounds.

    The server sorts ``|U|`` with its indices once, and draws. On a CPU that takes about 15 bytes
    and a microsecond for each parameter. ``jfu.faults.bounded`` does not limit fresh draws, since
    no client sends them.

    Args:
      ratio: the share of all parameters that are drawn again, in [0, 1].

    Raises:
      ValueError: ``ratio`` is not in [0, 1].

    >>> fedmemprune(fed, ratio=0.4).needs  # neither the leaving client nor a history
    Needs(history=(), target=False, forget_data=False, per_client=False, proxy_data=False, \
counts=False, whole_clients=False)
    """
    check_numbers("fedmemprune", "[0, 1]", ratio=ratio)

    def perturb(trained, request, key):
        del request, key
        return Beside(fed.init(trained.variables), jnp.zeros((), bool))

    def recover(state, request, key):
        inner, info = fed.round(state.inner, request.retain, key)
        update = optax.tree.sub(wide(inner.params), wide(state.params))
        moved = jnp.stack([(u != 0).any() for u in jax.tree.leaves(update)]).any()

        def pruned():
            chosen = least(update, ratio)
            new = redrawn(inner.params, chosen, jax.random.fold_in(key, DRAW))
            return inner._replace(variables={**inner.variables, "params": new})

        after = jax.lax.cond(moved & ~state.own, pruned, lambda: inner)
        return Beside(after, state.own | moved), info

    never = lambda state: jnp.zeros((), bool)  # clients are combined as in every round
    return Unlearner(perturb, recover, own=1, own_now=never)


def least(tree: PyTree, ratio: float) -> PyTree:
    """Marks the ``int(ratio n)`` smallest of all ``n`` entries of a tree by absolute value.

    Of equal entries the first in the tree's order are taken, so the number is always exact.

    Returns:
      The tree with bools in place of numbers.

    >>> least({"a": jnp.array([3.0, -1.0]), "b": jnp.array([1.0, 2.0])}, 0.5)
    {'a': Array([False,  True], dtype=bool), 'b': Array([ True, False], dtype=bool)}
    """
    flat = jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(tree)])
    order = jnp.argsort(flat, stable=True)[: int(ratio * flat.size)]
    return shaped(jnp.zeros(flat.size, bool).at[order].set(True), tree)


def redrawn(params: Params, chosen: PyTree, key: Key) -> Params:
    """The parameters with fresh draws where ``chosen`` says so.

    >>> params, chosen = {"w": jnp.ones(2)}, {"w": jnp.array([True, False])}
    >>> bool(abs(redrawn(params, chosen, jax.random.key(0))["w"][0]) <= 0.1)
    True
    """
    # All tensors are one draw, which compiles in a fraction of the time of one for each.
    even = jax.random.uniform(key, (entries(params),), minval=-1.0)

    def one(old, chosen, even):
        bound = (6 * old.shape[-1] / old.size) ** 0.5 if old.ndim > 1 else 0.1
        return jnp.where(chosen, (bound * even).astype(old.dtype), old)

    return jax.tree.map(one, params, chosen, shaped(even, params))


def shaped(flat: jax.Array, like: PyTree) -> PyTree:
    """A vector of all entries as a tree of the shapes of ``like``.

    >>> shaped(jnp.arange(3), {"a": jnp.zeros(1), "b": jnp.zeros(2)})["b"].tolist()
    [1, 2]
    """
    leaves, treedef = jax.tree.flatten(like)
    parts = jnp.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return treedef.unflatten([p.reshape(a.shape) for p, a in zip(parts, leaves, strict=True)])
