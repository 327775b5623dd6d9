"""Tiny images made up on the spot, for tests and first steps: no files, no network."""

import numpy as np

from jfu.data.dataset import Dataset


def synthetic(
    *,
    train: int = 640,
    test: int = 256,
    size: int = 8,
    channels: int = 1,
    classes: int = 10,
    noise: float = 64.0,
    seed: int = 0,
) -> Dataset:
    """One random prototype a class, blocks of 2x2 pixels, plus Gaussian noise a pixel.

    Classes are balanced to one image. The blocks keep the classes apart after a pooling
    layer. At the default noise a linear model separates them almost without error.

    Args:
      train, test: numbers of images.
      size, channels: images are uint8 ``[size, size, channels]``.
      noise: standard deviation in grey levels, of 255.
      seed: of prototypes, labels and noise; the same seed gives the same arrays.

    >>> data = synthetic(train=6, test=3, classes=3)
    >>> data.x_train.shape, sorted(data.y_train.tolist())
    ((6, 8, 8, 1), [0, 0, 1, 1, 2, 2])
    """
    sizes = {"train": train, "test": test, "size": size, "channels": channels, "classes": classes}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not noise >= 0:
        raise ValueError(f"noise is {noise}; it must be at least 0")
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0, 255, (classes, -(-size // 2), -(-size // 2), channels))
    prototypes = blocks.repeat(2, axis=1).repeat(2, axis=2)[:, :size, :size]

    def images(many):
        y = rng.permutation(np.arange(many) % classes).astype(np.int32)
        x = prototypes[y] + noise * rng.standard_normal((many, size, size, channels))
        return np.clip(np.round(x), 0, 255).astype(np.uint8), y

    return Dataset(*images(train), *images(test), tuple(map(str, range(classes))))
