"""Products in fewer bits: the same network, computed faster."""

import jax
import jax.numpy as jnp

from jfu.models.layers import pixels
from jfu.types import Model, PyTree

PRECISIONS = ("float32", "tf32", "bf16")


def at_precision(model: Model, precision: str | None) -> Model:
    """The model with products of a given precision inside; what goes in and out stays float32.

    Parameters, gradients, logits and batch statistics are float32 in all precisions, so
    federations, methods and files need no change.

    * "float32": full products
    * "tf32": products of inputs rounded to 10 bits, if the device has them (on CPU float32)
    * "bf16": parameters and everything between the layers are rounded to bfloat16
    * None: the device's default, which is TF32 on NVIDIA GPUs, bfloat16 products on TPUs and
      float32 on CPUs

    Args:
      model: uint8 images enter it as ``x / 255``, in all precisions.
      precision: one of the above.

    Raises:
      ValueError: there is no such precision.

    >>> from jfu.models import build
    >>> model = at_precision(build("mlp", classes=3, image_shape=(2, 2, 1)), "bf16")
    >>> logits, _ = model.apply(model.init(jax.random.key(0)), jnp.ones((1, 2, 2, 1)))
    >>> logits.dtype, bool((logits == logits.astype(jnp.bfloat16)).all())
    (dtype('float32'), True)
    """
    if precision is None:
        return model
    if precision not in PRECISIONS:
        raise ValueError(
            f"there is no precision {precision!r}; choose one of {list(PRECISIONS)}, or None for "
            "the device's own"
        )
    if precision == "bf16":
        around = lambda fn: (
            lambda variables, x, **given: fn(
                {**variables, "params": _short(variables["params"])}, _short(pixels(x)), **given
            )
        )
    else:
        products = {"float32": "highest", "tf32": "tensorfloat32"}[precision]

        def around(fn):
            def computed(variables, x, **given):
                with jax.default_matmul_precision(products):
                    return fn(variables, x, **given)

            return computed

    wrapped = lambda fn: lambda *a, **k: _long(around(fn)(*a, **k))
    return model._replace(
        apply=wrapped(model.apply),
        features=model.features and wrapped(model.features),
        outputs=model.outputs and wrapped(model.outputs),
        apply_features=model.apply_features and wrapped(model.apply_features),
    )


def _short(tree: PyTree) -> PyTree:
    cast = lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a
    return jax.tree.map(cast, tree)


def _long(tree: PyTree) -> PyTree:
    cast = lambda a: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a
    return jax.tree.map(cast, tree)
