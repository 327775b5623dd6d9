"""Dense layers against the stock product, in float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jfu
from jfu.dot import dot_general

pytestmark = pytest.mark.conformance

PLAIN = (((1,), (0,)), ((), ()))


def _draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def _own(jaxpr):
    """Whether a derivative is the one that is written out here."""
    return "optimization_barrier" in str(jaxpr)


def _slopes(fn, x, w):
    """The output, and both gradients of a loss with a different slope at every output."""
    y, back = jax.vjp(lambda x, w: fn(x, w, (((x.ndim - 1,), (0,)), ((), ()))), x, w)
    return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def _assert_close(got, want, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [(4,), (1,), (2, 3), (2, 1, 2)], ids=str)
def test_value_and_gradients_are_the_stock_ones(rows):
    with jax.enable_x64(True):
        x, w = _draw((*rows, 40), 0), _draw((40, 30), 1)
        assert _own(jax.make_jaxpr(functools.partial(_slopes, dot_general))(x, w))
        _assert_close(_slopes(dot_general, x, w), _slopes(lax.dot_general, x, w))
        jitted = jax.jit(functools.partial(_slopes, dot_general))
        _assert_close(jitted(x, w), _slopes(lax.dot_general, x, w))
        # Worked out without JAX.
        y, dx, dw = (np.asarray(a).reshape(-1, a.shape[-1]) for a in jitted(x, w))
        flat, slope = np.asarray(x).reshape(-1, 40), np.cos(np.arange(y.size)).reshape(y.shape)
        _assert_close((y, dx, dw), (flat @ w, slope @ np.asarray(w).T, flat.T @ slope))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 1)], ids=str)
def test_under_vmap_and_in_a_loop(axes):
    with jax.enable_x64(True):
        x, w = _draw((4, 40), 0), _draw((40, 30), 1)
        x, w = (
            a if axis is None else jnp.stack([a, 2 * a, -(a**2)], axis)
            for a, axis in zip((x, w), axes, strict=True)
        )
        each = lambda fn: jax.vmap(functools.partial(_slopes, fn), axes)(x, w)
        stock = each(lax.dot_general)
        _assert_close(each(dot_general), stock)
        if axes == (0, 0):
            one = lambda pair: _slopes(dot_general, *pair)
            _assert_close(jax.jit(lambda *pair: lax.map(one, pair))(x, w), stock)


def test_second_derivatives():
    """Gradient of a gradient, and Hessian times a vector by forward over reverse."""
    with jax.enable_x64(True):
        x, w = _draw((2, 40), 0), _draw((40, 30), 1)
        along = (_draw(x.shape, 2), _draw(w.shape, 3))

        def both(fn):
            slope = jax.grad(lambda x, w: jnp.sin(fn(x, w, PLAIN)).sum(), (0, 1))
            length = lambda x, w: sum((a**3).sum() for a in slope(x, w))
            return jax.grad(length, (0, 1))(x, w), jax.jvp(slope, (x, w), along)[1]

        _assert_close(both(dot_general), both(lax.dot_general), 1e-8)


def test_what_it_does_not_speed_up_is_the_stock_product():
    x, w = _draw((4, 40), 0), _draw((40, 30), 1)
    cases = [
        (_draw((40, 40), 0), w, PLAIN, {}),  # as many values in the rows as in the kernel
        (x, w.T, (((1,), (1,)), ((), ())), {}),
        (x[None], w[None], (((2,), (1,)), ((0,), (0,))), {}),
        (x.reshape(4, 8, 5), w.reshape(8, 5, 30), (((1, 2), (0, 1)), ((), ())), {}),
        (x, w, PLAIN, {"preferred_element_type": jnp.float32}),
        (x, w.astype(jnp.bfloat16), PLAIN, {}),
    ]
    for x, w, dimensions, rest in cases:
        both = [
            jax.make_jaxpr(jax.grad(lambda x, w, fn=fn: fn(x, w, dimensions, **rest).sum()))(x, w)
            for fn in (dot_general, lax.dot_general)
        ]
        assert not _own(both[0]) and str(both[0]) == str(both[1])
    w = _draw((40, 30), 1)
    given = [[[1], [0]], [[], []]]  # lists are as good as tuples
    slope = jax.grad(lambda x: dot_general(x, w, given).sum())
    assert _own(jax.make_jaxpr(slope)(_draw((4, 40), 0)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_dense_layer_keeps_its_types(dtype):
    layer = nn.Dense(30, dtype=dtype, dot_general=jfu.dot_general)
    stock = nn.Dense(30, dtype=dtype)
    x = jnp.asarray(_draw((4, 40), 0), jnp.float32)
    params = stock.init(jax.random.key(0), x)
    loss = lambda layer: jax.value_and_grad(
        lambda p, x: layer.apply(p, x).astype(jnp.float32).sum(), (0, 1)
    )(params, x)
    assert _own(jax.make_jaxpr(lambda: loss(layer))())
    _assert_close(loss(layer), loss(stock), 1e-4 if dtype == jnp.float32 else 0.05)


def test_the_precision_that_is_asked_for_holds_in_both_directions():
    x, w = _draw((4, 40), 0), _draw((40, 30), 1)
    slopes = jax.grad(lambda x, w: dot_general(x, w, PLAIN, "highest").sum(), (0, 1))
    text = str(jax.make_jaxpr(slopes)(x, w))
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == text.count("= dot_gen")
