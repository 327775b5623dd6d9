"""Augmentation: crops and mirror images."""

import jax
import jax.numpy as jnp
import numpy as np

from jfu.augment import AUGMENTS, crop_and_flip


def test_crops_are_windows_of_the_padded_image_and_half_are_mirrored():
    """Every result is one of the 3 x 3 windows, mirrored or not, and all 18 occur."""
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    grown = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = [grown[t : t + 3, s : s + 4] for t in range(3) for s in range(3)]
    known = {w.tobytes(): i for i, w in enumerate(windows + [w[:, ::-1] for w in windows])}
    assert len(known) == 18
    keys = jax.random.split(jax.random.key(0), 400)
    cut = lambda **k: jax.jit(jax.vmap(lambda key: crop_and_flip(key, image, pad=1, **k)))(keys)
    both = [known[np.asarray(w).tobytes()] for w in cut()]
    assert set(both) == set(range(18))
    assert abs(np.mean(np.array(both) >= 9) - 0.5) < 0.1
    straight = [known[np.asarray(w).tobytes()] for w in cut(flip=False)]
    assert set(straight) == set(range(9))


def test_augments_by_name_keep_shape_and_dtype():
    image = jnp.ones((8, 8, 3), jnp.uint8)
    assert AUGMENTS["none"] is None
    for name in ("crop", "crop_flip"):
        out = AUGMENTS[name](jax.random.key(0), image)
        assert (out.shape, out.dtype) == (image.shape, image.dtype)
