"""Small parts that the models share."""

import jax
import jax.numpy as jnp


def pixels(x: jax.Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]; floats pass through.

    XLA multiplies by 1 / 255, so some quotients differ from NumPy's in the last bit.

    >>> pixels(jnp.array([0, 255], jnp.uint8))
    Array([0., 1.], dtype=float32)
    """
    x = jnp.asarray(x)
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


@jax.custom_jvp
def max_pool(x: jax.Array) -> jax.Array:
    """Largest value of each 2x2 square, ``[B, H, W, C] -> [B, H // 2, W // 2, C]``.

    An odd last row or column is dropped, as VALID pooling does. It is written with strided slices,
    because the derivative of a window reduction is slow on CPU. Equal pixels share the gradient;
    it does not all go to the first.

    >>> max_pool(jnp.arange(15.0).reshape(1, 3, 5, 1))[0, ..., 0]
    Array([[6., 8.]], dtype=float32)
    """
    a, b, c, d = _corners(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


@max_pool.defjvp
def _max_pool_jvp(primals, tangents):
    """Written so that its transpose spreads gradients out, where that of slices is four pads."""
    (x,), (dx,) = primals, tangents
    y = max_pool(x)
    chosen = _squares(x) == y[:, :, None, :, None]
    equal = sum((corner == y).astype(y.dtype) for corner in _corners(x))
    return y, jnp.where(chosen, _squares(dx), 0).sum((2, 4)) / equal


def _corners(x: jax.Array) -> list[jax.Array]:
    rows, columns = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)]


def _squares(x: jax.Array) -> jax.Array:
    """``[B, H // 2, 2, W // 2, 2, C]``."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    whole = x[:, : rows * 2, : columns * 2]
    return whole.reshape(x.shape[0], rows, 2, columns, 2, x.shape[3])
