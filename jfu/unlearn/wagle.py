"""WAGLE: weights chosen by their attribution, what is forgotten against what is retained.

    s_i = | (theta_i - g_r,i / mu) g_f,i |,   the int(ratio n) of all n weights with the largest s_i

g_f and g_r are the gradients of the mean losses on forgotten and on retained data. The first term
is how the loss on forgotten data would change without weight i. The second takes off the part that
the retained data would bring back: mu stands for its curvature, a diagonal Hessian.

This is a choice of weights, which methods take in place of layers (``jfu.unlearn.chosen``). It is
the method's first round: each client sends its gradient once.

Jia, Liu, Zhang, Ram, Baracaldo, Liu. WAGLE: Strategic Weight Attribution for Effective and Modular
Unlearning in Large Language Models. NeurIPS 2024, arXiv 2410.17509. The formula is that of the
authors' code (OPTML-Group/WAGLE), with the mu of its configurations. There the unlearning method's
gradient is masked, with ratios from 0.4 to 0.95. Negation turns whole weights, and of a ratio for
that nothing is published.

Differences: the code adds up batches' mean gradients; here they are means over all examples, so
that mu does not depend on the number of batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jfu.clients import sum_clients
from jfu.metrics import Judge, classes
from jfu.sums import wide
from jfu.types import (
    Broadcast,
    LocalInfo,
    Model,
    Needs,
    Params,
    PyTree,
    Selector,
    Unlearner,
    check_counts,
    check_numbers,
)
from jfu.unlearn.chosen import if_finite, on_chosen, over_batches
from jfu.unlearn.fedmemprune import shaped
from jfu.unlearn.phases import together


def wagle(
    model: Model,
    make: Callable[[Selector], Unlearner],
    *,
    ratio: float = 0.4,
    mu: float = 1e-6,
    batch_size: int = 32,
    judge: Judge = classes,
    chunk: int | None = None,
) -> Unlearner:
    """A round that attributes weights, then a method on those with the largest scores.

    Args:
      make: the method on what a selector picks, as in ``on_chosen``.
      ratio: the share of all weights that is chosen, in [0, 1].
      mu: the curvature of the retained loss, above 0. With a large one, retained data has no say.
      batch_size: examples in a pass.
      judge: the task's loss of an example (``jfu.tasks``); cross-entropy if not given.

    >>> from jfu.unlearn.negation import negation
    >>> wagle(model, lambda selector: negation(fed, selector), ratio=0.1).needs.forget_data
    True
    """
    check_numbers("wagle", "[0, 1]", ratio=ratio)
    check_numbers("wagle", "(0, inf)", mu=mu)
    check_counts("wagle", 1, batch_size=batch_size)
    work = sum_clients(_slopes(model, judge, batch_size), chunk=chunk)

    def choose(variables, request, key):
        shared = Broadcast(variables, jnp.zeros((), jnp.int32))
        masks = jnp.stack([side.mask for side in request])
        # One program for both sides: derivatives take long to compile.
        each = lambda mask: work(shared, request.retain._replace(mask=mask), key)
        (total, many), infos = jax.lax.map(each, masks)
        sides = [jax.tree.map(lambda a, i=i: a[i], (total, many, infos)) for i in range(2)]
        retained, forgotten = (
            jax.tree.map(lambda a, many=many: a / jnp.maximum(many, 1), total)
            for total, many, _ in sides
        )
        scores = attribution(variables["params"], retained, forgotten, mu)
        return most(scores, ratio), together(sides[0][2], sides[1][2], request.retain.id)

    return on_chosen(choose, make, Needs(target=True, forget_data=True))


def attribution(params: Params, retained: Params, forgotten: Params, mu: float) -> Params:
    """The scores above, from the two gradients.

    >>> attribution(jnp.array([2.0, 2.0]), jnp.array([0.0, 1.0]), jnp.array([3.0, 3.0]), 0.5)
    Array([6., 0.], dtype=float32)
    """
    score = lambda p, r, f: jnp.abs((p - r / mu) * f)
    return jax.tree.map(score, wide(params), retained, forgotten)


def most(scores: PyTree, ratio: float) -> PyTree:
    """Marks the ``int(ratio n)`` largest of all ``n`` entries of a tree.

    Of equal entries the first in the tree's order are taken.

    >>> most({"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 4.0])}, 0.5)
    {'a': Array([ True, False], dtype=bool), 'b': Array([False,  True], dtype=bool)}
    """
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scores)])
    order = jnp.argsort(-flat, stable=True)[: int(ratio * flat.size)]
    return shaped(jnp.zeros(flat.size, bool).at[order].set(True), scores)


def _slopes(model: Model, judge: Judge, batch_size: int) -> Callable:
    """A client's work: the sum of its examples' gradients, and their number."""

    def work(shared, client, key):
        del key
        params = shared.variables["params"]

        def total(params, batch):
            outputs, _ = model.apply({**shared.variables, "params": params}, batch.x)
            # Rows that are not live may have a label that is none, and NaN times 0 is NaN.
            return jnp.where(batch.mask > 0, judge(outputs, batch.y)[0], 0).sum()

        def step(carry, batch):
            loss, slope = jax.value_and_grad(total)(params, batch)
            return carry[0] + loss, jax.tree.map(jnp.add, carry[1], wide(slope))

        start = jnp.float32(0), jax.tree.map(jnp.zeros_like, wide(params))
        (loss, slope), steps = over_batches(client, batch_size, step, start)
        live = client.mask.sum().astype(jnp.float32)
        none = jnp.float32(0)
        info = LocalInfo(live, loss / jnp.maximum(live, 1), steps.astype(jnp.float32), none)
        slope, info = if_finite(slope, info)
        return (slope, info.weight), info

    return work
