"""Perturbations of equal norm: noise, fresh draws and permutations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.federation import bits, network
from jfu.unlearn import add_noise, redraw, shuffle

pytestmark = pytest.mark.conformance

FIRST = {"stem": {"kernel": True, "bias": True}, "head": {"kernel": False, "bias": False}}


def _perturbed(name, params, mask, key):
    if name == "noise":
        return add_noise(params, mask, key)
    if name == "permute":
        return shuffle(params, mask, key)
    fresh = network().init(jax.random.key(99))["params"]
    return redraw(params, mask, {**fresh, "stem": {**fresh["stem"], "bias": jnp.zeros(5)}}, key)


@pytest.mark.parametrize("name", ["noise", "reinit", "permute"])
def test_controls_keep_norms_and_leave_the_rest(variables, name):
    """Kernel and bias each; even a bias whose initialiser draws zeros moves."""
    params = variables["params"]
    after = _perturbed(name, params, FIRST, jax.random.key(0))
    assert bits(after["head"]) == bits(params["head"])
    for leaf in ("kernel", "bias"):
        old, new = (np.asarray(p["stem"][leaf], np.float64) for p in (params, after))
        np.testing.assert_allclose(np.linalg.norm(new), np.linalg.norm(old), rtol=1e-5)
        assert np.abs(new - old).max() > 0.01 * np.abs(old).max()
        assert np.abs(new + old).max() > 0.01 * np.abs(old).max()
        assert new.dtype == old.dtype
    if name == "permute":
        kernel = lambda p: sorted(np.asarray(p["stem"]["kernel"]).ravel().tolist())
        assert kernel(after) == kernel(params)
    other = _perturbed(name, params, FIRST, jax.random.key(1))
    assert bits(other["stem"]) != bits(after["stem"])
    assert bits(_perturbed(name, params, FIRST, jax.random.key(0))) == bits(after)


@pytest.mark.parametrize("name", ["noise", "reinit", "permute"])
def test_controls_draw_for_each_tensor_separately(name):
    """Two equal tensors do not get the same draw."""
    params = {"a": jnp.arange(40.0), "b": jnp.arange(40.0)}
    mask, key = {"a": True, "b": True}, jax.random.key(0)
    fresh = {"a": jnp.zeros(40), "b": jnp.zeros(40)}
    after = {
        "noise": lambda: add_noise(params, mask, key),
        "reinit": lambda: redraw(params, mask, fresh, key),
        "permute": lambda: shuffle(params, mask, key),
    }[name]()
    assert bits(after["a"]) != bits(after["b"])


def test_zeros_stay_zeros_and_finite():
    zeros, ones = {"w": jnp.zeros((3, 4))}, {"w": jnp.ones((3, 4))}
    assert bits(add_noise(zeros, {"w": True}, jax.random.key(0))) == bits(zeros)
    assert not np.any(redraw(zeros, {"w": True}, ones, jax.random.key(0))["w"])


def test_reinit_is_the_rescaled_fresh_draw():
    params, fresh = {"w": jnp.array([[3.0, 4.0]])}, {"w": jnp.array([[2.0, -2.0]])}
    new = redraw(params, {"w": True}, fresh, jax.random.key(0))["w"]
    np.testing.assert_allclose(new, [[5 / 2**0.5, -5 / 2**0.5]], rtol=1e-6)
