"""Standardised features, from sums that clients send."""

from typing import NamedTuple

import numpy as np

from jfu.data.dataset import Dataset


class Sums(NamedTuple):
    """What a client sends of its examples: their number, sums and sums of squares, in float64."""

    count: int
    total: np.ndarray  # [D]
    squares: np.ndarray  # [D]


def sums(x: np.ndarray) -> Sums:
    """A client's sums, of examples ``[N, ...]``.

    >>> one, other = sums(np.array([[1.0], [3.0]])), sums(np.array([[5.0]]))
    >>> centre(added([one, other]))[0].tolist()
    [3.0]
    """
    flat = np.asarray(x, np.float64)
    return Sums(len(flat), flat.sum(0), (flat**2).sum(0))


def added(parts: list[Sums]) -> Sums:
    """The sums of all clients."""
    total = sum((part.total for part in parts), np.zeros(()))
    squares = sum((part.squares for part in parts), np.zeros(()))
    return Sums(sum(part.count for part in parts), total, squares)


def centre(of: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, ``[D]`` each; 1 where all values are equal."""
    mean = of.total / of.count
    variance = np.maximum(of.squares / of.count - mean**2, 0)
    return mean, np.where(variance > 1e-12 * np.maximum(mean**2, 1), np.sqrt(variance), 1)


def standardised(data: Dataset) -> Dataset:
    """The data set with features of mean 0 and variance 1 over all training examples.

    Float targets are standardised too. Clients would send ``sums`` of their examples; these add up
    to the sums of the pool. A client that leaves later stays in them.

    Raises:
      ValueError: the examples are uint8 images or tokens.

    >>> from jfu.data import load
    >>> data = standardised(load("diabetes"))
    >>> bool(abs(data.x_train.mean(0)).max() < 1e-6), round(float(data.y_train.std()), 4)
    (True, 1.0)
    """
    if data.x_train.dtype.kind != "f":
        raise ValueError(
            f"--standardise is for features that are floats, and these are {data.x_train.dtype}; "
            "leave it out"
        )
    mean, scale = centre(sums(np.asarray(data.x_train[np.arange(len(data.x_train))])))
    turn = lambda x: ((np.asarray(x[np.arange(len(x))]) - mean) / scale).astype(np.float32)
    data = data._replace(x_train=turn(data.x_train), x_test=turn(data.x_test))
    if data.y_train.dtype.kind != "f":
        return data
    mean, scale = centre(sums(data.y_train))
    same = lambda y: ((y - mean) / scale).astype(np.float32)
    return data._replace(y_train=same(data.y_train), y_test=same(data.y_test))
