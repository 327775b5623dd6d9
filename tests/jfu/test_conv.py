"""The convolution against the stock one, in float64, and the reader of slow convolutions."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jfu.conv import NHWC, check_convs, conv, jaxprs_in

STRIDES = (1, 1), (2, 2), (3, 3), (2, 1)
IMAGES = (8, 8), (7, 10), (9, 5)
PADDINGS = "SAME", "VALID", ((1, 1), (1, 1)), ((2, 0), (0, 3)), ((6, 5), (0, 7))
# (in, out) channels
CHANNELS = (3, 5), (5, 7), (7, 5), (5, 5), (1, 1), (4, 2)


product = functools.partial(conv, as_product=True)


def _draw(shape, seed):
    """Normal numbers, float64 inside ``jax.enable_x64`` and float32 outside."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


# Compiling is most of the time here, and what it compiles runs once.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _value_and_slopes(fn, x, w, strides, padding):
    """The output, and both gradients of a loss with a different slope at every output."""
    y, back = jax.vjp(lambda x, w: fn(x, w, strides, padding, dimension_numbers=NHWC), x, w)
    slope = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, *back(slope)


def _assert_close(got, want, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
def test_value_and_gradients_are_the_stock_ones(padding, size):
    with jax.enable_x64(True):
        cases = []
        for number, strides in enumerate(STRIDES):
            for image in number, number + 1:
                channels = CHANNELS[(number + 2 * image + size) % len(CHANNELS)]
                x = _draw((2, *IMAGES[image % 3], channels[0]), number)
                cases.append((x, _draw((size, size, *channels), image), strides))

        both = lambda fn: _jit(
            lambda pairs: [
                _value_and_slopes(fn, x, w, strides, padding)
                for (x, w), (_, _, strides) in zip(pairs, cases, strict=True)
            ]
        )
        pairs = [(x, w) for x, w, _ in cases]
        _assert_close(both(conv)(pairs), both(lax.conv_general_dilated)(pairs))


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)], ids=str)
def test_every_way_to_the_kernel_gradient(channels, strides):
    with jax.enable_x64(True):
        x, w = _draw((3, 7, 8, channels[0]), 0), _draw((3, 5, *channels), 1)
        both = lambda fn: _jit(
            lambda x, w: [
                _value_and_slopes(fn, x, w, strides, p) for p in ("SAME", "VALID", ((6, 5), (0, 7)))
            ]
        )
        stock = both(lax.conv_general_dilated)(x, w)
        _assert_close(both(conv)(x, w), stock)
        _assert_close(both(product)(x, w), stock)


def test_large_kernels_meet_many_images_in_parts():
    with jax.enable_x64(True):
        x, w = _draw((3, 20, 25, 116), 0), _draw((3, 3, 116, 2), 1)
        one = lambda fn, x, w: _value_and_slopes(fn, x, w, (1, 1), "VALID")
        both = [_jit(functools.partial(one, fn)) for fn in (conv, lax.conv_general_dilated)]
        _assert_close(*(fn(x, w) for fn in both))
        # An image has 18 x 23 places, so it is a part. Its 116 channels, at 9 places each, are 3.
        found = str(jax.make_jaxpr(functools.partial(one, conv))(x, w))
        assert found.count("conv_general_dilated[") == 3 + 1 + 3


@pytest.mark.parametrize("padding", ["VALID", ((1, 0), (0, 2))], ids=str)
def test_slopes_of_images_are_no_convolution_of_zeros(padding):
    with jax.enable_x64(True):
        x, w = _draw((2, 8, 9, 3), 0), _draw((5, 4, 3, 6), 1)
        one = lambda fn, x, w: _value_and_slopes(fn, x, w, (1, 1), padding)
        both = [_jit(functools.partial(one, fn)) for fn in (conv, lax.conv_general_dilated)]
        _assert_close(*(fn(x, w) for fn in both))
        found = str(jax.make_jaxpr(functools.partial(one, conv))(x, w))
        assert found.count("conv_general_dilated[") == 2  # the images and the kernel's slope


def test_as_products_clients_kernels_are_a_batch_and_no_groups():
    with jax.enable_x64(True):
        x, w = _draw((4, 2, 6, 7, 5), 0), _draw((4, 3, 3, 5, 6), 1)
        each = lambda fn: jax.vmap(lambda x, w: _value_and_slopes(fn, x, w, (2, 2), "SAME"))
        _assert_close(_jit(each(product))(x, w), _jit(each(lax.conv_general_dilated))(x, w))
        found = str(jax.make_jaxpr(each(product))(x, w))
        assert "conv_general_dilated" not in found and "dot_general" in found
        assert check_convs(each(product), x, w) == [] != check_convs(each(conv), x, w)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((6, 5), (0, 7))], ids=str)
@pytest.mark.parametrize("channels", [(3, 5), (5, 7), (7, 5)], ids=str)
def test_float32_in_a_loop(channels, padding):
    """The kernels that XLA:CPU picks for float32 are others than those for float64."""
    x, w = _draw((2, 9, 8, channels[0]), 0), _draw((3, 3, *channels), 1)
    for strides in (1, 1), (2, 3):
        one = lambda fn, x, w: _value_and_slopes(fn, x, w, strides, padding)
        loop = jax.jit(lambda x, w: lax.map(lambda x: one(conv, x, w), x[None]))
        got = [a[0] for a in loop(x, w)]
        _assert_close(got, jax.jit(functools.partial(one, lax.conv_general_dilated))(x, w), 1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 3)], ids=str)
@pytest.mark.parametrize("channels", [(3, 5), (5, 7), (7, 5)], ids=str)
def test_under_vmap(axes, channels):
    with jax.enable_x64(True):
        x, w = _draw((2, 6, 7, channels[0]), 0), _draw((3, 3, *channels), 1)
        x, w = (
            a if axis is None else jnp.stack([a, 2 * a, -(a**2)], axis)
            for a, axis in zip((x, w), axes, strict=True)
        )
        each = lambda fn: _jit(
            jax.vmap(lambda x, w: _value_and_slopes(fn, x, w, (2, 2), "SAME"), axes)
        )
        _assert_close(each(conv)(x, w), each(lax.conv_general_dilated)(x, w))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("channels", [(2, 3), (5, 6), (6, 5)], ids=str)
def test_second_derivatives(channels, strides):
    """Gradient of a gradient, and Hessian times a vector by forward over reverse."""
    with jax.enable_x64(True):
        x, w = _draw((2, 5, 6, channels[0]), 0), _draw((3, 3, *channels), 1)
        along = (_draw(x.shape, 2), _draw(w.shape, 3))

        def both(fn):
            loss = lambda x, w: jnp.sin(fn(x, w, strides, "SAME", dimension_numbers=NHWC)).sum()
            slope = jax.grad(loss, (0, 1))
            length = lambda x, w: sum((a**3).sum() for a in slope(x, w))
            return _jit(
                lambda x, w: (jax.grad(length, (0, 1))(x, w), jax.jvp(slope, (x, w), along)[1])
            )

        _assert_close(both(conv)(x, w), both(lax.conv_general_dilated)(x, w), 1e-8)


@pytest.mark.parametrize("fn", [conv, product])
def test_precision_set_around_the_forward_pass_holds_in_the_backward_pass(fn):
    x, w = _draw((2, 6, 7, 5), 0), _draw((3, 3, 5, 6), 1)

    def loss(x, w):
        with jax.default_matmul_precision("highest"):
            return fn(x, w, (2, 2), "SAME", dimension_numbers=NHWC).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, w))
    kind = "dot_general" if fn is product else "conv_general_dilated"
    highest = "precision=(Precision.HIGHEST, Precision.HIGHEST)"
    assert text.count(highest) == text.count(f"= {kind}[") == 3


def test_what_it_does_not_speed_up_is_the_stock_convolution():
    x, w = _draw((2, 8, 8, 4), 0), _draw((3, 3, 4, 4), 1)
    rest = {"window_strides": (1, 1), "padding": "SAME"}
    cases = [
        (x, w[:, :, :2], {"dimension_numbers": NHWC, "feature_group_count": 2}),
        (x, w, {"dimension_numbers": NHWC, "batch_group_count": 2}),
        (x, w, {"dimension_numbers": NHWC, "rhs_dilation": (2, 2)}),
        (x, w, {"dimension_numbers": NHWC, "lhs_dilation": (2, 1), "padding": ((1, 1), (1, 1))}),
        (x, w, {"dimension_numbers": NHWC, "preferred_element_type": jnp.float32}),
        (x, w, {"dimension_numbers": ("NCHW", "OIHW", "NCHW"), "window_strides": (2, 1)}),
        (x[:, 0], w[0], {"dimension_numbers": ("NWC", "WIO", "NWC"), "window_strides": (1,)}),
    ]
    cases[-2] = (x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), cases[-2][2])
    for x, w, options in cases:
        options = {**rest, **options}
        ours, stock = (
            jax.make_jaxpr(lambda x, w, fn=fn: fn(x, w, **options))(x, w)
            for fn in (conv, lax.conv_general_dilated)
        )
        assert str(ours) == str(stock)
    ours = jax.make_jaxpr(lambda x, w: conv(x, w, (1, 1), "SAME", dimension_numbers=NHWC))
    assert "custom_vjp" in str(ours(_draw((2, 8, 8, 4), 0), _draw((3, 3, 4, 4), 1)))


def test_half_precision_and_a_given_precision():
    x, w = _draw((2, 6, 6, 3), 0).astype(jnp.bfloat16), _draw((3, 3, 3, 5), 1).astype(jnp.bfloat16)
    ours = _value_and_slopes(conv, x, w, (1, 1), "SAME")
    stock = _value_and_slopes(lax.conv_general_dilated, x, w, (1, 1), "SAME")
    for a, b in zip(ours, stock, strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        error = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max()
        assert error < 0.05 * jnp.abs(b).max()
    fn = lambda w: conv(x, w, (1, 1), "SAME", dimension_numbers=NHWC, precision="highest").sum()
    jaxpr = str(jax.make_jaxpr(jax.grad(fn))(w))
    assert "HIGHEST" in jaxpr and "precision=None" not in jaxpr


# ---------------------------------------------------------------- finding slow ones


class Net(nn.Module):
    convolution: object

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), conv_general_dilated=self.convolution, name="stem")(x)
        x = nn.Conv(8, (3, 3), strides=2, conv_general_dilated=self.convolution, name="conv2")(x)
        return nn.Dense(2, name="head")(x.reshape(x.shape[0], -1))


def _epoch(convolution, loop):
    net, x = Net(convolution), jnp.ones((4, 8, 8, 3))
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    slope = jax.grad(lambda p: (net.apply(p, x) ** 2).mean())
    step = lambda p: jax.tree.map(lambda a, b: a - 0.1 * b, p, slope(p))
    loops = {
        "no loop": step,
        "fori_loop": lambda p: lax.fori_loop(0, 3, lambda i, p: step(p), p),
        "while": lambda p: lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, step(c[1])), (0, p)
        ),
        "scan of jit": lambda p: lax.scan(lambda p, _: (jax.jit(step)(p), None), p, None, 3)[0],
        "cond in scan": lambda p: lax.scan(
            lambda p, i: (lax.cond(i > 0, step, lambda p: p, p), None), p, jnp.arange(3)
        )[0],
        "remat": lambda p: lax.fori_loop(
            0, 3, lambda i, p: jax.grad(lambda p: (jax.remat(net.apply)(p, x) ** 2).mean())(p), p
        ),
    }
    return loops[loop], params


@pytest.mark.parametrize("loop", ["fori_loop", "while", "scan of jit", "cond in scan", "remat"])
def test_stock_gradients_in_loops_are_named(loop):
    found = check_convs(*_epoch(lax.conv_general_dilated, loop))
    # The gradients by both kernels and by the input of the second layer; not the forward ones.
    assert len(found) == 3
    assert all("runs in a loop" in text and "jfu.conv" in text for text in found)
    assert any("stem" in text for text in found) and any("conv2" in text for text in found)
    assert check_convs(*_epoch(conv, loop)) == []


def test_outside_loops_nothing_is_slow():
    assert check_convs(*_epoch(lax.conv_general_dilated, "no loop")) == []


def test_no_remedy_is_promised_where_there_is_none():
    x, w = jnp.ones((2, 8, 4)), jnp.ones((3, 4, 4))
    numbers = dict(dimension_numbers=("NWC", "WIO", "NWC"))
    loss = lambda w: conv(x, w, (1,), "SAME", **numbers).sum()
    found = check_convs(lambda w: lax.fori_loop(0, 3, lambda _, w: w - jax.grad(loss)(w), w), w)
    assert found and all("2-D convolutions only" in text for text in found)


def test_kernels_under_vmap_are_named():
    step, params = _epoch(conv, "fori_loop")
    many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((5, *a.shape), a.dtype), params)
    found = check_convs(jax.vmap(step), many)
    assert found and all("5 groups" in text and "chunk=1" in text for text in found)


def test_inside_shard_map():
    mesh = jax.make_mesh((1,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    for convolution, count in (lax.conv_general_dilated, 3), (conv, 0):
        step, params = _epoch(convolution, "fori_loop")
        step = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        assert len(check_convs(step, params)) == count


def test_jaxprs_in_an_equation_are_those_that_jax_names():
    """Loops, branches, inner jits and custom derivatives; equations without any."""
    from jax.extend import core

    relu = jax.custom_jvp(lambda x: jnp.maximum(x, 0))
    relu.defjvp(lambda primals, tangents: (relu(*primals), tangents[0]))

    def step(x):
        x = jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, jax.jit(lambda a: a + 1)(x))
        return jax.lax.scan(lambda c, _: (relu(c), None), x, length=3)[0]

    eqns = jax.make_jaxpr(step)(jnp.ones(3)).jaxpr.eqns
    assert {"scan", "cond", "jit", "gt"} <= {eqn.primitive.name for eqn in eqns}
    for eqn in eqns:
        assert [*jaxprs_in(eqn)] == [*core.jaxprs_in_params(eqn.params)]
    assert sum(len([*jaxprs_in(eqn)]) for eqn in eqns) >= 4
