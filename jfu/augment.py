"""Random changes of one training image, applied in the client's step."""

import jax
import jax.numpy as jnp

from jfu.types import Key


def crop_and_flip(key: Key, x: jax.Array, *, pad: int = 4, flip: bool = True) -> jax.Array:
    """Pads an image by ``pad`` zeros a side, cuts a random window, mirrors it half the time.

    Args:
      x: ``[H, W, C]``, any dtype.

    >>> crop_and_flip(jax.random.key(0), jnp.ones((8, 8, 1)), pad=0).shape
    (8, 8, 1)
    """
    where, mirror = jax.random.split(key)
    height, width, _ = x.shape
    top, left = jax.random.randint(where, (2,), 0, 2 * pad + 1)
    grown = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    x = jax.lax.dynamic_slice(grown, (top, left, 0), (height, width, x.shape[2]))
    return jnp.where(flip & jax.random.bernoulli(mirror), x[:, ::-1], x)


AUGMENTS = {
    "none": None,
    "crop": lambda key, x: crop_and_flip(key, x, flip=False),
    "crop_flip": crop_and_flip,
}
