"""NoT: negate chosen layers of the trained model, then train on the retained data.

    theta'_l = -theta*_l  for l in the chosen layers,   theta'_l = theta*_l  elsewhere

The method needs no stored history, no access to the forgotten data, and no help from the leaving
client. The paper negates the first layer. Negating its weight and bias turns its output Y into -Y.

"The first layer" can be read in two ways. The paper speaks of layer-wise negation of parameters,
and of an output Y that becomes -Y. So ``not`` negates weight and bias, and no positions of a
transformer (``jfu.by_layer(model, 0)``). The first author's next paper numbers the negated tensors,
and its numbers are the weight alone and, on a ViT, the learned positions (``jfu.first_weight``).
``not_first_weight`` does that. In a ResNet, whose first layer has no bias, both are the same.

Khalil, Brunswic, Lamghari, Li, Beitollahi, Chen. NoT: Federated Unlearning via Weight
Negation. CVPR 2025, arXiv 2503.05657.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jfu.metrics import logits_of
from jfu.select import select, where
from jfu.types import FederatedAlgorithm, Params, PyTree, Selector, Unlearner, Variables
from jfu.unlearn.finetune import on_retained


def negate(params: Params, mask: PyTree) -> Params:
    """Multiplies the selected leaves by -1. Doing so twice restores the same bits.

    Args:
      params: any pytree of arrays.
      mask: Python bools in the structure of ``params``, or bools in a leaf's shape for single
        weights; ``jfu.select`` makes it.

    Raises:
      ValueError: the two trees differ in structure.

    >>> negate({"stem": 2.0, "head": 3.0}, {"stem": True, "head": False})
    {'head': 3.0, 'stem': -2.0}
    """
    if jax.tree.structure(params) != jax.tree.structure(mask):
        raise ValueError(
            f"the mask {jax.tree.structure(mask)} differs from the parameters "
            f"{jax.tree.structure(params)} in structure; make it with jfu.select(params, selector)"
        )
    return jax.tree.map(lambda p, m: where(m, lambda: -p, p), params, mask)


def negation(
    fed: FederatedAlgorithm, selector: Selector, *, follows: Sequence[tuple[str, str]] = ()
) -> Unlearner:
    """NoT as an unlearner: negate what ``selector`` picks, then run rounds of ``fed``.

    Args:
      fed: the federation that recovers.
      selector: the parameters to negate, such as ``jfu.by_layer(model, 0)``.
      follows: pairs of (running mean, layer), as in ``model.follows``. A BatchNorm's running mean
        is negated too if the layer directly before it is wholly negated. Without ``follows`` such
        a norm subtracts a mean of the wrong sign until its statistics have caught up.

    >>> from jfu.fedavg import fedavg
    >>> from jfu.local import local_sgd
    >>> from jfu.select import by_path
    >>> from jfu.types import Trained
    >>> import optax
    >>> loss = lambda variables, batch, key: jnp.zeros(())
    >>> method = negation(fedavg(local_sgd(loss, optax.sgd(0.1))), by_path("stem"))
    >>> variables = {"params": {"stem": jnp.ones(2), "head": jnp.ones(2)}}
    >>> method.perturb(Trained(variables), None, None).params
    {'head': Array([1., 1.], dtype=float32), 'stem': Array([-1., -1.], dtype=float32)}
    """

    def perturb(trained, request, key):
        del request, key
        return fed.init(negated(trained.variables, selector, follows))

    return Unlearner(perturb, on_retained(fed))


def negated(
    variables: Variables, selector: Selector, follows: Sequence[tuple[str, str]] = ()
) -> Variables:
    """A model's variables with the selected parameters and their running means negated.

    ``selector`` and ``follows`` are those of ``negation``.

    >>> from jfu.select import by_path
    >>> negated({"params": {"stem": 2.0, "head": 3.0}}, by_path("stem"))
    {'params': {'head': 3.0, 'stem': -2.0}}
    """
    mask = select(variables["params"], selector)
    changed = {"params": negate(variables["params"], mask)}
    if "batch_stats" in variables:
        chosen = _means(variables["batch_stats"], mask, follows)
        changed["batch_stats"] = negate(variables["batch_stats"], chosen)
    return {**variables, **changed}


def _means(statistics: Params, mask: PyTree, follows: Sequence[tuple[str, str]]) -> PyTree:
    """True for running means that directly follow a wholly negated layer."""

    def negated(layer: str) -> bool:
        inside = mask
        for name in layer.split("/"):
            inside = inside[name]
        # A layer of which single weights are chosen is not.
        return all(chosen is True for chosen in jax.tree.leaves(inside))

    chosen = {mean for mean, layer in follows if negated(layer)}
    name = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/") in chosen
    return jax.tree_util.tree_map_with_path(name, statistics)


def answers_alike(apply: Callable, variables: Variables, x: jax.Array) -> bool:
    """Whether a model gives all inputs the same outputs, up to rounding: it has learnt nothing.

    Args:
      apply, x: as in ``check_changed``.

    >>> answers_alike(lambda variables, x: 0 * x + variables["b"], {"b": 2.0}, jnp.ones((4, 1)))
    True
    """
    out = _outputs(apply, variables, x)
    return bool(len(out) > 1 and jnp.abs(out - out[:1]).max() <= 1e-6 * jnp.abs(out).max())


def check_changed(
    apply: Callable, before: Variables, after: Variables, x: jax.Array, *, rtol: float = 1e-4
) -> None:
    """Raises an error if a perturbation did not change what the model computes.

    Negations can cancel. They do so in two consecutive layers with an odd activation between them.
    They also cancel in a convolution and the scale of its norm, and before an even activation.

    Args:
      apply: ``(variables, x) -> logits``, or ``-> (logits, anything)``.
      before, after: variables before and after the perturbation.
      x: one batch of real inputs ``[B, ...]``.
      rtol: differences up to this size, relative to the largest logit, count as rounding.

    Raises:
      ValueError: the outputs agree up to rounding, or are not finite.

    >>> odd = lambda variables, x: jnp.tanh(x * variables["a"]) * variables["b"]
    >>> before, after = {"a": 1.0, "b": 2.0}, {"a": -1.0, "b": -2.0}
    >>> check_changed(odd, before, after, jnp.ones((4, 1)))
    Traceback (most recent call last):
    ...
    ValueError: the perturbation leaves the model's outputs as they were: the largest difference \
over 4 inputs is 0, and the largest output is 1.52. The negations cancel. Choose layers that do \
not feed each other, such as the first alone
    """
    old, new = _outputs(apply, before, x), _outputs(apply, after, x)
    difference, scale = float(jnp.abs(new - old).max()), float(jnp.abs(old).max())
    if not (np.isfinite(difference) and np.isfinite(scale)):
        raise ValueError(
            "the model's outputs contain NaN or infinity before or after the perturbation, so its "
            "training has diverged; train again with a smaller learning rate"
        )
    if difference <= rtol * scale:
        raise ValueError(
            "the perturbation leaves the model's outputs as they were: the largest difference over "
            f"{len(x)} inputs is {difference:.3g}, and the largest output is {scale:.3g}. The "
            "negations cancel. Choose layers that do not feed each other, such as the first alone"
        )


def _outputs(apply: Callable, variables: Variables, x: jax.Array) -> jax.Array:
    out = apply(variables, x)
    return logits_of(out[0] if isinstance(out, tuple) else out, ndim=None)
