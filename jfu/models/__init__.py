"""Networks, and ``Model``s from any Linen module. Only this package imports Flax."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from jfu.models.cnn import CNN, SmallNet
from jfu.models.mlp import MLP
from jfu.models.precision import at_precision
from jfu.models.resnet import ResNet18
from jfu.models.vit import ViT
from jfu.types import Model

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
      classes: how many logits.
      image_shape: ``(H, W, channels)``; images may be uint8, or float in [0, 1].
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
    flat = MODELS[name] is MLP or getattr(MODELS[name], "func", None) is MLP
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


def _channels_first(first: int, second: int, third: int) -> bool:
    """Whether so shaped images are rather channels than rows first.

    >>> _channels_first(3, 32, 32), _channels_first(1, 28, 28), _channels_first(32, 32, 3)
    (True, True, False)
    >>> _channels_first(1, 128, 9)  # a signal of nine channels
    False
    """
    pixels = second == third if first == 1 else min(second, third) > 4
    return first in (1, 3, 4) and pixels and second > 4


def from_linen(module: nn.Module, example: jax.Array | jax.ShapeDtypeStruct) -> Model:
    """Any Linen module as a ``Model``.

    The module is called with the batch. If its ``__call__`` names them, it also gets ``train=``
    (bool) and ``mask=`` (``[B]``, never all zeros). ``key`` of ``apply`` becomes the ``dropout``
    key. For pretrained weights, replace ``init``: ``model._replace(init=lambda key: weights)``.

    Args:
      module: returns logits ``[B, C]``. If it keeps batch statistics, it must take ``mask`` and
        pass it, as ``[B, 1, ...]``, to each ``nn.BatchNorm``.
      example: a batch ``[B, ...]``, or its shape and dtype; values are not read.

    Returns:
      A model whose ``layers`` are the layers that own a ``kernel`` or an ``embedding``, and
      whose ``follows`` names the layer right before each batch normalisation.

    Raises:
      ValueError: the module keeps batch statistics but takes no ``mask``.

    >>> model = from_linen(nn.Dense(3), jnp.zeros((1, 5)))
    >>> logits, changed = model.apply(model.init(jax.random.key(0)), jnp.ones((2, 5)))
    >>> logits.shape, changed
    ((2, 3), {})
    """
    named = set(inspect.signature(type(module).__call__).parameters)
    # One row is enough, since parameters do not depend on the number of rows.
    shape, dtype = (1, *example.shape[1:]), example.dtype

    def call(fn, *args, train, mask=None, **rest):
        optional = {"train": train, "mask": mask}
        return fn(*args, **{k: v for k, v in optional.items() if k in named}, **rest)

    @jax.jit  # so that the forward pass, whose result is not used, is not run
    def init(key):
        return call(module.init, key, jnp.zeros(shape, dtype), train=False)

    def apply(variables, x, *, train=False, mask=None, key=None):
        updating = train and "batch_stats" in variables
        alive = True if mask is None else (mask > 0).any()
        if mask is not None:
            # Without a live row there is no mean. The module then sees all rows, and its new
            # statistics are thrown away.
            mask = jnp.where(alive, mask, jnp.ones_like(mask))
        rngs = None if key is None else {"dropout": key}
        mutable = ["batch_stats"] if updating else False
        out = call(module.apply, variables, x, train=train, mask=mask, rngs=rngs, mutable=mutable)
        if not updating:
            return out, {}
        logits, changed = out
        old = {name: variables[name] for name in changed}
        return logits, jax.tree.map(lambda new, old: jnp.where(alive, new, old), changed, old)

    def apply_features(variables, x, **how):
        seen = {}

        def watch(run, args, kwargs, context):
            if context.method_name == "__call__" and "/".join(context.module.path) == layers[-1]:
                seen["input"] = args[0]
            return run(*args, **kwargs)

        with nn.intercept_methods(watch):
            logits, changed = apply(variables, x, **how)
        return logits, seen["input"].reshape(x.shape[0], -1), changed

    def features(variables, x):
        return apply_features(variables, x)[1]

    def outputs(variables, x):
        seen = {}

        def watch(run, args, kwargs, context):
            result, path = run(*args, **kwargs), "/".join(context.module.path)
            if context.method_name == "__call__" and path in layers:
                seen[path] = result  # of the last call, where a layer is called twice
            return result

        with nn.intercept_methods(watch):
            call(module.apply, variables, x, train=False)
        return {name: seen[name] for name in layers}

    def cuts():
        run = lambda variables, x: call(module.apply, variables, x, train=False)
        x = jax.ShapeDtypeStruct(shape, dtype)
        return _cuts(run, layers, jax.eval_shape(init, jax.random.key(0)), x)

    layers, follows, collections = _trace(init)
    if "batch_stats" in collections and "mask" not in named:
        raise ValueError(
            f"{type(module).__name__} keeps batch statistics, and padding would enter them, since "
            "its __call__ takes no mask; add mask=None and pass mask.reshape(-1, 1, 1, 1) to each "
            "nn.BatchNorm, or use nn.GroupNorm"
        )
    model = Model(init, apply, layers, follows)
    if not layers:
        return model
    seeing = dict(features=features, outputs=outputs, cuts=cuts, apply_features=apply_features)
    return model._replace(**seeing)


def _trace(init: Callable) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], set[str]]:
    """Layers in call order, what batch norms follow, and the collections of the variables.

    The order is that of calls. A dictionary's order is lost in any tree operation (``Dense_10``
    sorts before ``Dense_2``).
    """
    outputs = []  # (array, layer); a reference to each array keeps its id unique
    follows = []

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__":
            path = "/".join(module.path)
            if module.has_variable("params", "kernel") or module.has_variable(
                "params", "embedding"
            ):
                outputs.append((result, path))
            if module.has_variable("batch_stats", "mean") and args:
                layer = [name for array, name in outputs if array is args[0]]
                follows.extend((f"{path}/mean", name) for name in layer)
        return result

    with nn.intercept_methods(watch):
        # Not the jitted function itself: a trace from the cache would call no module.
        variables = jax.eval_shape(inspect.unwrap(init), jax.random.key(0))
    layers = dict.fromkeys(name for _, name in outputs)
    return tuple(layers), tuple(follows), set(variables)


def _cuts(run: Callable, layers: Sequence[str], variables, x) -> tuple[tuple[str, ...], ...]:
    """Layers that read the same array, by depth, if without them no input reaches the output.

    Not found are layers inside ``nn.scan``, and a shortcut that reads what a norm before its
    convolution reads. Nor are layers of a network that looks at its input again, as for a mask.
    """
    readers = []  # (array, layers)

    def watch(call, args, kwargs, context):
        result, path = call(*args, **kwargs), "/".join(context.module.path)
        if context.method_name != "__call__" or path not in layers:
            return result
        for array in (*args, *kwargs.values())[:1]:
            known = [names for other, names in readers if other is array]
            known[0].append(path) if known else readers.append((array, [path]))
        return checkpoint_name(result, path)

    with nn.intercept_methods(watch):
        jaxpr = jax.make_jaxpr(run)(variables, x).jaxpr
    is_input = [v is jaxpr.invars[-1] for v in jaxpr.invars]
    cuts = dict.fromkeys(tuple(dict.fromkeys(names)) for _, names in readers)
    return tuple(names for names in cuts if not any(_reached(jaxpr, is_input, names)))


# Equations that contain one jaxpr and run it on their arguments.
CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call")


def _reached(jaxpr: core.Jaxpr, given: Sequence[bool], without: Sequence[str]) -> list[bool]:
    """Which outputs depend on the inputs that are ``given``, once some layers pass nothing on."""
    reached = {id(v) for v, is_given in zip(jaxpr.invars, given, strict=True) if is_given}
    for eqn in jaxpr.eqns:
        into = [id(v) in reached for v in eqn.invars]
        out = [any(into)] * len(eqn.outvars)
        inner = list(core.jaxprs_in_params(eqn.params))
        if eqn.primitive.name == "name" and eqn.params["name"] in without:
            out = [False]
        elif eqn.primitive.name in CALLS and len(inner) == 1:
            out = _reached(inner[0], into, without)
        reached.update(id(v) for v, yes in zip(eqn.outvars, out, strict=True) if yes)
    return [id(v) in reached for v in jaxpr.outvars]
