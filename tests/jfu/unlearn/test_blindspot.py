"""Blindspot and the Gaussian amnesiac, for regressions, against their formulas."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.rivals import SIZES, X, counts
from jfu.unlearn import UNLEARNERS, Setting
from jfu.unlearn.amnesiac import moments, redrawn
from jfu.unlearn.blindspot import looks, towards

DRAW = np.random.default_rng(5)
Y = [DRAW.normal(2.0, 3.0, n).astype(np.float32).astype(float) for n in SIZES]
W, FRESH = (DRAW.normal(size=2).astype(np.float32).astype(float) for _ in range(2))
RATE, LR = 0.1, 0.05


def model():
    def apply(variables, x, *, train=False, mask=None, key=None):
        return x @ variables["params"]["w"][:, None], {}

    fresh = lambda key: {"params": {"w": jnp.asarray(FRESH, jnp.float32)}}
    return jfu.Model(fresh, apply)


def local(loss=None, optimizer=None, epochs=1):
    loss = loss or jfu.tasks.regression(model().apply)
    return jfu.local_sgd(loss, optimizer or optax.sgd(RATE), epochs=epochs, batch_size=8)


def request():
    ends = np.cumsum((0, *SIZES))
    rows = [np.arange(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    y = np.concatenate(Y).astype(np.float32)
    data = jfu.stack(np.concatenate(X).astype(np.float32), y, rows)
    return jfu.split(data, jfu.forget_client(data, [0]))


def run(name, stop, **options):
    fed = jfu.fedavg(local())
    setting = Setting(fed, model(), jfu.by_path(".*"), local=local, options={name: options})
    method = UNLEARNERS[name](setting)
    start = {"params": {"w": jnp.asarray(W, jnp.float32)}}
    state = method.perturb(jfu.Trained(start), request(), jax.random.key(1))
    step, models, facts = jax.jit(method.recover), [state.params["w"]], []
    for r in range(stop):
        state, info = step(state, request(), jax.random.key(r))
        models.append(state.params["w"])
        facts.append(jax.tree.map(float, dict(info.metrics)))
    return np.asarray(models, float), facts


def plain(w):
    """A round of squared error of clients 1 and 2, weighted by their sizes."""
    step = lambda k: -RATE * 2 * X[k].T @ (X[k] @ w - Y[k]) / SIZES[k]
    return w + (SIZES[1] * step(1) + SIZES[2] * step(2)) / (SIZES[1] + SIZES[2])


def adam(slope):
    """The first step of Adam goes by the rate along each sign, up to its epsilon."""
    return -LR * slope / (np.abs(slope) + 1e-8)


def absolute(w, k, y):
    return X[k].T @ np.sign(X[k] @ w - y) / SIZES[k]


def of_all(w, leaves):
    """One step of everybody: those that stay on their targets, client 0 on ``leaves``."""
    steps = [adam(absolute(w, k, leaves if k == 0 else Y[k])) for k in range(3)]
    return w + sum(n * s for n, s in zip(SIZES, steps, strict=True)) / sum(SIZES)


def test_blindspot():
    """Two rounds train the second model, the third learns from it, the fourth is ordinary."""
    blind = plain(plain(FRESH))
    third = of_all(W, X[0] @ blind)
    models, facts = run("blindspot", 4, lr=LR)
    np.testing.assert_allclose(models, [W, W, W, third, plain(third)], rtol=2e-5)
    assert counts(facts) == [[2, 2, 2, 0]] * 2 + [[4, 3, 3, 1], [2, 2, 2, 0]]


def test_the_attention_term_by_hand():
    """Two rows, of which one is padding; a layer with two positions and two channels."""
    outputs = lambda variables, x: {"conv": x * variables["params"][None], "flat": x[:, 0]}
    network = jfu.Model(None, lambda variables, x, **how: (x[:, 0, :1], {}), outputs=outputs)
    x = np.array([[[1.0, 2.0], [3.0, 1.0]], [[np.nan, 0.0], [0.0, 0.0]]])
    ours, theirs = np.array([[1.0, 2.0], [0.5, 1.5]]), np.array([[1.0, 3.0], [1.0, 1.0]])

    def seen(a):  # [positions, channels]
        squares = (a**2).mean(-1)
        return squares / np.linalg.norm(squares)

    apart = seen(x[0] * ours) - seen(x[0] * theirs)
    weigh = lambda w: jnp.asarray(w, jnp.float32)
    loss = towards(network, {"params": weigh(theirs)}, 50.0)
    batch = jfu.Batch(weigh(x), jnp.zeros(2), jnp.array([1.0, 0.0]))
    value, _ = loss({"params": weigh(ours)}, batch, jax.random.key(0))
    assert float(value) == pytest.approx(50 * (apart**2).mean(), rel=1e-5)


@pytest.mark.slow
def test_a_layer_that_gives_nothing_has_a_slope():
    slope = jax.grad(lambda x: looks(x).sum())(jnp.zeros((1, 4, 3)))
    assert np.isfinite(slope).all()


@pytest.mark.slow
def test_moments_are_those_of_all_targets():
    middle, spread = moments(request(), jax.random.key(0))
    every = np.concatenate(Y)
    assert float(middle) == pytest.approx(every.mean(), rel=1e-6)
    assert float(spread) == pytest.approx(every.std(ddof=1), rel=1e-6)


@pytest.mark.slow
def test_redrawn_targets_are_gaussian():
    """The error of a model that says 0 is |y'|, whatever the targets are."""
    silent = jfu.Model(None, lambda variables, x, **how: (x, {}))
    loss = redrawn(silent, jnp.float32(30.0), jnp.float32(4.0))
    batch = jfu.Batch(jnp.zeros((4000, 1)), jnp.full(4000, jnp.nan), jnp.ones(4000))
    means = [float(loss({}, batch, jax.random.key(k))[0]) for k in (0, 1)]
    assert means[0] != means[1]
    np.testing.assert_allclose(means, 30, atol=4 * 4 / 4000**0.5)


def test_amnesiac(monkeypatch):
    """With targets of no deviation the round is known: client 0 learns their mean."""
    fixed = np.concatenate(Y).mean()
    file = importlib.import_module("jfu.unlearn.amnesiac")
    monkeypatch.setattr(file, "moments", lambda *_: (jnp.float32(fixed), 0.0))
    first = of_all(W, fixed)
    models, facts = run("amnesiac", 2, lr=LR)
    np.testing.assert_allclose(models, [W, first, plain(first)], rtol=2e-5)
    assert counts(facts) == [[3, 3 + 3 * 3 / 2, 3, 0], [2, 2, 2, 0]]
