"""Networks that a user names: read, made, checked, and what is wrong with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import own_networks
from jfu.models import from_linen, own
from jfu.models.watching import MODES, mode

FILE = own_networks.__file__
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8)


@pytest.mark.parametrize("name", ["Linen", "Nnx", "with_rate", "by_hand"])
def test_what_a_file_defines_is_a_model(name):
    model = own.as_model(own.read(f"{FILE}:{name}"), IMAGES, 10, name=name)
    own.check(model, IMAGES, (10,), name)
    assert model.layers[-1] == ("" if name == "by_hand" else "a_head")


def test_modules_get_images_as_floats_and_models_as_they_are():
    x = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    module = own.as_model(own.read("helpers.own_networks:Plain"), IMAGES, 10)
    variables = module.init(jax.random.key(0))
    floats = own_networks.Plain(10, (8, 8, 1), nnx.Rngs(jax.random.key(0)))(x / np.float32(255))
    np.testing.assert_allclose(module.apply(variables, x)[0], floats, rtol=1e-5, atol=1e-6)
    model = own.as_model(own_networks.by_hand, IMAGES, 10)
    w = model.init(jax.random.key(0))["params"]["w"]
    out, _ = model.apply({"params": {"w": w}}, x)
    np.testing.assert_allclose(out, x.reshape(2, 64) @ np.float64(w), rtol=1e-5)


def test_the_arguments_that_switch_training_on():
    on = dict(train=True, training=True, is_training=True, deterministic=False)
    assert mode(MODES, True, None) == on
    assert mode(MODES, False, None) == {name: not value for name, value in on.items()}
    assert mode(("x", "training"), True, None) == dict(training=True)


def test_dropout_and_statistics_that_are_never_on_are_told_once():
    words = "Idle has dropout and batch statistics that training never switches on; let its "
    words += "__call__ take train .or training, is_training, deterministic. and pass it on"
    with pytest.warns(UserWarning, match=words) as told:
        from_linen(own_networks.Idle(), jnp.zeros((1, 3)))
    assert len(told) == 1


WRONG = {
    f"{FILE}:broken": "broken fails: KeyError: 'a line",
    f"{FILE}:too_wide": r"gives float32 \[2, 8, 8, 11\] for 2 .* and floats \[2, 10\] are wanted",
    f"{FILE}:made_already": "is an NNX module that has its parameters already, .* function of rngs",
    f"{FILE}:number": "number gives is a int; it must be a Linen, NNX or Equinox module",
    f"{FILE}:nothing": "has no parameters; its variables need a collection 'params'",
    f"{FILE}:Nett": r"has no Nett; it has Linen, Nnx, Plain, PlainLinen, Idle, with_rate, by_hand",
    f"{FILE}:math": "is a module; it must be a Linen, NNX or Equinox module, its class, or",
    "no/such.py:Net": "there is no file no/such.py",
    "no.such:Net": "the module no of no.such:Net cannot|the module no.such of .* cannot be found",
    "nosuchmodule:Net": "there is no module nosuchmodule, .* named with its ending",
    "net.py:": "names no network; write path/to/file.py:Net",
    "helpers.own_networks:a b": "names no network",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_network_is_a_sentence(text):
    with pytest.raises(ValueError, match=WRONG[text]) as error:
        own.check(own.as_model(own.read(text), IMAGES, 10, name=text), IMAGES, (10,), text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import beside\nNet = beside.Net", "has no Nothing; it defines nothing"),
    ],
)
def test_a_file_that_cannot_be_run_is_a_sentence(tmp_path, text, words):
    (tmp_path / "beside.py").write_text("Net = 3")
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(ValueError, match=words):
        own.read(f"{tmp_path}/net.py:Nothing")
