"""Examples that stay where they are until their rows are asked for."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

_BLOCK = 1024  # rows read at once where all are looked at


@dataclasses.dataclass(frozen=True)
class Rows:
    """``[M, ...]`` examples in files; ``rows[i]``, by integers, a mask or a slice, reads some.

    What is read is an array of its own and is not kept. ``np.asarray(rows)`` reads all.

    >>> tens = Rows(lambda ids: 10.0 * ids[:, None], np.arange(4), (1,), np.dtype("f4"))
    >>> tens.shape, tens[[3, 1]].tolist(), tens.take([2, 3])[:1].tolist()
    ((4, 1), [[30.0], [10.0]], [[20.0]])
    """

    read: Callable[[np.ndarray], np.ndarray]  # ids [R] -> examples [R, ...]
    ids: np.ndarray  # [M], what ``read`` knows the rows by
    each: tuple[int, ...]  # the shape of an example
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.ids), *self.each

    @property
    def ndim(self) -> int:
        return 1 + len(self.each)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows) -> np.ndarray:
        ids = self.ids[rows]
        if ids.ndim != 1:
            raise IndexError("rows are read by a slice, a mask, or a list of integers")
        if not len(ids):
            return np.empty((0, *self.each), self.dtype)
        return np.asarray(self.read(ids), self.dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def take(self, rows) -> "Rows":
        """Some of the rows; nothing is read."""
        return dataclasses.replace(self, ids=self.ids[rows])

    def changed(self, rows: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """The same with ``fn(examples)`` in place of the examples of some rows."""

        def read(places):
            x, now = self[places], np.isin(places, rows)
            if now.any():
                x[now] = fn(x[now])
            return x

        return Rows(read, np.arange(len(self)), self.each, self.dtype)

    def max(self):
        """The largest value, read block by block."""
        return max(self[i : i + _BLOCK].max() for i in range(0, len(self), _BLOCK))


@overload
def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray: ...
@overload
def take(x: Rows, rows: np.ndarray) -> Rows: ...


def take(x, rows):
    """Rows of an array, or of what is not read yet."""
    return x.take(rows) if isinstance(x, Rows) else x[rows]


def joined(parts: Sequence["np.ndarray | Rows"]) -> Rows:
    """Arrays and rows one after the other; nothing is read or copied.

    >>> joined([np.zeros((2, 3)), np.ones((1, 3))])[[2, 0]].tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    ends = np.cumsum([len(part) for part in parts])
    each, dtype = parts[0].shape[1:], parts[0].dtype

    def read(places):
        x, owner = np.empty((len(places), *each), dtype), np.searchsorted(ends, places, "right")
        for number, part in enumerate(parts):
            own = owner == number
            x[own] = part[places[own] - (ends[number] - len(part))]
        return x

    return Rows(read, np.arange(ends[-1]), each, dtype)
