"""Examples that are read row by row."""

import numpy as np
import pytest

from helpers.datasets import OWN, save
from jfu.data import load, poison
from jfu.data.rows import Rows, joined


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
