"""A backdoor in the data: a white square in the corner that stands for one class.

Some clients train on stamped images that carry the attacker's label (``poison``). The stamped test
images of every other class are ``triggered``. The attack success rate is the share of them to which
a model gives the attacker's label. After unlearning those clients it should be no higher than for a
model that never saw them. Gu et al., BadNets, arXiv 1708.06733; as a test of unlearning, Wu et al.,
arXiv 2201.09441.
"""

from collections.abc import Callable

import numpy as np

from jfu.data.rows import Rows


def stamp(x: np.ndarray, *, size: int | None = None, value: float | None = None) -> np.ndarray:
    """A copy of images with a square in the bottom right corner.

    Args:
      x: ``[M, H, W, C]`` or one image ``[H, W, C]``, uint8 or floats.
      size: side of the square in pixels; ``max(2, round(H / 10))`` if not given.
      value: its colour; 255 for uint8 and ``x.max()`` for floats if not given. Give it for
        floats: arrays with other maxima would get other squares.

    >>> stamp(np.zeros((3, 3, 1), np.uint8))[..., 0].tolist()
    [[0, 0, 0], [0, 255, 255], [0, 255, 255]]
    """
    x = np.array(x)
    size = side(x.shape, x.dtype, size)
    if value is None:
        value = x.max() if x.dtype.kind == "f" else np.iinfo(x.dtype).max
    x[..., -size:, -size:, :] = value
    return x


def white(x: np.ndarray | Rows) -> float | None:
    """The trigger's value for images like these: the maximum of floats, None (255) for uint8.

    >>> white(np.float32([[0.0, 0.5]])), white(np.zeros((2, 2), np.uint8))
    (0.5, None)
    """
    return float(x.max()) if np.issubdtype(x.dtype, np.floating) else None


def side(shape: tuple[int, ...], dtype: np.dtype, size: int | None = None) -> int:
    """The side of the square in pixels, on images of a shape.

    Raises:
      ValueError: they are no images, or the square does not fit them.

    >>> side((5, 28, 28, 1), np.uint8), side((28, 28, 1), np.uint8, 4)
    (3, 4)
    """
    if len(shape) not in (3, 4) or not np.prod(shape):
        raise ValueError(f"a stamp needs images [M, H, W, C], got {np.dtype(dtype)} {list(shape)}")
    height, width = shape[-3:-1]
    size = max(2, round(height / 10)) if size is None else size
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"a square of {size} pixels does not fit images of {height} x {width}; give a size "
            f"between 1 and {min(height, width)}"
        )
    return size


def chosen(rows: np.ndarray, fraction: float = 1.0, seed: int = 0) -> np.ndarray:
    """The rows of an attacker that ``poison`` stamps, sorted int32.

    >>> chosen([4, 2, 9, 7], fraction=0.5).tolist()
    [2, 7]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction to poison is {fraction}; it must lie in (0, 1]")
    rows = np.unique(rows)
    many = max(1, round(fraction * len(rows)))
    return np.sort(np.random.default_rng(seed).permutation(rows)[:many]).astype(np.int32)


def poison(
    x: np.ndarray | Rows,
    y: np.ndarray,
    rows: np.ndarray,
    *,
    label: int,
    fraction: float = 1.0,
    size: int | None = None,
    value: float | None = None,
    seed: int = 0,
) -> tuple[np.ndarray | Rows, np.ndarray, np.ndarray]:
    """Stamps a part of the rows and gives them the attacker's label.

    Args:
      x: ``[M, H, W, C]`` images, or a ``jfu.data.rows.Rows`` of them, which stays one.
      y: ``[M]`` integer labels.
      rows: the attackers' rows.
      label: what stamped images shall be taken for, one of ``0 ... y.max()``.
      fraction: of the rows, in (0, 1]: ``round(fraction * len(rows))`` of them, at least one.
      size, value: of the square, as in ``stamp``.
      seed: chooses the rows.

    Returns:
      New ``x``, new ``y`` and the poisoned rows, sorted int32. The arguments are not changed.

    >>> x, y = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)
    >>> _, labels, poisoned = poison(x, y, [1, 2], label=3)
    >>> labels.tolist(), poisoned.tolist()
    ([0, 3, 3, 3], [1, 2])
    """
    y, rows = np.asarray(y), np.unique(rows)
    check_label(y, label)
    if len(x) != len(y):
        raise ValueError(f"poison was given {len(x)} images and {len(y)} labels; pass one each")
    if len(rows) == 0 or rows.dtype.kind not in "iu" or rows[0] < 0 or rows[-1] >= len(y):
        raise ValueError(f"rows must be integers from 0 to {len(y) - 1}, at least one")
    some = chosen(rows, fraction, seed)
    return *stamped(x, y, some, label=label, size=size, value=value), some


def stamped(
    x: np.ndarray | Rows,
    y: np.ndarray,
    rows: np.ndarray,
    *,
    label: int,
    size: int | None = None,
    value: float | None = None,
    copy: Callable[[np.ndarray], np.ndarray] = np.array,
) -> tuple[np.ndarray | Rows, np.ndarray]:
    """``poison`` of exactly these rows: new ``x`` and ``y``, one copy of each.

    Args:
      copy: makes the copy of ``x`` that is written to.

    >>> x, y = stamped(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), [1, 2], label=3)
    >>> x[:, -1, -1, 0].tolist(), y.tolist()
    ([0, 255, 255, 0], [0, 3, 3, 3])
    """
    if value is None and x.dtype.kind == "f":
        value = x.max()  # of all images, whichever rows are stamped
    y = np.array(y)
    y[rows] = label
    if isinstance(x, Rows):
        return x.changed(rows, lambda some: stamp(some, size=size, value=value)), y
    x = copy(x)
    x[rows] = stamp(x[rows], size=size, value=value)
    return x, y


def triggered(
    x_test: np.ndarray,
    y_test: np.ndarray,
    label: int,
    *,
    size: int | None = None,
    value: float | None = None,
) -> np.ndarray:
    """The stamped test images of every class but ``label``, for the attack success rate.

    >>> triggered(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), label=3).shape
    (3, 8, 8, 1)
    """
    x_test, y_test = np.asarray(x_test), np.asarray(y_test)
    check_label(y_test, label)
    others = y_test != label
    if not others.any():
        raise ValueError(f"all {len(y_test)} test images have class {label}; give other classes")
    if value is None and x_test.dtype.kind == "f":
        value = x_test.max()
    return stamp(x_test[others], size=size, value=value)


def check_label(y: np.ndarray, label: int) -> None:
    """Refuses a trigger's label that is none of the classes of ``y``."""
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) == 0:
        raise ValueError(f"labels must be integers [M], got {y.dtype} {list(y.shape)}")
    if not 0 <= label <= y.max():
        raise ValueError(f"label is {label}; the classes are 0 to {y.max()}")
