"""Own data from an ``.npz`` file, as ``np.savez("own.npz", x_train=..., ...)`` writes it.

========  ===========================================================================
x_train   ``[M, H, W, C]`` or ``[M, H, W]`` images, or ``[M, D]``; uint8 or floats
y_train   ``[M]`` integers, the classes 0, 1, ...
x_test    ``[T, ...]`` like x_train
y_test    ``[T]`` integers
client    optional ``[M]`` strings or integers: who holds each training example
========  ===========================================================================

uint8 stays uint8, floats become float32 and keep their scale. Files with pickled objects
are refused, because reading them would run what they hold.
"""

import os
import struct
import zipfile
import zlib

import numpy as np

from jfu.data import Dataset
from jfu.data.rows import Rows

_MOST_CLASSES = 1_000_000  # a label beyond it is an id or a hash, not the number of a class


def read(path: str | os.PathLike, *, by_row: bool = False) -> Dataset:
    """Reads and checks a file; the classes' names are their numbers.

    Args:
      by_row: leave the training examples in the file, where ``np.savez`` has written it: they are
        then a ``jfu.data.rows.Rows``, and checked when they are read. A file of
        ``np.savez_compressed`` cannot be read so.

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
    needed, x_train = ("x_train", "y_train", "x_test", "y_test"), None
    if by_row and (mapped := _mapped(os.fspath(path), "x_train")) is not None:
        x_train, needed = _by_row(mapped), needed[1:]
    arrays = _arrays(os.fspath(path), needed, ("client",))
    x_train = _examples(arrays, "x_train") if x_train is None else x_train
    x_test = _examples(arrays, "x_test")
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise ValueError(
            f"x_train holds {x_train.dtype} {list(x_train.shape[1:])} and x_test {x_test.dtype} "
            f"{list(x_test.shape[1:])}; give both the same shape and dtype"
        )
    y_train = _labels(arrays, "y_train", len(x_train))
    y_test = _labels(arrays, "y_test", len(x_test))
    client = arrays.get("client")
    if client is not None and (client.shape != y_train.shape or client.dtype.kind not in "iuU"):
        raise ValueError(
            f"client is {client.dtype} {list(client.shape)}; give one string or integer for each "
            f"of the {len(y_train)} training examples"
        )
    classes = max(int(y_train.max()), int(y_test.max())) + 1
    labels = tuple(map(str, range(classes)))
    return Dataset(x_train, y_train, x_test, y_test, labels, client)


def _arrays(path: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}; give the path of an .npz file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no whole .npz file; write it anew with np.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in needed if name not in file.files]:
                raise KeyError(f"{path} lacks {', '.join(missing)}; it holds {sorted(file.files)}")
            return {name: file[name] for name in needed + optional if name in file.files}
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); write plain arrays anew with np.savez"
        ) from error


def _mapped(path: str, name: str) -> np.ndarray | None:
    """An array of the file as a memory map; None where it does not lie there as it is."""
    if not zipfile.is_zipfile(path):
        return None  # what is wrong is told by whoever reads it whole
    with zipfile.ZipFile(path) as file, open(path, "rb") as raw:
        if f"{name}.npy" not in file.namelist():
            return None
        member = file.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        # A member lies behind a header of 30 bytes, its name, and more of a length told there.
        raw.seek(member.header_offset + 26)
        raw.seek(sum(struct.unpack("<HH", raw.read(4))), os.SEEK_CUR)
        try:
            header = {1: np.lib.format.read_array_header_1_0}.get(
                np.lib.format.read_magic(raw)[0], np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = header(raw)
        except ValueError:
            return None
        if fortran or dtype.hasobject:
            return None
        return np.memmap(path, dtype, "r", raw.tell(), shape)


def _by_row(x: np.ndarray) -> Rows:
    """Examples of a memory map, checked as they are read."""
    like = _examples(dict(x_train=x[:1]), "x_train")

    def read(ids):
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
        raise ValueError(f"{name} is {x.dtype}; give uint8 (0 ... 255) or floats")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
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
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name} is {y.dtype}; give integers, the classes 0, 1, ...")
    if y.min() < 0 or y.max() >= _MOST_CLASSES:
        raise ValueError(f"{name} runs from {y.min()} to {y.max()}; number the classes 0, 1, ...")
    return y.astype(np.int32)
