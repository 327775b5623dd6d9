"""Ridge heads against float64 NumPy: sums, the head, what subtracting loses, and federations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import bits, network
from jfu import models, ridge

pytestmark = pytest.mark.conformance

EPS = np.finfo(np.float32).eps
DRAW = np.random.default_rng(3)
PHI, LABELS = DRAW.normal(size=(40, 6)).astype(np.float32), DRAW.integers(0, 3, 40)


def exact_head(phi, labels, penalty, classes=3):
    """The head in float64."""
    phi = np.asarray(phi, float)
    gram = phi.T @ phi + penalty * np.eye(phi.shape[1])
    return np.linalg.solve(gram, phi.T @ np.eye(classes)[labels])


def of(rows, scale=1.0):
    return ridge.statistics(jnp.asarray(scale * PHI[rows]), jnp.asarray(LABELS[rows]), 3)


def wrong(found, exact):
    return np.linalg.norm(np.asarray(found, float) - exact) / np.linalg.norm(exact)


# ---------------------------------------------------------------- sums, and the head


@pytest.mark.parametrize("size", range(1, 8))
def test_half_a_matrix_is_the_whole(size):
    square = np.random.default_rng(size).normal(size=(size, size)).astype(np.float32)
    square = square + square.T
    half = ridge.packed(jnp.asarray(square))
    assert half.size == size * (size + 1) // 2
    assert sorted(np.ravel(half)) == sorted(square[np.triu_indices(size)])
    np.testing.assert_array_equal(ridge.unpacked(half), square)


def test_statistics_by_hand():
    found = ridge.statistics(jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([2, 0]), 3)
    np.testing.assert_array_equal(ridge.unpacked(found.gram), [[10, 17], [17, 29]])
    np.testing.assert_array_equal(found.moment, [[3, 0, 1], [5, 0, 2]])
    exact = np.linalg.solve([[10.5, 17], [17, 29.5]], [[3, 0, 1], [5, 0, 2]])
    np.testing.assert_allclose(ridge.head(found, 0.5), exact, rtol=1e-4)


@pytest.mark.parametrize("penalty", [1e3, 1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_error_of_the_head_is_below_its_bound(penalty, scale):
    rows = np.arange(4)  # fewer examples than features: the smallest eigenvalue is the penalty
    total = of(rows, scale)
    bound = float(ridge.error_bound(total, penalty))
    phi = scale * PHI[rows].astype(float)
    trace = (phi**2).sum()
    np.testing.assert_allclose(bound, 6 * EPS * (1 + trace / penalty), rtol=1e-5)
    if bound < 1:
        assert wrong(ridge.head(total, penalty), exact_head(phi, LABELS[rows], penalty)) < bound


def test_what_subtracting_loses():
    """If 1e6 times as much leaves as stays, the rounding of what left is all that is to be seen."""
    stays, leaves = np.arange(10), np.arange(10, 40)
    kept, much = of(stays), of(leaves, 1e3)
    exact = exact_head(PHI[stays], LABELS[stays], 1.0)
    before = jax.tree.map(jnp.add, kept, much)
    by_subtracting = wrong(ridge.head(ridge.subtract(before, much), 1.0), exact)
    assert wrong(ridge.head(kept, 1.0), exact) < 1e-5
    assert 1e-2 < by_subtracting < ridge.error_bound(before, 1.0)
    # A tenth that leaves loses next to nothing.
    both = jax.tree.map(jnp.add, kept, of(leaves))
    rest = ridge.subtract(both, kept)
    assert wrong(ridge.head(rest, 1.0), exact_head(PHI[leaves], LABELS[leaves], 1.0)) < 1e-5


def test_a_penalty_below_rounding_gives_no_finite_head():
    phi = jnp.asarray(np.outer(np.ones(4), [1e4, 2e4, 3e4]).astype(np.float32))
    total = ridge.statistics(phi, jnp.zeros(4, int), 1)
    assert ridge.error_bound(total, 1e-6) > 1
    assert not np.isfinite(ridge.head(total, 1e-6)).all()


# ---------------------------------------------------------------- federations


def features_of(model, variables, x):
    hidden = np.asarray(model.features(variables, x), float)
    return np.concatenate([hidden, np.ones((len(hidden), 1))], 1)


def weights_of(variables):
    last = variables["params"]["head"]
    return np.concatenate([last["kernel"], np.asarray(last["bias"])[None]])


@pytest.mark.parametrize("options", [{}, dict(clients=3), dict(batch_size=2), dict(chunk=0)])
def test_a_round_is_the_head_of_all_live_examples(data, model, variables, options):
    fed = ridge.federation(model, penalty=0.1, **options)
    gone = jfu.forget_class(data, [1], ids=[5])
    clients = jfu.split(data, gone).retain
    state, info = jax.jit(fed.round)(fed.init(variables), clients, jax.random.key(0))
    rows = np.asarray(clients.index)[np.asarray(clients.mask)]
    phi = features_of(model, variables, data.x[rows])
    exact = exact_head(phi, np.asarray(data.y)[rows], 0.1)
    assert wrong(weights_of(state.variables), exact) < 2e-5
    assert bits(state.params["stem"]) == bits(variables["params"]["stem"])
    blocks = dict(batch_size=[4, 2, 3]).get(next(iter(options), ""), [1, 1, 1])
    assert info.clients.weight.tolist() == [5, 3, 5]
    assert info.clients.forwards.tolist() == blocks
    assert (info.clients.steps == 0).all()
    assert state.round == 1
    kept = state.history["total"]
    np.testing.assert_allclose(ridge.unpacked(kept.gram), phi.T @ phi, rtol=1e-5, atol=1e-5)
    if "clients" in options:
        each = state.history["statistics"]
        np.testing.assert_allclose(np.sum(each.gram, 0), kept.gram, rtol=1e-6)
    logits, _ = model.apply(state.variables, data.x[rows])
    np.testing.assert_allclose(logits, phi @ exact, rtol=1e-3, atol=1e-4)


def test_costs_are_half_a_matrix_and_the_targets(data, variables, model):
    """Six features with the ones, three classes: 21 + 18 numbers, and five scalars of a client."""
    down, up = jfu.wire(ridge.sender(model), variables, data)
    assert up == 4 * (6 * 7 // 2 + 6 * 3) + 4 * 5
    assert down == jfu.nbytes(variables) + 4


def test_a_second_round_does_not_read_the_first(data, model, variables):
    fed = ridge.federation(model, clients=3)
    run, key = jax.jit(fed.round), jax.random.key(0)
    once, _ = run(fed.init(variables), data, key)
    fewer = jfu.split(data, jfu.forget_client(data, [2])).retain
    twice, _ = run(once, fewer, key)
    alone, _ = run(fed.init(variables), fewer, key)
    assert bits(twice.variables) == bits(alone.variables)
    assert bits(twice.history) == bits(alone.history)


@pytest.mark.parametrize("bad", ["example", "label"])
def test_a_client_whose_statistics_are_not_finite_is_left_out(pool, data, model, variables, bad):
    x, y = data.x, data.y
    row = int(data.index[1, 0])
    spoilt = data._replace(x=x.at[row].set(jnp.nan) if bad == "example" else x)
    spoilt = spoilt._replace(y=y.at[row].set(3) if bad == "label" else y)
    fed = ridge.federation(model, clients=3)
    run, key = jax.jit(fed.round), jax.random.key(0)
    state, info = run(fed.init(variables), spoilt, key)
    expected, _ = run(
        fed.init(variables), jfu.split(data, jfu.forget_client(data, [2])).retain, key
    )
    assert bits(state.variables) == bits(expected.variables)
    assert info.metrics["not_finite"] == 1
    assert info.clients.weight.tolist() == [7, 0, 5]


def test_a_head_that_is_not_finite_is_not_applied(data, model, variables):
    flat = lambda variables, x: jnp.ones((len(x), 1)) * jnp.array([[1e4, 2e4, 3e4, 5e4, 7e4]])
    model = model._replace(features=flat)
    fed = ridge.federation(model, penalty=1e-6)
    state, info = fed.round(fed.init(variables), data, jax.random.key(0))
    assert info.metrics["not_applied"] == 1
    assert bits(state.variables) == bits(variables)


@pytest.mark.parametrize("name", ["mlp", "small", "cnn", "resnet18_narrow", "vit_tiny"])
def test_every_network_has_a_ridge_head(name):
    model = models.build(name, classes=3, image_shape=(16, 16, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    fed = ridge.federation(model)
    data = jfu.stack(np.zeros((4, 16, 16, 1), np.uint8), [0, 1, 2, 0], [[0, 1], [2, 3]])
    state = jax.eval_shape(fed.init, variables)
    after, _ = jax.eval_shape(fed.round, state, data, jax.random.key(0))
    kind = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    assert kind(after) == kind(state)


def test_models_without_such_a_layer_are_refused(variables):
    plain = network()
    with pytest.raises(ValueError, match="does not give them"):
        ridge.federation(plain._replace(features=None)).init(variables)
    odd = {"params": {**variables["params"], "head": {"scale": jnp.ones(3)}}}
    with pytest.raises(ValueError, match="the last layer head has scale"):
        ridge.federation(plain).init(odd)


@pytest.mark.parametrize("penalty", [0, -1.0, np.nan, np.inf, True])
def test_penalties_that_cannot_be(model, penalty):
    with pytest.raises(ValueError, match="must be a number in"):
        ridge.federation(model, penalty=penalty)
