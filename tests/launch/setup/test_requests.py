"""Requests as text, one after another."""

import jax
import numpy as np
import pytest

import jfu
from helpers.workdirs import CONFIG
from launch.setup import requests
from launch.setup.clients import draw


def clients():
    labels = np.array([0, 1, 0, 1, 0, 1])
    return jfu.stack(np.zeros((6, 2)), labels, [[0, 1], [2, 3], [4, 5]])


@pytest.mark.parametrize(
    ("past", "left", "in_force"),
    [
        ([], [2, 2, 2], set()),
        (["-client:0"], [0, 2, 2], {"client:0"}),
        (["-client:0,2", "+client:2"], [0, 2, 2], {"client:0"}),
        (["-client:0", "-client:1", "+client:0", "+"], [2, 0, 2], {"client:1"}),
        (["-class:1"], [1, 1, 1], {"class:1"}),
        # What else was asked stays forgotten when a client returns.
        (["-class:1@client:0", "-client:0", "+client:0"], [1, 2, 2], {"class:1@client:0"}),
        (["-client:0", "-class:1", "+client:0"], [2, 1, 1], {"class:1"}),
        # Half of two, then half of the one that is left: never the same again.
        (["-fraction:0.5", "-fraction:0.5@client:1"], [1, 0, 1], None),
    ],
)
def test_what_is_left_after_requests_and_returns(past, left, in_force):
    stand, _ = requests.standing(past, clients(), [0, 1, 2], jax.random.key(0))
    assert jfu.weights(stand).tolist() == left
    if in_force is not None:
        assert requests.forgotten(past) == in_force


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00broken"])
def test_masks_that_are_none(tmp_path, content, dataset):
    (tmp_path / "m.npy").write_bytes(content)
    clients = draw(CONFIG, dataset, 0).clients
    names = [0, 1, 2]
    with pytest.raises(ValueError, match=r"m\.npy is not a \.npy file of bools"):
        requests.parse(f"mask:{tmp_path / 'm.npy'}", clients, names, jax.random.key(0))
    np.savez(tmp_path / "m.npz", a=np.ones(60, bool))
    with pytest.raises(ValueError, match="is not a .npy file of bools"):
        requests.parse(f"mask:{tmp_path / 'm.npz'}", clients, names, jax.random.key(0))
