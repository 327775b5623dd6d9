"""Own arrays in files of np.savez."""

import numpy as np
import pytest

from helpers.datasets import OWN, save
from jfu.data import load, npz, partition


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
        ({"y_train": np.zeros(6)}, "y_train is float32 and y_test int32; give both"),
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
