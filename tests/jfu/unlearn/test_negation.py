"""Negation: bits, running means, and negations that cancel."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import bits, network
from jfu.models import build
from jfu.unlearn.negation import negated

pytestmark = pytest.mark.conformance

FIRST = {"stem": {"kernel": True, "bias": True}, "head": {"kernel": False, "bias": False}}


# ---------------------------------------------------------------- negation

SPECIAL = [0.0, -0.0, 1.5, -3e38, 1e-45, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_negate_flips_the_sign_bit_and_twice_is_nothing(dtype):
    params = {"a": jnp.array(SPECIAL, jnp.float32).astype(dtype), "b": jnp.array(SPECIAL)}
    mask = {"a": True, "b": False}
    once = jfu.negate(params, mask)
    unsigned = jnp.uint32 if dtype == jnp.float32 else jnp.uint16
    flipped = np.asarray(params["a"].view(unsigned)) ^ (1 << (8 * params["a"].itemsize - 1))
    np.testing.assert_array_equal(np.asarray(once["a"].view(unsigned)), flipped)
    assert once["b"] is params["b"]
    assert bits(jfu.negate(once, mask)) == bits(params)
    assert bits(jax.jit(lambda p: jfu.negate(p, mask))(params)) == bits(once)


def test_both_readings_of_the_first_layer_are_one_in_a_resnet():
    """Its first convolution has no bias, so its running mean follows in both."""
    net = build("resnet18_narrow", classes=3, image_shape=(8, 8, 3), norm="batch")
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    ones = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), shapes)
    whole = negated(ones, jfu.by_layer(net, 0), net.follows)
    assert bits(negated(ones, jfu.first_weight(net), net.follows)) == bits(whole) != bits(ones)
    assert float(whole["batch_stats"]["stem_norm"]["mean"][0]) == -1


def test_negating_the_first_layer_turns_its_output_round(model, variables):
    """Weight and bias; so an odd activation feeds -h to the head."""
    params = variables["params"]
    turned = jfu.negate(params, jfu.select(params, jfu.by_layer(model, 0)))
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    stem, head = (jax.tree.map(np.asarray, params[name]) for name in ("stem", "head"))
    hidden = -np.tanh(x @ stem["kernel"] + stem["bias"])
    logits, _ = model.apply({"params": turned}, x)
    np.testing.assert_allclose(logits, hidden @ head["kernel"] + head["bias"], atol=1e-5)


@pytest.mark.parametrize(
    "mask",
    [
        {"stem": True, "head": {"kernel": True, "bias": False}},
        {"stem": {"kernel": True, "bias": True}},
        True,
        {**FIRST, "tail": True},
    ],
)
def test_negate_refuses_a_mask_of_another_structure(variables, mask):
    with pytest.raises(ValueError, match=r"the mask PyTreeDef.*differs from the parameters"):
        jfu.negate(variables["params"], mask)


@pytest.mark.parametrize(
    ("selector", "follows", "flipped"),
    [
        (jfu.by_path("stem/.*"), True, {"stem_norm"}),
        (jfu.by_path("stem/kernel"), True, set()),  # the bias stays: the output is not -Y
        (jfu.by_path("head/.*"), True, {"head_norm"}),
        (jfu.by_path(".*"), True, {"stem_norm", "head_norm"}),
        (jfu.by_path("stem/.*"), False, set()),
    ],
)
def test_running_means_follow_wholly_negated_layers(fed, variables, selector, follows, flipped):
    """Means change their sign; variances, and means of other layers, keep every bit."""
    stats = {
        f"{layer}_norm": {"mean": jnp.arange(3.0) - 1, "var": jnp.arange(3.0)}
        for layer in ("stem", "head")
    }
    pairs = (("stem_norm/mean", "stem"), ("head_norm/mean", "head"))
    method = jfu.negation(fed, selector, follows=pairs if follows else ())
    trained = jfu.Trained({**variables, "batch_stats": stats})
    after = method.perturb(trained, None, jax.random.key(0)).variables["batch_stats"]
    for name, old in stats.items():
        sign = -1 if name in flipped else 1
        assert bits(after[name]["mean"]) == bits(sign * old["mean"])
        assert bits(after[name]["var"]) == bits(old["var"])


# ---------------------------------------------------------------- negations that cancel


@pytest.mark.parametrize(
    ("activation", "layers", "bias", "refused"),
    [
        (jnp.tanh, [0, 1], 0.0, True),  # odd: the signs meet again
        (jnp.abs, 0, 0.0, True),  # even: the sign is lost
        (jnp.tanh, 0, 0.0, False),
        (jnp.tanh, 1, 0.0, False),
        (jnp.tanh, [0, 1], 1.0, False),  # biases that keep their sign break the symmetry
        (jax.nn.relu, [0, 1], 0.0, False),
        (jax.nn.relu, 0, 1.0, False),
    ],
)
def test_cancelling_negations_are_refused(activation, layers, bias, refused):
    """The kernels of one or two layers negated, with biases or without."""
    model = network(activation=activation)
    params = model.init(jax.random.key(2))["params"]
    for layer in params.values():
        layer["bias"] *= bias
    after = jfu.negate(params, jfu.select(params, jfu.by_layer(model, layers, weights_only=True)))
    x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    said = pytest.raises(ValueError, match=r"over 8 inputs.*The negations cancel")
    with said if refused else contextlib.nullcontext():
        jfu.check_changed(model.apply, {"params": params}, {"params": after}, x)


def test_check_changed_takes_logits_with_or_without_changes():
    x, one, two = jnp.ones((2, 1)), {"a": jnp.ones(())}, {"a": jnp.asarray(1.01)}
    for apply in (lambda v, x: x * v["a"], lambda v, x: (x * v["a"], {})):
        jfu.check_changed(apply, one, two, x)
        with pytest.raises(ValueError, match="cancel"):
            jfu.check_changed(apply, one, one, x)
        with pytest.raises(ValueError, match="cancel"):
            jfu.check_changed(apply, one, two, x, rtol=0.1)


@pytest.mark.parametrize(("slope", "alike"), [(0.0, True), (1e-7, True), (1e-3, False)])
def test_a_model_that_answers_all_inputs_alike(slope, alike):
    apply = lambda variables, x: (slope * x + variables, {})
    assert jfu.unlearn.answers_alike(apply, 2.0, jnp.arange(4.0)[:, None]) is alike
