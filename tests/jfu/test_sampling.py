"""Rounds in which only some clients take part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import bits

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def many():
    """Eight clients with 1, 2, ..., 8 examples; the third and sixth have none left."""
    rows = [np.arange(k + 1) for k in range(8)]
    clients = jfu.stack(np.zeros((8, 1)), np.zeros(8, int), rows, ids=range(10, 18))
    live = np.arange(8)[:, None] % 3 != 2
    return clients._replace(mask=clients.mask & live)


def _participation(wrapper):
    """A federation whose round reports who was there: (ids, weights, key)."""
    fed = jfu.FederatedAlgorithm(
        lambda variables: variables,
        lambda state, clients, key: (state, (clients.id, jfu.weights(clients), key)),
    )
    run = jax.jit(wrapper(fed).round)
    return lambda clients, key: run((), clients, jax.random.key(key))[1]


@pytest.mark.parametrize("size", [1, 3, 6])
def test_sampled_clients_are_live_and_as_many_as_asked(many, size):
    run = _participation(lambda fed: jfu.sampled(fed, size))
    seen = set()
    for key in range(20):
        ids, weights, _ = run(many, key)
        assert ids.shape == (size,)
        assert len(set(ids.tolist())) == size
        assert weights.tolist() == [i - 9 for i in ids.tolist()]  # client 10 + k holds k + 1
        seen |= set(ids.tolist())
    assert seen == {10, 11, 13, 14, 16, 17}


@pytest.mark.parametrize("size", [7, 30])
def test_sampled_takes_all_where_fewer_are_live(many, size):
    ids, weights, _ = _participation(lambda fed: jfu.sampled(fed, size))(many, 0)
    there = {int(i) for i, w in zip(ids, weights, strict=True) if w > 0}
    assert there == {10, 11, 13, 14, 16, 17}


def test_sampled_does_not_depend_on_padding_or_order(many):
    run = _participation(lambda fed: jfu.sampled(fed, 3))
    grown = many._replace(
        index=jnp.pad(many.index, ((2, 3), (0, 4))),
        mask=jnp.pad(many.mask, ((2, 3), (0, 4))),
        id=jnp.concatenate([jnp.array([0, 0]), many.id, jnp.array([0, 0, 0])]),
    )
    turned = many._replace(index=many.index[::-1], mask=many.mask[::-1], id=many.id[::-1])
    for key in range(5):
        expected = sorted(run(many, key)[0].tolist())
        assert sorted(run(grown, key)[0].tolist()) == expected
        assert sorted(run(turned, key)[0].tolist()) == expected


def test_sampling_changes_over_rounds_and_leaves_the_round_a_fresh_key(many):
    run = _participation(lambda fed: jfu.sampled(fed, 3))
    assert len({str(run(many, key)[0].tolist()) for key in range(10)}) > 3
    key = run(many, 0)[2]
    assert bits(jax.random.key_data(key)) != bits(jax.random.key_data(jax.random.key(0)))


def test_absent_empties_whole_clients_at_its_rate(many):
    run = _participation(lambda fed: jfu.absent(fed, 0.3))
    full, away = jfu.weights(many), []
    for key in range(60):
        ids, weights, _ = run(many, key)
        assert ids.tolist() == many.id.tolist()
        assert ((weights == 0) | (weights == full)).all()
        away.append(np.asarray((weights == 0) & (full > 0)).sum() / 6)
    assert abs(np.mean(away) - 0.3) < 0.1  # 360 draws: standard deviation 0.024


def test_absent_at_rate_zero_is_everybody(many):
    weights = _participation(lambda fed: jfu.absent(fed, 0.0))(many, 0)[1]
    assert bits(weights) == bits(jfu.weights(many))


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda: jfu.sampled(None, 0), "0 clients were to be sampled"),
        (lambda: jfu.sampled(None, 1.5), "1.5 clients were to be sampled"),
        (lambda: jfu.sampled(None, np.nan), "nan clients were to be sampled"),
        (lambda: jfu.absent(None, 1.0), "absence is 1.0"),
        (lambda: jfu.absent(None, -0.1), "absence is -0.1"),
    ],
)
def test_participation_refuses(wrap, words):
    with pytest.raises(ValueError, match=words):
        wrap()
