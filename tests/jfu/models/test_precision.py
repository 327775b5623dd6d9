"""Half precision, and products in full."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.networks import Mixed, images_of, started
from jfu.local import classification
from jfu.models import at_precision, build, from_linen
from jfu.types import Batch


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_half_precision_rounds_to_eight_bits_and_keeps_types(norm):
    if norm == "group":
        model, x = (
            build("small", classes=3, image_shape=(8, 8, 1), norm=norm),
            images_of(0, 6, 8, 8, 1),
        )
    else:
        model, x = from_linen(Mixed(), jnp.zeros((2, 3))), np.random.default_rng(0).random((6, 3))
    short = at_precision(model, "bf16")
    variables, x = started(model), jnp.asarray(x)
    batch = Batch(x, jnp.arange(6) % 2, jnp.ones(6))

    def step(model):
        loss = lambda variables: classification(model.apply)(variables, batch, jax.random.key(0))
        (value, changed), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
        return value, changed, slope["params"]

    exact, rounded = step(model), step(short)
    assert {a.dtype for a in jax.tree.leaves(rounded)} == {jnp.dtype(jnp.float32)}
    assert jax.tree.structure(exact) == jax.tree.structure(rounded)
    assert 0 < abs(float(exact[0] - rounded[0])) < 0.02
    for a, b in zip(*(jax.tree.leaves(s[1]) for s in (exact, rounded)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.002)  # means of rounded values
    logits = jax.jit(short.apply)(variables, x)[0]
    assert (logits == logits.astype(jnp.bfloat16)).all()
    assert jax.eval_shape(short.features, variables, x).dtype == jnp.float32
    both = functools.partial(short.apply_features, train=True, key=jax.random.key(0))
    of_half, features, _ = jax.jit(both)(variables, x)
    assert features.dtype == of_half.dtype == jnp.float32
    assert (features == features.astype(jnp.bfloat16)).all()


def test_half_precision_of_a_dense_network_by_hand():
    model = at_precision(build("mlp1", classes=2, image_shape=(1, 1, 1)), "bf16")
    variables = jax.tree.map(jnp.zeros_like, started(model))
    variables["params"]["stem"]["kernel"] += 1 + 2**-9  # 1 with seven bits after the point
    variables["params"]["head"]["kernel"] += jnp.zeros((200, 2)).at[0].set(1.0)
    logits = model.apply(variables, jnp.array([[[[3.0 + 2**-7]]]]))[0]
    assert logits.tolist() == [[3.0, 3.0]]  # 3.0078125 is half-way between 3 and 3.015625


def test_products_in_full_are_asked_for_in_both_directions():
    model = build("mlp", classes=2, image_shape=(2, 2, 1))
    variables, x = started(model), jnp.ones((1, 2, 2, 1))
    for precision, word in dict(float32="HIGHEST", tf32="HIGH").items():
        apply = at_precision(model, precision).apply
        text = str(jax.make_jaxpr(jax.grad(lambda v: apply(v, x)[0].sum()))(variables))
        asked = text.count(f"precision=(Precision.{word}, Precision.{word})")
        # 3 forward, 5 back, and the images' slope, which is dropped when this is compiled
        assert asked == text.count("= dot_general[") == 9
    assert at_precision(model, None) is model
    with pytest.raises(ValueError, match="no precision 'half'; choose one of"):
        at_precision(model, "half")
