"""Networks of a user's own in Linen and NNX, and what is wrong with some. Scripts run this file."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import jfu


class Linen(nn.Module):
    """A layer with batch statistics and dropout, twelve more, and a head."""

    classes: int
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.Dense(4, name="stem")(x.reshape(x.shape[0], -1))
        live = None if mask is None else mask[:, None]
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x, mask=live)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        for number in range(11):
            x = nn.tanh(nn.Dense(4, name=f"blocks_{number}")(x))
        return nn.Dense(self.classes, name="a_head")(x)


class Nnx(nnx.Module):
    """The same."""

    def __init__(self, classes, shape, rngs, rate=0.0):
        self.stem = nnx.Linear(math.prod(shape), 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(11)])
        self.a_head = nnx.Linear(4, classes, rngs=rngs)

    def __call__(self, x, mask=None):
        x = self.stem(x.reshape(x.shape[0], -1))
        x = self.norm(x, mask=None if mask is None else mask[:, None])
        x = self.dropout(x)
        for block in self.blocks:
            x = nnx.tanh(block(x))
        return self.a_head(x)


class Plain(nnx.Module):
    """Two layers, which compile quickly."""

    def __init__(self, classes, shape, rngs):
        self.stem = nnx.Linear(math.prod(shape), 8, rngs=rngs)
        self.head = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.stem(x.reshape(x.shape[0], -1))))


class PlainLinen(nn.Module):
    """The same."""

    classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="stem")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes, name="head")(x)


class Idle(nn.Module):
    """Its dropout and statistics are never on."""

    @nn.compact
    def __call__(self, x, mask=None):
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=True)(x))


def with_rate(classes, shape, rngs):
    return Nnx(classes, shape, rngs, rate=0.5)


def by_hand(outputs, shape):
    """A ``Model`` in plain JAX, which gets images as they are."""
    size = math.prod(shape)
    init = lambda key: {"params": {"w": jax.random.normal(key, (size, outputs)) / size}}

    def apply(variables, x, *, train=False, mask=None, key=None):
        return x.reshape(x.shape[0], -1).astype(jnp.float32) @ variables["params"]["w"], {}

    return jfu.Model(init, apply, ("",))


def broken(classes):
    raise KeyError("a line\nand another")


def too_wide(classes):
    return nn.Dense(classes + 1)


def made_already():
    return Plain(10, (8, 8, 1), nnx.Rngs(0))


def number():
    return 3


def nothing():
    return jfu.Model(lambda key: {"params": {}}, lambda variables, x, **how: (x, {}))


class Bigram(nn.Module):
    """A language model that reads one token."""

    classes: int

    @nn.compact
    def __call__(self, ids):
        return nn.Dense(self.classes, name="head")(nn.Embed(self.classes, 8, name="embed")(ids))


class NnxBigram(nnx.Module):
    """The same."""

    def __init__(self, classes, rngs):
        self.embed = nnx.Embed(classes, 8, rngs=rngs)
        self.head = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.embed(ids))


class Clairvoyant(nn.Module):
    """It sees the whole text at each place."""

    classes: int

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(self.classes, 8)(ids)
        return nn.Dense(self.classes)(x + x.mean(1, keepdims=True))
