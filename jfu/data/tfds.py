"""Image-classification sets of tensorflow-datasets, read without TensorFlow.

The files have to be prepared once in tensorflow-datasets' ``array_record`` format, the one
that can be read by row; ``python -m launch.prepare --dataset=NAME --data_dir=DIR`` does it.
"""

import io
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jfu.data.dataset import Dataset, check_room, choose, resize
from jfu.data.embedded import EMBEDDED
from jfu.data.rows import Rows
from jfu.files import shown

_ROWS = 1024  # read at once; bounds the memory that encoded images take
_MODES: dict[int | None, str] = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels


class _Set(NamedTuple):
    name: str
    where: str  # the folder that contains it
    builder: Any  # tfds.core.DatasetBuilder
    image: str  # the key of the image in an example
    label: str = "label"  # that of its class
    channels: int | None = None  # of every image; None where they differ
    classes: tuple[str, ...] = ()  # their names


def read(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    need_test: bool = True,
    seed: int = 0,
    by_row: bool = False,
) -> Dataset:
    """Decodes a prepared set into memory; the options are those of ``jfu.data.load``.

    Training images are the split ``train``; test images ``test``, or else ``validation``.
    Image and label are the set's supervised keys, or else ``image`` and ``label``.

    Args:
      need_test: whether a set without test images is an error; otherwise they are empty.

    Raises:
      ValueError: a set that is unknown, not prepared or damaged. A set whose examples are not one
        image and one class each. A set in a format that cannot be read by row.
    """
    where = folder(data_dir)
    builder = open_builder(name, where)
    image, label = _keys(name, builder.info)
    features = builder.info.features
    channels, classes = features[image].shape[-1], tuple(features[label].names)
    these = _Set(name, where, builder, image, label, channels, classes)
    # Unprepared sets have no splits. Inside tfds.testing.mock_data they have any.
    splits = list(builder.info.splits) if builder.is_prepared() else ["train", "test"]
    if "train" not in splits:
        raise ValueError(f"{name} has no split train; its splits are {', '.join(splits)}")
    train = _source(these, "train")
    test = None
    for split in ("test", "validation"):
        if split in splits:
            test = _source(these, split)
            if _rows(these, test, [0])[0][label] >= 0:  # some are published without labels
                break
            test = None
    if test is None and need_test:
        raise ValueError(
            f"{name} has no labelled split test or validation, only {', '.join(splits)}; give "
            "resplit=0.1 to test on a tenth of the images"
        )
    rows = _chosen(len(train), train_size, seed)
    if by_row:
        like, _ = _decode(these, train, rows[:1], image_size)
        read_rows = lambda ids: _decode(these, train, ids, image_size)[0]
        x_train = Rows(read_rows, rows, like.shape[1:], like.dtype)
        y_train = _labels(these, train, rows)
    else:
        x_train, y_train = _decode(these, train, rows, image_size)
    if test is None:
        x_test, y_test = np.empty((0, *x_train.shape[1:]), x_train.dtype), np.empty(0, np.int32)
    else:
        rows = _chosen(len(test), test_size, seed, "test_size")
        x_test, y_test = _decode(these, test, rows, image_size)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"the images of {name} differ in size, {list(x_train.shape[1:])} to train and "
            f"{list(x_test.shape[1:])} to test; give image_size=S to make all of them S x S"
        )
    return Dataset(x_train, y_train, x_test, y_test, these.classes)


def _chosen(many: int, size: int | None, seed: int, option: str = "train_size") -> np.ndarray:
    return np.arange(many) if size is None else choose(many, size, seed, option)


def _decode(
    these: _Set, source: Any, rows: np.ndarray, image_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of some rows, ``[R, H, W, C]`` and int32 ``[R]``."""
    if image_size is not None:
        check_room(len(rows), (image_size, image_size, these.channels or 3), np.uint8)
    examples = _decoded(these, source, rows, image_size)
    first = next(examples)
    like = first[0]
    x, y = np.empty((len(rows), *like.shape), like.dtype), np.empty(len(rows), np.int32)
    for i, (one, label) in enumerate(itertools.chain([first], examples)):
        if one.shape != x.shape[1:]:
            raise ValueError(
                f"the images of {these.name} differ in size, {list(x.shape[1:])} and "
                f"{list(one.shape)}; give image_size=S to make all of them S x S"
            )
        x[i], y[i] = one, label
    return x, _labelled(these, y)


def _decoded(
    these: _Set, source: Any, rows: np.ndarray, image_size: int | None
) -> Iterator[tuple[np.ndarray, int]]:
    """One image and its label after the other."""
    for start in range(0, len(rows), _ROWS):
        for example in _rows(these, source, rows[start : start + _ROWS].tolist()):
            one = _whole_image(these, example[these.image])
            yield one if image_size is None else resize(one, image_size), example[these.label]


def _labels(these: _Set, source: Any, rows: np.ndarray) -> np.ndarray:
    """The labels alone, int32 ``[R]``."""
    y = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _ROWS):
        some = _rows(these, source, rows[start : start + _ROWS].tolist())
        y[start : start + _ROWS] = [example[these.label] for example in some]
    return _labelled(these, y)


def _labelled(these: _Set, y: np.ndarray) -> np.ndarray:
    if y.min() < 0 or y.max() >= len(these.classes):
        raise ValueError(f"{these.name} holds examples without a label, which cannot be used")
    return y


def folder(data_dir: str | os.PathLike[str] | None) -> str:
    """Where prepared sets lie: the argument, else ``$TFDS_DATA_DIR``, else tfds' own default."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.expanduser(os.fspath(data_dir) if data_dir else default)


def command(name: str, where: str) -> str:
    """The command that prepares a set."""
    return f"python -m launch.prepare --dataset={name} --data_dir={shlex.quote(where)}"


def open_builder(name: str, where: str, **options: Any) -> Any:
    """The ``tfds.core.DatasetBuilder`` of a name; ``options`` go to ``tfds.builder``.

    Raises:
      ValueError: no such set, version or configuration.
    """
    import tensorflow_datasets as tfds

    _check_plain(where, name)
    try:
        return tfds.builder(name, data_dir=where, **options)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"there is no data set {name!r}; give {', '.join(EMBEDDED)}, the path of an .npz file, "
            "or a name of the tensorflow-datasets catalogue, prepared with "
            f"`{command('NAME', where)}`"
        ) from None
    except Exception as error:  # of its names, and of what it reads of a folder that was changed
        raise ValueError(
            f"tensorflow-datasets cannot open {name!r}: {_line(error)}; give a name of its "
            f"catalogue, prepared with `{command('NAME', where)}`"
        ) from error


def _check_plain(where: str, name: str) -> None:
    """Refuses a prepared set in which something is no file, before anything waits for it.

    Raises:
      ValueError: a pipe, a device, or a link to one.
    """
    root = os.path.join(where, re.split("[:/]", name)[0])
    for folder, _, files in os.walk(root):
        for path in (os.path.join(folder, file) for file in files):
            if os.path.exists(path) and not os.path.isfile(path):
                raise ValueError(f"{shown(path)} is not a plain file; prepare the set anew")


def _keys(name: str, info: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ("image", "label")
    features = info.features or {}
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    if len(keys) == 2 and all(
        isinstance(key, str) and key in features and isinstance(features[key], kind)
        for key, kind in zip(keys, wanted, strict=True)
    ):
        return keys
    raise ValueError(
        f"{name} is no image-classification set: it has no pair of one image and one class, only "
        f"{', '.join(features)}; choose another set or save your own pair as .npz"
    )


def _source(these: _Set, split: str) -> Any:
    """A split, to be read by row with ``_rows``."""
    import tensorflow_datasets as tfds

    name, where, builder, image = these.name, these.where, these.builder, these.image
    # tfds decodes a palette image to the numbers of its colours and leaves CMYK at four
    # channels, so uint8 images are decoded here. Its mock has no encoded images to give.
    ours = builder.is_prepared() and builder.info.features[image].np_dtype == np.uint8
    decoders = {image: tfds.decode.SkipDecoding()} if ours else None
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except (NotImplementedError, KeyError, ValueError, TypeError, AttributeError) as error:
        if not builder.is_prepared():
            raise ValueError(
                f"{name} is not prepared in {where}; run `{command(name, where)}`"
            ) from None
        kind = getattr(builder.info.file_format, "value", "an unknown format")
        raise ValueError(
            f"{name} is prepared in {where} as {kind}, which cannot be read without TensorFlow; "
            f"remove {builder.data_dir} or choose another folder, then run "
            f"`{command(name, where)}`"
        ) from error
    except (RuntimeError, OSError) as error:
        raise _damaged(these, _line(error)) from error


def _rows(these: _Set, source: Any, rows: list[int]) -> list[dict]:
    try:
        if these.builder.is_prepared():
            examples = source.__getitems__(rows)
        else:
            examples = [source[i] for i in rows]  # the only way that tfds' mock knows
    except (RuntimeError, OSError, IndexError) as error:
        raise _damaged(these, _line(error)) from error
    # Records that a cut-off file has lost come back empty.
    if any(example[these.image] is None for example in examples):
        raise _damaged(these, "records are missing")
    return examples


def _damaged(these: _Set, why: str) -> ValueError:
    return ValueError(
        f"the files of {these.name} in {these.where} are damaged or incomplete ({why}); remove "
        f"them and run `{command(these.name, these.where)}`"
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _whole_image(these: _Set, image: bytes | np.ndarray) -> np.ndarray:
    try:
        return _image(image, these.channels)
    except Exception as error:  # of Pillow's many formats, each with their own
        raise _damaged(these, f"an image: {_line(error)}") from error


def _image(image: bytes | np.ndarray, channels: int | None) -> np.ndarray:
    """``[H, W, C]`` in the set's number of channels, whatever the file was saved as."""
    from PIL import Image

    if not isinstance(image, bytes):
        return image
    mode = _MODES.get(channels, "RGB")
    with Image.open(io.BytesIO(image)) as opened:
        array = np.asarray(opened if opened.mode == mode else opened.convert(mode))
    return array[..., None] if array.ndim == 2 else array
