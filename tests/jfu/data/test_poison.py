"""The backdoor: stamps, poisoned rows, triggered images."""

import numpy as np
import pytest

from jfu.data import load, poison


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
