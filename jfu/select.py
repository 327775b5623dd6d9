"""Selection of parameters: a selector is a predicate on paths, and gives a static boolean tree.

A selector may also pick single weights. Its answer is then an array of bools in the parameter's
shape, which may be traced (``jfu.unlearn.chosen``).

A path is the keys of the nested dictionary joined by ``/``, such as ``stem/kernel``.
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Sequence

import jax

from jfu.types import Model, Params, PyTree, Selector


def paths(params: Params) -> PyTree:
    """The tree with every leaf replaced by its path.

    >>> paths({"stem": {"bias": 0, "kernel": 0}})
    {'stem': {'bias': 'stem/bias', 'kernel': 'stem/kernel'}}
    """
    name = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/")
    return jax.tree_util.tree_map_with_path(name, params)


def by_path(*patterns: str) -> Selector:
    """Parameters whose whole path one of the regular expressions matches.

    >>> select({"stem": {"bias": 0, "kernel": 0}, "head": {"kernel": 0}}, by_path("stem/.*"))
    {'head': {'kernel': False}, 'stem': {'bias': True, 'kernel': True}}
    """
    if other := [p for p in patterns if not isinstance(p, str)]:
        raise ValueError(
            f"by_path was given {other[0]!r:.80}, but a pattern is text; pass patterns one by one, "
            "such as by_path('stem/.*', 'head/kernel')"
        )
    try:
        compiled = [re.compile(p) for p in patterns]
    except re.error as error:
        raise ValueError(
            f"{error.pattern!r} is not a regular expression ({error}); patterns are matched "
            "against whole paths such as 'stem/kernel' or 'stem/.*'"
        ) from None
    return lambda path, leaf: any(c.fullmatch(path) for c in compiled)


def by_layer(
    layers: Model | Sequence[str],
    positions: int | slice | Sequence[int] = 0,
    *,
    weights_only: bool = False,
) -> Selector:
    """Layers by their position in call order: 0 is the first, -1 the last, ``slice(None)`` all.

    A layer is its weight and bias. Norms are not layers, so "all" does not include them. The order
    is that of calls, which may differ from the order of a dictionary's keys.

    Args:
      layers: a ``Model``, or the paths of its layers in call order.
      positions: one position, several, or a slice.
      weights_only: whether to leave out biases.

    Raises:
      ValueError: a position is beyond the layers, or the model names no layers.

    >>> params = {"a": {"bias": 0, "kernel": 0}, "b": {"kernel": 0}}
    >>> select(params, by_layer(["b", "a"], -1, weights_only=True))
    {'a': {'bias': False, 'kernel': True}, 'b': {'kernel': False}}
    """
    if isinstance(layers, str):
        raise ValueError(f"the layers are the text {layers!r}; pass a Model, or a list of paths")
    names = tuple(layers.layers) if isinstance(layers, Model) else tuple(layers)
    if not names:
        raise ValueError(
            "the model names no layers in call order (an NNX model behind a bridge names none); "
            "choose by paths instead: jfu.by_path('stem/.*')"
        )
    positions = positions.tolist() if hasattr(positions, "tolist") else positions
    try:
        if isinstance(positions, slice):
            chosen = set(names[positions])
        else:
            several = isinstance(positions, Sequence)
            chosen = {names[i] for i in (positions if several else [operator.index(positions)])}
    except IndexError:
        raise ValueError(
            f"position {positions} is beyond the {len(names)} layers {list(names)}"
        ) from None

    def selector(path: str, leaf) -> bool:
        layer, _, name = path.rpartition("/")
        return layer in chosen and not (weights_only and name == "bias")

    return selector


def first_weight(
    layers: Model | Sequence[str],
    *,
    also: Collection[str] = ("position", "pos_embedding", "position_embeddings"),
) -> Selector:
    """The first layer's weight without its bias, and a transformer's learned positions.

    NoT's first author gives the negated parameters by their numbers one paper later: "the first CNN
    layer (index: 0)", and on a ViT "the positional representations and the second patch
    representation layer (indices: 0 and 4)". In PyTorch's order of parameters these numbers are
    weights; the biases have numbers of their own (1 and 5). ``by_layer(layers)`` is the other
    reading of "the first layer": weight and bias, and no positions.

    Khalil, Setayesh, Li. CoUn: Empowering Machine Unlearning via Contrastive Learning. NeurIPS
    2025, arXiv 2509.16391, appendix E.2.

    Args:
      layers: a ``Model``, or the paths of its layers in call order.
      also: names of parameters that are picked wherever they are. The usual ones are those of
        learned positions in ``jfu.models``, in Flax's examples and in Hugging Face's Flax models.

    Raises:
      ValueError: the model names no layers.

    >>> params = {"stem": {"bias": 0, "kernel": 0}, "position": 0, "head": {"kernel": 0}}
    >>> select(params, first_weight(["stem", "head"]))
    {'head': {'kernel': False}, 'position': True, 'stem': {'bias': False, 'kernel': True}}
    """
    if isinstance(also, str):
        raise ValueError(f"also is the text {also!r}; pass a list of names")
    weight = by_layer(layers, 0, weights_only=True)
    return lambda path, leaf: weight(path, leaf) or path.rpartition("/")[2] in also


def select(params: Params, selector: Selector) -> PyTree:
    """The parameters that a selector picks, as a tree of Python bools like ``params``.

    Where a selector picks single weights, the tree has its array of bools ``[...]`` in the
    parameter's shape.

    Raises:
      ValueError: nothing is selected, and the message lists the paths; or an array has another
        shape than its parameter.
    """

    def one(path, leaf):
        picked = selector(path, leaf)
        if not isinstance(picked, jax.Array):
            return bool(picked)
        if picked.shape != leaf.shape:
            raise ValueError(
                f"the selector picks weights of {path} by an array {list(picked.shape)}, and the "
                f"parameter is {list(leaf.shape)}; give bools in the parameter's shape"
            )
        return picked

    mask = jax.tree.map(one, paths(params), params)
    if not any(m is not False for m in jax.tree.leaves(mask)):
        known = ", ".join(jax.tree.leaves(paths(params)))
        raise ValueError(
            f"the selector picks no parameter; patterns must match a whole path, and the paths "
            f"are {known}"
        )
    return mask


def where(mask: bool | jax.Array, new: Callable[[], jax.Array], old: jax.Array) -> jax.Array:
    """``new()`` where a leaf of a selection says so, and ``old`` elsewhere.

    >>> where(jax.numpy.array([True, False]), lambda: jax.numpy.zeros(2), jax.numpy.ones(2))
    Array([0., 1.], dtype=float32)
    """
    if isinstance(mask, jax.Array):
        return jax.numpy.where(mask, new(), old)
    return new() if mask else old


def describe(params: Params, mask: PyTree) -> str:
    """A selection in words: paths, shapes and the share of all parameters.

    >>> params = {"stem": {"kernel": jax.numpy.zeros((3, 4))}, "head": jax.numpy.zeros(4)}
    >>> describe(params, select(params, by_path("stem/kernel")))
    'stem/kernel [3, 4]: 12 of 16 parameters (75.0 %)'
    """
    rows = zip(*map(jax.tree.leaves, (paths(params), params, mask)), strict=True)
    sizes = [(path, list(leaf.shape), math.prod(leaf.shape), m) for path, leaf, m in rows]
    caught = [s for s in sizes if s[3]]
    count, total = sum(s[2] for s in caught), sum(s[2] for s in sizes)
    names = ", ".join(f"{path} {shape}" for path, shape, _, _ in caught)
    return f"{names}: {count:,} of {total:,} parameters ({100 * count / total:.1f} %)"
