"""Blobs that are made, not read."""

import numpy as np
import pytest

from helpers.datasets import nearest_mean
from jfu.data.synthetic import synthetic


def test_synthetic_is_learnable_and_deterministic():
    data, again, other = synthetic(), synthetic(), synthetic(seed=1)
    assert data.x_train.shape == (640, 8, 8, 1) and data.x_train.dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(data[:4], again[:4], strict=True))
    assert not np.array_equal(data.x_train, other.x_train)
    assert int(data.x_train.sum(dtype=np.int64)) == 5_494_721
    assert np.bincount(data.y_train).tolist() == [64] * 10
    assert nearest_mean(data) > 0.95
    assert nearest_mean(synthetic(noise=1e6)) < 0.3  # the labels are in the pixels only
    odd = synthetic(train=7, test=3, size=5, channels=3, classes=2)
    assert odd.x_train.shape == (7, 5, 5, 3) and odd.labels == ("0", "1")
    with pytest.raises(ValueError, match="classes is 0"):
        synthetic(classes=0)
