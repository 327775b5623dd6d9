"""NoT: negate chosen layers of the trained model, then train on what is retained.

    theta'_l = -theta*_l  for l in the chosen layers,   theta'_l = theta*_l  elsewhere

Khalil, Brunswic, Lamghari, Li, Beitollahi, Chen. NoT: Federated Unlearning via Weight
Negation. CVPR 2025, arXiv 2503.05657. No stored history, no access to the forgotten data,
no help from the client that leaves. The paper's choice is the first layer; negating weight
and bias turns its output Y into -Y.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jfu.metrics import logits_of
from jfu.select import select
from jfu.types import FederatedAlgorithm, Params, PyTree, Selector, Unlearner, Variables
from jfu.unlearn.finetune import on_retained


def negate(params: Params, mask: PyTree) -> Params:
    """Multiplies the selected leaves by -1; twice gives the same bits back.

    Args:
      params: any pytree of arrays.
      mask: a tree of Python bools like ``params``, as ``jfu.select`` makes it.

    Raises:
      ValueError: the two trees differ in structure.

    >>> negate({"stem": 2.0, "head": 3.0}, {"stem": True, "head": False})
    {'head': 3.0, 'stem': -2.0}
    """
    if jax.tree.structure(params) != jax.tree.structure(mask):
        raise ValueError(
            f"the mask {jax.tree.structure(mask)} differs from the parameters "
            f"{jax.tree.structure(params)}; make it with jfu.select(params, selector)"
        )
    return jax.tree.map(lambda p, m: -p if m else p, params, mask)


def negation(
    fed: FederatedAlgorithm, selector: Selector, *, follows: Sequence[tuple[str, str]] = ()
) -> Unlearner:
    """NoT as an unlearner: negate what ``selector`` picks, then rounds of ``fed``.

    Args:
      fed: the federation that recovers.
      selector: the parameters to negate, such as ``jfu.by_layer(model, 0)``.
      follows: ``model.follows`` lets the running mean of a BatchNorm that directly follows a
        wholly negated layer change its sign too; that layer's outputs did. Without it such a
        norm subtracts a mean of the wrong sign until its statistics have caught up.

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
    """A model's variables with the parameters that ``selector`` picks, and what follows, negated.

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
    """The running means that directly follow a layer whose every parameter is negated."""

    def negated(layer: str) -> bool:
        inside = mask
        for name in layer.split("/"):
            inside = inside[name]
        return all(jax.tree.leaves(inside))

    chosen = {mean for mean, layer in follows if negated(layer)}
    name = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/") in chosen
    return jax.tree_util.tree_map_with_path(name, statistics)


def check_changed(
    apply: Callable, before: Variables, after: Variables, x: jax.Array, *, rtol: float = 1e-4
) -> None:
    """Refuses a perturbation that left the function as it was.

    Negations can cancel. They do so in two consecutive layers with an odd activation between them,
    in a convolution and the scale of its own norm, and before an even activation.

    Args:
      apply: ``(variables, x) -> logits``, or ``-> (logits, anything)``.
      before, after: variables before and after the perturbation.
      x: one batch of real inputs ``[B, ...]``.
      rtol: largest difference that counts as rounding, relative to the largest logit.

    Raises:
      ValueError: the outputs agree to rounding, or are not finite.

    >>> odd = lambda variables, x: jnp.tanh(x * variables["a"]) * variables["b"]
    >>> before, after = {"a": 1.0, "b": 2.0}, {"a": -1.0, "b": -2.0}
    >>> check_changed(odd, before, after, jnp.ones((4, 1)))
    Traceback (most recent call last):
    ...
    ValueError: the perturbation leaves the model's outputs as they were (largest difference \
0 of 1.52 over 4 inputs), so nothing would be forgotten: the negations cancel; choose layers of \
which none feeds another, such as the first alone
    """
    first = lambda out: out[0] if isinstance(out, tuple) else out
    logits = lambda variables: logits_of(first(apply(variables, x)))
    old, new = logits(before), logits(after)
    difference, scale = float(jnp.abs(new - old).max()), float(jnp.abs(old).max())
    if not (np.isfinite(difference) and np.isfinite(scale)):
        raise ValueError(
            "the model's outputs hold NaN or infinity before or after the perturbation; it has "
            "diverged: train anew with a smaller learning rate"
        )
    if difference <= rtol * scale:
        raise ValueError(
            "the perturbation leaves the model's outputs as they were (largest difference "
            f"{difference:.3g} of {scale:.3g} over {len(x)} inputs), so nothing would be "
            "forgotten: the negations cancel; choose layers of which none feeds another, such "
            "as the first alone"
        )
