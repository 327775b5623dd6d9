"""A packed part of a set gives what the whole set gives."""

import shutil

import numpy as np
import pytest

from jfu import data
from jfu.data import packed
from jfu.data.dataset import Dataset, choose


def whole() -> Dataset:
    rng = np.random.default_rng(0)
    images = lambda many: rng.integers(0, 256, (many, 4, 4, 1), dtype=np.uint8)
    labels = lambda many: np.arange(many, dtype=np.int32) % 3
    return Dataset(images(50), labels(50), images(20), labels(20), ("a", "b", "c"))


def test_sizes_choose_the_images_that_they_choose_of_the_whole(tmp_path):
    every = whole()
    assert packed.write(tmp_path / "made_up.npz", every, 30, 10) > 0
    for train, test in (30, 10), (7, 3):
        found = data.load("made_up:1.0.0", data_dir=tmp_path, train_size=train, test_size=test)
        rows, test_rows = choose(50, train, 0), choose(20, test, 0, "test_size")
        assert np.array_equal(found.x_train, every.x_train[rows])
        assert np.array_equal(found.y_train, every.y_train[rows])
        assert np.array_equal(found.x_test, every.x_test[test_rows])
        assert np.array_equal(found.y_test, every.y_test[test_rows])
        assert found.labels == every.labels and found.y_train.dtype == np.int32


@pytest.mark.parametrize("asked", [{}, dict(train_size=31, test_size=10), dict(train_size=30)])
def test_more_than_was_packed_is_refused(tmp_path, asked):
    packed.write(tmp_path / "made_up.npz", whole(), 30, 10)
    with pytest.raises(ValueError, match=r"(30 of the 50 train|10 of the 20 test) images.*_size="):
        data.load("made_up", data_dir=tmp_path, **asked)


def test_other_draws_are_refused(tmp_path):
    packed.write(tmp_path / "made_up.npz", whole(), 30, 10)
    with pytest.raises(ValueError, match="not the wanted ones"):
        data.load("made_up", data_dir=tmp_path, train_size=30, test_size=10, seed=1)


def test_files_that_are_no_packed_sets_are_refused(tmp_path):
    path = tmp_path / "made_up.npz"
    packed.write(path, whole(), 30, 10)
    with np.load(path) as file:
        arrays = dict(file)
    wrong = [
        dict(rows_train=arrays["rows_train"][::-1]),
        dict(y_train=arrays["y_train"][1:]),
        dict(y_test=arrays["y_test"] + 3),
        dict(x_test=arrays["x_test"].astype(np.float32)),
        dict(sizes=np.array([29, 20])),
        dict(labels=np.arange(3)),
    ]
    for change in wrong:
        np.savez(path, **(arrays | change))
        with pytest.raises(ValueError, match="no packed data set"):
            data.load("made_up", data_dir=tmp_path, train_size=3, test_size=3)
    np.savez(path, x_train=arrays["x_train"])
    with pytest.raises(ValueError, match="it lacks y_train"):
        data.load("made_up", data_dir=tmp_path, train_size=3, test_size=3)


def test_a_prepared_set_comes_first(tmp_path):
    packed.write(tmp_path / "made_up.npz", whole(), 30, 10)
    assert packed.find("made_up", str(tmp_path)) == str(tmp_path / "made_up.npz")
    (tmp_path / "made_up").mkdir()
    assert packed.find("made_up", str(tmp_path)) is None
    shutil.rmtree(tmp_path / "made_up")
    assert packed.find("../made_up", str(tmp_path / "inside")) is None
    with pytest.raises(FileExistsError):
        packed.write(tmp_path / "made_up.npz", whole(), 30, 10)
