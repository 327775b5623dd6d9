"""Clients as arrays: padding, types, and what is refused at the door."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import ROWS
from jfu import streaming

pytestmark = pytest.mark.conformance

X, Y = np.zeros((4, 2), np.float32), np.arange(4)
NOWHERE = np.array([[0, 1], [np.nan, 0], [0, np.inf], [1, 1]], np.float32)


def test_stack_pads_short_clients_with_dead_slots(pool, data):
    assert data.index.shape == data.mask.shape == (3, 7)
    assert data.index.dtype == data.id.dtype == data.y.dtype == jnp.int32
    assert data.mask.dtype == bool
    for k, rows in enumerate(ROWS):
        assert np.asarray(data.index)[k, np.asarray(data.mask)[k]].tolist() == rows
    assert data.id.tolist() == [5, 2, 9]
    np.testing.assert_array_equal(data.x, pool[0])
    assert jfu.weights(data).tolist() == [7, 3, 5]
    assert jfu.weights(data).dtype == jnp.float32


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.uint8, jnp.uint8), (np.float64, jnp.float32), (np.float16, jnp.float16)],
)
def test_stack_keeps_small_dtypes(given, kept):
    assert jfu.stack(X.astype(given), Y, [[0]]).x.dtype == kept


@pytest.mark.parametrize("devices", [None, 1, 2])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_stack_keeps_its_own_examples(devices, shift):
    """Written into afterwards, the caller's arrays change nothing, wherever they lie in memory."""
    room = np.ones(64 + 1024 * 16, np.float32)
    begin = (-room.ctypes.data % 64) // 4 + shift
    x, y = room[begin : begin + 1024 * 8].reshape(1024, 8), np.ones(1024, np.int32)
    mesh = devices and jfu.clients_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        data = jfu.stack(x, y, [np.arange(1024)])
    x[:], y[:] = 7, 7
    for a in data.x, data.y:
        assert len(a.addressable_shards) == (devices or 1)
        assert all((np.asarray(shard.data) == 1).all() for shard in a.addressable_shards)


def test_stack_numbers_clients_from_zero():
    assert jfu.stack(X, Y, [[0], [1], [2]]).id.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("x", "y", "rows", "ids", "words"),
    [
        (X, Y[:3], [[0]], None, "4 examples and 3 labels"),
        (X, Y.astype(complex), [[0]], None, r"for a regression, got complex128 \[4\]"),
        (X, Y.reshape(4, 1), [[0]], None, r"got int64 \[4, 1\]"),
        (NOWHERE, Y, [[0]], None, "2 of 4 examples contain NaN or infinity"),
        (X, Y, [], None, "no clients"),
        (X, Y, [[0], []], None, "client 1 has no examples"),
        (X, Y, [[0], []], [7, 8], "client 8 has no examples"),
        (X, Y, [[0], [4]], None, "client 1 names rows outside the pool of 4"),
        (X, Y, [[-1]], None, "client 0 names rows outside the pool of 4"),
        (X, Y, [[0.5]], None, r"client 0's rows are float64 \[1\]; pass one list"),
        (X, Y, [[[0]]], None, "client 0"),
        (X, Y, [[0], [1]], [3, 3], r"2 clients need as many different ids from 0 on, got \[3, 3\]"),
        (X, Y, [[0], [1]], [-1, 0], r"from 0 on, got \[-1, 0\]"),
        (X, Y, [[0], [1]], [3], r"2 clients need as many different ids from 0 on, got \[3\]"),
    ],
)
def test_stack_refuses(x, y, rows, ids, words):
    with pytest.raises(ValueError, match=words):
        jfu.stack(x, y, rows, ids=ids)


XS, YS, TWO = np.zeros((6, 2), np.float32), np.arange(6) % 2, [[0, 1, 2], [3, 4, 5]]
BIG = np.array([0, 1, 2, 3, 4, 2**32 + 7])
CHANGED = {
    "labels beyond 32 bits": (dict(y=BIG), "labels run from 0 to 4294967303, beyond 32 bits"),
    "labels below -2^31": (dict(y=-BIG), "labels run from -4294967303 to 0, beyond 32 bits"),
    "unsigned labels": (dict(y=np.full(6, 2**63, np.uint64)), "beyond 32 bits"),
    "labels that are no classes": (
        dict(y=YS + 2, classes=3),
        "from 2 to 3.*are 3 classes",
    ),
    "negative labels": (dict(y=YS - 1, classes=3), "from -1 to 0, and there are 3 classes"),
    "targets of classes": (dict(y=YS / 2, classes=2), "labels must be integers.*columns of x"),
    "several targets": (dict(y=np.zeros((6, 2))), "labels must be integers.*columns of x"),
    "targets that are not finite": (dict(y=np.where(YS, 1, np.nan)), "3 of 6 targets"),
    "masked labels": (dict(y=np.ma.masked_array(YS, YS == 1)), "some labels are masked"),
    "tokens beyond 32 bits": (dict(x=BIG[:, None]), "examples are int64.*beyond what int32 holds"),
    "large floats": (dict(x=XS.astype(float) - 1e300), "float64.*beyond what float32 holds"),
    "short NaN": (dict(x=(XS * np.nan).astype(jnp.bfloat16)), "6 of 6 examples contain NaN"),
    "complex NaN": (dict(x=np.full((6, 2), complex(0, np.nan))), "6 of 6 examples contain NaN"),
    "masked examples": (dict(x=np.ma.masked_array(XS, XS == 0)), "some examples are masked"),
    "text": (dict(x=np.array(list("abcdef"))), "examples are of the type <U1; pass numbers"),
    "objects": (dict(x=XS.astype(object)), "examples are of the type object"),
    "records": (dict(x=np.zeros(6, [("a", "f4")])), "examples are of the type"),
    "a dictionary": (dict(x={"a": XS, "b": XS}), "examples are a dictionary of 'a', 'b'; pass one"),
    "ragged examples": (dict(x=[[1], [2, 3]] * 3), "examples differ in shape"),
    "a scalar": (dict(x=np.float32(1)), "stack was given no list of examples and 6 labels"),
    "masks as rows": (
        dict(rows=[YS == 0, YS == 1]),
        "client 0's rows are a mask of 6 bools.*flatnonzero",
    ),
    "float rows": (
        dict(rows=[[0], [1.0]]),
        r"client 1's rows are float64 \[1\]; pass one list of whole",
    ),
    "flat rows": (dict(rows=[0, 1]), r"client 0's rows are int64 \[\]"),
    "rows by name": (dict(rows={"a": [0]}), r"pass list\(rows.values\(\)\)"),
    "names": (dict(ids=["a", "b"]), r"ids are integers.*got \['a', 'b'\]; keep names in a list"),
    "float ids": (dict(ids=[0.0, 1.5]), r"ids are integers.*got \[0.0, 1.5\]"),
    "a mask as ids": (dict(ids=[False, True]), r"ids are integers.*got \[False, True\]"),
    "large ids": (dict(ids=[0, 2**32]), "the id 4294967296 is beyond 32 bits"),
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("host", [False, True])
def test_stack_meets_what_would_be_another_number_at_the_door(name, host):
    changes, words = CHANGED[name]
    given = dict(x=XS, y=YS, rows=TWO) | changes
    with pytest.raises(ValueError, match=words):
        jfu.stack(given.pop("x"), given.pop("y"), given.pop("rows"), host=host, **given)


@pytest.mark.parametrize("kind", [">f4", ">f8", ">i4", ">u2", ">i8"])
def test_stack_takes_any_byte_order(kind):
    """As FITS, HDF5 and IDX files have them; streamed and spread too."""
    numbers = np.arange(12).reshape(6, 2)
    wanted = jfu.stack(numbers.astype(kind).astype(np.dtype(kind).newbyteorder("=")), YS, TWO)
    found = jfu.stack(numbers.astype(kind), YS.astype(">i8"), TWO)
    assert jax.tree.map(lambda a: (a.dtype, a.tolist()), found) == jax.tree.map(
        lambda a: (a.dtype, a.tolist()), wanted
    )
    clients = jfu.stack(numbers.astype(kind), YS, TWO, host=True)
    piece = streaming.gather(clients, np.array([1]), 3)
    assert piece.x.dtype.isnative and piece.x[0].tolist() == numbers[3:].tolist()
    assert jfu.spread(clients).x[0].tolist() == numbers.tolist()


def test_what_has_64_bits_is_kept_where_they_are_asked_for():
    with jax.enable_x64(True):
        found = jfu.stack(BIG[:, None], YS, TWO)
        assert found.x.ravel().tolist() == BIG.tolist()
        assert jfu.stack(np.full((6, 1), 1e300), YS, TWO).x[0] == 1e300
    with pytest.raises(ValueError, match="beyond 32 bits"), jax.enable_x64(True):
        jfu.stack(XS, BIG, TWO)
