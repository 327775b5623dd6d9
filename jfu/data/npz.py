"""Own data from an ``.npz`` file, as ``np.savez("own.npz", x_train=..., ...)`` writes it.

========  ===========================================================================
x_train   ``[M, H, W, C]`` or ``[M, H, W]`` images, or ``[M, D]``; uint8 or floats
y_train   ``[M]`` integers, the classes 0, 1, ...; floats are the targets of a regression
x_test    ``[T, ...]`` like x_train
y_test    ``[T]`` like y_train
client    optional ``[M]`` strings or integers: the client of each training example
========  ===========================================================================

Texts are ``x_train [M, T]`` and ``x_test`` of other integers than uint8: token ids, -1 after the
end of a text. They have no ``y_train`` and ``y_test``, since targets are the next tokens. They may
have ``vocabulary [V]``, a string for each token; without it, ids go up to the largest.

uint8 stays uint8, floats become float32 and keep their scale. Files with pickled objects
are refused, because reading them would run code from the file.
"""

import contextlib
import math
import os
from collections.abc import Generator

import numpy as np

from jfu.data import tokens
from jfu.data.dataset import Dataset, memory
from jfu.data.rows import Rows
from jfu.files import npz_headers, read_npz, shown
from jfu.targets import are_numbers

# What is packed may claim so many bytes, or so many times the file's.
_PACKED, _RATIO = 2**28, 100
_MOST_CLASSES = 1_000_000  # a label beyond it is an id or a hash, not the number of a class


def read(path: str | os.PathLike[str], *, by_row: bool = False) -> Dataset:
    """Reads and checks a file; the classes' names are their numbers.

    Args:
      by_row: leaves the training examples in the file, if ``np.savez`` has written it. They are
        then a ``jfu.data.rows.Rows``, and are checked when they are read. A file of
        ``np.savez_compressed`` is read whole.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is damaged, or arrays that do not fit, in one sentence.

    >>> import tempfile
    >>> x, y = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    ...     data = read(folder + "/own.npz")
    >>> data.x_train.shape, data.labels
    ((4, 8, 8, 1), ('0', '1', '2', '3'))
    """
    path = os.fspath(path)
    if is_texts(path):
        arrays = _arrays(path, ("x_train", "x_test"), ("client", "vocabulary"))
        with _named(path):
            return _texts(arrays)
    needed, x_train = ("x_train", "y_train", "x_test", "y_test"), None
    if by_row and (mapped := _mapped(os.fspath(path), "x_train")) is not None:
        x_train, needed = _by_row(mapped, path), needed[1:]
    arrays = _arrays(os.fspath(path), needed, ("client",))
    with _named(path):
        return _dataset(arrays, x_train)


def is_texts(path: str) -> bool:
    """Whether a file has token ids to train on: integers without labels.

    Raises:
      ValueError: the file is damaged.
    """
    there = npz_headers(path)
    header = None if "y_train" in there else there.get("x_train")
    return header is not None and header.dtype.kind in "iu" and header.dtype != np.uint8


def _texts(arrays: dict) -> Dataset:
    """Token ids, checked, as inputs and next tokens."""
    x = {name: arrays[name] for name in ("x_train", "x_test")}
    vocabulary = arrays.get("vocabulary")
    if vocabulary is not None and (vocabulary.ndim != 1 or vocabulary.dtype.kind != "U"):
        raise ValueError(
            f"vocabulary is {vocabulary.dtype} {list(vocabulary.shape)}; give [V] strings, one for "
            "each token"
        )
    most = _MOST_CLASSES if vocabulary is None else len(vocabulary)
    for name, ids in x.items():
        tokens.check(name, ids, most)
    if x["x_train"].shape[1] != x["x_test"].shape[1]:
        raise ValueError(
            f"x_train has texts of {x['x_train'].shape[1]} tokens and x_test of "
            f"{x['x_test'].shape[1]}; fill the shorter ones up with -1"
        )
    if vocabulary is None:
        vocabulary = map(str, range(1 + max(int(ids.max()) for ids in x.values())))
    sides = [tokens.inputs_and_targets(ids) for ids in x.values()]
    client = _clients(arrays, len(x["x_train"]))
    return Dataset(*sides[0], *sides[1], tuple(map(str, vocabulary)), client)


def _clients(arrays: dict, many: int) -> np.ndarray | None:
    client = arrays.get("client")
    if client is not None and (client.shape != (many,) or client.dtype.kind not in "iuU"):
        raise ValueError(
            f"client is {client.dtype} {list(client.shape)}; give one string or integer for each "
            f"of the {many} training examples"
        )
    return client


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Generator[None]:
    """Errors say which file they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from None


def _dataset(arrays: dict, by_row: Rows | None) -> Dataset:
    """The arrays, checked; training images by row where they stay in their file."""
    x_train = _examples(arrays, "x_train") if by_row is None else by_row
    x_test = _examples(arrays, "x_test")
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise ValueError(
            f"x_train holds {x_train.dtype} {list(x_train.shape[1:])} and x_test {x_test.dtype} "
            f"{list(x_test.shape[1:])}; give both the same shape and dtype"
        )
    y_train = _labels(arrays, "y_train", len(x_train))
    y_test = _labels(arrays, "y_test", len(x_test))
    client = _clients(arrays, len(y_train))
    if y_train.dtype != y_test.dtype:
        raise ValueError(
            f"y_train is {y_train.dtype} and y_test {y_test.dtype}; give both integers for "
            "classes, or both floats for a regression"
        )
    if are_numbers(y_train):
        return Dataset(x_train, y_train, x_test, y_test, (), client)
    classes = max(int(y_train.max()), int(y_test.max())) + 1
    labels = tuple(map(str, range(classes)))
    return Dataset(x_train, y_train, x_test, y_test, labels, client)


def _arrays(path: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict:
    """The named arrays of the file, if their claimed sizes are possible."""
    there = npz_headers(path)
    if missing := [name for name in needed if name not in there]:
        raise ValueError(
            f"{shown(path)} lacks {', '.join(missing)}; it holds {shown(sorted(there))}"
        )
    wanted = [name for name in needed + optional if name in there]
    claimed = sum(math.prod(there[n].shape) * there[n].dtype.itemsize for n in wanted)
    packed = not all(there[name].stored for name in wanted)
    most = max(_PACKED, _RATIO * os.path.getsize(path)) if packed else memory()
    if claimed > most:
        raise ValueError(
            f"{shown(path)} claims {claimed / 1e9:.3g} GB of examples, and {most / 1e9:.3g} GB are "
            "read at most; give fewer, as np.savez writes them"
        )
    return read_npz(path, wanted)


def _mapped(path: str, name: str) -> np.ndarray | None:
    """An array of the file as a memory map; None where it does not lie there as it is."""
    header = npz_headers(path).get(name)
    if header is None or not header.stored or header.fortran:
        return None
    return np.memmap(path, header.dtype, "r", header.offset, header.shape)


def _by_row(x: np.ndarray, path: str | os.PathLike[str]) -> Rows:
    """Examples of a memory map, checked as they are read."""
    with _named(path):
        like = _examples(dict(x_train=x[:1]), "x_train")

    def read(ids):
        with _named(path):
            return _examples(dict(x_train=x[ids]), "x_train", ids)

    return Rows(read, np.arange(len(x)), like.shape[1:], like.dtype)


def _examples(arrays: dict, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    x = arrays[name]
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {list(x.shape)}; give [M, H, W, C], [M, H, W] or [M, D], none of "
            "them zero"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(
            f"{name} is {x.dtype}; give uint8 (0 ... 255) or floats, or token ids without y_train"
        )
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values too large for float32 are reported below
            x = x.astype(np.float32)
        bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
        if bad.any():
            first = bad.argmax() if rows is None else rows[bad].min()
            raise ValueError(
                f"{name} holds NaN or infinity in {bad.sum()} of {len(x)} examples, first in row "
                f"{first}; remove or repair them"
            )
    return x[..., None] if x.ndim == 3 else x


def _labels(arrays: dict, name: str, examples: int) -> np.ndarray:
    y = arrays[name]
    if y.shape != (examples,):
        raise ValueError(
            f"{name} has shape {list(y.shape)}, its examples are {examples}; give one label each"
        )
    if are_numbers(y):
        bad = ~np.isfinite(y.astype(np.float32))
        if bad.any():
            raise ValueError(
                f"{name} holds NaN or infinity in {bad.sum()} of {len(y)} targets, first in row "
                f"{bad.argmax()}; remove or repair them"
            )
        return y.astype(np.float32)
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"{name} is {y.dtype}; give integers, the classes 0, 1, ..., or floats for a regression"
        )
    if y.min() < 0 or y.max() >= _MOST_CLASSES:
        raise ValueError(f"{name} runs from {y.min()} to {y.max()}; number the classes 0, 1, ...")
    return y.astype(np.int32)
