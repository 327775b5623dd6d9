"""Aggregators that withstand bad clients, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import sends

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("keys_unchecked")]


@pytest.fixture
def weighted():
    """Three clients with 1, 2 and 3 examples."""
    return jfu.stack(np.zeros((6, 1)), np.zeros(6, int), [[0], [1, 2], [3, 4, 5]])


U = jnp.array([[1.0, -2.0], [4.0, 0.0], [-2.0, 6.0]])


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([1, 1, 1], [1, 0]),
        ([1, 0, 1], [-0.5, 2]),  # of two, the middle
        ([0, 1, 0], [4, 0]),
        ([0, 0, 0], [0, 0]),
    ],
)
def test_coordinate_median_by_hand(weighted, there, expected):
    """Of those who took part, whatever their sizes."""
    data = weighted._replace(mask=weighted.mask & (np.array(there)[:, None] > 0))
    fed = jfu.fedavg(sends(U), aggregator=jfu.coordinate_median())
    state, info = fed.round(fed.init({"params": jnp.zeros(2)}), data, jax.random.key(0))
    assert state.params.tolist() == expected
    assert info.metrics["clients"] == sum(there)


def test_median_of_a_tensor_is_taken_coordinate_by_coordinate(weighted):
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(3, 4, 5)).astype(np.float32)
    fed = jfu.fedavg(sends(jnp.asarray(updates)), aggregator=jfu.coordinate_median())
    state, _ = fed.round(fed.init({"params": jnp.zeros((4, 5))}), weighted, jax.random.key(0))
    np.testing.assert_array_equal(state.params, np.median(updates, axis=0))


def aggregated(aggregator, updates, weights):
    """What the server makes of updates ``[K, n]`` from clients of these weights."""
    sent = [aggregator.encode({"a": u}, w) for u, w in zip(updates, weights, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sent)
    if not aggregator.stacked:
        stacked = jax.tree.map(lambda a: a.sum(0), stacked)
    return jax.jit(aggregator.decode)(stacked, (), jax.random.key(0))[0]["a"]


HUGE = jnp.array([[1.0, 5], [2, 3], [3, 4], [4, -1e6], [1e6, 9]])


@pytest.mark.parametrize(
    ("there", "share", "expected"),
    [
        ([1, 1, 1, 1, 1], 0.2, [3, 4]),  # of 1 2 3 4 and 3 4 5 the middle
        ([1, 1, 1, 1, 1], 0.19, [200002, -199995.8]),  # floor(0.95) = 0: a plain mean
        ([1, 1, 1, 0, 0], 0.4, [2, 4]),
        ([1, 0, 1, 0, 0], 0.4, [2, 4.5]),  # floor(0.8) = 0
        ([0, 0, 0, 0, 0], 0.2, [0, 0]),
    ],
)
def test_trimmed_mean_by_hand(there, share, expected):
    found = aggregated(jfu.trimmed_mean(share), HUGE, jnp.array(there, jnp.float32) * 7)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    if share == 0.2 and sum(there) == 5:  # what is no number counts as the largest
        bad = aggregated(jfu.trimmed_mean(share), HUGE.at[4, 0].set(jnp.nan), jnp.ones(5))
        np.testing.assert_allclose(bad, expected)


def test_clipped_mean_by_hand():
    """Of lengths 5 and 0.5 the first is clipped to 1: (0.6 * 3 + 0.3) / 4, (0.8 * 3 + 0.4) / 4."""
    updates = jnp.array([[3.0, 4], [0.3, 0.4], [99, 99]])
    found = aggregated(jfu.clipped_mean(1.0), updates, jnp.array([3.0, 1, 0]))
    np.testing.assert_allclose(found, [2.1 / 4, 2.8 / 4], rtol=1e-6)
    long = aggregated(jfu.clipped_mean(1.0), updates * 1e6, jnp.array([3.0, 1, 0]))
    assert np.linalg.norm(long) <= 1 + 1e-6
    nothing = aggregated(jfu.clipped_mean(1.0), updates * 0, jnp.ones(3))
    assert nothing.tolist() == [0, 0]


def test_krum_by_hand():
    # On a line: 0, 1, 2, 4 and one far away. With one Byzantine client of five the two nearest
    # count: 0 has 1 + 4, 1 has 1 + 1, 2 has 1 + 4, 4 has 4 + 9.
    updates = jnp.array([[0.0], [1], [2], [4], [1000]])
    every = jnp.array([9.0, 1, 1, 1, 1])
    assert aggregated(jfu.krum(1), updates, every).tolist() == [1]
    assert aggregated(jfu.krum(1, chosen=3), updates, every).tolist() == [1]  # 1 and 0 and 2
    # Without the 1 there are four clients and one neighbour counts: 0 and 2 have 4, so has 4.
    assert aggregated(jfu.krum(1), updates, every.at[1].set(0)).tolist() == [0]
    for bad in (jnp.nan, jnp.inf, 1e30):
        assert aggregated(jfu.krum(1), updates.at[1].set(bad), every).tolist() in ([0], [2])
    assert aggregated(jfu.krum(1), updates, every * 0).tolist() == [0]
    alone = jnp.array([0.0, 0, 0, 1, 0])
    assert aggregated(jfu.krum(1), updates, alone).tolist() == [4]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jfu.clipped_mean(0), "max_norm=0"),
        (lambda: jfu.trimmed_mean(0.5), "the share to trim at either end is 0.5"),
        (lambda: jfu.krum(-1), "byzantine=-1"),
        (lambda: jfu.krum(np.nan), "byzantine=nan"),
        (lambda: jfu.krum(1, chosen=1.5), "chosen=1.5"),
    ],
)
def test_aggregators_refuse_what_makes_no_sense(make, words):
    with pytest.raises(ValueError, match=words):
        make()
