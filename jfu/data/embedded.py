"""Data sets that need no files."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jfu.data.dataset import Dataset
from jfu.data.synthetic import synthetic
from jfu.data.tokens import pydoc_topics


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


def breast_cancer() -> Dataset:
    """scikit-learn's breast cancer (Wisconsin): 30 features of 569 tumours, 455 to train.

    Two classes, malignant and benign. The split is ``default_rng(0).permutation(569)``, the first
    455 train.
    """
    from sklearn.datasets import load_breast_cancer

    raw: Any = load_breast_cancer()
    x, y = raw.data.astype(np.float32), raw.target.astype(np.int32)
    return _split(x, y, 455, tuple(map(str, raw.target_names)))


def diabetes() -> Dataset:
    """scikit-learn's diabetes: 10 features of 442 patients, 354 to train; a regression.

    The target is the progress of the disease after a year, 25 to 346. The split is
    ``default_rng(0).permutation(442)``, the first 354 train.
    """
    from sklearn.datasets import load_diabetes

    raw: Any = load_diabetes(scaled=False)
    return _split(raw.data.astype(np.float32), raw.target.astype(np.float32), 354, ())


def _split(x: np.ndarray, y: np.ndarray, many: int, labels: tuple[str, ...]) -> Dataset:
    train, test = np.split(np.random.default_rng(0).permutation(len(y)), [many])
    return Dataset(x[train], y[train], x[test], y[test], labels)


# The sets that need no files, by name.
EMBEDDED: Mapping[str, Callable[[], Dataset]] = {
    "digits": digits,
    "synthetic": synthetic,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "pydoc_topics": pydoc_topics,
}
