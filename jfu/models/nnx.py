"""Flax NNX modules as ``Model``s."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jfu.models import watching
from jfu.types import Model

# Collections of variables by their types; those of random streams are in none.
TYPES = {"params": nnx.Param, "batch_stats": nnx.BatchStat, "constants": nnx.Not(nnx.RngState)}


def from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module], example: jax.Array | jax.ShapeDtypeStruct
) -> Model:
    """A Flax NNX module as a ``Model``.

    Variables are nested dictionaries of arrays, as for a Linen module: ``params``, and
    ``batch_stats`` and ``constants`` if there are any. The module is called with the batch.
    ``train()`` or ``eval()`` is called on it before. If its ``__call__`` names them, it also gets
    ``mask=`` and ``train=``, ``training=``, ``is_training=`` or ``deterministic=``, as in
    ``from_linen``. Each random stream of the module is seeded anew from ``key`` of ``apply``, so
    that a step depends on its key alone.

    Args:
      make: makes the module from its random streams, such as the class itself or ``lambda rngs:
        Net(10, rngs=rngs)``. The module returns logits ``[B, C]``. If it keeps batch statistics, it
        must take ``mask``, here bool ``[B]``, and pass it, as ``[B, 1, ...]``, to each
        ``nnx.BatchNorm``.
      example: a batch ``[B, ...]``, or its shape and dtype; values are not read.

    Returns:
      A model whose ``layers`` own a ``kernel`` or an ``embedding``, in call order.

    Raises:
      ValueError: ``make`` gives no module, or one with batch statistics but no ``mask``.

    Warns:
      UserWarning: it has dropout or batch statistics that training never switches on.

    >>> model = from_nnx(lambda rngs: nnx.Linear(5, 3, rngs=rngs), jnp.zeros((1, 5)))
    >>> variables = model.init(jax.random.key(0))
    >>> model.apply(variables, jnp.ones((2, 5)))[0].shape, sorted(variables["params"])
    ((2, 3), ['bias', 'kernel'])
    """
    example = jax.ShapeDtypeStruct((1, *example.shape[1:]), example.dtype)
    made: dict[str, Any] = {}  # the module's structure, which is the same for every key

    def init(key):
        module = make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise ValueError(f"an NNX module is wanted, and got a {type(module).__name__}")
        made["graph"], *states, random = nnx.split(module, *TYPES.values(), nnx.RngState)
        made["states"], made["random"] = states, jax.eval_shape(lambda: random)
        made["module"] = type(module)
        filled = {name: _nested(state) for name, state in zip(TYPES, states, strict=True)}
        return {name: values for name, values in filled.items() if values or name == "params"}

    variables = jax.eval_shape(init, jax.random.key(0))
    graph, kinds, random, kind = (made[n] for n in ("graph", "states", "random", "module"))
    kinds = jax.eval_shape(lambda: kinds)
    names = watching.named(kind.__call__)
    if "batch_stats" in variables and "mask" not in names:
        raise ValueError(
            f"{kind.__name__} keeps batch statistics, and padding would enter them, since its "
            "__call__ takes no mask; add mask=None and pass mask.reshape(-1, 1, 1, 1) to each "
            "nnx.BatchNorm, or use nnx.GroupNorm"
        )

    def run(variables, x, *, train, mask, key, watch=None):
        updating = train and "batch_stats" in variables
        alive, mask = watching.live(mask)
        states = [_filled(kinds[i], variables.get(name, {})) for i, name in enumerate(TYPES)]
        streams = _seeded(random, jax.random.key(0) if key is None else key)
        module = nnx.merge(graph, *states, streams)
        module.train() if train else module.eval()
        notes = {}
        if watch is not None:
            _watched(module, functools.partial(watch, notes))
        mask = None if mask is None else mask > 0  # NNX takes no floats
        logits = module(x, **watching.mode(names, train, mask))
        if not updating:
            return logits, {}, notes
        old = {"batch_stats": variables["batch_stats"]}
        changed = {"batch_stats": _nested(nnx.state(module, nnx.BatchStat))}
        return logits, watching.kept(alive, changed, old), notes

    def trace(watch):
        how = dict(train=False, mask=None, key=None, watch=watch)
        still = lambda variables, x: run(variables, x, **how)[0]
        jax.eval_shape(still, variables, example)
        return variables

    return watching.described(jax.jit(init), run, trace, example, kind.__name__)


def _nested(state: nnx.State) -> dict[str, Any]:
    """A state as a nested dictionary of arrays with text as keys, such as ``blocks/0/kernel``."""
    nested: dict[str, Any] = {}
    for path, leaf in nnx.to_flat_state(state):
        *outer, last = map(str, path)
        at = nested
        for name in outer:
            at = at.setdefault(name, {})
        at[last] = leaf[...] if isinstance(leaf, nnx.Variable) else leaf
    return nested


def _filled(state: nnx.State, values: Any) -> nnx.State:
    """A state of this structure with the arrays of a nested dictionary."""

    def at(path):
        return functools.reduce(lambda tree, name: tree[str(name)], path, values)

    flat = [(path, _with(leaf, at(path))) for path, leaf in nnx.to_flat_state(state)]
    return nnx.from_flat_state(flat)


def _with(leaf: Any, value: Any) -> Any:
    return leaf.replace(value) if isinstance(leaf, nnx.Variable) else value


def _seeded(random: nnx.State, key: jax.Array) -> nnx.State:
    """The random streams of a module with keys of their own, and counts of 0."""
    flat = []
    for number, (path, leaf) in enumerate(nnx.to_flat_state(random)):
        if isinstance(leaf, nnx.RngKey):
            value = jax.random.fold_in(key, number)
        else:
            value = jnp.zeros(leaf.shape, leaf.dtype)
        flat.append((path, leaf.replace(value)))
    return nnx.from_flat_state(flat)


def _watched(module: nnx.Module, watch: Callable) -> None:
    """Shows each call of a module inside this one to a watch; it is changed, so it must be new."""
    for path, inner in nnx.iter_modules(module):
        kind = _kind(inner)
        if kind:
            vars(inner)["_shown"] = functools.partial(watch, "/".join(map(str, path)), kind)
            object.__setattr__(inner, "__class__", watching.showing(type(inner)))


def _kind(module: nnx.Module) -> str:
    if any(isinstance(vars(module).get(name), nnx.Param) for name in ("kernel", "embedding")):
        return watching.LAYER
    if isinstance(module, nnx.BatchNorm):
        return watching.NORM
    return watching.DROPOUT if isinstance(module, nnx.Dropout) and module.rate else ""
