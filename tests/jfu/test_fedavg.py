"""A round against NumPy, and everything that must not change one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import ROWS, bits

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("keys_unchecked")]


def _linear(variables, batch, key):
    params = variables["params"]
    return jfu.cross_entropy(batch.x @ params["w"] + params["b"][None], batch)


def _slope(w, b, x, y):
    """Cross-entropy of a linear model and its gradient, by hand."""
    logits = x @ w + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return loss, x.T @ p / len(y), p.sum(0) / len(y)


def _numpy_client(w, b, x, y, mask, key, *, epochs, batch_size, lr, momentum, mu):
    """One client's local training; also returns its losses."""
    f32 = np.float32
    start, velocity, losses = (w, b), (np.zeros_like(w), np.zeros_like(b)), []
    live = np.flatnonzero(mask)
    for draw in np.asarray(jax.random.uniform(key, (*mask.shape, epochs))).T:
        slots = live[np.argsort(draw[live])]
        for at in range(0, len(slots), batch_size):
            rows = slots[at : at + batch_size]
            loss, *grad = _slope(w, b, x[rows], y[rows])
            drift = (w - start[0], b - start[1])
            losses.append(loss + mu / 2 * sum((d**2).sum() for d in drift))
            grad = [g + f32(mu) * d for g, d in zip(grad, drift, strict=True)]
            velocity = [f32(momentum) * v + g for v, g in zip(velocity, grad, strict=True)]
            w, b = w - f32(lr) * velocity[0], b - f32(lr) * velocity[1]
    return w - start[0], b - start[1], losses


@pytest.mark.parametrize(
    ("epochs", "batch_size", "momentum", "mu"),
    [(3, 3, 0.9, 0.0), (2, 100, 0.0, 0.0), (3, 2, 0.9, 0.5)],
)
def test_round_equals_a_numpy_loop(pool, data, epochs, batch_size, momentum, mu):
    """Ragged clients with a hole, epochs, short last batches, momentum, FedProx, the mean."""
    clients = data._replace(mask=data.mask.at[0, 2].set(False))
    rng = np.random.default_rng(5)
    w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 3), 3))
    optimizer = optax.sgd(0.3, momentum=momentum)
    work = jfu.local_sgd(_linear, optimizer, epochs=epochs, batch_size=batch_size, proximal=mu)
    fed = jfu.fedavg(work)
    key = jax.random.key(11)
    state, info = jax.jit(fed.round)(fed.init({"params": {"w": w, "b": b}}), clients, key)

    clients_key, _ = jax.random.split(key)
    total, reports, losses = [np.zeros_like(w), np.zeros_like(b)], [], []
    for k, (index, mask) in enumerate(zip(clients.index, clients.mask, strict=True)):
        x, y, mask = pool[0][index], pool[1][index], np.asarray(mask)
        mine = jax.random.fold_in(clients_key, clients.id[k])
        dw, db, seen = _numpy_client(
            w, b, x, y, mask, mine,
            epochs=epochs, batch_size=batch_size, lr=0.3, momentum=momentum, mu=mu,
        )  # fmt: skip
        n = mask.sum()
        total = [t + np.float32(n) * u for t, u in zip(total, (dw, db), strict=True)]
        reports.append((n, np.mean(seen), len(seen), 0, 0))
        losses += [np.mean(seen)] * n
    assert [r[0] for r in reports] == [6, 3, 5]
    for name, start, change in (("w", w, total[0]), ("b", b, total[1])):
        assert np.abs(change).max() > 0.1
        expected = start + change / np.float32(14)
        np.testing.assert_allclose(state.params[name], expected, rtol=1e-5, atol=1e-6)
    for got, expected in zip(info.clients, zip(*reports, strict=True), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert state.round == 1
    steps = sum(r[2] for r in reports)
    metrics = {"clients": 3, "examples": 14, "steps": steps, "loss": np.mean(losses)}
    metrics |= {"down": 3, "up": 3, "forwards": 0}
    metrics |= {"late": 0, "not_finite": 0, "too_long": 0, "not_applied": 0}
    assert info.metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(info.metrics[name], value, rtol=1e-5)
    assert info.ids.tolist() == [5, 2, 9]
    assert info.updates is None


def test_two_clients_by_hand():
    """Loss (w x - 1)^2 from w = 0.5 with rate 0.1.

    x = 1, 2: slope mean(2 * 1 * -0.5, 2 * 2 * 0) = -0.5, update 0.05 with weight 2.
    x = 3: slope 2 * 3 * 0.5 = 3, update -0.3 with weight 1. Mean -0.2 / 3.
    """

    def loss(variables, batch, key):
        each = (variables["params"] * batch.x[:, 0] - 1) ** 2
        return (each * batch.mask).sum() / batch.mask.sum()

    data = jfu.stack([[1.0], [2.0], [3.0]], [0, 0, 0], [[0, 1], [2]])
    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), batch_size=2))
    start = fed.init({"params": jnp.asarray(0.5)})
    state, info = jax.jit(fed.round)(start, data, jax.random.key(0))
    np.testing.assert_allclose(state.params, 0.5 - 0.2 / 3, rtol=1e-6)
    np.testing.assert_allclose(info.metrics["loss"], (2 * 0.125 + 0.25) / 3, rtol=1e-6)


def test_updates_are_kept_on_request(data, local, variables, round_once):
    """Each as the client alone would send it; the round itself stays the same."""
    kept = jfu.fedavg(local, keep_updates=True)
    key = jax.random.key(0)
    state, info = jax.jit(kept.round)(kept.init(variables), data, key)
    plain, _ = round_once(data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, plain)
    mean = jax.tree.map(lambda u: np.average(u, axis=0, weights=[7, 3, 5]), info.updates)
    moved = jax.tree.map(np.subtract, state.variables, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, mean)


def test_init_keeps_a_copy_and_refuses_bare_parameters(fed):
    mine = {"params": jnp.ones(2)}
    state = fed.init(mine)
    assert state.params is not mine["params"]
    assert state.round == 0
    with pytest.raises(ValueError, match=r"the keys \['head', 'stem'\]; pass a dict with 'params'"):
        fed.init({"stem": jnp.ones(2), "head": jnp.ones(2)})


def _garbage(data, value, rows):
    """The pool with other contents in some rows."""
    return data._replace(x=data.x.at[np.array(rows)].set(value), y=data.y.at[np.array(rows)].set(2))


def _insert(data, at, row):
    """A client without live examples among the others; its slots point to ``row``."""
    put = lambda a, value: jnp.insert(a, at, jnp.asarray(value, a.dtype), axis=0)
    return data._replace(
        index=put(data.index, row), mask=put(data.mask, False), id=put(data.id, 77)
    )


def _widen(data, by, row=0):
    pad = ((0, 0), (0, by))
    index = jnp.pad(data.index, pad, constant_values=row)
    return data._replace(index=index, mask=jnp.pad(data.mask, pad))


DEAD = np.array([[0, 0, 1, 0, 0, 0, 0], [0] * 7, [0, 1, 0, 0, 0, 0, 0]], bool)  # rows 9 and 10

FREE = [14, 16, 19]  # rows of the pool that no slot points to

SAME_BITS = {
    "empty client last": lambda d: _insert(d, 3, 0),
    "empty client first": lambda d: _insert(d, 0, 0),
    "empty client between": lambda d: _insert(d, 1, 19),
    "wider": lambda d: _widen(d, 5),
    "wider, dead slots point elsewhere": lambda d: _widen(d, 5, row=17),
    "larger pool": lambda d: d._replace(x=jnp.pad(d.x, ((0, 3), (0, 0))), y=jnp.pad(d.y, (0, 3))),
} | {
    f"{value} in {where} rows": lambda d, value=value, rows=rows: _garbage(d, value, rows)
    for value in (3e38, np.nan, -np.inf)
    for where, rows in {"free": FREE, "dead": [9, 10]}.items()
}


@pytest.mark.parametrize("change", SAME_BITS.values(), ids=SAME_BITS.keys())
def test_changes_no_bit(data, round_once, change):
    """Padding of clients, of slots, of the pool; whatever dead slots point to. One by one."""
    data = data._replace(mask=data.mask & ~DEAD)
    state, info = round_once(data)
    other, seen = round_once(change(data))
    assert bits(other) == bits(state)
    took_part = np.flatnonzero(seen.clients.weight)
    assert bits(jax.tree.map(lambda a: a[took_part], seen.clients)) == bits(info.clients)


def test_live_garbage_does_change_the_round(data, round_once):
    """The comparison above would notice."""
    other = round_once(_garbage(data, 5.0, [9]))[0]
    assert bits(other.params) != bits(round_once(data)[0].params)


def _close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_order_of_clients_does_not_matter(data, round_once):
    state, _ = round_once(data)
    for order in itertools.permutations(range(3)):
        order = np.array(order)
        rows = {name: getattr(data, name)[order] for name in ("index", "mask", "id")}
        _close(round_once(data._replace(**rows))[0], state)


@pytest.mark.parametrize("chunk", [2, 3, 0])
def test_chunk_of_clients_does_not_matter(data, local, variables, round_once, chunk):
    fed = jfu.fedavg(local, chunk=chunk)
    state, info = jax.jit(fed.round)(fed.init(variables), data, jax.random.key(0))
    _close((state, info), round_once(data))


@pytest.mark.parametrize("gone", [0, 1])
def test_a_forgotten_client_is_as_if_it_had_never_been(pool, data, round_once, gone):
    """Zeros in its mask are the same as data stacked without it."""
    masked = jfu.split(data, jfu.forget_client(data, [[5, 2, 9][gone]])).retain
    others = [k for k in range(3) if k != gone]
    without = jfu.stack(*pool, [ROWS[k] for k in others], ids=[[5, 2, 9][k] for k in others])
    _close(round_once(masked)[0], round_once(without)[0])


def test_a_batch_larger_than_every_client_is_one_step(data, model, variables):
    """The width of a batch follows the slots; more of them change rounding at most."""
    work = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.1), batch_size=50)
    fed = jfu.fedavg(work)
    run = jax.jit(fed.round)
    state, info = run(fed.init(variables), data, jax.random.key(0))
    assert info.clients.steps.tolist() == [1, 1, 1]
    _close(run(fed.init(variables), _widen(data, 8), jax.random.key(0))[0], state)


def test_a_round_without_anybody_changes_nothing(data, fed, variables, round_once):
    nobody = data._replace(mask=jnp.zeros_like(data.mask))
    state, info = round_once(nobody)
    assert bits(state.variables) == bits(fed.init(variables).variables)
    assert state.round == 1
    metrics = {name: float(a) for name, a in info.metrics.items()}
    assert np.isnan(metrics.pop("loss"))  # of nobody there is none
    assert metrics == dict.fromkeys(metrics, 0)


def test_vmap_over_seeds_equals_a_loop(data, fed, variables):
    start = fed.init(variables)
    keys = jax.random.split(jax.random.key(3), 3)
    many, _ = jax.jit(jax.vmap(fed.round, (None, None, 0)))(start, data, keys)
    run = jax.jit(fed.round)
    for i, key in enumerate(keys):
        _close(jax.tree.map(lambda a, i=i: a[i], many), run(start, data, key)[0])
    assert bits(many.params["stem"]["kernel"][0]) != bits(many.params["stem"]["kernel"][1])


def test_scan_over_rounds_equals_a_loop(data, fed, variables):
    start = fed.init(variables)
    keys = jax.random.split(jax.random.key(3), 4)
    scan = jax.jit(lambda s: jax.lax.scan(lambda s, key: fed.round(s, data, key), s, keys))
    end, infos = scan(start)
    run, state = jax.jit(fed.round), start
    for i, key in enumerate(keys):
        state, info = run(state, data, key)
        _close(jax.tree.map(lambda a, i=i: a[i], infos), info)
    _close(end, state)
    assert end.round == 4


@pytest.mark.slow
def test_disabled_jit_gives_the_same():
    """Two clients, one with a short batch; a loss without many operations."""

    def loss(variables, batch, key):
        return (batch.mask * (variables["params"] * batch.x[:, 0] - 1) ** 2).sum()

    two = jfu.stack([[1.0], [2.0], [3.0]], [0, 0, 0], [[0, 1], [2]])
    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.01), batch_size=2))
    start = fed.init({"params": jnp.asarray(0.5)})
    expected = jax.jit(fed.round)(start, two, jax.random.key(0))
    with jax.disable_jit():
        _close(fed.round(start, two, jax.random.key(0)), expected)


def test_one_trace_for_all_rounds_requests_and_absences(data, model, variables):
    """The loss is traced while a round is compiled, and never again."""
    traces = []

    def loss(variables, batch, key):
        traces.append(1)
        return jfu.classification(model.apply)(variables, batch, key)

    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), epochs=2, batch_size=3))
    run = jax.jit(jfu.absent(fed, 0.2).round)
    state, _ = run(fed.init(variables), data, jax.random.key(0))
    once = len(traces)
    assert once > 0
    requests = [
        jfu.forget_client(data, [5]),
        jfu.forget_class(data, [1]),
        jfu.forget_examples(data, np.ones(20, bool)),
    ]
    for r, forget in enumerate(requests):
        state, _ = run(state, jfu.split(data, forget).retain, jax.random.key(r))
    assert len(traces) == once
    assert run._cache_size() == 1


def test_rounds_draw_the_same_numbers_after_an_interruption(data, fed, variables):
    run, key = jax.jit(fed.round), jax.random.key(8)
    whole = list(jfu.rounds(run, fed.init(variables), data, key, stop=4))
    half = list(jfu.rounds(run, fed.init(variables), data, key, stop=2))
    rest = list(jfu.rounds(run, half[-1].state, data, key, stop=4, start=2))
    assert [d.round for d in whole] == [d.round for d in half + rest] == [1, 2, 3, 4]
    assert bits([d.state for d in whole]) == bits([d.state for d in half + rest])
    by_rule, _ = run(fed.init(variables), data, jax.random.fold_in(key, 0))
    assert bits(whole[0].state) == bits(by_rule)
    assert all(d.seconds > 0 for d in whole)
