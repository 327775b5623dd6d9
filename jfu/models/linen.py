"""Flax Linen modules as ``Model``s."""

import contextlib
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfu.models import watching
from jfu.types import Model


def from_linen(module: nn.Module, example: jax.Array | jax.ShapeDtypeStruct) -> Model:
    """Any Linen module as a ``Model``.

    The module is called with the batch. If its ``__call__`` names them, it also gets ``mask=``
    (``[B]``, never all zeros), and whether it trains: ``train=``, ``training=`` or
    ``is_training=``, and the opposite as ``deterministic=``. ``key`` of ``apply`` becomes the
    ``dropout`` key. For pretrained weights, replace ``init``: ``model._replace(init=lambda key:
    weights)``.

    Args:
      module: returns logits ``[B, C]``. If it keeps batch statistics, it must take ``mask`` and
        pass it, as ``[B, 1, ...]``, to each ``nn.BatchNorm``.
      example: a batch ``[B, ...]``, or its shape and dtype; values are not read.

    Returns:
      A model whose ``layers`` are the layers that own a ``kernel`` or an ``embedding``, and
      whose ``follows`` names the layer right before each batch normalisation.

    Raises:
      ValueError: the module keeps batch statistics but takes no ``mask``.

    Warns:
      UserWarning: it has dropout or batch statistics that training never switches on.

    >>> model = from_linen(nn.Dense(3), jnp.zeros((1, 5)))
    >>> logits, changed = model.apply(model.init(jax.random.key(0)), jnp.ones((2, 5)))
    >>> logits.shape, changed
    ((2, 3), {})
    """
    names = watching.named(type(module).__call__)
    # One row is enough, since parameters do not depend on the number of rows.
    shape, dtype = (1, *example.shape[1:]), example.dtype

    @jax.jit  # so that the forward pass, whose result is not used, is not run
    def init(key):
        still = watching.mode(names, train=False, mask=None)
        return module.init(key, jnp.zeros(shape, dtype), **still)

    def run(variables, x, *, train, mask, key, watch=None):
        updating = train and "batch_stats" in variables
        alive, mask = watching.live(mask)
        rngs = None if key is None else {"dropout": key}
        mutable = ["batch_stats"] if updating else False
        how = watching.mode(names, train, mask)
        notes = {}
        with _watched(watch, notes):
            out = module.apply(variables, x, rngs=rngs, mutable=mutable, **how)
        if not updating:
            return out, {}, notes
        logits, changed = out
        old = {name: variables[name] for name in changed}
        return logits, watching.kept(alive, changed, old), notes

    def trace(watch):
        with _watched(watch, {}):
            # Not the jitted function itself: a trace from the cache would call no module.
            variables = jax.eval_shape(inspect.unwrap(init), jax.random.key(0))
        if "batch_stats" in variables and "mask" not in names:
            raise ValueError(
                f"{type(module).__name__} keeps batch statistics, and padding would enter them, "
                "since its __call__ takes no mask; add mask=None and pass mask.reshape(-1, 1, 1, "
                "1) to each nn.BatchNorm, or use nn.GroupNorm"
            )
        return variables

    alone = jax.ShapeDtypeStruct(shape, dtype)
    return watching.described(init, run, trace, alone, type(module).__name__)


def _watched(watch, notes):
    """A context in which each call of a module is shown to a watch."""
    if watch is None:
        return contextlib.nullcontext()

    def intercept(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name != "__call__":
            return result
        path = "/".join(context.module.path)
        given = next((array for array in (*args, *kwargs.values())), None)
        return watch(notes, path, _kind(context.module), given, result)

    return nn.intercept_methods(intercept)


def _kind(module: nn.Module) -> str:
    if any(module.has_variable("params", name) for name in ("kernel", "embedding")):
        return watching.LAYER
    if module.has_variable("batch_stats", "mean"):
        return watching.NORM
    return watching.DROPOUT if isinstance(module, nn.Dropout) and module.rate else ""
