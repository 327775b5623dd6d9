"""Networks, and ``Model``s from modules of Linen, NNX and Equinox.

Only this package imports Flax. It imports NNX and Equinox only if one of their modules is used.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfu.models.cnn import CNN, SmallNet
from jfu.models.linen import from_linen
from jfu.models.lm import LM
from jfu.models.mlp import MLP
from jfu.models.precision import at_precision
from jfu.models.resnet import ResNet18
from jfu.models.vit import ViT
from jfu.types import Model

if TYPE_CHECKING:
    from jfu.models.equinox import from_equinox
    from jfu.models.nnx import from_nnx

__all__ = ["MODELS", "NORMS", "at_precision", "build", "from_equinox", "from_linen", "from_nnx"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "small": SmallNet,
    "mlp": MLP,
    "mlp1": partial(MLP, depth=1),
    "mlp4": partial(MLP, depth=4),
    "cnn": CNN,
    "resnet18": ResNet18,
    "resnet18_narrow": partial(ResNet18, widths=(16, 32, 64, 128)),
    "vit_tiny": partial(ViT, width=192, depth=12, heads=3),
    "vit_small": partial(ViT, width=384, depth=12, heads=6),
    "vit_base": partial(ViT, width=768, depth=12, heads=12),
    "lm_tiny": partial(LM, width=64, depth=2, heads=4),
}

# The normalisations that a model can have, its default first; the others have a fixed one.
NORMS: dict[str, tuple[str, ...]] = {
    "small": ("none", "group"),
    "cnn": ("none", "group"),
    "resnet18": ("group", "batch"),
    "resnet18_narrow": ("group", "batch"),
}


def build(
    name: str,
    *,
    classes: int,
    image_shape: Sequence[int],
    norm: str | None = None,
    convolution: Callable | None = None,
    precision: str | None = None,
) -> Model:
    """A model of the table ``MODELS``.

    Args:
      name: a key of ``MODELS``.
      classes: how many logits; for ``lm_tiny`` the size of the vocabulary.
      image_shape: ``(H, W, channels)``; images may be uint8, or float in [0, 1]. For ``lm_tiny`` it
        is ``(T,)``, the number of tokens.
      norm: one of ``NORMS[name]``; the first of them if not given.
      convolution: replaces ``jfu.conv`` in convolutional networks. With
        ``lax.conv_general_dilated`` the same network trains more slowly on CPU, but XLA's cost
        analysis counts its operations as usual.
      precision: of products, as in ``at_precision``; the device's own if not given.

    Raises:
      ValueError: there is no such model or normalisation, or the network cannot take this image
        shape.

    >>> build("mlp", classes=10, image_shape=(28, 28, 1)).layers
    ('stem', 'hidden', 'head')
    """
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; choose one of {sorted(MODELS)}")
    kind = getattr(MODELS[name], "func", MODELS[name])
    if kind is LM:
        return _of_tokens(name, classes, image_shape, norm, precision)
    flat = kind is MLP
    if len(image_shape) != 3 and not flat:
        raise ValueError(
            f"image_shape is {tuple(image_shape)}; pass (height, width, channels), with 1 "
            "channel for grey images, or choose mlp, mlp1 or mlp4, which take any shape"
        )
    if 0 in image_shape:
        raise ValueError(f"image_shape is {tuple(image_shape)}; no side of it may be 0")
    if not flat and _channels_first(*image_shape):
        channels, height, width = image_shape
        raise ValueError(
            f"image_shape is {tuple(image_shape)}, which seems to be {channels} channel"
            f"{'s' * (channels > 1)} of {height}x{width} pixels, and (height, width, channels) is "
            "wanted; transpose the images: x.transpose(0, 2, 3, 1)"
        )
    options: dict[str, Any] = {}
    if norm is not None:
        if norm not in NORMS.get(name, ()):
            possible = f"choose one of {list(NORMS[name])}" if name in NORMS else "leave it out"
            raise ValueError(f"the model {name!r} has no norm {norm!r}; {possible}")
        options["norm"] = norm
    if convolution is not None and not flat:
        options["convolution"] = convolution
    module = MODELS[name](classes=classes, **options)
    model = from_linen(module, jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))
    return at_precision(model, precision)


def _of_tokens(
    name: str, vocabulary: int, shape: Sequence[int], norm: str | None, precision: str | None
) -> Model:
    """A language model."""
    if len(shape) != 1:
        raise ValueError(
            f"{name} reads token ids [M, T], and these examples are {list(shape)}; choose another "
            "model"
        )
    if norm is not None:
        raise ValueError(f"the model {name!r} has no norm {norm!r}; leave it out")
    module = MODELS[name](classes=vocabulary)
    model = from_linen(module, jax.ShapeDtypeStruct((1, *shape), jnp.int32))
    return at_precision(model, precision)


def __getattr__(name: str) -> Any:
    """``from_nnx`` and ``from_equinox``, whose packages take long to import."""
    if name == "from_nnx":
        from jfu.models.nnx import from_nnx

        return from_nnx
    if name == "from_equinox":
        from jfu.models.equinox import from_equinox

        return from_equinox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _channels_first(first: int, second: int, third: int) -> bool:
    """Whether so shaped images are rather channels than rows first.

    >>> _channels_first(3, 32, 32), _channels_first(1, 28, 28), _channels_first(32, 32, 3)
    (True, True, False)
    >>> _channels_first(1, 128, 9)  # a signal of nine channels
    False
    """
    pixels = second == third if first == 1 else min(second, third) > 4
    return first in (1, 3, 4) and pixels and second > 4
