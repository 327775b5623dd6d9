"""Data sets that need no files."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jfu.data.dataset import Dataset
from jfu.data.synthetic import synthetic


def digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 grey images 8x8, 1,437 to train, 360 to test.

    The set has no split of its own, so one is fixed here: ``default_rng(0).permutation(1797)``,
    the first 1,437 train. Grey levels 0 ... 16 are spread over 0 ... 255.
    """
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    x = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    y = raw.target.astype(np.int32)
    train, test = np.split(np.random.default_rng(0).permutation(len(y)), [1437])
    return Dataset(x[train], y[train], x[test], y[test], tuple(map(str, range(10))))


# The sets that need no files, by name.
EMBEDDED: Mapping[str, Callable[[], Dataset]] = {"digits": digits, "synthetic": synthetic}
