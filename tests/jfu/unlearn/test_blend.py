"""NoT from a blended start: by hand, its two ends, types, running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import bits
from jfu.unlearn import blend, blended
from jfu.unlearn.blend import renewed
from jfu.unlearn.negation import negated

pytestmark = pytest.mark.conformance

SEED = 3  # a key is drawn from once, so each use makes it anew


def wide(a):
    return np.asarray(a, np.float64)


@pytest.mark.parametrize("keep", [None, 0.5])
def test_the_start_is_the_negated_model_mixed_with_a_fresh_one(fed, model, variables, keep):
    """In float64, with the negation of the first layer written out; the head has grown tenfold."""
    trained = jax.tree.map(lambda a: a, dict(variables))
    trained["params"]["head"] = jax.tree.map(lambda a: 10 * a, trained["params"]["head"])
    method = blended(fed, jfu.by_layer(model, 0), model.init, keep=keep)
    after = method.perturb(jfu.Trained(trained), None, jax.random.key(SEED)).variables["params"]
    fresh = model.init(jax.random.key(SEED))["params"]
    for layer, tensors in trained["params"].items():
        sign = -1.0 if layer == "stem" else 1.0
        for leaf, old in tensors.items():
            new, own = wide(fresh[layer][leaf]), sign * wide(old)
            a = min(0.5**0.5, np.linalg.norm(new) / np.linalg.norm(own))
            right = a * own + ((1 - a**2) ** 0.5 if own.ndim > 1 else 1 - a) * new
            right = right if keep is None else own / 2 + new / 2
            np.testing.assert_allclose(after[layer][leaf], right, rtol=1e-5, atol=1e-6)


def test_a_tensor_that_has_grown_is_cut_to_its_length_at_the_start():
    """Between once and sqrt(2) times its fresh draw, for directions that have nothing in common."""
    old, new = jnp.zeros((2, 100)).at[0].set(1), jnp.zeros((2, 100)).at[1].set(1)
    for grown in (2**0.5, 2.0, 10.0, 1e4):
        length = np.linalg.norm(wide(renewed(grown * old, new))) / 10
        assert abs(length - (2 - grown**-2) ** 0.5) < 1e-5


@pytest.mark.parametrize("grown", [0.0, 0.3, 1.0, 1.4])
def test_no_kernel_has_more_of_the_old_model_than_of_the_new_one(grown):
    old, new = jnp.array([[grown, grown], [0, 0]]), jnp.array([[0.0, 0.0], [1, 1]])
    right = 0.5**0.5 * np.array([[grown, grown], [1, 1]])
    np.testing.assert_allclose(renewed(old, new), right, rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(1.0, 1.0), (0.5, 0.6464), (2.0, 1.5), (-1.0, -0.4142)])
def test_the_scale_of_a_normalisation_stays_about_its_length(old, new):
    """Its draw is ones: 0.7071 w + 0.2929, or half of 2 and half of 1; a negated one stays."""
    np.testing.assert_allclose(renewed(jnp.full(3, old), jnp.ones(3)), [new] * 3, atol=1e-4)


def test_zeros_and_other_types_when_tensors_are_renewed():
    tree = {"b": jnp.array([2.0, 4.0], jnp.bfloat16), "z": jnp.zeros(3), "n": jnp.array(7)}
    fresh = {"b": jnp.zeros(2, jnp.bfloat16), "z": jnp.full(3, 0.1), "n": jnp.array(1)}
    new = renewed(tree, fresh)
    assert new["b"].dtype == jnp.bfloat16 and new["b"].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(new["z"], [0.1 * (1 - 0.5**0.5)] * 3, rtol=1e-5)
    assert int(new["n"]) == 7


def test_keeping_all_is_negation_and_keeping_nothing_is_retraining(fed, model, variables):
    start = lambda keep: (
        blended(fed, jfu.by_layer(model, 0), model.init, keep=keep)
        .perturb(jfu.Trained(variables), None, jax.random.key(SEED))
        .variables
    )
    assert bits(start(1)) == bits(negated(variables, jfu.by_layer(model, 0)))
    assert bits(start(0)) == bits(dict(model.init(jax.random.key(SEED))))


@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_types_stay_and_only_floats_are_blended(keep):
    tree = {"w": jnp.full(3, 300, jnp.float16), "b": jnp.ones(2, jnp.bfloat16), "n": jnp.array(7)}
    fresh = {
        "w": jnp.full(3, -100, jnp.float16),
        "b": jnp.zeros(2, jnp.bfloat16),
        "n": jnp.array(1),
    }
    new = blend(tree, fresh, keep)
    assert [new[name].dtype for name in "wbn"] == [tree[name].dtype for name in "wbn"]
    np.testing.assert_array_equal(new["w"], np.full(3, 300 * keep - 100 * (1 - keep)))
    np.testing.assert_array_equal(np.asarray(new["b"], np.float32), np.full(2, keep))
    assert int(new["n"]) == 7


def test_running_statistics_follow_and_are_blended(fed, model, variables):
    """The mean behind a negated layer changes its sign first; new statistics are 0 and 1."""
    stats = lambda mean, var: {"stem_norm": {"mean": jnp.array(mean), "var": jnp.array(var)}}
    trained = {**variables, "batch_stats": stats([2.0, -4.0], [9.0, 3.0])}
    init = lambda key: {**model.init(key), "batch_stats": stats([0.0, 0.0], [1.0, 1.0])}
    method = blended(
        fed, jfu.by_layer(model, 0), init, keep=0.5, follows=(("stem_norm/mean", "stem"),)
    )
    after = method.perturb(jfu.Trained(trained), None, jax.random.key(SEED)).variables[
        "batch_stats"
    ]["stem_norm"]
    assert after["mean"].tolist() == [-1.0, 2.0]
    assert after["var"].tolist() == [5.0, 2.0]


def test_a_blended_model_is_drawn_by_its_key_alone(fed, model, variables):
    method = blended(fed, jfu.by_layer(model, 0), model.init)
    draw = lambda key: bits(method.perturb(jfu.Trained(variables), None, key).variables)
    assert draw(jax.random.key(SEED)) == draw(jax.random.key(SEED)) != draw(jax.random.key(4))


@pytest.mark.parametrize("keep", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(fed, model, keep):
    with pytest.raises(ValueError, match=r"blended was given keep=.*must be a number in \[0, 1\]"):
        blended(fed, jfu.by_layer(model, 0), model.init, keep=keep)
