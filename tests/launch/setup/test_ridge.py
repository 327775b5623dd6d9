"""What flags mean for a ridge federation: its methods, its features, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
import jfu.io
from helpers.federation import bits, network
from helpers.workdirs import PLAIN, changed
from jfu.models import build
from jfu.unlearn import UNLEARNERS, traits_of
from launch.setup import federation, idle, keys, ridge

RIDGE = changed(PLAIN, federation="ridge")


@pytest.mark.parametrize("name", UNLEARNERS)
def test_methods_of_another_kind_of_federation_are_refused(name):
    if traits_of(name).solves:
        federation.check(RIDGE, [name])
        with pytest.raises(ValueError, match=f"{name} answers requests to ridge heads on frozen"):
            federation.check(PLAIN, [name])
    elif name in ("retrain", "none"):
        federation.check(RIDGE, [name])
    else:
        with pytest.raises(ValueError, match=f"{name} trains on from the old model, and --feder"):
            federation.check(RIDGE, [name])


def test_a_server_of_sums_has_the_answer_by_subtraction():
    hidden = changed(RIDGE, sum_only=True)
    federation.check(hidden, ["retrain", "none", "ridge_subtract"])
    with pytest.raises(ValueError, match="ridge needs single updates at the server, which --sum_o"):
        federation.check(hidden, ["ridge"])
    assert (ridge.usual(True), ridge.usual(False)) == ("ridge_subtract", "ridge")
    assert ridge.methods([], False, True) == ["retrain", "none", "ridge_subtract"]
    assert ridge.methods(["all"], True, True) == ["retrain", "none", "ridge_subtract"]
    assert ridge.kept(hidden) == ("total",)
    assert ridge.kept(RIDGE) == ("statistics", "total")
    assert ridge.kept(PLAIN) == ()


@pytest.mark.parametrize("name", idle.STEPS)
def test_flags_of_steps_are_refused(name):
    with pytest.raises(ValueError, match=f"--{name} does nothing with"):
        federation.check(RIDGE, given=[name])


@pytest.mark.parametrize("name", ["penalty", "features"])
def test_flags_of_ridge_heads_need_them(name):
    with pytest.raises(ValueError, match=f"--{name} does nothing with --federation=fedavg; add"):
        federation.check(PLAIN, given=[name])
    federation.check(RIDGE, given=[name])


def test_a_penalty_of_zero_is_refused():
    with pytest.raises(ValueError, match="--penalty=0 is no ridge"):
        federation.check(changed(RIDGE, penalty=0.0))


def test_retraining_has_the_features_of_training_and_the_second_one_has_others():
    key = jax.random.key(3)
    drawn = lambda name, **more: bits(jax.random.key_data(keys.run(key, name, **more)))
    assert drawn("retrain", frozen=True) == drawn("original") == drawn("train")
    assert len({drawn(n, frozen=True) for n in ("retrain", "retrain_again", "retrain_third")}) == 3
    assert drawn("retrain") != drawn("original")


# ---------------------------------------------------------------- features


@pytest.fixture
def shapes():
    return jax.eval_shape(network().init, jax.random.key(0))


def test_features_are_drawn_unless_they_are_given(shapes):
    model = network()
    assert ridge.frozen(model, shapes, None, None) is model
    given = model.init(jax.random.key(9))
    fixed = ridge.frozen(model, shapes, given, None)
    for key in (0, 1):
        found = fixed.init(jax.random.key(key))["params"]
        assert bits(found["stem"]) == bits(given["params"]["stem"])
        assert not any(map(np.any, found["head"].values()))


@pytest.mark.parametrize("head", ["other", "none"])
def test_a_file_of_features_may_have_any_last_layer(tmp_path, shapes, head):
    """Such as one for the thousand classes that it was trained on."""
    model = network()
    params = dict(model.init(jax.random.key(9))["params"])
    stem = params["stem"]
    params = (
        dict(stem=stem, head=dict(kernel=jnp.ones((5, 7)))) if head == "other" else dict(stem=stem)
    )
    jfu.io.save_params(tmp_path / "m.safetensors", dict(params=params))
    fixed = ridge.frozen(model, shapes, None, tmp_path / "m.safetensors")
    found = fixed.init(jax.random.key(0))["params"]
    assert bits(found["stem"]) == bits(stem)
    assert {n: a.shape for n, a in found["head"].items()} == dict(bias=(3,), kernel=(5, 3))
    with pytest.raises(ValueError, match="head"):
        jfu.io.adopt(tmp_path / "m.safetensors", shapes)


def test_other_layers_of_a_file_must_be_those_of_the_model(tmp_path, shapes):
    wrong = dict(params=dict(stem=dict(kernel=jnp.ones((3, 5)), bias=jnp.ones(5))))
    jfu.io.save_params(tmp_path / "m.safetensors", wrong)
    with pytest.raises(ValueError, match="stem/kernel"):
        ridge.frozen(network(), shapes, None, tmp_path / "m.safetensors")


def test_operations_of_a_block_are_those_of_features_and_sums():
    """A hidden layer of 200, then a matrix of 201 x 201 and one of 201 x 3: two for each entry."""
    model = build("mlp1", classes=3, image_shape=(8, 8, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    abstract = jax.ShapeDtypeStruct
    batch = jfu.Batch(
        abstract((16, 8, 8, 1), jnp.uint8), abstract((16,), jnp.int32), abstract((16,), jnp.float32)
    )
    counted = jfu.step_flops(ridge.block(model), variables, batch, forward=True)
    products = 2 * 16 * (64 * 200 + 201 * 201 + 201 * 3)
    assert products < counted < 1.1 * products
