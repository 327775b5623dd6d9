"""Networks of tests: their start, their images, a module with two norms and dropout."""

import functools

import flax.linen as nn
import jax
import numpy as np


def same_bits(a, b):
    """Equal to the last bit, and finite."""
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.isfinite(left).all()


def images_of(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Compiling is most of the time here, and what it compiles runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def started(model):
    return quick_jit(model.init)(jax.random.key(0))


class Mixed(nn.Module):
    """One norm right after its layer, one behind a ReLU, and dropout."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        live = None if mask is None else mask[:, None]
        norm = lambda: nn.BatchNorm(use_running_average=not train)
        x = norm()(nn.Dense(4)(x), mask=live)
        x = norm()(nn.relu(nn.Dense(4)(x)), mask=live)
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))
