"""NoT from a blended start: by hand, its two ends, types, running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import bits
from jfu.unlearn import blend, blended
from jfu.unlearn.negation import negated

pytestmark = pytest.mark.conformance

KEY = jax.random.key(3)


def test_the_start_is_half_the_negated_model_and_half_a_fresh_one(fed, model, variables):
    """In float64, with the negation of the first layer written out."""
    method = blended(fed, jfu.by_layer(model, 0), model.init)
    after = method.perturb(jfu.Trained(variables), None, KEY).variables["params"]
    fresh = model.init(KEY)["params"]
    for layer, tensors in variables["params"].items():
        sign = -1.0 if layer == "stem" else 1.0
        for leaf, old in tensors.items():
            wide = lambda a: np.asarray(a, np.float64)
            right = sign * wide(old) / 2 + wide(fresh[layer][leaf]) / 2
            np.testing.assert_allclose(after[layer][leaf], right, rtol=1e-6, atol=1e-7)


def test_keeping_all_is_negation_and_keeping_nothing_is_retraining(fed, model, variables):
    start = lambda keep: (
        blended(fed, jfu.by_layer(model, 0), model.init, keep=keep)
        .perturb(jfu.Trained(variables), None, KEY)
        .variables
    )
    assert bits(start(1)) == bits(negated(variables, jfu.by_layer(model, 0)))
    assert bits(start(0)) == bits(dict(model.init(KEY)))


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
    method = blended(fed, jfu.by_layer(model, 0), init, follows=(("stem_norm/mean", "stem"),))
    after = method.perturb(jfu.Trained(trained), None, KEY).variables["batch_stats"]["stem_norm"]
    assert after["mean"].tolist() == [-1.0, 2.0]
    assert after["var"].tolist() == [5.0, 2.0]


def test_a_blended_model_is_drawn_by_its_key_alone(fed, model, variables):
    method = blended(fed, jfu.by_layer(model, 0), model.init)
    draw = lambda key: bits(method.perturb(jfu.Trained(variables), None, key).variables)
    assert draw(KEY) == draw(KEY) != draw(jax.random.key(4))


@pytest.mark.parametrize("keep", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(fed, model, keep):
    with pytest.raises(ValueError, match=r"keep is .*share, in \[0, 1\]"):
        blended(fed, jfu.by_layer(model, 0), model.init, keep=keep)
