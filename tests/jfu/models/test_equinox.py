"""Equinox modules as models, beside the same network in Linen."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.networks import quick_jit, same_bits
from jfu.models import from_equinox, from_linen

eqx = pytest.importorskip("equinox")
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
MASK = jnp.array([1.0, 0, 1, 1, 0, 1])


class Net(eqx.Module):
    stem: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    blocks: list
    a_head: eqx.nn.Linear

    def __init__(self, key, rate=0.0, mode="batch"):
        keys = jax.random.split(key, 13)
        self.stem = eqx.nn.Linear(3, 4, key=keys[0])
        self.norm = eqx.nn.BatchNorm(4, "batch", mode=mode)
        self.drop = eqx.nn.Dropout(rate)
        self.blocks = [eqx.nn.Linear(4, 4, key=key) for key in keys[1:12]]
        self.a_head = eqx.nn.Linear(4, 2, key=keys[12])

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.stem(x), state)
        x = self.drop(x, key=key)
        for block in self.blocks:
            x = jnp.tanh(block(x))
        return self.a_head(x), state


@functools.cache
def made(**options):
    model = from_equinox(lambda key: Net(key, **options), X)
    return model, quick_jit(model.init)(jax.random.key(0))


def test_layers_come_in_call_order():
    model, variables = made()
    assert model.layers == ("stem", *(f"blocks/{n}" for n in range(11)), "a_head")
    assert model.cuts() == tuple((name,) for name in model.layers)
    assert set(variables) == {"params", "batch_stats"}
    assert variables["params"]["blocks"]["10"]["weight"].shape == (4, 4)
    look = lambda variables: (model.features(variables, X), model.outputs(variables, X)["stem"])
    assert [a.shape for a in jax.eval_shape(look, variables)] == [(6, 4), (6, 4)]


def test_a_network_gives_what_it_gives_in_linen():
    class Same(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(nn.relu(nn.Dense(4, name="stem")(x)))

    class Two(eqx.Module):
        stem: eqx.nn.Linear
        head: eqx.nn.Linear

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.stem = eqx.nn.Linear(3, 4, key=one)
            self.head = eqx.nn.Linear(4, 2, key=two)

        def __call__(self, x):
            return self.head(jax.nn.relu(self.stem(x)))

    model, linen = from_equinox(Two, X), from_linen(Same(), X)
    params = model.init(jax.random.key(0))["params"]
    dense = lambda layer: dict(kernel=layer["weight"].T, bias=layer["bias"])
    other = {"params": {name: dense(layer) for name, layer in params.items()}}
    np.testing.assert_allclose(
        model.apply({"params": params}, X)[0], linen.apply(other, X)[0], rtol=1e-6, atol=1e-7
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_statistics_are_those_of_the_live_rows(mode):
    """What padding holds changes no bit, and all rows together give what Equinox gives."""
    model, variables = made(mode=mode)
    apply = quick_jit(functools.partial(model.apply, train=True))
    logits, changed = apply(variables, X, mask=MASK)
    garbage = jnp.where(MASK[:, None] > 0, X, 7.0)
    other, same = apply(variables, garbage, mask=MASK)
    live = np.flatnonzero(MASK)
    same_bits((logits[live], changed), (other[live], same))
    alone = apply(variables, X[live])  # by Equinox's own layer
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        (logits[live], changed),
        alone,
    )
    dead = apply(variables, X, mask=jnp.zeros(6))[1]
    same_bits(dead, {"batch_stats": variables["batch_stats"]})


@pytest.mark.slow
def test_dropout_follows_the_key_of_a_step_and_each_row_has_its_own():
    model, variables = made(rate=0.5)
    apply = quick_jit(functools.partial(model.apply, train=True))
    runs = [apply(variables, X, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    same_bits(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    bare = from_equinox(lambda key: eqx.nn.Dropout(0.5), X)
    out, _ = bare.apply({"params": {}}, jnp.ones((6, 9)), train=True, key=jax.random.key(0))
    assert set(np.unique(out)) == {0, 2} and len(np.unique(out, axis=0)) > 1
    still = [quick_jit(which.apply)(variables, X)[0] for which in (model, made()[0])]
    same_bits(*still)


def test_what_is_no_module_is_a_sentence():
    with pytest.raises(ValueError, match="an Equinox module is wanted, and got a int"):
        from_equinox(lambda key: 3, X)
