"""Data sets as NumPy arrays: embedded ones, own files, and those of tensorflow-datasets.

``load`` reads one; ``jfu.data.partition`` divides its examples among clients and
``jfu.data.poison`` plants a backdoor. NumPy only: what else a source needs (scikit-learn,
Pillow, tensorflow-datasets) is imported when that source is read. TensorFlow never is.
"""

import os
from collections.abc import Sequence
from typing import overload

import numpy as np

from jfu.data import npz, packed, tfds
from jfu.data.dataset import Dataset, check_room, choose, resize
from jfu.data.embedded import EMBEDDED, digits
from jfu.data.rows import Rows, joined, take
from jfu.targets import are_numbers, are_texts

__all__ = ["EMBEDDED", "Dataset", "choose", "digits", "load", "oddities", "resize"]


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    resplit: float | None = None,
    drop_labels: Sequence[str | int] = (),
    seed: int = 0,
    by_row: bool = False,
) -> Dataset:
    """Reads a data set. The options apply in the order drop, resplit, sizes, image size.

    Args:
      name: an embedded set of ``EMBEDDED``, such as ``digits``, or the path of your own ``.npz``
        file (``jfu.data.npz``). Any other name is an image-classification set of
        tensorflow-datasets, such as ``cifar10`` or ``cifar10:3.0.2`` (``jfu.data.tfds``).
      data_dir: the folder of prepared tensorflow-datasets, or of a packed part of one
        (``jfu.data.packed``); ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets`` if not given.
      image_size: resizes every image to ``[image_size, image_size, C]``, bilinear (Pillow).
        Needed where a set's images differ in size.
      train_size: uses only so many training images, a random subset that ``seed`` fixes; a
        smaller size is a part of a larger one.
      test_size: likewise for the test images.
      resplit: merges training and test images and splits them again. ``int(resplit * n)`` of
        the ``n`` images, drawn by ``seed``, become the test set; the others train.
      drop_labels: classes to leave out of training and test, by name or number; the classes
        that remain are numbered 0, 1, ... in their old order.
      seed: of ``train_size``, ``test_size`` and ``resplit``.
      by_row: leaves the training images in their files. ``x_train`` is then a
        ``jfu.data.rows.Rows``, which reads the rows that it is indexed with. ``jfu.spread`` so
        reads the clients of one host. Embedded sets and compressed ``.npz`` files are read whole.

    Raises:
      ValueError: a name, option or file does not work; the message is one sentence.
      FileNotFoundError: there is no such ``.npz`` file.

    >>> data = load("synthetic", train_size=100, drop_labels=[0])
    >>> data.x_train.shape, data.x_train.dtype.name, len(data.labels)
    ((100, 8, 8, 1), 'uint8', 9)
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; it must be at least 1 pixel")
    if resplit is not None and not 0 < resplit < 1:
        raise ValueError(f"resplit is {resplit}; the share of test images must lie in (0, 1)")
    name = os.fspath(name)
    if name in EMBEDDED:
        data = EMBEDDED[name]()
    elif name.endswith(".npz"):
        data = npz.read(name, by_row=by_row)
        _check_gaps(data, name)
    else:
        # Where nothing comes before train_size, only the chosen images need decoding.
        first = resplit is None and not len(drop_labels)
        sizes = dict(train_size=train_size, test_size=test_size) if first else {}
        sizes = dict(train_size=None, test_size=None) | sizes
        if part := packed.find(name, tfds.folder(data_dir)):
            data = packed.read(part, **sizes, seed=seed)
        else:
            data = tfds.read(
                name,
                data_dir=data_dir,
                image_size=image_size,
                need_test=resplit is None,
                seed=seed,
                by_row=by_row,
                **sizes,
            )
    if len(drop_labels):
        data = _drop(data, drop_labels)
    if resplit is not None:
        data = _resplit(data, resplit, seed)
    if train_size is not None:
        rows = choose(len(data.y_train), train_size, seed)
        data = data._replace(
            x_train=take(data.x_train, rows),
            y_train=data.y_train[rows],
            client=None if data.client is None else data.client[rows],
            topics=data.topics and (data.topics[0][rows], data.topics[1]),
        )
    if test_size is not None:
        rows = choose(len(data.y_test), test_size, seed, "test_size")
        topics = data.topics and (data.topics[0], data.topics[1][rows])
        data = data._replace(x_test=data.x_test[rows], y_test=data.y_test[rows], topics=topics)
    if image_size is not None:
        data = data._replace(
            x_train=_resize_all(data.x_train, image_size),
            x_test=_resize_all(data.x_test, image_size),
        )
    return data


MOST_UNUSED = 100  # numbers without an example: fewer may be classes that none was drawn of
SCALE = 10.0  # images that are divided by 255, or by their deviation, stay below


def _check_gaps(data: Dataset, name: str) -> None:
    """Refuses labels that would make a network mostly of outputs that no example has."""
    if are_numbers(data.y_train) or are_texts(data.y_train):
        return
    classes, used = len(data.labels), _used(data)
    if classes - len(used) > MOST_UNUSED and classes > 2 * len(used):
        raise ValueError(
            f"{name} has labels 0 to {classes - 1} and examples of {len(used)} of them, but a "
            "network has an output for every number; number the labels that occur, as "
            "np.unique(y, return_inverse=True)[1] does of all labels together"
        )


def _used(data: Dataset) -> np.ndarray:
    return np.union1d(data.y_train, data.y_test)


def oddities(data: Dataset) -> list[str]:
    """Possible mistakes in a data set, a sentence each.

    >>> data = load("synthetic", train_size=100)
    >>> oddities(data)
    []
    >>> oddities(data._replace(x_test=data.x_test.astype(np.float32)))[0][:48]
    'images are floats of up to 255, and networks lea'
    """
    sentences = []
    images = data.x_test[:1000]  # training images may lie in a file
    largest = float(np.abs(images).max(initial=0)) if images.dtype.kind == "f" else 0.0
    if images.ndim > 2 and largest > SCALE:
        sentences.append(
            f"images are floats of up to {largest:.4g}, and networks learn badly from these; store "
            "uint8, which is divided by 255 on its way in, or divide them"
        )
    if are_numbers(data.y_train):
        few = len(np.unique(data.y_train)) <= MOST_UNUSED
        if few and not (data.y_train % 1).any():
            sentences.append(
                "targets are whole numbers stored as floats, and are taken for a regression; store "
                "classes as integers"
            )
        return sentences
    missing = np.setdiff1d(np.arange(len(data.labels)), _used(data))
    if len(missing) and not are_texts(data.y_train):
        names = ", ".join(data.labels[c] for c in missing[:5]) + ", ..." * (len(missing) > 5)
        sentences.append(
            f"of {len(data.labels)} classes {len(missing)} have no example ({names}); the network "
            "has an output for each"
        )
    return sentences


@overload
def _resize_all(x: np.ndarray, size: int) -> np.ndarray: ...
@overload
def _resize_all(x: Rows, size: int) -> Rows: ...


def _resize_all(x, size):
    if x.ndim != 4:
        raise ValueError(
            f"image_size={size} was given for examples {list(x.shape[1:])}, which are no images "
            "[H, W, C]; leave it out"
        )
    if x.shape[1:3] == (size, size):
        return x
    many = 1 if isinstance(x, Rows) else len(x)  # rows are resized as they are read
    check_room(many, (size, size, x.shape[-1]), x.dtype)
    if isinstance(x, Rows):
        each = (size, size, x.shape[-1])
        return Rows(lambda rows: _resize_all(x[rows], size), np.arange(len(x)), each, x.dtype)
    out = np.empty((len(x), size, size, x.shape[-1]), x.dtype)
    for i, image in enumerate(x):
        out[i] = resize(image, size)
    return out


def _drop(data: Dataset, names: Sequence[str | int]) -> Dataset:
    if not data.labels or are_texts(data.y_train):
        what = "texts have" if data.labels else "a regression has"
        raise ValueError(f"drop_labels={list(names)} names classes, and {what} none")
    dropped = {_label(name, data.labels) for name in names}
    kept = [c for c in range(len(data.labels)) if c not in dropped]
    train, test = np.isin(data.y_train, kept), np.isin(data.y_test, kept)
    if not train.any():
        raise ValueError(f"no training images remain without the classes {list(names)}; drop fewer")
    number = np.zeros(len(data.labels), np.int32)
    number[kept] = np.arange(len(kept))
    return Dataset(
        take(data.x_train, train),
        number[data.y_train[train]],
        data.x_test[test],
        number[data.y_test[test]],
        tuple(data.labels[c] for c in kept),
        None if data.client is None else data.client[train],
    )


def _label(name: str | int, labels: tuple[str, ...]) -> int:
    """The number of a class. Names come first; digits that are no name are a number."""
    if name in labels:
        return labels.index(name)
    number = isinstance(name, (int, np.integer)) or name.isdecimal()
    if number and 0 <= int(name) < len(labels):
        return int(name)
    some = ", ".join(labels[:120]) + (", ..." if len(labels) > 120 else "")
    raise ValueError(
        f"there is no class {name!r}; give a number below {len(labels)} or one of: {some}"
    )


def _resplit(data: Dataset, share: float, seed: int) -> Dataset:
    if data.client is not None:
        raise ValueError(
            f"resplit={share} would mix training images, which have client ids, with test "
            "images, which have none; leave resplit or the array client out"
        )
    both = [data.x_train, data.x_test]
    x = joined(both) if isinstance(data.x_train, Rows) else np.concatenate(both)
    y = np.concatenate([data.y_train, data.y_test])
    many = int(share * len(y))
    if many == 0:
        raise ValueError(f"resplit={share} of {len(y)} images leaves none to test; raise it")
    test, train = np.split(np.random.default_rng(seed).permutation(len(y)), [many])
    topics = data.topics and np.concatenate(data.topics)
    kinds = None if topics is None else (topics[train], topics[test])
    return Dataset(take(x, train), y[train], x[test], y[test], data.labels, topics=kinds)
