"""Pools laid out by device: the same numbers, and examples where their clients are only."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from jfu.pools import deal, homes, rows_by_device
from launch.shell.devices import place

# The rows of the pool of eleven clients. Three of them have row 3. The fourth client has none.
HELD = [[0, 3], [5, 1, 3], [7], [], [9, 8, 2, 11], [4, 6], [10], [3], [12, 13], [14, 15, 19], [16]]


@pytest.fixture(scope="module")
def clients(pool):
    data = jfu.stack(*pool, [rows or [17] for rows in HELD])
    return data._replace(mask=data.mask & (jnp.arange(11) != 3)[:, None])


@pytest.fixture(scope="module")
def work(model):
    """With an augmentation whose draws show in the numbers."""
    loss = jfu.classification(model.apply)
    shake = lambda key, x: x + jax.random.normal(key, x.shape)
    return jfu.local_sgd(loss, optax.sgd(0.1), batch_size=2, augment=shake)


def _mesh(devices):
    return jfu.clients_mesh(jax.devices()[:devices])


def _close(a, b, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.mark.parametrize(
    ("devices", "shares"),
    [
        (2, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11], [3, 10, 12, 13, 14, 15, 16, 19]]),
        (4, [[0, 1, 3, 5, 7], [2, 4, 6, 8, 9, 11], [3, 10, 12, 13], [14, 15, 16, 19]]),
        (
            8,  # six devices are enough for two clients each
            [[0, 1, 3, 5], [7], [2, 4, 6, 8, 9, 11], [3, 10], [12, 13, 14, 15, 19], [16], [], []],
        ),
    ],
)
def test_a_device_holds_the_examples_of_its_own_clients_only(clients, pool, devices, shares):
    """Shard by shard, by hand: the values, and zeros behind them; no client has rows 17 and 18."""
    apart = jfu.spread(clients, _mesh(devices))
    longest = max(map(len, shares))
    assert apart.x.shape == (devices, longest, 2)
    assert apart.y.shape == apart.row.shape == (devices, longest)
    for name, whole in zip(("x", "y", "row"), (*pool, np.arange(20)), strict=True):
        for shard in getattr(apart, name).addressable_shards:
            rows, (here,) = shares[shard.index[0].start], np.asarray(shard.data)
            np.testing.assert_array_equal(here[: len(rows)], whole[rows])
            assert not here[len(rows) :].any()
    for k, rows in enumerate(HELD):
        mine = np.asarray(apart.index)[k, np.asarray(apart.mask)[k]]
        assert np.asarray(apart.row)[k // -(-11 // devices), mine].tolist() == rows
    assert apart.index.sharding.is_fully_replicated
    np.testing.assert_array_equal(apart.mask, clients.mask)
    np.testing.assert_array_equal(apart.id, clients.id)


def test_rows_of_other_devices_are_never_read(clients):
    """The pool may be a file or a network away: only what is put on a device is fetched."""

    class Pool(np.ndarray):
        def __getitem__(self, rows):
            read.append(np.asarray(rows).tolist())
            return super().__getitem__(rows)

    read = []
    parts = rows_by_device(np.asarray(clients.index), np.asarray(clients.mask), 8)
    deal(np.asarray(clients.x).view(Pool), parts, _mesh(8))
    assert sorted(read) == sorted(part.tolist() for part in parts)


def test_homes_are_blocks_of_clients():
    assert homes(11, 4).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert homes(3, 8).tolist() == [0, 1, 2]


def _compiled(fn, *args):
    """The program, and what it sends between devices."""
    program = jax.jit(fn).lower(*args).compile()
    text = program.as_text()
    return program, re.findall(r" (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)


@pytest.mark.parametrize(
    "kind", ["chunks", "sampled", pytest.param("stacked", marks=pytest.mark.slow)]
)
def test_a_round_is_the_same_round_with_one_all_reduce(work, local, clients, variables, kind):
    """State, scalars, ids and updates; the augmentation's draws follow the example's name."""
    if kind == "chunks":
        fed = jfu.fedavg(work, chunk=2)
    elif kind == "sampled":
        fed = jfu.sampled(jfu.fedavg(local), 4)
    else:
        fed = jfu.fedavg(local, aggregator=jfu.coordinate_median(), keep_updates=True)
        fed = jfu.sampled(fed, 5)
    whole = jax.jit(fed.round)(fed.init(variables), clients, jax.random.key(2))
    with jax.set_mesh(_mesh(8)):
        args = place((fed.init(variables), jax.random.key(2)))
        args = args[0], jfu.spread(clients), args[1]
        program, sent = _compiled(fed.round, *args)
        apart = program(*args)
    assert apart[1].ids.tolist() == whole[1].ids.tolist()
    _close(apart, whole)
    if kind != "stacked":
        assert sent == ["all-reduce"]


def test_without_a_mesh_the_pool_is_one_devices(clients):
    """Rows of no client are left out, and clients see the same examples."""
    apart = jfu.spread(clients)
    assert apart.x.shape == (1, 18, 2)
    see = lambda shared, c, key: jnp.where(c.mask[:, None], c.x[c.index], 0).sum()
    run = jax.jit(jfu.map_clients(see))
    expected = run(0.0, clients, jax.random.key(0))
    np.testing.assert_array_equal(run(0.0, apart, jax.random.key(0)), expected)


@pytest.mark.slow
def test_a_history_of_a_sample_is_the_same_history(local, clients, variables):
    """Clients that were not drawn keep their rows."""
    fed = jfu.recorded(jfu.sampled(jfu.fedavg(local), 4), ["last"], clients=clients, rounds=1)
    run, state = jax.jit(fed.round), fed.init(variables)
    state.history["last"] = jax.tree.map(lambda a: a + 7, state.history["last"])
    whole = run(state, clients, jax.random.key(0))[0].history["last"]
    with jax.set_mesh(_mesh(4)):
        apart = run(state, jfu.spread(clients), jax.random.key(0))[0].history["last"]
    _close(apart, whole)
    still = (np.asarray(apart["stem"]["bias"]) == 7).all(1)
    assert still.sum() == 11 - 4


def test_requests_fit_both_layouts(clients):
    """A mask made of the whole pool names the same examples in the pools by device."""
    apart = jfu.spread(clients, _mesh(4))
    gone = jfu.split(apart, jfu.forget_class(clients, [1])).forget
    at = np.arange(11)[:, None] // 3, np.asarray(gone.index)
    rows = np.asarray(apart.row)[at][np.asarray(gone.mask)]
    assert rows.tolist() == [r for row in HELD for r in row if r % 3 == 1]


def test_evaluation_of_dealt_rows_moves_no_example(pool, model, variables):
    """Every device judges the rows it was dealt; only losses and hits are gathered."""
    parts, mesh = (
        [np.array([3, 1, 19]), np.array([4]), np.array([], int), np.arange(5, 12)],
        _mesh(4),
    )
    judge = jfu.per_example(model.apply, batch_size=3)
    with jax.set_mesh(mesh):
        x, y = (deal(a, parts, mesh, flat=True) for a in pool)
        assert x.shape == (28, 2)
        program, sent = _compiled(judge, place(variables), x, y)
        loss, right = program(place(variables), x, y)
    assert sent == []
    alone = jax.jit(judge)(variables, *pool)
    for device, rows in enumerate(parts):
        here = slice(7 * device, 7 * device + len(rows))
        np.testing.assert_allclose(loss[here], alone[0][rows], atol=1e-6)
        np.testing.assert_array_equal(right[here], alone[1][rows])


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda c, apart: jfu.spread(apart, _mesh(2)), "lie on 4 devices already"),
        (lambda c, apart: jfu.forget_class(apart, [1]), "from the clients that stack returned"),
        (lambda c, apart: jfu.forget_examples(apart, np.ones(20, bool)), "that stack returned"),
        (
            lambda c, apart: jfu.map_clients(lambda s, c, k: c.id)(0.0, apart, jax.random.key(0)),
            "spread over 4 devices, and they run on 1",
        ),
    ],
)
def test_refusals(clients, do, words):
    with pytest.raises(ValueError, match=words):
        do(clients, jfu.spread(clients, _mesh(4)))
