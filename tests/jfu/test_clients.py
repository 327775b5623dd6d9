"""Running every client once: keys, chunks, devices, and small clients among large ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.clients as clients_module
from helpers.federation import ROWS, bits

X, Y = np.zeros((4, 2), np.float32), np.arange(4)


# ---------------------------------------------------------------- every client once


def _work(shared, client, key):
    """What a client saw: its own numbers, and a draw from its key; nothing where it is empty."""
    x = jnp.where(client.mask[:, None], client.x[client.index], 0).sum(0)
    return {"x": x * shared, "draw": client.mask.any() * jax.random.uniform(key)}, client.id


@pytest.mark.parametrize("chunk", [1, 2, 7, 0])
def test_map_and_sum_run_every_client_with_its_own_key(pool, data, chunk):
    """Keys are fold_in(key, id); chunks that do not divide the clients change no result."""
    key = jax.random.key(4)
    x = np.stack([3 * pool[0][rows].sum(0) for rows in ROWS])
    draw = np.array([jax.random.uniform(jax.random.fold_in(key, i)) for i in (5, 2, 9)])
    every, ids = jax.jit(jfu.map_clients(_work, chunk=chunk))(3.0, data, key)
    assert ids.tolist() == [5, 2, 9]
    np.testing.assert_allclose(every["x"], x, rtol=1e-5)
    np.testing.assert_array_equal(every["draw"], draw)
    total, ids = jax.jit(jfu.sum_clients(_work, chunk=chunk))(3.0, data, key)
    assert ids.tolist() == [5, 2, 9]
    np.testing.assert_allclose(total["x"], x.sum(0), rtol=1e-5)
    np.testing.assert_allclose(total["draw"], draw.sum(), rtol=1e-6)


@pytest.mark.parametrize(("devices", "longest"), [(1, [9, 2, 9, 2, 7, 7]), (2, [9, 1, 9, 2, 7, 7])])
def test_clients_of_like_sizes_run_side_by_side(devices, longest):
    """Two at once of 9, 1, 8, 2, 7, 3 images: 1 and 2, 3 and 7, 8 and 9. On two devices 9, 1, 8
    and 2, 7, 3, each with nobody besides: nobody and 1, 8 and 9; nobody and 2, 3 and 7."""
    sizes = [9, 1, 8, 2, 7, 3]
    data = jfu.stack(X, Y, [np.zeros(n, int) for n in sizes])

    @jax.custom_batching.custom_vmap
    def most(live):
        return live

    @most.def_vmap
    def _(axis_size, in_batched, live):
        return jnp.full(axis_size, live.max()), True

    def work(shared, client, key):
        live = client.mask.sum()
        return jax.random.uniform(key), (most(live), live, client.id)

    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        run = lambda chunk: jax.jit(jfu.sum_clients(work, chunk=chunk))(
            None, data, jax.random.key(0)
        )
        (total, (with_most, live, ids)), (alone, _) = run(2), run(1)
    assert live.tolist() == sizes and ids.tolist() == list(range(6))
    assert with_most.tolist() == longest
    np.testing.assert_allclose(total, alone, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 2])
def test_scalars_of_any_dtype_come_back_as_they_were_said(data, devices):
    """They travel together; the tree, the dtypes and every client's place are kept."""

    def said(shared, client, key):
        seen = dict(
            b=client.id,
            a=(client.id * 0.5, jnp.uint32(7) + client.id.astype(jnp.uint32)),
            c=-client.id,
        )
        return client.id * 1.0, seen

    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        total, info = jax.jit(jfu.sum_clients(said))(None, data, jax.random.key(0))
    assert total == 16
    assert list(info) == ["a", "b", "c"] and isinstance(info["a"], tuple)
    assert info["b"].tolist() == [5, 2, 9] and info["c"].tolist() == [-5, -2, -9]
    assert info["a"][0].tolist() == [2.5, 1.0, 4.5] and info["a"][1].tolist() == [12, 9, 16]
    assert [a.dtype.name for a in jax.tree.leaves(info)] == ["float32", "uint32", "int32", "int32"]


@pytest.mark.parametrize("chunk", [-1, 1.5, np.nan])
@pytest.mark.parametrize("run", [jfu.map_clients, jfu.sum_clients])
def test_chunks_smaller_than_nothing_are_refused(data, run, chunk):
    with pytest.raises(ValueError, match=f"chunk is {chunk}"):
        run(_work, chunk=chunk)(1.0, data, jax.random.key(0))


# ---------------------------------------------------------------- who takes part


def test_clients_that_only_fill_up_send_nothing(data):
    """Even where what a client sends does not vanish with its examples."""

    def noisy(shared, client, key):
        return jax.random.normal(key) + 1, client.id

    sums = [
        float(jax.jit(jfu.sum_clients(noisy, chunk=chunk))(None, data, jax.random.key(0))[0])
        for chunk in (1, 2, 0, None)
    ]
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:4])):
        sums.append(float(jax.jit(jfu.sum_clients(noisy))(None, data, jax.random.key(0))[0]))
    np.testing.assert_allclose(sums, sums[0], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_clients_work_is_traced_once(chunk, devices):
    """Tracing a large model takes as long as some rounds."""
    traced = []

    def work(shared, client, key):
        traced.append(None)
        return client.mask.sum(), {"id": client.id}

    data = jfu.stack(X, Y, [[0], [1, 2], [3]])
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        total, info = jax.jit(jfu.sum_clients(work, chunk=chunk))((), data, jax.random.key(0))
    assert len(traced) == 1
    assert int(total) == 4 and info["id"].tolist() == [0, 1, 2]


# ---------------------------------------------------------------- small clients among large ones


def skewed(dtype=np.float32):
    """Sixty clients of one to three examples and two of 1,500 and 90."""
    sizes = [1 + k % 3 for k in range(60)]
    sizes[7], sizes[31] = 1500, 90
    x = np.random.default_rng(0).normal(size=(sum(sizes), 2)).astype(dtype)
    ends = np.cumsum([0, *sizes])
    rows = [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    ids = np.arange(100, 160)[::-1]
    return jfu.stack(x, np.zeros(len(x), int), rows, ids=ids), np.array(sizes), x, rows


def _shown(shared, client, key):
    """A sum of the client's examples and a draw; and how many slots it was shown."""
    mine = jnp.where(client.mask[:, None], client.x[client.index], 0).sum(0) + 1e-3
    seen = dict(id=client.id, live=client.mask.sum(), slots=jnp.int32(client.mask.shape[0]))
    return (mine, jax.random.uniform(key)), seen


@pytest.mark.parametrize(("chunk", "devices"), [(1, 1), (4, 2), (0, 1)])
def test_a_federation_with_one_large_client_costs_what_its_examples_cost(chunk, devices):
    """Every client is shown slots for its own examples, near enough; the sums are NumPy's."""
    clients, sizes, x, rows = skewed()
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        run = jax.jit(jfu.sum_clients(_shown, chunk=chunk))
        (total, draws), seen = run((), clients, jax.random.key(3))
        (each, _), also = jax.jit(jfu.map_clients(_shown, chunk=chunk))(
            (), clients, jax.random.key(3)
        )
    wanted = np.stack([x[r].astype(np.float64).sum(0) + 1e-3 for r in rows])
    np.testing.assert_allclose(total, wanted.sum(0), rtol=1e-4)
    np.testing.assert_allclose(each, wanted, rtol=1e-4, atol=1e-5)
    key = jax.random.key(3)
    own = sum(float(jax.random.uniform(jax.random.fold_in(key, i))) for i in np.asarray(clients.id))
    assert float(draws) == pytest.approx(own, rel=1e-5)
    for info in (seen, also):
        assert info["id"].tolist() == clients.id.tolist()
        assert info["live"].tolist() == sizes.tolist()
        slots = np.asarray(info["slots"])
        assert slots.max() == clients.mask.shape[1] == 1500 and slots[7] == 1500
        assert (np.delete(slots, 7) == 128).all()  # four times the mean, as a power of two
        assert slots.sum() < 8 * sizes.sum()  # and not 60 times 1,500


def test_who_is_large_follows_the_round():
    """A large client that keeps one example is small; one whose last slot is live is not."""
    clients, *_ = skewed()
    kept = clients._replace(mask=clients.mask.at[7, 1:].set(False).at[31, :89].set(False))
    _, seen = jax.jit(jfu.sum_clients(_shown))((), kept, jax.random.key(0))
    assert seen["live"][7] == seen["live"][31] == 1
    assert (seen["slots"] < 1500).all()
    last = clients._replace(mask=clients.mask.at[7, :1499].set(False))
    _, seen = jax.jit(jfu.sum_clients(_shown))((), last, jax.random.key(0))
    assert seen["slots"][7] == 1500 and seen["live"][7] == 1


def test_rounds_with_one_large_client_are_the_rounds_of_one_group(model, variables, monkeypatch):
    """Updates to the bit, the mean but for the order of its sum; histories walk in one group."""
    clients, *_ = skewed()
    work = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.1), batch_size=32)
    fed = jfu.fedavg(work, keep_updates=True)
    key = jax.random.key(5)
    found, info = jax.jit(fed.round)(fed.init(variables), clients, key)
    summed, _ = jax.jit(jfu.fedavg(work).round)(fed.init(variables), clients, key)
    watched = jfu.recorded(jfu.fedavg(work), ["norms"], clients=clients, rounds=1)
    recorded, _ = jax.jit(watched.round)(watched.init(variables), clients, key)
    monkeypatch.setattr(clients_module, "SPARSE", 10**9)
    plain, other = jax.jit(fed.round)(fed.init(variables), clients, key)
    assert bits(info.updates) == bits(other.updates) and bits(info.clients) == bits(other.clients)
    assert bits(found) == bits(plain)
    for state in (summed, recorded.inner):
        for a, b in zip(*(jax.tree.leaves(s.variables) for s in (state, plain)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    squares = [
        np.square(np.asarray(u, np.float64)).sum(tuple(range(1, u.ndim)))
        for u in jax.tree.leaves(info.updates["params"])
    ]
    np.testing.assert_allclose(recorded.history["norms"][0], np.sqrt(sum(squares)), rtol=1e-5)
