"""Clients that come piece by piece: the numbers of a resident round, in bounded memory."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from jfu import faults, streaming

SIZES = (3, 75, 1, 70, 100, 64, 2, 90, 5, 66, 20)
IDS = (4, 0, 7, 30, 12, 9, 1, 5, 2, 8, 40)
PIECE = 8 * 100 * 2  # bytes: two clients of 100 examples of two float32 numbers


@pytest.fixture(scope="module")
def rows():
    """Eleven clients of 1 to 100 examples: slots by powers of two make two shapes of pieces."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 20, n) for n in SIZES]


@pytest.fixture(scope="module")
def clients(pool, rows):
    """On the host: the client of 70 is away, and the first example of that of 75 is forgotten."""
    data = jfu.stack(*pool, rows, ids=IDS, host=True)
    mask = data.mask & (data.id != 30)[:, None]
    mask[1, 0] = False
    return data._replace(mask=mask)


def resident(clients):
    return jax.tree.map(jnp.asarray, clients)


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6 * np.abs(y).max(initial=0))


def linear(variables, batch, key):
    params = variables["params"]
    return jfu.cross_entropy(batch.x @ params["stem"] + params["head"][None], batch)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(2)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"params": {"stem": draw(2, 3), "head": draw(3)}}


@pytest.fixture(scope="module")
def momentum():
    """Both sides remember: clients within a round, the server from one to the next."""
    work = jfu.local_sgd(linear, optax.sgd(0.1, 0.9), batch_size=16)
    return jfu.fedavg(work, server=optax.sgd(0.5, momentum=0.9))


@pytest.fixture(scope="module")
def fed(momentum):
    return jfu.streamed(momentum, piece=PIECE)


@pytest.fixture(scope="module")
def resident_round(momentum):
    return jax.jit(momentum.round)


@pytest.fixture(scope="module")
def expected(momentum, resident_round, variables, clients):
    """State and facts after two resident rounds."""
    return twice(momentum._replace(round=resident_round), variables, resident(clients))


def twice(fed, variables, clients):
    state = fed.init(variables)
    for number in range(2):
        state, info = fed.round(state, clients, jax.random.key(number))
    return state, info


def test_two_rounds_equal_the_resident_ones(fed, variables, clients, expected):
    """Ragged, away and forgotten; a last piece that is not full; the server's state."""
    pieces = list(streaming.plan(clients, PIECE, 1))
    assert [slots for _, slots in pieces] == [100, 100, 64, 64, 64]
    assert [int((who < 0).sum()) for who, _ in pieces] == [0, 0, 0, 0, 2]
    close(twice(fed, variables, clients), expected)


def test_devices_change_rounding_at_most(fed, variables, clients, expected):
    """Two devices; then one goes on, and does not run what was compiled for two."""
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:2])):
        state, _ = fed.round(fed.init(variables), clients, jax.random.key(0))
        close(fed.round(state, clients, jax.random.key(1)), expected)
    state = jax.tree.map(np.asarray, state)
    close(fed.round(state, clients, jax.random.key(1)), expected)


def test_examples_keep_their_keys(pool, variables):
    """Augmentation is keyed by the row of the whole pool, whatever pool a piece has."""
    augment = lambda key, x: x * jax.random.uniform(key, x.shape)
    work = jfu.local_sgd(linear, optax.sgd(0.1), batch_size=4, augment=augment)
    data = jfu.stack(*pool, [[19, 3, 7], [11, 5], [2]], host=True)
    fed, key = jfu.fedavg(work), jax.random.key(0)
    state = fed.init(variables)
    wanted = jax.jit(fed.round)(state, resident(data), key)
    close(jfu.streamed(fed, piece=1).round(state, data, key), wanted)


def test_programs_are_compiled_once(variables, pool, caplog):
    """Five rounds of five pieces of clients that are alike: one program, whatever the masks."""
    traces = []

    def loss(variables, batch, key):
        traces.append(batch.x.shape)
        return linear(variables, batch, key)

    data = jfu.stack(*pool, np.arange(20).repeat(4).reshape(20, 4), host=True)
    fed = jfu.streamed(jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1))), piece=2 * 4 * 8)
    assert len(list(streaming.plan(data, 2 * 4 * 8, 2))) == 5
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:2])), jax.log_compiles():
        state, seen = fed.init(variables), []
        for number in range(5):
            here = data._replace(mask=data.mask & (data.id % 5 >= number)[:, None])
            state, info = fed.round(state, here, jax.random.key(number))
            assert info.metrics["clients"] == 20 - 4 * number
            seen.append(len(traces))
    assert seen[0] > 0 and set(seen) == {seen[0]}
    compiled = [r.getMessage() for r in caplog.records if "Compiling jit(add)" in r.getMessage()]
    assert len(compiled) == 1


def test_pieces_hold_every_client_once_within_their_bytes(pool):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 400, 57)
    data = jfu.stack(*pool, [rng.integers(0, 20, n) for n in sizes], host=True)
    for devices in (1, 3):
        seen, shapes = [], set()
        for who, slots in streaming.plan(data, 8 * 500, devices):
            here = who[who >= 0]
            assert sizes[here].max() <= slots < 2 * max(64, sizes[here].max())
            assert len(who) // devices * slots <= 500
            # Devices get clients in turns: none has two more than another, nor larger ones.
            shares = [s[s >= 0] for s in who.reshape(devices, -1)]
            assert np.ptp([len(s) for s in shares]) <= 1
            assert list(sizes[here][np.argsort(-sizes[here])]) == sorted(sizes[here])[::-1]
            seen += here.tolist()
            shapes.add((len(who), slots))
        assert sorted(seen) == list(range(57))
        assert len(shapes) == 4  # 64, 128, 256 and the longest


def test_a_client_larger_than_a_piece_is_one(pool):
    data = jfu.stack(*pool, [np.arange(20), [1], [2]], host=True)
    found = [(who.tolist(), slots) for who, slots in streaming.plan(data, 1, 1)]
    assert found == [([0], 20), ([1], 20), ([2], 20)]


def test_a_piece_by_hand(pool):
    """Slots stay where they are, so that the same example is drawn; others are zeros."""
    data = jfu.stack(*pool, [[4, 9, 2], [7]], ids=[5, 3], host=True)
    data.mask[0, 1] = False
    some = streaming.gather(data, np.array([1, streaming.NOBODY, 0]), 3)
    assert some.id.tolist() == [3, -1, 5]
    assert some.mask.tolist() == [[True, False, False], [False] * 3, [True, False, True]]
    assert some.row.tolist() == [[7, 0, 0], [0, 0, 0], [4, 0, 2]]
    x, y = pool
    np.testing.assert_array_equal(some.x[2], [x[4], [0, 0], x[2]])
    assert some.y.tolist() == [[y[7], 0, 0], [0, 0, 0], [y[4], 0, y[2]]]


# ---------------------------------------------------------------- what is sent, who takes part


def sends(shared, client, key):
    """Each client sends its id and one; its loss is the label of its first example."""
    weight = client.mask.sum().astype(jnp.float32)
    update = jnp.stack([client.id.astype(jnp.float32), jnp.ones(())])
    label = jnp.where(client.mask[0], client.y[client.index[0]], 0)
    return {"params": update}, jfu.LocalInfo(weight, label + 0.5, weight, 0.0)


@pytest.mark.parametrize("devices", [1, 2])
def test_nobody_sends_nothing(pool, devices):
    """Heads are counted: clients that are away have one, those that fill up the last piece not.

    What the one that is away would send, 40, is not: it weighs nothing.
    """
    heads = jfu.Aggregator(
        lambda variables: (),
        lambda update, weight: (update, jnp.ones(())),
        lambda total, state, key: (jax.tree.map(lambda u: u / total[1], total[0]), state),
    )
    data = jfu.stack(*pool, [[1], [2], [3], [5], [6]], ids=[10, 20, 30, 40, 50], host=True)
    data.mask[3] = False
    fed = jfu.streamed(jfu.fedavg(sends, aggregator=heads), piece=8 * 3)
    assert sum((who < 0).sum() for who, _ in streaming.plan(data, 8 * 3, devices)) == 1
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        state, info = fed.round(fed.init({"params": jnp.zeros(2)}), data, jax.random.key(0))
    np.testing.assert_allclose(state.params, [(150 - 40) / 5, 4 / 5], rtol=1e-6)
    assert info.ids.tolist() == [10, 20, 30, 40, 50]
    assert info.clients.weight.tolist() == [1, 1, 1, 0, 1]
    assert info.metrics["clients"] == 4 and info.metrics["examples"] == 4
    # Labels are the rows modulo 3.
    assert info.clients.loss.tolist() == [1.5, 2.5, 0.5, 0.5, 0.5]


def test_faults_are_counted_as_in_a_resident_round(clients):
    flawed = faults.faulty(sends, late=0.2, nan=0.2, long=0.2)
    bare = jfu.fedavg(flawed, max_update_norm=50.0)
    state, key = bare.init({"params": jnp.zeros(2)}), jax.random.key(6)
    wanted = jax.jit(bare.round)(state, resident(clients), key)
    found = jfu.streamed(bare, piece=PIECE).round(state, clients, key)
    close(found, wanted)
    reasons = [float(found[1].metrics[name]) for name in ("late", "not_finite", "too_long")]
    assert min(reasons) > 0 and found[1].metrics["clients"] == 10 - sum(reasons) > 0
    assert found[1].clients.left_out[3] == 0  # away, and not left out


def test_the_server_draws_the_noise_of_the_resident_round(clients):
    bare = jfu.fedavg(sends, aggregator=jfu.privacy.private_mean(0.5, 0.3, 10))
    state, key = bare.init({"params": jnp.zeros(2)}), jax.random.key(2)
    wanted = jax.jit(bare.round)(state, resident(clients), key)
    close(jfu.streamed(bare, piece=PIECE).round(state, clients, key), wanted)


@pytest.mark.parametrize(
    "wrap", [lambda fed: jfu.sampled(fed, 5), lambda fed: jfu.absent(fed, 0.5)], ids=["5", "half"]
)
def test_cohorts_are_drawn_alike(momentum, resident_round, fed, variables, clients, wrap):
    wanted = twice(wrap(momentum._replace(round=resident_round)), variables, resident(clients))
    found = twice(wrap(fed), variables, clients)
    close(found, wanted)
    assert 0 < wanted[1].metrics["clients"] < 10


def test_not_forgets_on_streamed_clients(momentum, resident_round, fed, variables, clients):
    """A request, the negation, and two rounds on what is retained."""
    both = []
    for made, data in (momentum._replace(round=resident_round), resident(clients)), (fed, clients):
        request = jfu.split(data, jfu.forget_client(data, [12]))
        method = jfu.negation(made, jfu.by_path("stem"))
        state = method.perturb(jfu.Trained(variables), request, jax.random.key(0))
        for done in jfu.rounds(method.recover, state, request, jax.random.key(1), stop=2):
            state = done.state
        both.append((state, done.info))
    close(*both[::-1])
    assert both[1][1].clients.weight[4] == 0 and both[1][1].metrics["clients"] == 9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda fed: jfu.fedavg(None, aggregator=jfu.coordinate_median()), "single updates"),
        (lambda fed: jfu.fedavg(None, keep_updates=True), "single updates"),
        (lambda fed: jfu.sampled(fed, 2), "jfu.sampled or jfu.absent around the streamed"),
        (lambda fed: jfu.streamed(fed), "wrapped already"),
    ],
)
def test_what_needs_single_updates_is_refused(momentum, make, words):
    with pytest.raises(ValueError, match=words) as error:
        jfu.streamed(make(momentum))
    assert "\n" not in str(error.value)


def test_wrong_places_are_refused(momentum, fed, variables, clients):
    state, key = fed.init(variables), jax.random.key(0)
    with pytest.raises(ValueError, match="inside jit"):
        jax.jit(fed.round)(state, clients, key)
    with pytest.raises(ValueError, match=r"host=True"):
        fed.round(state, resident(clients), key)
    with pytest.raises(ValueError, match="was given piece=0; it must be a whole number"):
        jfu.streamed(momentum, piece=0)
    with pytest.raises(ValueError, match="cannot be watched"):
        jfu.recorded(fed, ["norms"], clients=clients, rounds=1)


# ---------------------------------------------------------------- host memory


def test_stack_leaves_the_pool_where_it_is(pool, rows, tmp_path):
    """NumPy arrays with the numbers that the devices would have got; a map is not read."""
    np.save(tmp_path / "x.npy", pool[0])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = jfu.stack(mapped, pool[1], rows, ids=IDS, host=True)
    assert all(type(a) is np.ndarray for a in data[:5]) and data.row is None
    assert np.shares_memory(data.x, mapped)
    wanted = jfu.stack(*pool, rows, ids=IDS)
    assert bits(data) == bits(wanted)
    assert [a.dtype for a in data[:5]] == [a.dtype for a in wanted[:5]]


def test_a_map_of_float64_trains_as_its_float32(fed, variables, pool, clients, tmp_path, expected):
    np.save(tmp_path / "x.npy", pool[0].astype(np.float64))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    close(twice(fed, variables, clients._replace(x=mapped)), expected)


def test_stack_finds_what_is_not_finite_far_behind():
    x = np.zeros((10_000, 2), np.float32)
    x[9_999, 1], x[4_096, 0], x[4_096, 1] = np.nan, np.inf, np.nan
    for host in (True, False):
        with pytest.raises(ValueError, match="2 of 10000 examples"):
            jfu.stack(x, np.zeros(10_000, int), [[0]], host=host)


MEMORY = """
import json, re, sys, threading, time
import jax, jax.numpy as jnp, numpy as np, optax
import jfu

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def peak(run):
    begin, most, over = anonymous(), [0.0], threading.Event()
    def follow():
        while not over.wait(0.002):
            most[0] = max(most[0], anonymous())
    thread = threading.Thread(target=follow)
    thread.start()
    jax.block_until_ready(run())
    most[0] = max(most[0], anonymous())
    over.set(), thread.join()
    return most[0] - begin

x = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(x), dtype=np.int32) % 10
rows = np.arange(len(x)).reshape(-1, 10)
loss = lambda variables, batch, key: jfu.cross_entropy(batch.x @ variables["params"], batch)
fed = jfu.streamed(jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), batch_size=10)), piece=2**20)
state = fed.init({"params": jnp.zeros((1024, 10))})
few, many = (jfu.stack(x, y, r, host=True) for r in (rows[:250], rows))
run = lambda clients: fed.round(state, clients, jax.random.key(0))
jax.block_until_ready(run(few))
grown = [peak(lambda: run(few)), peak(lambda: run(many)), peak(lambda: jfu.stack(x, y, rows).x)]
print(json.dumps(grown))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_clients(tmp_path):
    """Eight times the clients, 82 MB of examples in a file, pieces of 1 MB: below 12 MB more;
    a resident pool shows that the measure sees what is there."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (20_000, 1024))
    x[:] = np.linspace(-1, 1, 1024, dtype=np.float32)
    x.flush()
    del x
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "x.npy")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    few, many, whole = json.loads(run.stdout)
    assert few < 12 and many < 12 and whole > 70, (few, many, whole)
