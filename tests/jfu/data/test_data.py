"""Data sets, own files, partitions and the backdoor. Nothing here needs a network.

With TFDS_DATA_DIR set, cifar10 and fashion_mnist are read from there and compared with known
labels and pixel sums; they must be there then.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.scripts import ROOT
from jfu.data import Dataset, load, npz, oddities, partition, poison, resize
from jfu.data import tfds as reader
from jfu.data.rows import Rows, joined
from jfu.data.synthetic import synthetic

# Hides TensorFlow where it is installed.
BLOCK = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def hide(name, *rest):
    return None if name == "tensorflow" else find(name, *rest)
PathFinder.find_spec = hide
"""


def python(code, *args):
    done = subprocess.run(
        [sys.executable, *(["-c", code] if code else []), *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def nearest_mean(data: Dataset) -> float:
    """Test accuracy of the simplest classifier that learns."""
    flat = [np.asarray(x, float).reshape(len(x), -1) for x in (data.x_train, data.x_test)]
    classes = range(len(data.labels))
    means = np.stack([flat[0][data.y_train == c].mean(0) for c in classes])
    guess = ((flat[1][:, None] - means) ** 2).sum(-1).argmin(1)
    return (guess == data.y_test).mean()


# ---------------------------------------------------------------- embedded sets and options


def test_importing_the_data_loads_no_other_library():
    # A stand-in for the package jfu, which may itself import JAX.
    code = f"""
import sys, types
sys.modules["jfu"] = types.ModuleType("jfu")
sys.modules["jfu"].__path__ = [{str(ROOT / "jfu")!r}]
import jfu.data, jfu.data.npz, jfu.data.partition, jfu.data.poison, jfu.data.tfds
import jfu.data.synthetic
heavy = {{"jax", "sklearn", "tensorflow_datasets", "PIL", "tensorflow", "scipy"}}
print(sorted(heavy & set(sys.modules)))
"""
    code, out, err = python(code)
    assert (code, out.strip()) == (0, "[]"), err


def test_digits_are_the_documented_split():
    data = load("digits")
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert data.x_train.min() == 0 and data.x_train.max() == 255
    assert data.labels == tuple("0123456789") and data.client is None
    both = np.concatenate([data.x_train, data.x_test]).reshape(1797, -1)
    assert int(both.sum(dtype=np.int64)) == 8_953_801
    assert data.y_test[:8].tolist() == [0, 8, 8, 9, 8, 3, 7, 5]
    assert nearest_mean(data) > 0.85


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


def test_train_size_is_a_nested_subset():
    full, small, large = (
        load("digits"),
        load("digits", train_size=20),
        load("digits", train_size=50),
    )

    def keys(data):
        return {image.tobytes() for image in data.x_train}

    assert small.x_train.shape == (20, 8, 8, 1) and keys(small) < keys(large) < keys(full)
    assert len(small.x_test) == len(full.x_test)
    assert keys(load("digits", train_size=20, seed=1)) != keys(small)


def test_resplit_keeps_every_example_once():
    full, new = load("digits"), load("digits", resplit=0.1)
    assert len(new.y_test) == 179 and len(new.y_train) == 1618  # int(0.1 * 1797)

    def rows(data):
        x, y = np.concatenate(data[0:3:2]), np.concatenate(data[1:4:2])
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(x, y, strict=True))

    assert rows(new) == rows(full)
    assert np.array_equal(new.x_test, load("digits", resplit=0.1).x_test)
    assert not np.array_equal(new.x_test, load("digits", resplit=0.1, seed=1).x_test)


@pytest.mark.parametrize("dropped", [["0", "3"], [0, 3], ["3", np.int64(0), 3]])
def test_dropped_labels_leave_no_gap(dropped):
    full, data = load("digits"), load("digits", drop_labels=dropped)
    assert data.labels == ("1", "2", "4", "5", "6", "7", "8", "9")
    kept = ~np.isin(full.y_train, [0, 3])
    assert np.array_equal(data.x_train, full.x_train[kept])
    assert [data.labels[c] for c in data.y_train] == [str(c) for c in full.y_train[kept]]
    assert data.y_train.dtype == np.int32 and set(data.y_test) == set(range(8))


def test_options_apply_in_order():
    data = load("digits", drop_labels=[9], resplit=0.1, train_size=100, image_size=12)
    many = int((np.concatenate(load("digits")[1:4:2]) != 9).sum())
    assert data.x_train.shape == (100, 12, 12, 1) and data.x_train.dtype == np.uint8
    assert len(data.y_test) == int(0.1 * many) and len(data.labels) == 9
    same = load("digits", drop_labels=[9], resplit=0.1, train_size=100)
    assert np.array_equal(data.y_train, same.y_train)
    assert np.array_equal(data.x_train[0], resize(same.x_train[0], 12))


def test_resize_is_pillows_bilinear():
    image = np.random.default_rng(0).integers(0, 256, (9, 6, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(resize(image, 4), whole)
    assert resize(np.full((9, 6, 4), 7, np.uint8), 5).tolist() == np.full((5, 5, 4), 7).tolist()
    floats = resize(np.full((9, 6, 1), 0.5, np.float32), 3)
    assert floats.dtype == np.float32 and np.allclose(floats, 0.5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"drop_labels": ["ten"]}, "no class 'ten'.*0, 1, 2"),
        ({"drop_labels": [10]}, "no class 10"),
        ({"drop_labels": list(range(10))}, "no training images remain"),
        ({"resplit": 0.0}, r"resplit is 0.0.*\(0, 1\)"),
        ({"resplit": 1.0}, "resplit is 1.0"),
        ({"resplit": 1e-9}, "leaves none to test"),
        ({"train_size": 1438}, "train_size is 1438.*1437"),
        ({"train_size": 0}, "train_size is 0"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_wrong_options_say_what_is_possible(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


# ---------------------------------------------------------------- own files

OWN = {
    "x_train": np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": np.zeros((2, 4, 4), np.uint8),
    "y_test": np.array([1, 3], np.uint8),
}


def save(folder, **changes):
    arrays = {k: v for k, v in {**OWN, **changes}.items() if v is not None}
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_own_arrays_keep_type_and_clients(tmp_path):
    client = np.array(["ann", "bob", "ann", "eve", "bob", "ann"])
    data = load(save(tmp_path, client=client))
    assert np.array_equal(data.x_train[..., 0], OWN["x_train"]) and data.x_train.dtype == np.uint8
    assert data.labels == ("0", "1", "2", "3") and data.y_test.dtype == np.int32
    assert data.client.tolist() == client.tolist()
    part = load(save(tmp_path, client=client), train_size=3, drop_labels=[1])
    assert len(part.client) == 3
    for x, who in zip(part.x_train, part.client, strict=True):
        assert client[int(x[0, 0, 0]) // 16] == who
    lists, ids = partition.from_ids(data.client)
    assert ids == ("ann", "bob", "eve") and lists[0].tolist() == [0, 2, 5]
    with pytest.raises(ValueError, match="client ids"):
        load(save(tmp_path, client=client), resplit=0.5)


# ---------------------------------------------------------------- read by row


def same_data(unread, whole):
    assert isinstance(unread.x_train, Rows) and unread.x_train.shape == whole.x_train.shape
    assert unread.x_train.dtype == whole.x_train.dtype
    np.testing.assert_array_equal(unread.x_train, whole.x_train)
    for a, b in zip(unread[1:], whole[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(train_size=4, test_size=1),
        dict(drop_labels=["0"]),
        dict(resplit=0.4),
        dict(resplit=0.4, train_size=3, drop_labels=[2], image_size=2),
    ],
)
def test_own_arrays_read_by_row_are_the_same(tmp_path, options):
    path = save(tmp_path)
    same_data(load(path, by_row=True, **options), load(path, **options))
    client = np.array(list("abcabc"))
    if "resplit" not in options:
        floats = np.linspace(0, 1, 96).reshape(6, 4, 4)
        path = save(tmp_path, client=client, x_train=floats, x_test=floats[:2])
        same_data(load(path, by_row=True, **options), load(path, **options))


def test_rows_are_read_when_asked_for_and_no_others(tmp_path):
    x = np.zeros((6, 4, 4))
    x[4] = np.nan
    data = load(save(tmp_path, x_train=x, x_test=x[:2]), by_row=True)
    assert data.x_train[[5, 0]].shape == (2, 4, 4, 1)
    assert data.x_train.take(np.arange(4)).max() == 0
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 examples, first in row 4"):
        data.x_train[3:5]
    with pytest.raises(IndexError, match="a slice, a mask, or a list"):
        data.x_train[0]


def test_what_cannot_be_read_by_row_is_read_whole(tmp_path):
    np.savez_compressed(tmp_path / "own.npz", **OWN)
    assert isinstance(load(tmp_path / "own.npz", by_row=True).x_train, np.ndarray)
    fortran = np.asfortranarray(np.zeros((6, 4, 4)))
    path = save(tmp_path, x_train=fortran, x_test=np.zeros((2, 4, 4)))
    assert isinstance(load(path, by_row=True).x_train, np.ndarray)
    assert isinstance(load("digits", by_row=True).x_train, np.ndarray)


def test_prepared_sets_read_by_row_are_the_same(odd):
    for options in (dict(image_size=8), dict(image_size=8, train_size=3), dict(image_size=8)):
        unread = load("jfu_odd", data_dir=odd, by_row=True, **options)
        same_data(unread, load("jfu_odd", data_dir=odd, **options))
    whole = dict(data_dir=odd, resplit=0.5, drop_labels=["ant"])
    same_data(load("jfu_whole", by_row=True, **whole), load("jfu_whole", **whole))


def test_poison_on_rows_is_the_same():
    x, y = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8, 1), np.arange(5)
    read = []

    def some(ids):
        read.extend(ids.tolist())
        return x[ids]

    unread = Rows(some, np.arange(5), (8, 8, 1), x.dtype)
    ours, labels, chosen = poison.poison(unread, y, [1, 2, 4], label=3, fraction=0.7, seed=1)
    assert read == []
    wanted = poison.poison(x, y, [1, 2, 4], label=3, fraction=0.7, seed=1)
    np.testing.assert_array_equal(ours, wanted[0])
    assert (labels.tolist(), chosen.tolist()) == (wanted[1].tolist(), wanted[2].tolist())
    both = joined([ours, x[:2]])
    read.clear()
    np.testing.assert_array_equal(both[[6, 2, 0]], [x[1], wanted[0][2], x[0]])
    assert sorted(read) == [0, 2]


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4), (5,)])
def test_own_floats_become_float32_unscaled(tmp_path, shape):
    x = np.linspace(-3, 900, 6 * int(np.prod(shape))).reshape(6, *shape)
    data = npz.read(save(tmp_path, x_train=x, x_test=x[:2]))
    wanted = x[..., None] if len(shape) == 2 else x
    assert data.x_train.dtype == np.float32
    assert np.array_equal(data.x_train, wanted.astype(np.float32))
    if len(shape) == 1:
        with pytest.raises(ValueError, match="image_size=8"):
            load(tmp_path / "own.npz", image_size=8)


def bad_pixel(value):
    x = np.zeros((6, 4, 4))
    x[4, 1, 1] = value
    return {"x_train": x, "x_test": np.zeros((2, 4, 4))}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y_train": None, "x_test": None}, "lacks y_train, x_test; it holds"),
        ({"x_train": np.zeros(6, np.uint8)}, r"x_train has shape \[6\]"),
        ({"x_train": np.zeros((6, 4, 4, 1, 1), np.uint8)}, "x_train has shape"),
        ({"x_test": np.zeros((0, 4, 4), np.uint8)}, "x_test has shape"),
        ({"x_train": np.zeros((6, 4, 4), int)}, "x_train is int64; give uint8"),
        ({"x_test": np.zeros((2, 4, 4))}, "same shape and dtype"),
        ({"x_test": np.zeros((2, 4, 5), np.uint8)}, "same shape and dtype"),
        (bad_pixel(np.nan), "x_train holds NaN or infinity in 1 of 6 examples, first in row 4"),
        (bad_pixel(np.inf), "x_train holds NaN"),
        (bad_pixel(1e300), "x_train holds NaN or infinity"),  # too large for float32
        ({"y_train": np.arange(5)}, "y_train has shape"),
        ({"y_train": np.zeros((6, 1), int)}, "y_train has shape"),
        ({"y_train": np.zeros(6)}, "y_train is float64"),
        ({"y_train": np.zeros(6, bool)}, "y_train is bool"),
        ({"y_test": np.array([0, -1])}, "y_test runs from -1"),
        ({"y_test": np.array([0, 10**12])}, "y_test runs from 0 to 1000000000000"),
        ({"client": np.array(["a"] * 5)}, r"client is <U1 \[5\]"),
        ({"client": np.zeros(6)}, "client is float64"),
        ({"client": np.array([{}] * 6, object)}, "client.npy in .* holds Python objects"),
    ],
)
def test_wrong_own_arrays_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        npz.read(save(tmp_path, **changes))


def test_damaged_own_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.npz"):
        load(tmp_path / "none.npz")
    path = save(tmp_path)
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"text, not arrays"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="no whole .npz file"):
            load(path)
    at = whole.index(OWN["x_train"].tobytes())
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(ValueError, match=r"x_train.npy in .* \(Bad CRC-32"):
        load(path)


# ---------------------------------------------------------------- tensorflow-datasets


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def odd_files():
    """One red image as files of many kinds, and two of other sizes."""
    red = Image.new("RGB", (9, 6), (200, 0, 0))
    return [
        encoded(red, "PNG"),
        encoded(red.convert("P"), "PNG"),
        encoded(red.convert("RGBA"), "PNG"),
        encoded(red.convert("CMYK"), "JPEG"),
        encoded(red.resize((5, 7)), "PNG"),
        encoded(red.resize((6, 9)), "GIF"),
    ]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder with sets that tensorflow-datasets itself prepared, without TensorFlow."""
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))

    def prepare(name, splits, features, keys):
        def generate(labels):
            for i, label in enumerate(labels):
                image = odd_files()[i % 6 if len(labels) > 4 else 0]
                yield i, {"image": io.BytesIO(image), "label": label}

        class Set(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features_ = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features_, supervised_keys=keys)

            def _split_generators(self, _):
                return {split: generate(labels) for split, labels in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

        Set.name = name
        Set(data_dir=folder, file_format="array_record").download_and_prepare()

    image = tfds.features.Image(shape=(None, None, 3))
    label = tfds.features.ClassLabel(names=["ant", "bee"])
    both = {"image": image, "label": label}
    with tfds.core.registered.skip_registration():
        six, four = [0, 1] * 3, [1, 0, 1, 0]
        splits = {"train": six, "validation": four, "test": [-1] * 4}
        prepare("jfu_odd", splits, both, ("image", "label"))
        prepare("jfu_even", {"train": four, "test": four}, both, None)
        prepare("jfu_whole", {"train": four}, both, None)
        prepare("jfu_numbers", {"train": four}, {"image": image, "label": np.int64}, None)
    return folder


def test_odd_files_become_plain_images(odd):
    with pytest.raises(ValueError, match=r"differ in size, \[., ., 3\] and .*image_size=S"):
        load("jfu_odd", data_dir=odd)
    data = load("jfu_odd", data_dir=odd, image_size=6)
    assert data.x_train.shape == (6, 6, 6, 3) and data.x_train.dtype == np.uint8
    assert np.abs(data.x_train.astype(int) - [200, 0, 0]).max() <= 32  # web palette, JPEG
    assert data.labels == ("ant", "bee") and sorted(data.y_train) == [0, 0, 0, 1, 1, 1]
    # The test split has no labels, so validation takes its place.
    assert sorted(data.y_test) == [0, 0, 1, 1]


def test_sets_without_supervised_keys_or_test_images(odd, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", odd)
    data = load("jfu_even")
    assert data.x_train.shape == (4, 6, 9, 3) and sorted(data.y_train) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="no labelled split test.*resplit=0.1"):
        load("jfu_whole")
    data = load("jfu_whole", resplit=0.3)
    assert len(data.y_train) == 3 and len(data.y_test) == 1
    with pytest.raises(ValueError, match="no image-classification set"):
        load("jfu_numbers", resplit=0.5)


def test_train_size_decodes_only_the_chosen(odd, monkeypatch):
    calls = []
    decode = reader._image
    monkeypatch.setattr(reader, "_image", lambda *args: calls.append(0) or decode(*args))
    part = load("jfu_odd", data_dir=odd, image_size=6, train_size=2)
    assert len(calls) == 2 + 4
    full = load("jfu_odd", data_dir=odd, image_size=6)
    rows = np.sort(np.random.default_rng(0).permutation(6)[:2])
    assert np.array_equal(part.x_train, full.x_train[rows])
    assert np.array_equal(part.y_train, full.y_train[rows])
    late = load("jfu_odd", data_dir=odd, image_size=6, train_size=2, drop_labels=["ant"])
    assert late.y_train.tolist() == [0, 0]


def test_what_cannot_be_read_names_the_command(odd, tmp_path):
    def message(name, folder=tmp_path):
        with pytest.raises(ValueError) as caught:
            load(name, data_dir=folder)
        text = str(caught.value)
        assert "\n" not in text
        wanted = name if name.startswith(("jfu", "mnist")) else "NAME"
        assert f"python -m launch.prepare --dataset={wanted} --data_dir={folder}" in text
        return text

    assert "mnist is not prepared in" in message("mnist")
    assert "no data set 'no_such_set'; give digits, synthetic" in message("no_such_set")
    assert "cannot open 'no such/set'" in message("no such/set")
    assert "cannot open 'cifar10:0.0.1'" in message("cifar10:0.0.1")

    shutil.copytree(Path(odd) / "jfu_even", tmp_path / "jfu_even")
    inside = tmp_path / "jfu_even" / "1.0.0"
    shard = next(inside.glob("*train.array_record*"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    assert "damaged or incomplete" in message("jfu_even")
    shard.unlink()
    assert "damaged or incomplete" in message("jfu_even")
    info = json.loads((inside / "dataset_info.json").read_text())
    (inside / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    assert "as tfrecord, which cannot be read" in message("jfu_even")


def test_mocked_catalogue_without_tensorflow(tmp_path):
    code = f"""{BLOCK}
import tensorflow_datasets as tfds
from jfu.data import load
with tfds.testing.mock_data(num_examples=64):
    for name, size in (("cifar10", None), ("mnist", None), ("caltech101", 16)):
        data = load(name, data_dir={str(tmp_path)!r}, image_size=size)
        print(name, data.x_train.shape, data.x_train.dtype, data.x_test.shape, len(data.labels))
assert "tensorflow" not in sys.modules
"""
    code, out, err = python(code)
    assert code == 0, err
    assert out.splitlines() == [
        "cifar10 (64, 32, 32, 3) uint8 (64, 32, 32, 3) 10",
        "mnist (64, 28, 28, 1) uint8 (64, 28, 28, 1) 10",
        "caltech101 (64, 16, 16, 3) uint8 (64, 16, 16, 3) 102",
    ]


def test_prepare_says_what_it_did(odd, tmp_path):
    shutil.copytree(Path(odd) / "jfu_even", tmp_path / "jfu_even")
    info = tmp_path / "jfu_even" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    code = f"""{BLOCK}
from launch.prepare import prepare
print(prepare("jfu_even", {odd!r}))
for name in ("jfu_even", "mnist", "no_such_set"):
    try: print(prepare(name, {str(tmp_path)!r}))
    except ValueError as error: print(error)
"""
    code, out, err = python(code)
    assert code == 0, err
    done, other, missing, unknown = out.splitlines()
    assert re.fullmatch("jfu_even is already prepared in .*; nothing to do.", done)
    assert "already prepared" in other and "as tfrecord" in other and "--data_dir" in other
    assert "needs TensorFlow" in missing and "pip install 'jfu[prepare]'" in missing
    assert "no data set 'no_such_set'" in unknown


def test_prepare_as_a_script(odd):
    code, out, err = python("", "-m", "launch.prepare", "--dataset=jfu_even", f"--data_dir={odd}")
    assert code == 0 and "already prepared" in out, err
    code, out, err = python("", "-m", "launch.prepare", "--dataset=no_such_set")
    assert code == 2 and "error: there is no data set" in err and "Traceback" not in err


# First five labels and sums of pixel values, from the published files.
REAL = {
    "fashion_mnist": (
        (60000, 28, 28, 1),
        ([2, 1, 8, 4, 1], [42826, 53296, 85388, 111903, 46710]),
        ([4, 4, 9, 7, 5], [63356, 91377, 30680, 60473, 25266]),
    ),
    "cifar10": (
        (50000, 32, 32, 3),
        ([7, 8, 4, 4, 6], [447224, 334000, 356345, 342214, 212087]),
        ([7, 0, 6, 9, 5], [434684, 233920, 296401, 601201, 355222]),
    ),
}


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
@pytest.mark.parametrize("name", REAL)
def test_real_sets(name):
    (many, *shape), train, test = REAL[name]
    where = reader.folder(None)
    these = reader._Set(name, where, reader.open_builder(name, where), "image")
    source = reader._source(these, "train")
    first = reader._rows(these, source, list(range(5)))
    images = np.stack([reader._image(example["image"], shape[-1]) for example in first])
    assert len(source) == many
    assert ([e["label"] for e in first], images.sum((1, 2, 3)).tolist()) == train
    data = load(name, train_size=100)
    assert data.x_train.shape == (100, *shape) and data.x_test.shape == (10000, *shape)
    assert data.x_train.dtype == np.uint8 and len(data.labels) == 10
    assert (data.y_test[:5].tolist(), data.x_test[:5].sum((1, 2, 3)).tolist()) == test
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    rows = np.sort(np.random.default_rng(0).permutation(many)[:100])
    assert data.y_train.tolist() == [e["label"] for e in source.__getitems__(rows.tolist())]


# ---------------------------------------------------------------- partitions

Y = np.random.default_rng(7).integers(0, 10, 1000)
SPECS = ["iid", "dirichlet:0.5", "dirichlet:1e-6", "dirichlet:1e6", "shards:2"]


def skew(lists, y):
    """Mean total variation between a client's labels and all labels, weighted by examples."""
    overall = np.bincount(y, minlength=10) / len(y)
    parts = [np.bincount(y[rows], minlength=10) / len(rows) for rows in lists]
    each = [0.5 * np.abs(part - overall).sum() for part in parts]
    return np.average(each, weights=[len(rows) for rows in lists])


def assert_partition(lists, examples, clients, minimum=1):
    assert len(lists) == clients
    assert all(rows.dtype == np.int32 and rows.ndim == 1 for rows in lists)
    assert all(len(rows) >= minimum for rows in lists)
    assert np.array_equal(np.sort(np.concatenate(lists)), np.arange(examples))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("clients", [1, 7, 100, 500])
def test_every_example_has_one_client(spec, clients):
    lists = partition.partition(spec, Y, clients, seed=3)
    assert_partition(lists, len(Y), clients)
    again = partition.partition(spec, Y, clients, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(lists, again, strict=True))
    if clients > 1:
        other = partition.partition(spec, Y, clients, seed=4)
        assert any(not np.array_equal(a, b) for a, b in zip(lists, other, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("beta", [5e-324, 1e-300, 1e-6, 0.01, 1.0, 1e6, 1e308])
@pytest.mark.parametrize("clients, minimum", [(10, 1), (1000, 1), (100, 10), (50, 7)])
def test_dirichlet_always_ends(beta, clients, minimum):
    lists = partition.dirichlet(Y, clients, beta, seed=1, minimum=minimum)
    assert_partition(lists, len(Y), clients, minimum)


def test_dirichlet_skew_falls_with_beta():
    skews = [skew(partition.dirichlet(Y, 10, beta, seed=0), Y) for beta in (0.01, 0.1, 1, 10, 1e4)]
    assert all(a > b for a, b in zip(skews, skews[1:], strict=False)), skews
    assert skews[0] > 0.6 and skews[-1] < 0.05


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_dirichlet_proportions_have_the_right_moments(beta):
    rng, clients = np.random.default_rng(0), 8
    draws = np.stack([partition._proportions(rng, clients, beta) for _ in range(20000)])
    assert np.allclose(draws.sum(1), 1)
    mean = 1 / clients
    assert np.allclose(draws.mean(0), mean, atol=0.01)
    variance = mean * (1 - mean) / (clients * beta + 1)
    assert np.allclose(draws.var(0), variance, rtol=0.1)


def test_dirichlet_favours_no_client():
    y = np.zeros(7, int)  # few examples of a class, so that rounding decides
    sizes = [[len(r) for r in partition.dirichlet(y, 4, 1e6, seed=s)] for s in range(400)]
    assert np.allclose(np.mean(sizes, 0), 7 / 4, atol=0.15)


def test_shards_keep_the_minimum_or_are_refused():
    """Ten clients of two shards: 1,000 examples in 20 shards of 50 are 100 each, and no more."""
    y = np.arange(1000) % 10
    assert min(map(len, partition.partition("shards:2", y, 10, minimum=100))) == 100
    with pytest.raises(ValueError, match="shards:3 leaves a client 99 examples, and each is to"):
        partition.partition("shards:3", y, 10, minimum=100)


def test_iid_is_even_and_shards_limit_the_classes():
    lists = partition.iid(Y, 7, seed=0)
    assert {len(rows) for rows in lists} == {142, 143} and skew(lists, Y) < 0.15
    y = np.repeat(np.arange(10), 100)
    lists = partition.shards(y, 50, 2, seed=0)
    assert all(len(rows) == 20 and len(set(y[rows])) <= 2 for rows in lists)
    assert skew(lists, y) > 0.7
    assert sum(len(set(y[rows])) == 2 for rows in lists) > 25  # dealt, not in order


@pytest.mark.parametrize(
    "spec, clients, message",
    [
        ("", 4, "partition is ''; it must be iid"),
        ("iid:2", 4, "partition is 'iid:2'"),
        ("dirichlet", 4, "partition is 'dirichlet'"),
        ("dirichlet:x", 4, "dirichlet:B with a beta > 0"),
        ("dirichlet:0", 4, "beta > 0"),
        ("dirichlet:-1", 4, "beta > 0"),
        ("dirichlet:nan", 4, "beta > 0"),
        ("dirichlet:inf", 4, "beta > 0"),
        ("shards:1.5", 4, "whole number"),
        ("shards:0", 4, "whole number"),
        ("shards:251", 4, "between 1 and 250"),
        ("iid", 1001, "1001 clients cannot share 1000 examples"),
        ("dirichlet:1", 1001, "1001 clients"),
        ("iid", 0, "0 clients"),
    ],
)
def test_wrong_partitions_say_what_is_possible(spec, clients, message):
    with pytest.raises(ValueError, match=message):
        partition.partition(spec, Y, clients)


def test_wrong_arguments_of_single_partitions():
    with pytest.raises(ValueError, match="beta is 0"):
        partition.dirichlet(Y, 4, 0)
    with pytest.raises(ValueError, match="minimum must be between 1 and 250"):
        partition.dirichlet(Y, 4, 1.0, minimum=251)
    with pytest.raises(ValueError, match="labels must be integers"):
        partition.iid(Y.astype(float), 4)
    with pytest.raises(ValueError, match="client ids are float64"):
        partition.from_ids(np.zeros(3))


def test_own_lists_from_files(tmp_path):
    np.savez(tmp_path / "a.npz", anna=np.array([4, 0]), ben=np.array([1], np.uint8))
    lists, ids = partition.from_file(tmp_path / "a.npz", 5)
    assert ids == ("anna", "ben") and [r.tolist() for r in lists] == [[0, 4], [1]]
    assert lists[1].dtype == np.int32
    (tmp_path / "b.json").write_text('{"7": [4, 0], "ben": [1]}')
    lists, ids = partition.from_file(tmp_path / "b.json", 5)
    assert ids == ("7", "ben") and [r.tolist() for r in lists] == [[0, 4], [1]]
    (tmp_path / "c.json").write_text("[[4, 0], [1]]")
    lists, ids = partition.from_file(tmp_path / "c.json", 5)
    assert ids == (0, 1) and [r.tolist() for r in lists] == [[0, 4], [1]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "no JSON that jfu reads"),
        ("3", "must hold an object"),
        ("[]", "holds no clients"),
        ("{}", "holds no clients"),
        ("[[0], []]", "client 1 .* not empty"),
        ("[[0], 1]", "client 1 .* list of integers"),
        ("[[0.5]]", "client 0 .* list of integers"),
        ("[[true]]", "client 0 .* list of integers"),
        ("[[[0]]]", "client 0 .* list of integers"),
        ('{"a": [5]}', "client a .* names row 5; the rows are 0 to 4"),
        ('{"a": [-1]}', "client a .* names row -1"),
        ('{"a": [1, 1]}', "client a .* names a row twice"),
        ('{"a": [1], "a": [2]}', "names the client a twice"),
    ],
)
def test_wrong_own_lists_are_named(tmp_path, text, message):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        partition.from_file(tmp_path / "own.json", 5)


def test_wrong_list_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        partition.from_file(tmp_path / "none.json", 5)
    (tmp_path / "own.csv").write_text("1,2")
    with pytest.raises(ValueError, match="must end in .npz or .json"):
        partition.from_file(tmp_path / "own.csv", 5)
    (tmp_path / "own.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="is no whole .npz file"):
        partition.from_file(tmp_path / "own.npz", 5)
    np.savez(tmp_path / "own.npz", a=np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="client a .* list of integers"):
        partition.from_file(tmp_path / "own.npz", 5)


# ---------------------------------------------------------------- backdoor


@pytest.mark.parametrize("size, side", [(8, 2), (28, 3), (32, 3), (64, 6)])
def test_the_stamp_is_a_white_corner(size, side):
    x = np.full((2, size, size, 3), 7, np.uint8)
    stamped = poison.stamp(x)
    assert (x == 7).all()  # the caller's array is untouched
    assert (stamped[:, -side:, -side:] == 255).all()
    assert (stamped != 7).sum() == 2 * side * side * 3
    assert np.array_equal(poison.stamp(x[0]), stamped[0])


def test_the_stamp_of_floats_and_of_other_sizes():
    x = np.linspace(-1, 3, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    assert (poison.stamp(x)[0, -2:, -2:] == 3).all() and poison.stamp(x).dtype == np.float32
    assert (poison.stamp(x, value=9.0, size=1) == 9).sum() == 1
    for size in (0, 9):
        with pytest.raises(ValueError, match="between 1 and 8"):
            poison.stamp(x, size=size)
    with pytest.raises(ValueError, match="needs images"):
        poison.stamp(np.zeros((4, 8), np.float32))


@pytest.mark.parametrize("fraction, many", [(1.0, 40), (0.5, 20), (1e-6, 1)])
def test_poison_changes_the_chosen_rows_only(fraction, many):
    data = load("digits")
    rows = np.arange(10, 50)
    before = data.x_train.copy(), data.y_train.copy()
    x, y, chosen = poison.poison(data.x_train, data.y_train, rows, label=3, fraction=fraction)
    assert np.array_equal(before[0], data.x_train) and np.array_equal(before[1], data.y_train)
    assert len(chosen) == many and set(chosen) <= set(rows) and chosen.dtype == np.int32
    assert np.array_equal(x[chosen], poison.stamp(data.x_train[chosen])) and (y[chosen] == 3).all()
    rest = np.setdiff1d(np.arange(len(y)), chosen)
    assert np.array_equal(x[rest], data.x_train[rest]) and y.dtype == np.int32
    assert np.array_equal(y[rest], data.y_train[rest])
    again = poison.poison(data.x_train, data.y_train, rows, label=3, fraction=fraction)
    assert np.array_equal(again[2], chosen)
    if fraction == 0.5:
        other = poison.poison(data.x_train, data.y_train, rows, label=3, fraction=0.5, seed=1)
        assert not np.array_equal(other[2], chosen)


def test_triggered_images_are_of_other_classes():
    data = load("digits")
    x = poison.triggered(data.x_test, data.y_test, 3)
    assert np.array_equal(x, poison.stamp(data.x_test[data.y_test != 3]))
    with pytest.raises(ValueError, match="give other classes"):
        poison.triggered(data.x_test[:2], np.array([1, 1]), 1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label": 10}, "label is 10; the classes are 0 to 9"),
        ({"label": -1}, "label is -1"),
        ({"fraction": 0.0}, r"it must lie in \(0, 1\]"),
        ({"fraction": 1.1}, "fraction to poison is 1.1"),
        ({"rows": []}, "at least one"),
        ({"rows": [1437]}, "from 0 to 1436"),
        ({"rows": [-1]}, "from 0 to 1436"),
        ({"rows": [0.5]}, "rows must be integers"),
    ],
)
def test_wrong_poison_says_what_is_possible(changes, message):
    data = load("digits")
    arguments = {"rows": [1, 2], "label": 3, **changes}
    with pytest.raises(ValueError, match=message):
        poison.poison(data.x_train, data.y_train, **arguments)


def test_labels_with_wide_gaps_are_refused(tmp_path):
    """A network has an output for every number up to the largest."""
    x, file = np.zeros((4, 8, 8), np.uint8), tmp_path / "own.npz"
    np.savez(file, x_train=x, y_train=[0, 7, 500, 0], x_test=x, y_test=[0, 7, 7, 900])
    with pytest.raises(ValueError, match="labels 0 to 900 and examples of 4 of them; number those"):
        load(file)


def test_what_may_be_a_mistake_is_told(tmp_path):
    x, file = np.full((4, 8, 8), 200.0, np.float32), tmp_path / "own.npz"
    np.savez(file, x_train=x, y_train=[0, 7, 5, 0], x_test=x, y_test=[0, 7, 7, 9])
    scale, gaps = oddities(load(file))
    assert scale.startswith("images are floats of up to 200, which networks take as they are")
    assert gaps.startswith("of 10 classes 6 have no example (1, 2, 3, 4, 6, ...)")
    np.savez(file, x_train=x / 255, y_train=[0, 1, 1, 0], x_test=x / 255, y_test=[0, 1, 1, 0])
    assert oddities(load(file)) == []
    flat = np.full((4, 8), 200.0)  # features of any scale are no images
    np.savez(file, x_train=flat, y_train=[0, 1, 1, 0], x_test=flat, y_test=[0, 1, 1, 0])
    assert oddities(load(file)) == []


@pytest.mark.parametrize("seed", [-1, None, 0.5, True])
def test_seeds_that_fix_nothing_are_refused(seed):
    with pytest.raises(ValueError, match="it must be a whole number from 0 on"):
        partition.iid(np.zeros(4, int), 2, seed)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.arange(6) < 2, r"has bool \[6\]; of a mask they are np.flatnonzero"),
        (np.array([0.0, 1.0]), r"has float64 \[2\]"),
    ],
)
def test_lists_that_are_no_rows_are_named(tmp_path, rows, words):
    np.savez(tmp_path / "own.npz", anna=rows)
    with pytest.raises(ValueError, match="client anna .*" + words):
        partition.from_file(tmp_path / "own.npz", 6)
    (tmp_path / "own.json").write_text('{"ben": [0, true]}')
    with pytest.raises(ValueError, match="client ben .* not empty, and has True"):
        partition.from_file(tmp_path / "own.json", 6)
