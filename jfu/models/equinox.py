"""Equinox modules as ``Model``s; needs the package equinox (``pip install 'jfu[equinox]'``)."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from jfu.models import watching
from jfu.types import Model

NORMS = (eqx.nn.BatchNorm, eqx.nn.LayerNorm, eqx.nn.GroupNorm, eqx.nn.RMSNorm)


def from_equinox(
    make: Callable[[jax.Array], eqx.Module], example: jax.Array | jax.ShapeDtypeStruct
) -> Model:
    """An Equinox module as a ``Model``.

    An Equinox module takes one example; here it is mapped over the batch. If its ``__call__`` names
    them, it gets ``key=``, different for each example, ``state=``, and whether it trains, as in
    ``from_linen``. ``eqx.nn.inference_mode`` is set before. With ``state`` it returns ``(logits,
    state)``, as is usual in Equinox.

    Variables are nested dictionaries of arrays. ``params`` has all arrays of floats, by their path.
    ``batch_stats`` has the state, and ``constants`` has arrays of other types. Examples that are
    not live stay out of the statistics of ``eqx.nn.BatchNorm``, without any work of the module.

    Args:
      make: makes the module from a key, such as the class itself or ``lambda key: Net(10,
        key=key)``. The module returns logits ``[C]``.
      example: a batch ``[B, ...]``, or its shape and dtype; values are not read.

    Returns:
      A model whose ``layers`` own a ``weight`` that is no norm's, in call order. ``follows`` is
      empty.

    Raises:
      ValueError: ``make`` gives no module.

    Warns:
      UserWarning: it has dropout or batch statistics that training never switches on.

    >>> model = from_equinox(lambda key: eqx.nn.Linear(5, 3, key=key), jnp.zeros((1, 5)))
    >>> variables = model.init(jax.random.key(0))
    >>> model.apply(variables, jnp.ones((2, 5)))[0].shape, sorted(variables["params"])
    ((2, 3), ['bias', 'weight'])
    """
    example = jax.ShapeDtypeStruct((1, *example.shape[1:]), example.dtype)

    def made(key):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="When `eqx.nn.BatchNorm")
            module, state = eqx.nn.make_with_state(make)(key)
        if not isinstance(module, eqx.Module):
            raise ValueError(f"an Equinox module is wanted, and got a {type(module).__name__}")
        return module, state

    @jax.jit
    def init(key):
        module, state = made(key)
        floats, rest = eqx.partition(eqx.filter(module, eqx.is_array), eqx.is_inexact_array)
        trees = dict(params=floats, batch_stats=state, constants=rest)
        filled = {name: _nested(tree) for name, tree in trees.items()}
        return {name: values for name, values in filled.items() if values or name == "params"}

    shapes, state_shapes = eqx.filter_eval_shape(made, jax.random.key(0))
    names, who = watching.named(type(shapes).__call__), type(shapes).__name__
    axes = {n.axis_name for n in _all(shapes, lambda n: isinstance(n, eqx.nn.BatchNorm))}
    if len(axes) > 1:
        raise ValueError(f"{who} names its batch by several axes, {axes}; use one")
    axis = next(iter(axes), None)
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)

    def run(variables, x, *, train, mask, key, watch=None):
        updating = train and "batch_stats" in variables
        alive, mask = watching.live(mask)
        known = _flat(variables["params"]) | _flat(variables.get("constants", {}))
        module = _filled(shapes, known, is_shape)
        module = eqx.nn.inference_mode(module, not train)
        state = _filled(state_shapes, _flat(variables.get("batch_stats", {})), is_shape)
        how = watching.mode(names, train, None)
        keys = None if key is None else jax.random.split(key, len(x))

        def row(x, live, key) -> Any:
            notes = {}
            one = module if live is None or not updating else _masked(module, live)
            one: Any = one if watch is None else _watched(one, functools.partial(watch, notes))
            more = {n: v for n, v in dict(key=key, state=state).items() if n in names}
            out = one(x, **more, **how)
            logits, new = out if "state" in names else (out, state)
            return logits, new, notes

        over = [0, None if mask is None else 0, None if keys is None else 0]
        mapped = jax.vmap(row, over, (0, None if axis else 0, 0), axis_name=axis)
        logits, new, notes = mapped(x, mask, keys)
        if not updating:
            return logits, {}, notes
        old = {"batch_stats": variables["batch_stats"]}
        return logits, watching.kept(alive, {"batch_stats": _nested(new)}, old), notes

    def trace(watch):
        how = dict(train=False, mask=None, key=None, watch=watch)
        still = lambda variables, x: run(variables, x, **how)[0]
        variables = jax.eval_shape(init, jax.random.key(0))
        jax.eval_shape(still, variables, example)
        return variables

    return watching.described(init, run, trace, example, who)


class _Masked(eqx.Module):
    """``eqx.nn.BatchNorm`` in training, with the statistics of the live examples only."""

    norm: eqx.nn.BatchNorm
    live: jax.Array  # this example's mask, float []

    def __call__(self, x, state, *, key=None, inference=None):
        norm, live = self.norm, self.live
        mean_of = lambda a: lax.psum(a * live, norm.axis_name) / lax.psum(live, norm.axis_name)
        places = tuple(range(1, x.ndim))
        wide = lambda a: a.reshape(-1, *(1,) * len(places))
        mean = mean_of(x.mean(places))
        var = mean_of(((x - wide(mean)) ** 2).mean(places))
        keep = norm.momentum
        if norm.mode == "batch":
            state = state.set(norm.batch_counter, state.get(norm.batch_counter) + 1)
            index = norm.batch_state_index
            old = state.get(index)
            new = (keep * old[0] + (1 - keep) * mean, keep * old[1] + (1 - keep) * var)
        else:
            first, index = state.get(norm.ema_first_time_index), norm.ema_state_index
            state = state.set(norm.ema_first_time_index, jnp.array(False))
            old = state.get(index)
            new = (keep * old[0] + (1 - keep) * mean, keep * old[1] + (1 - keep) * var)
            new = jax.tree.map(lambda a, b: jnp.where(first, a, b), (mean, var), new)
            mean, var = new
        out = (x - wide(mean)) / jnp.sqrt(wide(var) + norm.eps)
        if norm.channelwise_affine:
            out = out * wide(norm.weight) + wide(norm.bias)
        return out, state.set(index, new)


def _all(module: eqx.Module, wanted: Callable) -> list[Any]:
    return [node for node in jax.tree.leaves(module, is_leaf=wanted) if wanted(node)]


def _masked(module: eqx.Module, live: jax.Array) -> eqx.Module:
    """The module with batch norms that read one example's mask."""
    norm = lambda node: isinstance(node, eqx.nn.BatchNorm)
    return jax.tree.map(lambda n: _Masked(n, live) if norm(n) else n, module, is_leaf=norm)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _nested(tree: Any) -> dict[str, Any]:
    """Arrays of a tree as a nested dictionary, by their paths."""
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *outer, last = _name(path).split("/")
        at = nested
        for name in outer:
            at = at.setdefault(name, {})
        at[last] = leaf.astype(leaf.dtype)  # without a weak type, which a round would not keep
    return nested


def _flat(nested: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nested)}


def _filled(tree: Any, values: dict[str, Any], is_shape: Callable) -> Any:
    """The tree with arrays in the places of shapes."""
    fill = lambda path, leaf: values[_name(path)] if is_shape(leaf) else leaf
    return jax.tree_util.tree_map_with_path(fill, tree)


def _watched(module: eqx.Module, watch: Callable) -> Any:
    """A copy whose layers and dropouts show each call to a watch."""

    def shown(path, node):
        kind = _kind(node)
        if not kind:
            return node
        copy = object.__new__(watching.showing(type(node)))
        for field, value in vars(node).items():
            object.__setattr__(copy, field, value)
        object.__setattr__(copy, "_shown", functools.partial(watch, _name(path), kind))
        return copy

    return jax.tree_util.tree_map_with_path(shown, module, is_leaf=lambda node: bool(_kind(node)))


def _kind(node: Any) -> str:
    if not isinstance(node, eqx.Module) or isinstance(node, NORMS):
        return ""
    if getattr(getattr(node, "weight", None), "ndim", 0) > 1:
        return watching.LAYER
    return watching.DROPOUT if isinstance(node, eqx.nn.Dropout) and node.p else ""
