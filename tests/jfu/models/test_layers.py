"""Pooling, and statistics of live rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.networks import same_bits
from jfu.models.layers import max_pool


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (2, 3)])
def test_max_pool_is_that_of_flax(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *shape, 3)), jnp.float32)
    pools = (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    ours, stock = (jax.value_and_grad(lambda x, p=p: (p(x) ** 3).sum())(x) for p in pools)
    np.testing.assert_allclose(ours[0], stock[0], rtol=1e-6)
    same_bits(ours[1], stock[1])
    along = jnp.cos(x)  # slopes run forwards as well as backwards
    ours, stock = (jax.jvp(pool, (x,), (along,))[1] for pool in pools)
    same_bits(ours, stock)


def test_max_pool_shares_a_gradient_among_equal_pixels():
    x = jnp.array([[7, 7, 1, 2, 9], [0, 7, 2, 2, 9], [9, 9, 9, 9, 9]], jnp.float32)
    slope = jax.grad(
        lambda x: (max_pool(x[None, ..., None])[0, ..., 0] @ jnp.array([3.0, 6])).sum()
    )
    np.testing.assert_array_equal(slope(x)[:2, :4], [[1, 1, 0, 2], [0, 1, 2, 2]])
    assert not slope(x)[2].any() and not slope(x)[:, 4].any()  # no square holds them
