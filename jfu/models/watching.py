"""What is read off a network by watching its layers: their order, features, outputs and cuts.

``described`` makes the ``Model`` of any kind of module, from two functions of that kind:

``run(variables, x, *, train, mask, key, watch=None) -> (logits, changed, notes)`` calls the module.
Its result is the same with a watch. ``trace(watch) -> collections`` calls it once on abstract
arrays, and returns the names of the collections of its variables.

A watch is called after each call of a module: ``watch(notes, path, kind, given, result)``, with the
first array that the module was given. It returns the result, and may write arrays into ``notes``.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jfu.conv import jaxprs_in
from jfu.types import Model

if TYPE_CHECKING:
    from jax.extend import core

# Kinds of modules that a watch is told of; others have the kind "".
LAYER, NORM, DROPOUT = "layer", "norm", "dropout"  # a norm has running means; a dropout has a rate
MODES = ("train", "training", "is_training", "deterministic")  # arguments that switch training on


@functools.cache  # JAX registers each class for good, so there is one
def showing(kind: type) -> type:
    """A class like this one, whose objects show what they were called with."""

    def call(self, *args, **kwargs):
        result = kind.__call__(self, *args, **kwargs)
        return vars(self)["_shown"](next(iter((*args, *kwargs.values())), None), result)

    return type(kind)(kind.__name__, (kind,), {"__call__": call})


def mode(names: Sequence[str], train: bool, mask: jax.Array | None) -> dict[str, Any]:
    """The arguments that a module's ``__call__`` gets, of those that it names.

    >>> mode(("self", "x", "deterministic"), train=True, mask=None)
    {'deterministic': False}
    """
    known = dict.fromkeys(MODES, train) | dict(deterministic=not train, mask=mask)
    return {name: value for name, value in known.items() if name in names}


def named(call: Callable) -> tuple[str, ...]:
    """The names of a function's arguments."""
    return tuple(inspect.signature(call).parameters)


def live(mask: jax.Array | None) -> tuple[jax.Array | bool, jax.Array | None]:
    """Whether a batch has a live row, and the mask that the module gets.

    Without a live row there is no mean. The module then sees all rows, and its new statistics are
    thrown away.
    """
    if mask is None:
        return True, None
    alive = (mask > 0).any()
    return alive, jnp.where(alive, mask, jnp.ones_like(mask))


def kept(alive: jax.Array | bool, changed: Any, old: Any) -> Any:
    """The changed statistics, or the old ones if the batch had no live row."""
    return jax.tree.map(lambda new, old: jnp.where(alive, new, old), changed, old)


def described(
    init: Callable, run: Callable, trace: Callable, example: jax.ShapeDtypeStruct, who: str
) -> Model:
    """The ``Model`` of a network, with what watching it tells.

    Args:
      init: as in ``Model``; it can be traced.
      run, trace: see above.
      example: shape and dtype of a batch of one.
      who: the module's name, for warnings.

    Warns:
      UserWarning: the network has dropout or batch statistics that training never switches on.
    """
    layers, follows, drops, collections = _order(trace)

    def apply(variables, x, *, train=False, mask=None, key=None):
        return run(variables, x, train=train, mask=mask, key=key)[:2]

    if drops or "batch_stats" in collections:
        _warn_of_idle(run, init, example, drops, who)
    model = Model(init, apply, layers, follows)
    if not layers:
        return model

    def apply_features(variables, x, *, train=False, mask=None, key=None):
        def watch(notes, path, kind, given, result):
            if path == layers[-1]:
                notes["input"] = given
            return result

        how = dict(train=train, mask=mask, key=key, watch=watch)
        logits, changed, notes = run(variables, x, **how)
        return logits, notes["input"].reshape(x.shape[0], -1), changed

    def features(variables, x):
        return apply_features(variables, x)[1]

    def outputs(variables, x):
        def watch(notes, path, kind, given, result):
            if path in layers:
                notes[path] = result  # of the last call, where a layer is called twice
            return result

        notes = run(variables, x, train=False, mask=None, key=None, watch=watch)[2]
        return {name: notes[name] for name in layers}

    def cuts():
        return _cuts(run, layers, jax.eval_shape(init, jax.random.key(0)), example)

    seeing = dict(features=features, outputs=outputs, cuts=cuts, apply_features=apply_features)
    return model._replace(**seeing)


def _order(trace: Callable) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], bool, set[str]]:
    """Layers in call order, what norms follow, whether there is dropout, and the collections.

    The order is that of calls. A dictionary's order is lost in any tree operation (``Dense_10``
    sorts before ``Dense_2``).
    """
    outputs = []  # (array, layer); a reference to each array keeps its id unique
    follows, drops = [], []

    def watch(notes, path, kind, given, result):
        if kind == LAYER:
            outputs.append((result, path))
        if kind == NORM and given is not None:
            layer = [name for array, name in outputs if array is given]
            follows.extend((f"{path}/mean", name) for name in layer)
        if kind == DROPOUT:
            drops.append(path)
        return result

    collections = trace(watch)
    layers = dict.fromkeys(name for _, name in outputs)
    return tuple(layers), tuple(follows), bool(drops), set(collections)


def _warn_of_idle(run: Callable, init: Callable, example: Any, drops: bool, who: str) -> None:
    """Warns of dropout and of batch statistics that a training step does not switch on."""
    train = lambda variables, x, key: run(variables, x, train=True, mask=None, key=key)[:2]
    variables, key = jax.eval_shape(init, jax.random.key(0)), jax.random.key(0)
    closed, shape = jax.make_jaxpr(train, return_shape=True)(variables, example, key)
    many = len(closed.jaxpr.invars)
    reach = lambda place: _reached(closed.jaxpr, [i == place for i in range(many)], ())
    logits = len(jax.tree.leaves(shape[0]))
    idle = ["dropout"] if drops and not any(reach(many - 1)[:logits]) else []
    if "batch_stats" in variables and not any(reach(many - 2)[logits:]):
        idle.append("batch statistics")
    if idle:
        warnings.warn(
            f"{who} has {' and '.join(idle)} that training never switches on; let its __call__ "
            f"take train (or {', '.join(MODES[1:])}) and pass it on",
            stacklevel=4,
        )


def _cuts(run: Callable, layers: Sequence[str], variables, x) -> tuple[tuple[str, ...], ...]:
    """Layers that read the same array, by depth, if without them no input reaches the output.

    Not found are layers inside ``nn.scan``, and a shortcut that reads what a norm before its
    convolution reads. Nor are layers of a network that looks at its input again, as for a mask.
    """
    readers = []  # (array, layers)

    def watch(notes, path, kind, given, result):
        if path not in layers:
            return result
        known = [names for other, names in readers if other is given]
        known[0].append(path) if known else readers.append((given, [path]))
        return checkpoint_name(result, path)

    how = dict(train=False, mask=None, key=None, watch=watch)
    still = lambda variables, x: run(variables, x, **how)[0]
    jaxpr = jax.make_jaxpr(still)(variables, x).jaxpr
    is_input = [v is jaxpr.invars[-1] for v in jaxpr.invars]
    cuts = dict.fromkeys(tuple(dict.fromkeys(names)) for _, names in readers)
    return tuple(names for names in cuts if not any(_reached(jaxpr, is_input, names)))


# Equations that contain one jaxpr and run it on their arguments.
CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call")


def _reached(jaxpr: "core.Jaxpr", given: Sequence[bool], without: Sequence[str]) -> list[bool]:
    """Which outputs depend on the inputs that are ``given``, once some layers pass nothing on."""
    reached = {id(v) for v, is_given in zip(jaxpr.invars, given, strict=True) if is_given}
    for eqn in jaxpr.eqns:
        into = [id(v) in reached for v in eqn.invars]
        out = [any(into)] * len(eqn.outvars)
        inner = list(jaxprs_in(eqn))
        if eqn.primitive.name == "name" and eqn.params["name"] in without:
            out = [False]
        elif eqn.primitive.name in CALLS and len(inner) == 1:
            out = _reached(inner[0], into, without)
        reached.update(id(v) for v, yes in zip(eqn.outvars, out, strict=True) if yes)
    return [id(v) in reached for v in jaxpr.outvars]
