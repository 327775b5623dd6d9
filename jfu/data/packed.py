"""A part of a prepared data set in one small file, for machines without network and TensorFlow.

``launch.prepare --pack=DIR/cifar10.npz`` writes the images that ``train_size`` and ``test_size``
choose, and which rows of the whole set they are. With that file in ``data_dir``, ``load`` gives
the arrays that it would give of the whole set, bit by bit, for these sizes and for smaller ones.
A larger part is refused. The file is read if the folder has no prepared set of that name.
"""

import os
import re

import numpy as np

from jfu.data.dataset import Dataset, choose
from jfu.data.rows import take
from jfu.files import read_npz, shown

_MOST = 10**7  # images of a whole set
_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "rows_train", "rows_test", "sizes", "labels")


def find(name: str, where: str) -> str | None:
    """The packed file of a set in a folder, if that is what the folder has of it."""
    plain = name.partition(":")[0]
    path = os.path.join(where, f"{plain}.npz")
    there = re.fullmatch(r"\w+", plain) and os.path.exists(path)
    return path if there and not os.path.isdir(os.path.join(where, plain)) else None


def write(path: str | os.PathLike[str], whole: Dataset, train_size: int, test_size: int) -> int:
    """Packs a part of a data set and returns the file's bytes.

    Args:
      whole: all of the set; its training images may be a ``jfu.data.rows.Rows``.
      train_size, test_size: as in ``jfu.data.load``, with its default seed.

    Raises:
      ValueError: the set has fewer images.
      FileExistsError: the file is there already.
    """
    train = choose(len(whole.y_train), train_size, 0)
    test = choose(len(whole.y_test), test_size, 0, "test_size")
    with open(path, "xb") as file:
        np.savez_compressed(
            file,
            x_train=np.asarray(take(whole.x_train, train)[:]),
            y_train=whole.y_train[train],
            x_test=whole.x_test[test],
            y_test=whole.y_test[test],
            rows_train=train.astype(np.int32),
            rows_test=test.astype(np.int32),
            sizes=np.array([len(whole.y_train), len(whole.y_test)]),
            labels=np.array(whole.labels),
        )
        return file.tell()


def read(path: str, *, train_size: int | None, test_size: int | None, seed: int = 0) -> Dataset:
    """The part of the whole set that these sizes choose.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no packed set, or one that lacks some of these images.
    """
    arrays = read_npz(path, _ARRAYS)
    if why := _wrong(arrays):
        raise ValueError(f"{shown(path)} is no packed data set ({why}); pack it anew")
    parts, asked = {}, dict(train=train_size, test=test_size)
    for (side, size), of in zip(asked.items(), arrays["sizes"].tolist(), strict=True):
        rows = arrays[f"rows_{side}"]
        wanted = np.arange(of) if size is None else choose(of, size, seed, f"{side}_size")
        places = np.searchsorted(rows, wanted)
        if places[-1] >= len(rows) or not np.array_equal(rows[places], wanted):
            raise ValueError(
                f"{shown(path)} has {len(rows):,} of the {of:,} {side} images and not the wanted "
                f"ones; give --{side}_size={len(rows)} or less, or prepare the whole set"
            )
        parts[f"x_{side}"] = arrays[f"x_{side}"][places]
        parts[f"y_{side}"] = arrays[f"y_{side}"][places].astype(np.int32)
    return Dataset(**parts, labels=tuple(map(str, arrays["labels"])))


def _wrong(arrays: dict[str, np.ndarray]) -> str:
    """What keeps arrays from being a packed set; empty if nothing does."""
    if lacking := [name for name in _ARRAYS if name not in arrays]:
        return f"it lacks {', '.join(lacking)}"
    sizes, labels = arrays["sizes"], arrays["labels"]
    kinds = (sizes.dtype.kind, labels.dtype.kind)
    if sizes.shape != (2,) or labels.ndim != 1 or kinds != ("i", "U"):
        return "its sizes or labels are not those of a set"
    if sizes.min() < 1 or sizes.max() > _MOST:
        return f"it claims to be of {sizes.max()} images"
    for side, of in zip(("train", "test"), sizes, strict=True):
        x, y, rows = (arrays[f"{what}_{side}"] for what in ("x", "y", "rows"))
        if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1:] != arrays["x_train"].shape[1:]:
            return f"x_{side} is {x.dtype} {list(x.shape)}"
        if not len(x) or y.shape != (len(x),) or rows.shape != y.shape:
            return f"y_{side} or rows_{side} do not fit {len(x)} images"
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(labels):
            return f"y_{side} has labels that have no name"
        if rows.dtype.kind != "i" or rows[0] < 0 or rows[-1] >= of or (np.diff(rows) <= 0).any():
            return f"rows_{side} are not rows of {of} images in order"
    return ""
