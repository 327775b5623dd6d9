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


def max_pool(x: jax.Array) -> jax.Array:
    """Largest value of each 2x2 square, ``[B, H, W, C] -> [B, H // 2, W // 2, C]``.

    An odd last row or column is dropped, as VALID pooling does. Four strided slices, because
    the derivative of a window reduction is slow on CPU; among equal pixels the gradient is
    shared out instead of going to the first.

    >>> max_pool(jnp.arange(15.0).reshape(1, 3, 5, 1))[0, ..., 0]
    Array([[6., 8.]], dtype=float32)
    """
    rows, columns = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corner = lambda i, j: x[:, i:rows:2, j:columns:2]
    return jnp.maximum(
        jnp.maximum(corner(0, 0), corner(0, 1)), jnp.maximum(corner(1, 0), corner(1, 1))
    )
