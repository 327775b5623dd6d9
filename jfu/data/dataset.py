"""A data set, and what all of its readers share: rows that are chosen, images, room for them."""

import math
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from jfu.data.rows import Rows


class Dataset(NamedTuple):
    """Examples and labels, ``M`` for training; ``len(labels)`` is the number of classes."""

    # [M, H, W, C] uint8; own arrays may be float32, or flat [M, D]
    x_train: np.ndarray | Rows
    # [M] int32, float32 for a regression, or next tokens [M, T] int32
    y_train: np.ndarray
    x_test: np.ndarray  # [T, ...] like x_train
    y_test: np.ndarray  # [T] like y_train
    # the classes' names, or the vocabulary of next tokens; none of a regression
    labels: tuple[str, ...]
    client: np.ndarray | None = None  # [M] own client ids, strings or ints, from .npz files
    # kinds of training and test examples that have no classes, [M] and [T] int32: topics of texts
    topics: tuple[np.ndarray, np.ndarray] | None = None


def choose(examples: int, size: int, seed: int, option: str = "train_size") -> np.ndarray:
    """The rows that ``train_size`` or ``test_size`` uses, sorted, int64 ``[size]``."""
    if not 1 <= size <= examples:
        raise ValueError(f"{option} is {size}; it must be between 1 and {examples}")
    return np.sort(np.random.default_rng(seed).permutation(examples)[:size])


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """One image ``[H, W, C]``, uint8 or float32, to ``[size, size, C]``; bilinear (Pillow)."""
    from PIL import Image

    if image.shape[:2] == (size, size):
        return image
    # Channel by channel: Pillow would weigh the colours of four channels by the fourth.
    planes = [Image.fromarray(np.ascontiguousarray(p)) for p in np.moveaxis(image, -1, 0)]
    to = Image.Resampling.BILINEAR
    return np.stack([np.asarray(p.resize((size, size), to)) for p in planes], axis=-1)


def check_room(many: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Raises an error if images do not fit into this machine's memory.

    Raises:
      ValueError: there are more bytes of them than of memory.
    """
    size, there = many * math.prod(shape) * np.dtype(dtype).itemsize, memory()
    if size > there:
        raise ValueError(
            f"{many} images of {' x '.join(map(str, shape))} are {size / 1e9:.3g} GB, and this "
            f"machine has {there / 1e9:.3g} GB; give a smaller image_size or train_size"
        )


def memory() -> float:
    """Bytes of memory that this machine has, infinite where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
