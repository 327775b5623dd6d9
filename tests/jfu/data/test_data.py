"""Data sets by name, and the options that apply to all of them."""

import numpy as np
import pytest
from PIL import Image

from helpers.datasets import nearest_mean, python
from helpers.scripts import ROOT
from jfu.data import load, oddities, resize


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


def test_labels_with_wide_gaps_are_refused(tmp_path):
    """A network has an output for every number up to the largest."""
    x, file = np.zeros((4, 8, 8), np.uint8), tmp_path / "own.npz"
    np.savez(file, x_train=x, y_train=[0, 7, 500, 0], x_test=x, y_test=[0, 7, 7, 900])
    with pytest.raises(ValueError, match="labels 0 to 900 and examples of 4 of them, but a"):
        load(file)


def test_what_may_be_a_mistake_is_told(tmp_path):
    x, file = np.full((4, 8, 8), 200.0, np.float32), tmp_path / "own.npz"
    np.savez(file, x_train=x, y_train=[0, 7, 5, 0], x_test=x, y_test=[0, 7, 7, 9])
    scale, gaps = oddities(load(file))
    assert scale.startswith("images are floats of up to 200, and networks learn badly")
    assert gaps.startswith("of 10 classes 6 have no example (1, 2, 3, 4, 6, ...)")
    np.savez(file, x_train=x / 255, y_train=[0, 1, 1, 0], x_test=x / 255, y_test=[0, 1, 1, 0])
    assert oddities(load(file)) == []
    flat = np.full((4, 8), 200.0)  # features of any scale are no images
    np.savez(file, x_train=flat, y_train=[0, 1, 1, 0], x_test=flat, y_test=[0, 1, 1, 0])
    assert oddities(load(file)) == []
