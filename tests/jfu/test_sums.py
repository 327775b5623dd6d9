"""Sums over many clients, in any type, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from jfu import sums

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("keys_unchecked")]

SIZES = np.random.default_rng(0).integers(1, 9, 300)
SHORT = [jnp.bfloat16, jnp.float16]


def clients_of(sizes):
    lists = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return jfu.stack(np.zeros((sum(sizes), 1), np.float32), np.zeros(sum(sizes), int), lists)


CLIENTS = clients_of(SIZES)


def sends(updates):
    """A client's work that sends its row of ``updates``."""

    def work(shared, client, key):
        weight = client.mask.sum().astype(jnp.float32)
        sent = jnp.asarray(updates)[jnp.maximum(client.id, 0)]
        stats = dict(stats=sent) if "stats" in shared.variables else {}
        update = {"params": jnp.zeros_like(shared.variables["params"]) if stats else sent, **stats}
        return update, jfu.LocalInfo(weight, weight * 0, weight, weight * 0)

    return work


def moved_by(updates, clients=CLIENTS, start=None, **options):
    """What a round adds to a model of zeros, and its metrics."""
    fed = jfu.fedavg(sends(updates), **options)
    zeros = jnp.zeros(updates.shape[1:], updates.dtype)
    state = fed.init({"params": zeros} if start is None else start)
    state, info = jax.jit(fed.round)(state, clients, jax.random.key(0))
    return state.variables, info


def drawn(dtype, scale=1.0):
    """Updates of one sign, whose sum is far beyond the bits of a short type."""
    values = np.random.default_rng(1).uniform(0.5, 1.5, (len(SIZES), 3)) * scale
    return jnp.asarray(values, dtype)


def krum_of(updates, byzantine=0):
    """The choice, by float64."""
    apart = ((updates[:, None] - updates[None]) ** 2).sum(-1)
    near = np.sort(apart + np.diag(np.full(len(updates), np.inf)), 1)
    return updates[near[:, : len(updates) - byzantine - 2].sum(1).argmin()]


def trimmed(updates, share):
    cut = int(share * len(updates))
    return np.sort(updates, 0)[cut : len(updates) - cut].mean(0)


def shortened(updates, most):
    return updates * np.minimum(1, most / np.linalg.norm(updates, axis=1, keepdims=True))


MEANS = {
    "mean": (jfu.weighted_mean(), lambda u: (SIZES / SIZES.sum()) @ u),
    "clipped": (jfu.clipped_mean(1.5), lambda u: (SIZES / SIZES.sum()) @ shortened(u, 1.5)),
    "median": (jfu.coordinate_median(), lambda u: np.median(u, 0)),
    "trimmed": (jfu.trimmed_mean(0.2), lambda u: trimmed(u, 0.2)),
    "krum": (jfu.krum(0), krum_of),
    "private": (jfu.privacy.private_mean(1.5, 0.0, 300), lambda u: shortened(u, 1.5).mean(0)),
}


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", MEANS)
def test_means_of_short_floats_are_those_of_float64(name, dtype):
    """Rounded once, to the type of the parameters."""
    aggregator, wanted = MEANS[name]
    sent = drawn(dtype)
    found = moved_by(sent, aggregator=aggregator)[0]["params"]
    assert found.dtype == dtype
    wanted = wanted(np.asarray(sent, np.float64))
    half = float(jnp.finfo(dtype).eps) / 2
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=1.01 * half)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("how", ["chunk", "kept", "devices", "streamed"])
def test_however_clients_run(dtype, how):
    sent = drawn(dtype)
    wanted = (SIZES / SIZES.sum()) @ np.asarray(sent, np.float64)
    close = dict(rtol=1.01 * float(jnp.finfo(dtype).eps) / 2)
    fed = jfu.fedavg(sends(sent), chunk=7 if how == "chunk" else 1, keep_updates=how == "kept")
    step, clients = jax.jit(fed.round), CLIENTS
    if how == "streamed":
        step = jfu.streamed(fed, piece=64 * 4 * 40).round
        clients = jax.tree.map(np.asarray, CLIENTS)
    state = fed.init({"params": jnp.zeros(3, dtype)})
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[: 4 if how == "devices" else 1])):
        state, _ = step(state, clients, jax.random.key(0))
    np.testing.assert_allclose(np.asarray(state.params, np.float64), wanted, **close)
    assert state.params.dtype == dtype


def test_large_clients_and_float16():
    """70,000 examples, more than float16 holds, and updates whose squares are beyond it."""
    sent = jnp.full((10, 3), 300, jnp.float16)
    found, info = moved_by(sent, clients_of([7000] * 10), max_update_norm=np.inf)
    assert found["params"].tolist() == [300, 300, 300]
    assert (info.metrics["clients"], info.metrics["not_applied"]) == (10, 0)


def test_a_large_float16_model_is_no_diverged_one():
    """Its squares add up to 90,000; only values that are no numbers leave a client out."""
    loss = lambda variables, batch, key: sums.wide(variables["params"]).sum() * 0.0
    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), batch_size=4))
    state = fed.init({"params": jnp.full(4, 150, jnp.float16)})
    _, info = jax.jit(fed.round)(state, CLIENTS, jax.random.key(0))
    assert (info.metrics["clients"], info.metrics["not_finite"]) == (300, 0)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int16, jnp.uint8])
@pytest.mark.parametrize("keep", [True, False])
def test_integers_are_averaged_and_rounded(dtype, keep):
    """Counters, whose products with weights would be beyond their type, or cut off."""
    sent = jnp.asarray(np.random.default_rng(2).integers(90, 128, (300, 2)), dtype)
    start = {"params": jnp.zeros(()), "stats": jnp.zeros(2, dtype)}
    found = moved_by(sent, start=start, keep_updates=keep)[0]["stats"]
    wanted = (SIZES / SIZES.sum()) @ np.asarray(sent, np.float64)
    assert found.dtype == dtype and found.tolist() == np.round(wanted).tolist()


def test_an_integer_keeps_all_its_digits():
    """A large counter that clients raise by a little; and one that moves by more than 2^15."""
    start = {"params": jnp.zeros(()), "stats": jnp.array([2**30 + 1, 7])}
    sent = jnp.tile(jnp.array([3, 50_000]), (2, 1))
    found = moved_by(sent, clients_of([50_000, 50_000]), start)[0]["stats"]
    assert found.tolist() == [2**30 + 4, 50_007]


@pytest.mark.parametrize(
    ("value", "kind", "total"),
    [(1.0, jnp.bfloat16, 3000.0), (40.0, jnp.float16, 120_000.0), (True, bool, 3000)]
    + [(100, jnp.int8, 300_000)],
)
def test_any_sum_over_clients_is_wide_enough(value, kind, total):
    data = clients_of([1] * 3000)
    work = lambda shared, client, key: (jnp.asarray(value, kind), client.id)
    for chunk in (1, 0):
        found, _ = jfu.sum_clients(work, chunk=chunk)((), data, jax.random.key(0))
        assert found == total


def test_the_server_remembers_in_float32():
    """FedAvgM on bfloat16 parameters: the momentum's own bits are float32."""
    sent = drawn(jnp.bfloat16, 2**-10)
    fed = jfu.fedavg(sends(sent), server=optax.sgd(1.0, momentum=0.9))
    state, step = fed.init({"params": jnp.zeros(3, jnp.bfloat16)}), jax.jit(fed.round)
    mean = (SIZES / SIZES.sum()) @ np.asarray(sent, np.float64)
    momentum = 0
    for number in range(30):
        state, _ = step(state, CLIENTS, jax.random.key(number))
        momentum = 0.9 * momentum + mean
    (kept,) = [a for a in jax.tree.leaves(state.server) if a.shape == (3,)]
    assert kept.dtype == jnp.float32
    np.testing.assert_allclose(kept, -momentum, rtol=1e-5)


def test_float32_stays_as_it_is(variables):
    """Nothing is converted, so recorded bits stay."""
    same = jax.tree.map(lambda a, b: a is b, sums.wide(variables), variables)
    assert all(jax.tree.leaves(same))
    text = str(jax.make_jaxpr(lambda v: sums.plus(sums.wide(v), sums.wide(v)))(variables))
    assert "convert_element_type" not in text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (jax.random.key(0), r"have rng/a of the type key<fry>"),
        (jnp.ones(2, bool), r"have rng/a of the type bool"),
        ("relu", r"have rng/a of the type <U4"),
    ],
)
def test_what_has_no_mean_is_refused(fed, value, said):
    with pytest.raises(ValueError, match=said + ".*only numbers; let the loss close over it"):
        fed.init({"params": jnp.zeros(2), "rng": {"a": value}})


def test_sums_of_integers_keep_their_type_with_64_bits():
    """int32 counts stay int32 through the running sum of clients."""
    with jax.enable_x64(True):
        data = clients_of([1, 2, 3])
        work = lambda shared, client, key: (jnp.int32(2**30 // 3), client.id)
        found, _ = jfu.sum_clients(work, chunk=2)((), data, jax.random.key(0))
        assert found == 3 * (2**30 // 3) and found.dtype == jnp.int32


@pytest.mark.parametrize("chunk", [1, 2])
def test_sums_of_skewed_clients_are_as_wide(chunk):
    """One client far larger than the others, which runs apart from them."""
    data = clients_of([1] * 600 + [4000])
    work = lambda shared, client, key: (jnp.asarray(1, jnp.bfloat16), client.id)
    found, _ = jax.jit(jfu.sum_clients(work, chunk=chunk))((), data, jax.random.key(0))
    assert found == 601 and found.dtype == jnp.float32
