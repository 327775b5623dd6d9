"""Distances between models against numbers worked out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jfu import distance


def test_distances_of_probabilities():
    p, q = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), np.array([[0.5, 0.0, 0.5], [1.0, 0, 0]])
    np.testing.assert_allclose(distance.activation_distance(p, q), [math.sqrt(0.5), 0])
    # m = (1/2, 1/4, 1/4): KL of either is 1/2 log2 1 + 1/2 log2 2 = 1/2.
    np.testing.assert_allclose(distance.js_divergence(p, q), [0.5, 0], atol=1e-12)
    assert distance.agreement(p, q).tolist() == [True, True]
    assert distance.agreement(p, 1 - q).tolist() == [False, False]


def test_cka_ignores_rotation_scale_and_shift_and_nothing_else():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 6))
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert distance.cka(a, 3 * a @ turned - 5) == pytest.approx(1)
    assert distance.cka(a, -a.reshape(50, 2, 3)) == pytest.approx(1)
    b = rng.normal(size=(50, 9))
    centred = lambda x: x - x.mean(0)
    x, y = centred(a), centred(b)
    norm = np.linalg.norm
    wanted = norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert distance.cka(a, b) == pytest.approx(wanted) and wanted < 0.5
    assert math.isnan(distance.cka(a, np.ones((50, 3))))


def test_tug_of_war_multiplies_what_is_left():
    retrained = dict(retain=100.0, forget=50.0, test=90.0)
    assert distance.tug_of_war(retrained, retrained) == 1
    model = dict(retain=90.0, forget=100.0, test=80.0)
    assert distance.tug_of_war(model, retrained) == pytest.approx(0.9 * 0.5 * 0.9)


def test_barrier_is_the_hill_above_the_chord():
    # Loss w^2 is convex: no hill. cos has one between two troughs; the chord there is -1.
    square = lambda w: (w["a"] ** 2).sum()
    two = lambda x: {"a": jnp.array([x])}
    assert distance.barrier(square, two(-3.0), two(1.0)) == 0
    wave = lambda w: jnp.cos(w["a"]).sum()
    assert distance.barrier(wave, two(-math.pi), two(math.pi)) == pytest.approx(2, abs=1e-5)
    # From 0 to 3 and 4 (t - t^2) above the chord, which is not level.
    slope = lambda w: float(3 * w + 4 * w * (1 - w))
    assert distance.barrier(slope, 0.0, 1.0) == pytest.approx(1)


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_way_over_what_is_not_finite_is_no_flat_one(where):
    broken = lambda w: math.nan if w == where else 1.0
    assert math.isnan(distance.barrier(broken, 0.0, 1.0))
    assert distance.barrier(lambda w: math.inf if w == 0.5 else 1.0, 0.0, 1.0) == math.inf


def test_relative_distance_is_over_all_parameters():
    a, b = {"x": np.array([3.0, 0.0]), "y": np.array(1.0)}, {"x": np.array([0.0, 0.0]), "y": 5.0}
    assert distance.relative(a, b) == pytest.approx(5 / 5)
