"""One device, two, eight: the same numbers, and one all-reduce a round."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("keys_unchecked")]


@pytest.fixture(scope="module")
def clients(pool):
    """Eleven clients, a number that neither two nor eight divides; two of them empty."""
    rng = np.random.default_rng(1)
    rows = [rng.choice(20, rng.integers(1, 8), replace=False) for _ in range(11)]
    data = jfu.stack(*pool, rows)
    return data._replace(mask=data.mask & ~np.isin(np.arange(11), [3, 8])[:, None])


@pytest.fixture(scope="module")
def work(model):
    loss = jfu.classification(model.apply)
    return jfu.local_sgd(loss, optax.sgd(0.1, momentum=0.9), batch_size=4)


def _close(a, b, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


MEAN = dict()
STACKED = dict(aggregator=jfu.coordinate_median(), keep_updates=True)


@pytest.fixture(scope="module")
def alone(work, clients, variables):
    """The round on one device without a mesh."""

    @functools.cache
    def run(stacked):
        fed = jfu.fedavg(work, **(STACKED if stacked else MEAN))
        return jax.jit(fed.round)(fed.init(variables), clients, jax.random.key(0))

    return run


@pytest.mark.parametrize(
    ("kind", "chunk", "devices"),
    [
        (MEAN, 1, 1),
        (MEAN, 1, 2),
        (MEAN, 1, 8),
        (MEAN, 2, 8),
        (MEAN, 0, 2),
        (STACKED, 1, 2),
        (STACKED, 2, 8),
    ],
    ids=lambda v: ("stacked" if v else "mean") if isinstance(v, dict) else str(v),
)
def test_devices_change_rounding_at_most(work, alone, clients, variables, kind, chunk, devices):
    """State, scalars and single updates, with clients that do not divide evenly."""
    fed = jfu.fedavg(work, chunk=chunk, **kind)
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        spread = jax.jit(fed.round)(fed.init(variables), clients, jax.random.key(0))
    assert spread[1].clients.weight.shape == (11,)
    _close(spread, alone(kind is STACKED))


def test_one_all_reduce_and_no_gather(work, clients, variables):
    """What the compiled round of the mean sends between eight devices."""
    fed = jfu.fedavg(work)
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:8])):
        lowered = jax.jit(fed.round).lower(fed.init(variables), clients, jax.random.key(0))
        text = lowered.compile().as_text()
    found = re.findall(r" (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)
    assert found == ["all-reduce"]


def test_work_is_divided_among_the_devices(clients):
    """Eight devices run two clients each at most, not all eleven each."""
    ran = []

    def fn(shared, client, key):
        jax.debug.callback(lambda where: ran.append(int(where)), jax.lax.axis_index("clients"))
        return client.mask.sum(), client.id

    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:8])):
        total, ids = jax.jit(jfu.sum_clients(fn))(0.0, clients, jax.random.key(0))
        total.block_until_ready()
    jax.effects_barrier()
    assert total == clients.mask.sum()
    assert ids.tolist() == list(range(11))
    assert sorted(ran) == [d for d in range(8) for _ in range(2)]


def test_map_keeps_clients_in_order(clients):
    fn = lambda shared, client, key: (client.id, jax.random.uniform(key))
    alone = jfu.map_clients(fn)(0.0, clients, jax.random.key(0))
    for devices in (2, 8):
        with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
            spread = jax.jit(jfu.map_clients(fn))(0.0, clients, jax.random.key(0))
        np.testing.assert_array_equal(spread[0], np.arange(11))
        np.testing.assert_array_equal(spread[1], alone[1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_sums_of_several_dtypes(clients, dtype):
    """Each keeps its own through the all-reduce, but for halves: their sums are of float32."""
    fn = lambda shared, client, key: (
        {"half": jnp.ones((2, 3), dtype), "count": client.id, "scalar": jnp.float32(0.5)},
        (),
    )
    full = clients._replace(mask=jnp.ones_like(clients.mask))
    sixteen = jax.tree.map(lambda a: jnp.resize(a, (16, *a.shape[1:])), full[2:])
    full = jfu.ClientData(full.x, full.y, *sixteen)._replace(id=jnp.arange(16))
    with jax.set_mesh(jfu.clients_mesh()):
        total, _ = jax.jit(jfu.sum_clients(fn))(0.0, full, jax.random.key(0))
    assert total["half"].dtype == jnp.promote_types(dtype, jnp.float32)
    assert total["half"].tolist() == [[16] * 3] * 2
    assert total["count"].dtype == jnp.int32
    assert total["count"] == 120
    assert total["scalar"] == 8


@pytest.mark.parametrize("examples", [0, 7, 20])
def test_evaluation_on_devices_equals_one(pool, model, variables, examples):
    """Sizes that divide neither by the batch nor by the devices."""
    x, y = (a[:examples] for a in pool)
    judge = jfu.per_example(model.apply, batch_size=4)
    alone = jax.jit(judge)(variables, x, y)
    with jax.set_mesh(jfu.clients_mesh()):
        spread = jax.jit(judge)(variables, x, y)
    assert spread[0].shape == spread[1].shape == (examples,)
    _close(spread[0], alone[0])
    np.testing.assert_array_equal(spread[1], alone[1])
