"""Requests: masks of what is to be forgotten, and the two sides of a split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import ROWS

pytestmark = pytest.mark.conformance


def _held(clients):
    """Rows of the pool that each client may use."""
    pairs = zip(np.asarray(clients.index), np.asarray(clients.mask), strict=True)
    return [index[mask].tolist() for index, mask in pairs]


@pytest.mark.parametrize(
    ("forget", "rows"),
    [
        (lambda d: jfu.forget_client(d, [2]), [[], [1, 8, 3], []]),
        (lambda d: jfu.forget_client(d, [9, 5]), [ROWS[0], [], ROWS[2]]),
        (lambda d: jfu.forget_client(d, 2), [[], [1, 8, 3], []]),
        (lambda d: jfu.forget_client(d, d.id[d.id > 4]), [ROWS[0], [], ROWS[2]]),
        (lambda d: jfu.forget_class(d, [1]), [[4, 7], [1], [10, 13]]),  # rows = 1 modulo 3
        (lambda d: jfu.forget_class(d, [0, 2], ids=[2]), [[], [8, 3], []]),
        (lambda d: jfu.forget_class(d, 1, ids=[5]), [[4, 7], [], []]),
        (lambda d: jfu.forget_examples(d, np.arange(20) < 3), [[0, 2], [1], []]),
    ],
)
def test_requests_by_hand(data, forget, rows):
    """What is forgotten, row by row; the rest is retained, and dead slots stay dead."""
    mask = forget(data)
    assert mask.shape == data.mask.shape
    assert mask.dtype == bool
    request = jfu.split(data, mask)
    assert _held(request.forget) == rows
    kept = [[r for r in all_ if r not in gone] for all_, gone in zip(ROWS, rows, strict=True)]
    assert _held(request.retain) == kept
    assert request.retain.x is data.x


def test_split_sides_are_complementary_for_any_mask(data):
    """Even a mask that names dead slots makes none of them live."""
    forget = jax.random.bernoulli(jax.random.key(0), 0.5, data.mask.shape)
    request = jfu.split(data, forget)
    retain, gone = np.asarray(request.retain.mask), np.asarray(request.forget.mask)
    assert not (retain & gone).any()
    np.testing.assert_array_equal(retain | gone, data.mask)
    assert (np.asarray(forget) & ~np.asarray(data.mask)).any()


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 1.0])
def test_forget_fraction_takes_the_rounded_share_of_each_client(data, fraction):
    gone = jfu.forget_fraction(data, fraction, jax.random.key(3))
    expected = [max(1, int(np.round(fraction * n))) for n in (7, 3, 5)]
    assert gone.sum(1).tolist() == expected
    assert not (gone & ~data.mask).any()


def test_forget_fraction_draws_by_key_and_identity(data):
    draw = lambda d, key, **k: _held(
        jfu.split(d, jfu.forget_fraction(d, 0.4, jax.random.key(key), **k)).forget
    )
    assert draw(data, 0) == draw(data, 0)
    assert len({str(draw(data, key)) for key in range(5)}) > 1
    assert draw(data, 0, ids=[9]) == [[], [], draw(data, 0)[2]]
    turned = data._replace(index=data.index[::-1], mask=data.mask[::-1], id=data.id[::-1])
    assert draw(turned, 0) == draw(data, 0)[::-1]


@pytest.mark.parametrize(
    ("forget", "words"),
    [
        (lambda d: jfu.forget_client(d, [4, 2]), r"no client \[4\]; the clients are \[5, 2, 9\]"),
        (lambda d: jfu.forget_class(d, [3, 1]), r"class \[3\]; the classes are \[0, 1, 2\]"),
        (lambda d: jfu.forget_class(d, [1], ids=[7]), r"no client \[7\]"),
        (lambda d: jfu.forget_fraction(d, 0.0, jax.random.key(0)), "fraction to forget is 0.0"),
        (lambda d: jfu.forget_fraction(d, 1.5, jax.random.key(0)), "fraction to forget is 1.5"),
        (lambda d: jfu.forget_fraction(d, 0.5, jax.random.key(0), ids=[1]), r"no client \[1\]"),
        (lambda d: jfu.forget_examples(d, np.ones(19, bool)), r"bool \[19\].*the 20 examples"),
        (lambda d: jfu.forget_examples(d, np.ones(20, int)), r"int32 \[20\]"),
        (lambda d: jfu.split(d, jnp.ones((3, 6), bool)), r"\[3, 6\].*\[3, 7\]"),
        (lambda d: jfu.split(d, d.mask.astype(int)), "forget is int32; it must be bool"),
        (lambda d: jfu.forget_client(d, np.array([0, 0, 1], bool)), "ids are bools and would be"),
        (lambda d: jfu.forget_client(d, [True]), "ids are bools and would be read as 0 and 1"),
        (lambda d: jfu.forget_client(d, jnp.zeros(3, bool)), "ids are bools"),
        (lambda d: jfu.forget_class(d, True), "labels are bools"),
        (lambda d: jfu.forget_class(d, [1], ids=np.ones(3, bool)), "ids are bools"),
        (lambda d: jfu.forget_client(d, [5.5]), r"no client \[5.5\]"),
        (lambda d: jfu.forget_client(d, "5"), r"no client \['5'\]"),
    ],
)
def test_requests_refuse_by_naming_what_was_given(data, forget, words):
    with pytest.raises(ValueError, match=words):
        forget(data)


def test_forget_class_counts_only_live_examples_of_the_named_clients(data):
    """A class that is in the pool and at another client but not at this one."""
    only = data._replace(mask=data.mask & (data.y[data.index] != 1))
    with pytest.raises(ValueError, match=r"class \[1\]; the classes are \[0, 2\]"):
        jfu.forget_class(only, [1])
