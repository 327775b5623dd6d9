"""Clients: stacking, requests, partial participation, and running every client once."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.clients as clients_module
from helpers.federation import ROWS, bits
from jfu import streaming

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
        (X, Y.astype(float), [[0]], None, r"integers \[M\], got float64 \[4\]"),
        (X, Y.reshape(4, 1), [[0]], None, r"got int64 \[4, 1\]"),
        (NOWHERE, Y, [[0]], None, "2 of 4 examples hold NaN or infinity"),
        (X, Y, [], None, "no clients"),
        (X, Y, [[0], []], None, "client 1 holds no examples"),
        (X, Y, [[0], []], [7, 8], "client 8 holds no examples"),
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
    "targets": (dict(y=YS / 2), "labels must be integers.*can be columns of x"),
    "masked labels": (dict(y=np.ma.masked_array(YS, YS == 1)), "some labels are masked"),
    "tokens beyond 32 bits": (dict(x=BIG[:, None]), "examples are int64.*beyond what int32 holds"),
    "large floats": (dict(x=XS.astype(float) - 1e300), "float64.*beyond what float32 holds"),
    "short NaN": (dict(x=(XS * np.nan).astype(jnp.bfloat16)), "6 of 6 examples hold NaN"),
    "complex NaN": (dict(x=np.full((6, 2), complex(0, np.nan))), "6 of 6 examples hold NaN"),
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
    held = jfu.stack(numbers.astype(kind), YS, TWO, host=True)
    piece = streaming.gather(held, np.array([1]), 3)
    assert piece.x.dtype.isnative and piece.x[0].tolist() == numbers[3:].tolist()
    assert jfu.spread(held).x[0].tolist() == numbers.tolist()


def test_what_has_64_bits_is_kept_where_they_are_asked_for():
    with jax.enable_x64(True):
        found = jfu.stack(BIG[:, None], YS, TWO)
        assert found.x.ravel().tolist() == BIG.tolist()
        assert jfu.stack(np.full((6, 1), 1e300), YS, TWO).x[0] == 1e300
    with pytest.raises(ValueError, match="beyond 32 bits"), jax.enable_x64(True):
        jfu.stack(XS, BIG, TWO)


# ---------------------------------------------------------------- requests


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
        (lambda d: jfu.forget_class(d, [3, 1]), r"class \[3\]; the classes held are \[0, 1, 2\]"),
        (lambda d: jfu.forget_class(d, [1], ids=[7]), r"no client \[7\]"),
        (lambda d: jfu.forget_fraction(d, 0.0, jax.random.key(0)), "fraction to forget is 0.0"),
        (lambda d: jfu.forget_fraction(d, 1.5, jax.random.key(0)), "fraction to forget is 1.5"),
        (lambda d: jfu.forget_fraction(d, 0.5, jax.random.key(0), ids=[1]), r"no client \[1\]"),
        (lambda d: jfu.forget_examples(d, np.ones(19, bool)), r"bool \[19\].*the 20 examples"),
        (lambda d: jfu.forget_examples(d, np.ones(20, int)), r"int32 \[20\]"),
        (lambda d: jfu.split(d, jnp.ones((3, 6), bool)), r"\[3, 6\].*\[3, 7\]"),
        (lambda d: jfu.split(d, d.mask.astype(int)), "forget is int32; it must be bool"),
        (lambda d: jfu.forget_client(d, np.array([0, 0, 1], bool)), "ids are bools, and would be"),
        (lambda d: jfu.forget_client(d, [True]), "ids are bools, and would be read as 0 and 1"),
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
    """A class that is in the pool and at another client is not held by this one."""
    only = data._replace(mask=data.mask & (data.y[data.index] != 1))
    with pytest.raises(ValueError, match=r"class \[1\]; the classes held are \[0, 2\]"):
        jfu.forget_class(only, [1])


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
        told = dict(
            b=client.id,
            a=(client.id * 0.5, jnp.uint32(7) + client.id.astype(jnp.uint32)),
            c=-client.id,
        )
        return client.id * 1.0, told

    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        total, info = jax.jit(jfu.sum_clients(said))(None, data, jax.random.key(0))
    assert total == 16
    assert list(info) == ["a", "b", "c"] and isinstance(info["a"], tuple)
    assert info["b"].tolist() == [5, 2, 9] and info["c"].tolist() == [-5, -2, -9]
    assert info["a"][0].tolist() == [2.5, 1.0, 4.5] and info["a"][1].tolist() == [12, 9, 16]
    assert [a.dtype.name for a in jax.tree.leaves(info)] == ["float32", "uint32", "int32", "int32"]


@pytest.mark.parametrize("chunk", [-1])
@pytest.mark.parametrize("run", [jfu.map_clients, jfu.sum_clients])
def test_chunks_smaller_than_nothing_are_refused(data, run, chunk):
    with pytest.raises(ValueError, match=f"chunk is {chunk}"):
        run(_work, chunk=chunk)(1.0, data, jax.random.key(0))


# ---------------------------------------------------------------- who takes part


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
        (lambda: jfu.absent(None, 1.0), "absence is 1.0"),
        (lambda: jfu.absent(None, -0.1), "absence is -0.1"),
    ],
)
def test_participation_refuses(wrap, words):
    with pytest.raises(ValueError, match=words):
        wrap()


def test_clients_that_only_fill_up_send_nothing(data):
    """Even where what a client sends does not vanish with its examples."""

    def noisy(shared, client, key):
        return jax.random.normal(key) + 1, client.id

    sums = [
        float(jfu.sum_clients(noisy, chunk=chunk)(None, data, jax.random.key(0))[0])
        for chunk in (1, 2, 0, None)
    ]
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:4])):
        sums.append(float(jfu.sum_clients(noisy)(None, data, jax.random.key(0))[0]))
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
    told = dict(id=client.id, live=client.mask.sum(), slots=jnp.int32(client.mask.shape[0]))
    return (mine, jax.random.uniform(key)), told


@pytest.mark.parametrize(("chunk", "devices"), [(1, 1), (4, 2), (0, 1)])
def test_a_federation_with_one_large_client_costs_what_its_examples_cost(chunk, devices):
    """Every client is shown slots for its own examples, near enough; the sums are NumPy's."""
    clients, sizes, x, rows = skewed()
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        run = jax.jit(jfu.sum_clients(_shown, chunk=chunk))
        (total, draws), told = run((), clients, jax.random.key(3))
        (each, _), also = jax.jit(jfu.map_clients(_shown, chunk=chunk))(
            (), clients, jax.random.key(3)
        )
    wanted = np.stack([x[r].astype(np.float64).sum(0) + 1e-3 for r in rows])
    np.testing.assert_allclose(total, wanted.sum(0), rtol=1e-4)
    np.testing.assert_allclose(each, wanted, rtol=1e-4, atol=1e-5)
    key = jax.random.key(3)
    own = sum(float(jax.random.uniform(jax.random.fold_in(key, i))) for i in np.asarray(clients.id))
    assert float(draws) == pytest.approx(own, rel=1e-5)
    for info in (told, also):
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
    _, told = jax.jit(jfu.sum_clients(_shown))((), kept, jax.random.key(0))
    assert told["live"][7] == told["live"][31] == 1
    assert (told["slots"] < 1500).all()
    last = clients._replace(mask=clients.mask.at[7, :1499].set(False))
    _, told = jax.jit(jfu.sum_clients(_shown))((), last, jax.random.key(0))
    assert told["slots"][7] == 1500 and told["live"][7] == 1


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
