"""NNX modules as models, beside the same network in Linen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers.networks import quick_jit, same_bits
from helpers.own_networks import Linen, Nnx
from jfu.local import classification
from jfu.models import from_linen, from_nnx
from jfu.types import Batch

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
MASK = jnp.array([1.0, 0, 1, 1, 0, 1])


def as_linen(variables):
    """The variables by the names of the Linen network."""

    def named(params):
        blocks = params.get("blocks", {})
        rest = {name: value for name, value in params.items() if name != "blocks"}
        return rest | {f"blocks_{number}": value for number, value in blocks.items()}

    return {name: named(value) for name, value in variables.items()}


@functools.cache
def pair(rate=0.0):
    linen = from_linen(Linen(2, rate), X)
    model = from_nnx(lambda rngs: Nnx(2, (3,), rngs, rate), X)
    return linen, model, quick_jit(model.init)(jax.random.key(0))


def test_layers_and_the_norm_are_found_in_call_order():
    linen, model, variables = pair()
    assert model.layers == ("stem", *(f"blocks/{n}" for n in range(11)), "a_head")
    assert model.follows == (("norm/mean", "stem"),) == linen.follows
    assert model.cuts() == tuple((name,) for name in model.layers)
    assert type(variables["params"]["blocks"]) is dict and set(variables) == {
        "params",
        "batch_stats",
    }
    both = quick_jit(lambda variables: (model.features(variables, X), model.outputs(variables, X)))
    features, seen = both(variables)
    seen = {name: seen[name] for name in model.layers}
    assert features.shape == (6, 4) and list(seen) == list(model.layers)
    same_bits(seen["blocks/10"].shape, (6, 4))
    np.testing.assert_allclose(jnp.tanh(seen["blocks/10"]), features, rtol=1e-6)


def test_a_step_of_training_has_the_bits_of_linen():
    """Loss, gradients and statistics, of live rows only."""
    linen, model, variables = pair()

    def step(model, variables):
        loss, batch = classification(model.apply), Batch(X, jnp.arange(6) % 2, MASK)
        f = lambda params: loss({**variables, "params": params}, batch, jax.random.key(0))
        return jax.value_and_grad(f, has_aux=True)(variables["params"])

    (loss, changed), slope = quick_jit(functools.partial(step, model))(variables)
    other = quick_jit(functools.partial(step, linen))(as_linen(variables))
    same_bits(((loss, as_linen(changed)), as_linen({"params": slope})["params"]), other)
    live = np.asarray(X)[np.asarray(MASK) > 0].astype(np.float64)
    stem = {name: np.asarray(a, np.float64) for name, a in variables["params"]["stem"].items()}
    mean = 0.01 * (live @ stem["kernel"] + stem["bias"]).mean(0)
    np.testing.assert_allclose(changed["batch_stats"]["norm"]["mean"], mean, rtol=1e-5)


@pytest.mark.slow
def test_dropout_follows_the_key_of_a_step():
    _, model, variables = pair(0.5)
    apply = quick_jit(functools.partial(model.apply, train=True))
    runs = [apply(variables, X, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    same_bits(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    still, changed = quick_jit(model.apply)(variables, X)
    same_bits(still, quick_jit(pair()[1].apply)(variables, X)[0])
    assert changed == {}


class Streams(nnx.Module):
    """Two dropouts, a constant and a mode that is an argument."""

    def __init__(self, rngs):
        self.stem = nnx.Linear(3, 64, rngs=rngs)
        self.one, self.other = (nnx.Dropout(0.5, rngs=rngs) for _ in range(2))
        self.shift = nnx.Variable(jnp.arange(64.0))

    def __call__(self, x, is_training):
        x = self.stem(x) + self.shift[None]
        how = dict(deterministic=not is_training)
        return jnp.stack([self.one(x, **how), self.other(x, **how)], 1)


def test_streams_draw_apart_and_constants_stay():
    model = from_nnx(Streams, X)
    variables = model.init(jax.random.key(0))
    np.testing.assert_array_equal(variables["constants"]["shift"], np.arange(64))
    out, changed = model.apply(variables, X, train=True, key=jax.random.key(1))
    dropped = np.asarray(out == 0)
    assert changed == {} and 0.4 < dropped.mean() < 0.6
    assert 0.4 < (dropped[:, 0] != dropped[:, 1]).mean() < 0.6
    assert (model.apply(variables, X)[0] != 0).all()


def test_statistics_that_padding_would_enter_are_refused():
    class Bare(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    with pytest.raises(ValueError, match=r"Bare keeps batch statistics, .* add mask=None"):
        from_nnx(Bare, X)
    with pytest.raises(ValueError, match="an NNX module is wanted, and got a int"):
        from_nnx(lambda rngs: 3, X)
