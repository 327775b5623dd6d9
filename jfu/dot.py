"""Dense layers whose derivative is fast on CPU.

For the gradient of its inputs, ``dx = dy w^T``, XLA:CPU reorders the whole kernel at every step.
For the few rows of a client's batch that takes as long as the product. Here it is

    dx = (w dy^T)^T

where only ``dy`` and ``dx``, which are small, are reordered. Use it in any Flax model:
``nn.Dense(..., dot_general=jfu.dot_general)``.

It is used where the kernel is much larger than the rows, as for a batch of 32.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jfu.devices import setting


def dot_general(
    lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None, **options
):
    """``lax.dot_general`` whose gradient by ``lhs`` is fast on CPU where a kernel is large.

    Values and gradients are those of the stock function up to rounding. As a custom derivative it
    has no forward mode of its own (``jax.jvp`` over ``jax.grad`` works). It takes rows times a
    matrix of their dtype that has more than twice the values of rows and results together. All
    other products, and all on other backends, go to the stock function unchanged.

    Args:
      lhs: rows ``[..., I]``.
      rhs: kernel ``[I, O]``.
      dimension_numbers, precision, ...: as in ``lax.dot_general``.

    >>> dot_general(jnp.ones((4, 300)), jnp.ones((300, 200)), (((1,), (0,)), ((), ())))[0, :2]
    Array([300., 300.], dtype=float32)
    """
    plain = functools.partial(
        lax.dot_general,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )
    axes = tuple(tuple(map(tuple, pair)) for pair in dimension_numbers)
    if (
        jax.default_backend() != "cpu"
        or rhs.ndim != 2
        or lhs.dtype != rhs.dtype
        or axes != (((lhs.ndim - 1,), (0,)), ((), ()))
        or preferred_element_type is not None
        or any(option is not None for option in options.values())
        # What is reordered must be less than the kernel, by enough to pay.
        or 2 * math.prod(lhs.shape[:-1]) * sum(rhs.shape) >= math.prod(rhs.shape)
    ):
        return plain(lhs, rhs)
    if precision is None:  # the backward pass may be traced where it is set no more
        precision = setting("jax_default_matmul_precision")
    rows = lhs.reshape(-1, lhs.shape[-1])
    return _product(rows, rhs, precision).reshape(*lhs.shape[:-1], rhs.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, w, precision):
    return jnp.dot(x, w, precision=precision)


def _forward(x, w, precision):
    return jnp.dot(x, w, precision=precision), (x, w)


def _backward(precision, saved, dy):
    x, w = saved
    turned = jnp.dot(w, dy.T, precision=precision)
    # Without the barrier XLA puts the product back the way it was.
    return lax.optimization_barrier(turned).T, jnp.dot(x.T, dy, precision=precision)


_product.defvjp(_forward, _backward)
