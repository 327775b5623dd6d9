"""Weights by PyTorch's names and layouts, as variables of a Flax model. PyTorch is not needed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jfu.types import Variables

# What a layer's arrays are called in PyTorch, and in Flax as (collection, name).
NAMES = {
    "weight": (("params", "kernel"), ("params", "scale"), ("params", "embedding")),
    "bias": (("params", "bias"),),
    "running_mean": (("batch_stats", "mean"),),
    "running_var": (("batch_stats", "var"),),
}


def from_torch(
    weights: Mapping[str, np.ndarray],
    like: Variables,
    layers: Mapping[str, str] | None = None,
    flattened: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The variables of a model, from a ``state_dict`` of PyTorch as NumPy arrays.

    ==============================  ==================================================
    PyTorch                         here
    ==============================  ==================================================
    ``conv.weight`` ``[O, I, H, W]``  ``conv/kernel`` ``[H, W, I, O]``
    ``conv.weight`` ``[O, I, W]``     ``conv/kernel`` ``[W, I, O]``
    ``dense.weight`` ``[O, I]``       ``dense/kernel`` ``[I, O]``
    ``norm.weight``                 ``norm/scale``
    ``norm.running_mean, _var``     ``norm/mean``, ``norm/var`` in ``batch_stats``
    ``embedding.weight``            ``embedding/embedding``
    ==============================  ==================================================

    ``num_batches_tracked`` has no counterpart and is left out.

    Args:
      weights: such as ``{name: tensor.numpy() for name, tensor in module.state_dict().items()}``.
      like: the model's variables, or their shapes and dtypes.
      layers: PyTorch's names of layers, and the model's paths, such as ``{"features.0": "stem"}``;
        other layers have the same path with ``/`` for ``.``.
      flattened: for a dense layer right after images were flattened, their ``(C, H, W)``, by
        PyTorch's name. PyTorch flattens channels first, and Flax flattens them last.

    Returns:
      variables like ``like``.

    Raises:
      ValueError: an array that the model lacks, or does not get, or that has another shape.

    >>> like = {"params": {"stem": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}}}
    >>> weights = {"fc.weight": np.arange(6.0).reshape(3, 2), "fc.bias": np.ones(3)}
    >>> from_torch(weights, like, {"fc": "stem"})["params"]["stem"]["kernel"].tolist()
    [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """
    wanted = {(c, path): leaf for c in like for path, leaf in _flat(like[c]).items()}
    found: dict[tuple[str, str], np.ndarray] = {}
    for name, array in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        path = (layers or {}).get(layer, layer.replace(".", "/"))
        places = [(c, f"{path}/{last}".lstrip("/")) for c, last in NAMES.get(kind, ())]
        place = next((place for place in places if place in wanted), None)
        if place is None:
            raise ValueError(
                f"the model has no place for {name}; its layers are "
                f"{', '.join(sorted({p.rpartition('/')[0] for _, p in wanted}))}; name the layer "
                "for it in layers"
            )
        array = _turned(np.asarray(array), place[1], (flattened or {}).get(layer))
        if array.shape != wanted[place].shape:
            raise ValueError(
                f"{name} becomes {list(array.shape)}, and {place[1]} is {list(wanted[place].shape)}"
            )
        found[place] = array.astype(wanted[place].dtype)
    if missing := [path for _, path in wanted.keys() - found.keys()]:
        raise ValueError(f"the weights have nothing for {', '.join(sorted(missing))}")
    return {c: _nested({p: a for (of, p), a in found.items() if of == c}) for c in like}


def _turned(array: np.ndarray, path: str, images: Sequence[int] | None) -> np.ndarray:
    """An array in Flax's order of axes."""
    if not path.endswith("kernel"):
        return array
    if images is not None:
        outputs = len(array)
        return array.reshape(outputs, *images).transpose(2, 3, 1, 0).reshape(-1, outputs)
    return np.moveaxis(array, (0, 1), (-1, -2))


def _flat(tree: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {before: tree}
    names = {name: f"{before}/{name}" if before else name for name in tree}
    return {p: a for name in tree for p, a in _flat(tree[name], names[name]).items()}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    from jfu.io import unflatten

    return unflatten(flat)
