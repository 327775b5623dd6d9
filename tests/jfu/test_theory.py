"""The theorems' quantities against numbers by hand and NumPy in float64, and planted failures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfu import theory
from launch.studies import theorems

KEY = jax.random.key(0)
ACTIVATIONS = theory.ACTIVATIONS.items()


def test_the_activations_against_numpy():
    y = np.linspace(-3, 3, 13)
    normal = np.array([math.erf(v / math.sqrt(2)) for v in y]) / 2 + 0.5
    known = dict(identity=y, tanh=np.tanh(y), relu=np.maximum(y, 0), gelu=y * normal)
    assert list(theory.ACTIVATIONS) == list(known)
    for name, activation in ACTIVATIONS:
        np.testing.assert_allclose(activation(jnp.asarray(y)), known[name], atol=1e-6)


@pytest.mark.parametrize(("name", "activation"), ACTIVATIONS)
def test_a_chain_and_its_negation(name, activation):
    """An odd activation turns the first layer's sign into that of the logits, ReLU does not."""
    weights, x = theory.chain(KEY, (3, 4, 4, 2)), jnp.asarray(np.eye(3), jnp.float32)
    f = lambda w: theory.preactivations(activation, w, x)
    plain, one, two = (
        f(weights),
        f(theory.negated(weights, [0])),
        f(theory.negated(weights, [0, 1])),
    )
    assert [y.shape for y in plain] == [(3, 4), (3, 4), (3, 2)]
    np.testing.assert_array_equal(one[0], -plain[0])
    odd = name in ("identity", "tanh")
    assert np.allclose(one[-1], -plain[-1], atol=1e-6) == odd
    assert np.allclose(two[-1], plain[-1], atol=1e-6) == odd
    with pytest.raises(IndexError):
        theory.negated(weights, [3])


# ---------------------------------------------------------------- Theorem 1

RATES = np.array([1.0, 3.0])  # of the retained loss, a quadratic
OTHERS, CENTRE = np.array([2.0, 0.5]), np.array([1.0, -1.0])  # of the forgotten loss
BEGIN = np.array([2.0, 1.0])


def retained(w):
    return 0.5 * (jnp.asarray(RATES, jnp.float32) * w["w"] ** 2).sum()


def forgotten(w):
    away = w["w"] - jnp.asarray(CENTRE, jnp.float32)
    return 0.5 * (jnp.asarray(OTHERS, jnp.float32) * away**2).sum()


def flow(kept, lost, start, target, **how):
    return jax.jit(lambda: theory.time_bound(kept, lost, start, target, KEY, **how))()


def exact(t):
    """Both losses along the gradient flow, ``w_i = w_i(0) exp(-rate_i t)``."""
    w = BEGIN[None] * np.exp(-np.outer(t, RATES))
    return 0.5 * (RATES * w**2).sum(1), 0.5 * (OTHERS * (w - CENTRE) ** 2).sum(1)


def test_smoothness_is_the_largest_absolute_eigenvalue():
    matrix = np.random.default_rng(0).normal(size=(6, 6))
    matrix = matrix + matrix.T - 2 * np.eye(6)
    loss = lambda w: 0.5 * jnp.vdot(w["a"], jnp.asarray(matrix, jnp.float32) @ w["a"])
    found = theory.smoothness(loss, {"a": jnp.ones(6)}, KEY, iterations=300)
    np.testing.assert_allclose(found, np.abs(np.linalg.eigvalsh(matrix)).max(), rtol=1e-4)
    assert theory.smoothness(lambda w: w["a"].sum(), {"a": jnp.ones(6)}, KEY) == 0


@pytest.mark.parametrize("target", [0.7, 0.2])
def test_time_and_bound_of_a_flow_that_is_known(target):
    """The gap falls from 1.5 through the target at a time that float64 knows."""
    t = np.linspace(0, 2, 2_000_001)
    kept, lost = exact(t)
    gap = np.abs(kept - lost)
    at = (gap <= target).argmax()
    assert gap[0] == 1.5 and at > 0
    speeds = (np.sqrt(2 * 2 * lost) + np.sqrt(2 * 3 * kept)) * np.sqrt(2 * 3 * kept)
    bound = (gap[0] - target) / speeds[: at + 1].max()
    found = flow(retained, forgotten, {"w": BEGIN.astype("f")}, target, rate=1e-3, steps=2000)
    assert found.reached
    np.testing.assert_allclose(found.time, t[at], rtol=3e-3)
    np.testing.assert_allclose(found.bound, bound, rtol=3e-3)
    np.testing.assert_allclose(found.ratio, bound / t[at], rtol=5e-3)
    assert 0.05 < found.ratio < 1 and 0.05 < found.nearest < 1
    assert theorems.consistent(found)


def one_dimension(target=0.75, **how):
    """Retained ``3/2 w^2``, forgotten 0: the speed of the gap is the one allowed, always."""
    kept, lost = lambda w: 1.5 * w**2, lambda w: 0.0 * w
    return flow(kept, lost, jnp.ones(()), target, rate=1e-3, steps=400, **how)


def test_a_bound_that_is_not_vacuous_and_twice_it_fails():
    """From 1.5 to a half in log(2) / 6; the bound is 0.75 / (6 * 1.5)."""
    found = one_dimension()
    np.testing.assert_allclose(found.time, math.log(2) / 6, rtol=3e-3)
    np.testing.assert_allclose(found.bound, 1 / 12, rtol=1e-4)
    np.testing.assert_allclose(found.ratio, 0.5 / math.log(2), rtol=3e-3)
    np.testing.assert_allclose(found.nearest, 1, atol=3e-3)
    assert theorems.consistent(found._replace(nearest=found.nearest - 3e-3))
    assert not theorems.consistent(found._replace(ratio=2 * found.ratio))
    assert not theorems.consistent(found._replace(nearest=2 * found.nearest))


def test_a_loss_without_smoothness_breaks_the_bound():
    """The slope of ``|w|`` is 1 and its Hessian 0, so any change is too quick."""
    found = flow(jnp.abs, lambda w: 0.0 * w, jnp.ones(()), 0.5, rate=1e-2, steps=100)
    np.testing.assert_allclose(found.time, 0.5, rtol=1e-2)
    assert found.ratio == jnp.inf and not theorems.consistent(found)


def test_a_target_that_is_not_reached_counts_the_whole_way():
    short = one_dimension(target=-1.0)
    assert not short.reached
    np.testing.assert_allclose(short.time, 0.399, rtol=1e-5)
    np.testing.assert_allclose(short.bound, (1 - math.exp(-6 * 0.399)) / 6, rtol=3e-3)
    with pytest.raises(ValueError, match="no multiple of every, 300"):
        one_dimension(every=300)


# ---------------------------------------------------------------- Theorem 2

# Distances of standard Gaussian pairs by 4e6 draws, at these correlations.
RHOS = (-1.0, -0.5, 0.0, 0.5, 0.9)
DISTANCES = dict(
    relu=(1.000, 0.891, 0.682, 0.391, 0.090),
    gelu=(1.000, 0.895, 0.691, 0.396, 0.089),
    tanh=(1.576, 1.161, 0.788, 0.416, 0.090),
    identity=(4.0, 3.0, 2.0, 1.0, 0.2),
)


def test_the_closed_form_of_relu():
    np.testing.assert_allclose(theory.relu_distance(np.array(RHOS)), DISTANCES["relu"], atol=6e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_of_gaussian_pairs(name):
    """A million draws: deviations below 0.006."""
    y, z = np.random.default_rng(1).standard_normal((2, 1_000_000), np.float32)
    pairs = [y * rho + z * np.sqrt(1 - rho**2, dtype=np.float32) for rho in RHOS]
    far = [theory.activation_distance(theory.ACTIVATIONS[name], y, pair) for pair in pairs]
    np.testing.assert_allclose(far, DISTANCES[name], atol=0.012)
    assert np.all(np.diff(far) < 0)  # the farther the less alike: negation is the largest


def test_the_distance_of_negation_by_hand():
    y = np.random.default_rng(0).normal(1, 2, (50, 3)).astype(np.float32)
    far = lambda f: float(theory.activation_distance(f, jnp.asarray(y), jnp.asarray(-y)))
    for name in ("relu", "gelu"):
        assert far(theory.ACTIVATIONS[name]) == pytest.approx((y**2).mean(), rel=1e-5)
    assert far(jnp.tanh) == pytest.approx(4 * (np.tanh(y) ** 2).mean(), rel=1e-5)
    assert far(jnp.abs) == far(jnp.cosh) == 0  # even: negation does nothing


def test_other_weights_have_the_same_norm():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    other = theory.equal_norm(weight, KEY)
    for w in other.values():
        assert jnp.linalg.norm(w) == pytest.approx(float(jnp.linalg.norm(weight)), rel=1e-5)
        assert float(jnp.abs(w - weight).max()) > 0.1 and float(jnp.abs(w + weight).max()) > 0.1
    gram = lambda w: w.T @ w
    np.testing.assert_allclose(gram(other["rotated"]), gram(weight), atol=1e-5)
    np.testing.assert_array_equal(jnp.sort(other["permuted"].ravel()), jnp.sort(weight.ravel()))


@pytest.mark.parametrize("name", ["identity", "relu"])
def test_no_search_beats_negation_on_white_inputs_and_one_does_on_others(name):
    """Inputs along one axis: the weights that lie along it are farther than the negated ones."""
    activation = theory.ACTIVATIONS[name]
    weight, start = jnp.array([[3.0], [4.0]]), jnp.array([[-5.0], [1.0]])
    white = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    far = lambda x, w: float(theory.activation_distance(activation, x @ weight, x @ w))
    search = lambda x: theorems.farthest(activation, weight, x, start, steps=200)
    assert far(white, search(white)) <= far(white, -weight) * (1 + 1e-5)
    axis = white * jnp.array([1.0, 0.0])[None]
    assert jnp.linalg.norm(search(axis)) == pytest.approx(5, rel=1e-5)
    assert far(axis, search(axis)) > 1.5 * far(axis, -weight)


# ---------------------------------------------------------------- Theorem 3


def test_wasserstein_against_quantiles():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(8, 5)), rng.normal(2, 3, (5, 8))
    steps = [sorted(a.ravel()) for a in (one, other)]
    expected = sum(abs(a - b) for a, b in zip(*steps, strict=True)) / 40
    np.testing.assert_allclose(theory.wasserstein(one, other), expected, rtol=1e-5)
    np.testing.assert_allclose(theory.wasserstein(one, one + 3), 3, rtol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.25, 1.0])
def test_total_variation_of_a_shifted_gaussian(mean):
    """``TV(N(m, 1), N(-m, 1)) = erf(m / sqrt 2)``."""
    y = np.random.default_rng(0).normal(mean, 1, (400, 1000)).astype(np.float32)
    expected = math.erf(mean / math.sqrt(2))
    np.testing.assert_allclose(theory.total_variation(y), expected, atol=0.012)


def test_total_variation_against_a_histogram():
    y = np.random.default_rng(2).gamma(2.0, size=300) - 1
    counts, _ = np.histogram(y, np.linspace(-np.abs(y).max(), np.abs(y).max(), 21))
    expected = np.abs(counts - counts[::-1]).sum() / 2 / 300
    np.testing.assert_allclose(theory.total_variation(jnp.asarray(y), bins=20), expected, rtol=1e-6)
    assert theory.total_variation(jnp.abs(y)) == 1
    assert theory.total_variation(jnp.zeros(5)) == 0


def test_jacobians_against_numpy():
    """ReLU: the Jacobian of the later layers is a product of matrices with rows crossed out."""
    rng = np.random.default_rng(0)
    sizes = (5, 6, 7, 3)
    before = [rng.normal(size=s) for s in zip(sizes[:-1], sizes[1:], strict=True)]
    after, x = [-before[0], *before[1:]], rng.normal(size=(4, 5))

    def values(weights):
        first, second, third = weights
        on = np.maximum(x @ first, 0) @ second > 0
        return np.array([np.linalg.svd(second @ (live[:, None] * third))[1] for live in on])

    old, new = values(before), values(after)
    expected = np.abs(np.sort(old.ravel()) - np.sort(new.ravel())).mean() / old.mean()
    found = theory.jacobian_distance(
        jax.nn.relu, *jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (before, after, x))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected > 0.02


def test_odd_activations_keep_jacobians_under_negation_and_not_otherwise():
    weights, x = theory.chain(KEY, (5, 8, 8, 3)), jax.random.normal(KEY, (9, 5))
    new = theory.chain(jax.random.key(1), (5, 8))

    @jax.jit
    def far(first):
        return theory.jacobian_distance(jnp.tanh, weights, (first, *weights[1:]), x)

    assert far(-weights[0]) < 1e-5 < 0.01 < far(3 * new[0])


# ---------------------------------------------------------------- Theorem 4

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
TRAINED = tuple(
    np.random.default_rng(2 + i).normal(size=s).astype(np.float32)
    for i, s in enumerate(((3, 4), (4, 2)))
)


def squares(activation, x=X, y=Y):
    return lambda w: ((theory.preactivations(activation, w, x)[-1] - y) ** 2).mean()


def minima(loss, weights, **how):
    weights = tuple(jnp.asarray(w) for w in weights)
    return np.asarray(jax.jit(lambda w: theory.layerwise_minima(loss, w, **how))(weights))


def test_a_linear_chain_is_repaired_by_the_other_layer_and_two_flips_do_nothing():
    loss = squares(theory.ACTIVATIONS["identity"])
    one, two = theory.negated(TRAINED, [0]), theory.negated(TRAINED, [0, 1])
    assert float(loss(two)) == float(loss(TRAINED))
    assert float(loss(one)) != pytest.approx(float(loss(TRAINED)), rel=0.01)
    # No step is taken: only the flips themselves.
    start = [minima(loss, w, steps=1) for w in (TRAINED, one)]
    np.testing.assert_array_equal(start[0], start[1])
    np.testing.assert_allclose(start[0], float(loss(TRAINED)), rtol=1e-6)
    np.testing.assert_allclose(*(minima(loss, w, steps=40) for w in (TRAINED, one)), rtol=1e-5)


def test_the_minimum_over_one_layer_is_least_squares():
    """The last layer's minimum is a linear regression on the hidden units."""
    for weights in (TRAINED, theory.negated(TRAINED, [0])):
        hidden = np.maximum(X @ weights[0], 0).astype(np.float64)
        rest = Y - hidden @ np.linalg.lstsq(hidden, Y, rcond=None)[0]
        found = minima(squares(jax.nn.relu), weights, steps=600, rate=0.03)[1]
        np.testing.assert_allclose(found, (rest**2).mean(), rtol=1e-3)


def test_relu_may_lose_what_no_other_layer_brings_back():
    """Positive inputs and weights: a negated first layer passes nothing on."""
    x, trained = np.abs(X), (np.abs(TRAINED[0]), TRAINED[1])
    y = np.maximum(x @ trained[0], 0) @ trained[1]
    loss = squares(jax.nn.relu, x, y)
    before, after = (minima(loss, w, steps=20) for w in (trained, theory.negated(trained, [0])))
    nothing = 1e-12 * (y**2).mean()  # products of two libraries differ in rounding
    assert before.max() < nothing
    np.testing.assert_allclose(after[1], float(loss((0 * trained[0], trained[1]))), rtol=1e-5)
    assert after[0] < nothing  # it can flip back itself


def test_an_even_activation_makes_negation_nothing():
    loss, one = squares(jnp.abs), theory.negated(TRAINED, [0])
    assert float(loss(one)) == float(loss(TRAINED))
    np.testing.assert_array_equal(*(minima(loss, w, steps=20) for w in (TRAINED, one)))
