"""A network of your own, named by the file or module that has it: ``net.py:Net``.

Reading it runs that file, which is your code: nothing protects you from a file of someone else.
"""

import contextlib
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jfu.models.layers import pixels
from jfu.models.linen import from_linen
from jfu.types import Model


def is_own(text: str) -> bool:
    """Whether a text names a network of one's own, not one of ``MODELS``.

    >>> is_own("net.py:Net"), is_own("package.module:Net"), is_own("cnn")
    (True, True, False)
    """
    return ":" in text


def split(text: str) -> tuple[str, str]:
    """The file or module, and the name in it.

    >>> split("C:/nets/net.py:Net")
    ('C:/nets/net.py', 'Net')
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(
            f"{text!r} names no network; write path/to/file.py:Net or package.module:Net"
        )
    return place, name


def source(text: str) -> str:
    """The file that has the network. Packages around a module are imported to find it.

    Raises:
      ValueError: there is no such file or module.
    """
    place, _ = split(text)
    if place.endswith(".py"):
        if not os.path.isfile(place):
            raise ValueError(f"there is no file {place}, which {text} names")
        return place
    try:
        found = importlib.util.find_spec(place)
    except Exception as error:
        raise ValueError(f"the module {place} of {text} cannot be found: {_said(error)}") from error
    if found is None or not found.origin or not os.path.isfile(found.origin):
        raise ValueError(
            f"there is no module {place}, which {text} names; a file is named with its ending, "
            "such as net.py:Net"
        )
    return found.origin


def read(text: str) -> Any:
    """Runs the file or imports the module, and returns what has the name.

    Raises:
      ValueError: there is none, or the file raises an error; the error is the cause.
    """
    path, (place, name) = source(text), split(text)
    try:
        module = _run(path) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be run: {_said(error)}") from error
    if not hasattr(module, name):
        mine = [
            n for n, v in vars(module).items() if getattr(v, "__module__", 0) == module.__name__
        ]
        known = f"it has {', '.join(mine)}" if mine else "it defines nothing"
        raise ValueError(f"{path} has no {name}; {known}")
    return getattr(module, name)


def _run(path: str) -> ModuleType:
    """The module of a file; while it runs, files beside it can be imported."""
    path = os.path.realpath(path)
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(f"jfu_own_{name}", path)
    if spec is None or spec.loader is None:
        raise ValueError("it is not Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses, such as Linen modules, look themselves up
    sys.path.insert(0, os.path.dirname(path))
    try:
        spec.loader.exec_module(module)
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(os.path.dirname(path))
    return module


def as_model(
    thing: Any,
    example: jax.Array | jax.ShapeDtypeStruct,
    outputs: int,
    *,
    name: str = "the network",
) -> Model:
    """A ``Model`` of what a user defines: a module, its class, or a function that makes one.

    A class, or a function, is called with those of these that it names: ``classes`` or ``outputs``
    (the size of the last axis of its output), ``shape`` (of an example), and ``rngs`` (NNX) or
    ``key`` (Equinox). It gives a Linen, NNX or Equinox module, or a ``Model``. Modules get uint8
    images as floats in [0, 1]; a ``Model`` gets them as they are.

    Args:
      example: a batch ``[B, ...]``, or its shape and dtype.
      outputs: the size of the last axis of the output.
      name: for messages.

    Raises:
      ValueError: it is nothing of these, cannot be made, or raises an error on such a batch.

    >>> model = as_model(nn.Dense(3), jnp.zeros((1, 5)), 3)
    >>> model.layers
    ('',)
    """
    given = dict(classes=outputs, outputs=outputs, shape=tuple(example.shape[1:]))
    try:
        return _model(thing, example, given, name)
    except Exception as error:
        known = isinstance(error, _Unusable)
        raise ValueError(str(error) if known else f"{name} fails: {_said(error)}") from error


class _Unusable(ValueError):
    """A sentence for the user, and not an error of the user's code."""


def _model(thing: Any, example: Any, given: dict[str, Any], name: str) -> Model:
    if isinstance(thing, Model):
        return thing
    if isinstance(thing, nn.Module):
        return _of_module(from_linen, thing, example)
    kind = _kind(thing if inspect.isclass(thing) else type(thing))
    if kind and not inspect.isclass(thing):
        needed = dict(NNX="rngs", Equinox="key")[kind]
        raise _Unusable(
            f"{name} is an {kind} module that has its parameters already, so retraining would "
            f"begin with them; name its class, or a function of {needed} that makes it"
        )
    if not callable(thing):
        raise _Unusable(
            f"{name} is a {type(thing).__name__}; it must be a Linen, NNX or Equinox module, its "
            "class, or a function that makes one or returns a jfu.Model"
        )
    makes = thing.__init__ if inspect.isclass(thing) else thing
    names = inspect.signature(makes).parameters
    mine = {n: value for n, value in given.items() if n in names}
    if kind == "NNX" or "rngs" in names:
        from jfu.models.nnx import from_nnx

        return _of_module(from_nnx, lambda rngs: thing(**mine, rngs=rngs), example)
    if kind == "Equinox" or "key" in names:
        from jfu.models.equinox import from_equinox

        return _of_module(from_equinox, lambda key: thing(**mine, key=key), example)
    made = thing(**mine)
    if callable(made) and not isinstance(made, nn.Module | Model) and not _kind(type(made)):
        made = type(made).__name__  # a function of functions is none of these
    return _model(made, example, given, f"what {name} gives")


def _kind(cls: type) -> str:
    """NNX or Equinox, if it is a class of their modules; neither is imported for that."""
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__ if base.__name__ == "Module"}
    nnx = any(base.__module__.startswith("flax.nnx") for base in cls.__mro__)
    return "NNX" if nnx else "Equinox" if "equinox" in roots else ""


def _of_module(convert: Callable[..., Model], module: Any, example: Any) -> Model:
    """The model of a module, which gets uint8 images as floats in [0, 1]."""
    if example.dtype != jnp.uint8:
        return convert(module, example)
    model = convert(module, jax.ShapeDtypeStruct(example.shape, jnp.float32))
    scaled = lambda fn: lambda variables, x, **how: fn(variables, pixels(x), **how)
    return model._replace(
        apply=scaled(model.apply),
        features=model.features and scaled(model.features),
        outputs=model.outputs and scaled(model.outputs),
        apply_features=model.apply_features and scaled(model.apply_features),
    )


def check(model: Model, example: Any, outputs: Sequence[int], name: str) -> None:
    """Refuses a model whose variables or output are not as they must be.

    Args:
      example: shape and dtype of a batch of B.
      outputs: the shape of the output for one example, such as ``(C,)``.

    Raises:
      ValueError: what it gives, and what is wanted.
    """
    try:
        variables = jax.eval_shape(model.init, jax.random.key(0))
        out = jax.eval_shape(lambda v, x: model.apply(v, x)[0], variables, example)
    except Exception as error:
        raise ValueError(f"{name} fails: {_said(error)}") from error
    if not isinstance(variables, dict) or not jax.tree.leaves(variables.get("params")):
        raise ValueError(f"{name} has no parameters; its variables need a collection 'params'")
    shape, wanted = getattr(out, "shape", None), (example.shape[0], *outputs)
    if shape is None:
        raise ValueError(f"{name} gives a {type(out).__name__}, and one array is wanted")
    if shape != wanted or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"{name} gives {out.dtype} {list(shape)} for {example.shape[0]} examples of "
            f"{list(example.shape[1:])}, and floats {list(wanted)} are wanted"
        )


def check_causal(model: Model, example: Any, vocabulary: int, name: str) -> None:
    """Refuses a language model whose predictions depend on tokens that come later.

    Two texts differ in their last token alone, so the logits of all places before it must be equal.

    Args:
      example: shape and dtype of a batch of token ids ``[B, T]``.

    Raises:
      ValueError: the logits differ.
    """
    variables = model.init(jax.random.key(0))
    ids = np.arange(math.prod(example.shape)).reshape(example.shape) % vocabulary
    other = ids.copy()
    other[:, -1] = (other[:, -1] + 1) % vocabulary
    one, two = (
        np.asarray(model.apply(variables, jnp.asarray(x, example.dtype))[0]) for x in (ids, other)
    )
    if not np.allclose(one[:, :-1], two[:, :-1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"{name} predicts a token from the tokens after it; let each place see only itself and "
            "those before it, such as with nn.make_causal_mask"
        )


def _said(error: BaseException) -> str:
    """An error in one line: its kind and the first line of its message.

    >>> _said(KeyError("a"))
    "KeyError: 'a'"
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
