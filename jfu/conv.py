"""Convolutions that XLA runs fast on CPU inside loops.

XLA:CPU hands a convolution to its fast kernel only in NHWC/HWIO order, and reorders others
only outside loops. The two convolutions of the stock derivative are in other orders. A local
epoch written as a loop therefore gets a naive kernel, 30 to 130 times slower. Here the
backward pass is written in that order: with stride ``s`` and kernel ``w``,

    dx = conv(dilate(dy, s), flip(w)^T)          dw = conv(x^T, dilate(dy, s)^T)^T

where ``^T`` exchanges the two channel axes (dx) or lets channels play the batch (dw). Use
it in any Flax model: ``nn.Conv(..., conv_general_dilated=jfu.conv)``.

The kernel's gradient is a convolution with the output's slope as kernel, with channels as the
batch. The alternative is products of shifted images. On one core, as clients run, the convolution
took a third of their time with few channels and large images. It took as long with strides and many
channels. Single pixels are a product.

Where dx as a convolution meets many zeros around dy, it is a sum of products, one for each of the
kernel's pixels (``_by_taps``). One core of an AMD EPYC took 2.1 ms in place of 4.9 for 32 images in
the second layer of the CNN, and 0.2 in place of 3.4 if they are 16x16.

XLA:CPU is slow where images without padding meet a kernel of many values at many places. Such a
convolution runs in parts of its batch, with the same bits (``PLACES_AT_ONCE``).
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from jfu.devices import setting

if TYPE_CHECKING:
    from jax.extend import core

NHWC = ("NHWC", "HWIO", "NHWC")

# Places at which a convolution without padding puts its kernel at a time, if a place has MANY
# values or more, and the most parts of a batch. Beside other work, one core of an AMD EPYC ran the
# second layer of the CNN, 32 images at 64 places, in 4.2 ms at once and in 3.0 ms by 512 places.
# The kernel's gradient took 4.1 and 2.4 ms. With padding, or fewer values, it made no difference.
PLACES_AT_ONCE, MANY, MOST_PARTS = 512, 1024, 8


def conv(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    batch_group_count=1,
    precision=None,
    preferred_element_type=None,
    *,
    as_product=False,
):
    """``lax.conv_general_dilated`` with a backward pass that is fast inside loops on CPU.

    Values and gradients are those of the stock function up to rounding. It has a custom derivative,
    so it has no forward mode of its own (``jax.jvp`` over ``jax.grad`` works). Grouped, dilated and
    non-NHWC convolutions are passed to the stock function, and so are all convolutions on other
    backends.

    Args:
      lhs: images ``[B, H, W, I]``.
      rhs: kernel ``[h, w, I, O]``, of the dtype of ``lhs``.
      window_strides, padding, ...: as in ``lax.conv_general_dilated``.
      as_product: computes one matrix product of image patches and kernel, on every backend and
        in both directions. Under ``vmap`` over kernels it is a batch of products, not a grouped
        convolution. It copies each pixel as often as the kernel covers it. For a model:
        ``conv_general_dilated=functools.partial(jfu.conv, as_product=True)``.

    >>> x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
    >>> conv(x, w, (1, 1), "SAME", dimension_numbers=NHWC)[0, 1, 1]
    Array([18., 18., 18., 18., 18.], dtype=float32)
    """
    plain = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    ones = lambda dilation: dilation is None or all(d == 1 for d in dilation)
    if (
        (jax.default_backend() != "cpu" and not as_product)
        or lhs.ndim != 4
        or not ones(lhs_dilation)
        or not ones(rhs_dilation)
        or feature_group_count != 1
        or batch_group_count != 1
        or preferred_element_type is not None
        or lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        != lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
    ):
        return plain(lhs, rhs)
    if precision is None:  # the backward pass may be traced where it is set no more
        precision = setting("jax_default_matmul_precision")
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    return _conv(lhs, rhs, strides, tuple(map(tuple, padding)), precision, as_product)


def _run(x, w, strides, padding, precision, as_product, lhs_dilation=(1, 1)):
    if as_product:
        between = [(0, 0, 0), *((0, 0, d - 1) for d in lhs_dilation), (0, 0, 0)]
        x = lax.pad(x, jnp.zeros((), x.dtype), between)
        size = _sizes(x, w, strides, padding)
        product = jnp.dot(_columns(x, size), w.reshape(-1, w.shape[3]), precision=precision)
        return product.reshape(x.shape[0], size[0].out, size[1].out, w.shape[3])
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        lhs_dilation=lhs_dilation,
        dimension_numbers=NHWC,
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _conv(x, w, strides, padding, precision, as_product):
    return _value(x, w, strides, padding, precision, as_product)


def _value(x, w, strides, padding, precision, as_product):
    """Forward as XLA does it, except for pixels one by one and for kernels of few values."""
    product = as_product or w.shape[:2] == (1, 1) or math.prod(w.shape[:3]) <= 16
    run = lambda x: _run(x, w, strides, padding, precision, product)
    if product:
        return run(x)
    return _by_parts(run, x, w, padding, [d.out for d in _sizes(x, w, strides, padding)])


def _by_parts(run, x, kernel, padding, places):
    """``run(x)`` for parts of the batch with about ``PLACES_AT_ONCE`` places each.

    Args:
      x: ``[B, H, W, I]``.
      kernel: ``[h, w, I, O]``.
      places: where an image meets the kernel, ``[H', W']``.
    """
    parts = min(MOST_PARTS, x.shape[0], math.ceil(x.shape[0] * math.prod(places) / PLACES_AT_ONCE))
    if parts <= 1 or any(map(any, padding)) or math.prod(kernel.shape[:3]) < MANY:
        return run(x)
    size = math.ceil(x.shape[0] / parts)
    return jnp.concatenate([run(x[i : i + size]) for i in range(0, x.shape[0], size)])


def _forward(x, w, strides, padding, precision, as_product):
    return _value(x, w, strides, padding, precision, as_product), (x, w)


def _backward(strides, padding, precision, as_product, saved, dy):
    x, w = saved
    size = _sizes(x, w, strides, padding)
    if not as_product and strides == (1, 1) and _mostly_padding(size):
        return _by_taps(x, w, dy, size, precision), _kernel_gradient(
            x, w, dy, size, precision, as_product
        )
    # What the dilated dy lacks on either side to give back an image of x's size.
    pads = [(d.kernel - 1 - d.pad, d.image + d.pad - 1 - (d.out - 1) * d.stride) for d in size]
    flipped = jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)
    dx = _run(dy, flipped, (1, 1), pads, precision, as_product, lhs_dilation=strides)
    return dx, _kernel_gradient(x, w, dy, size, precision, as_product)


class _Size(NamedTuple):
    """One spatial dimension of a convolution."""

    kernel: int
    image: int
    out: int
    stride: int
    pad: int  # before the image

    @property
    def pads(self) -> tuple[int, int]:
        """Exactly the pixels that the kernel meets; negative where some are never met."""
        return self.pad, (self.out - 1) * self.stride + self.kernel - self.image - self.pad


def _sizes(x, w, strides, padding) -> list[_Size]:
    rows = zip(w.shape[:2], x.shape[1:3], strides, padding, strict=True)
    return [_Size(k, n, (n + lo + hi - k) // s + 1, s, lo) for k, n, s, (lo, hi) in rows]


def _mostly_padding(size):
    """Whether dx, as a convolution of padded dy, meets half as many zeros as values, or more."""
    return 2 * math.prod(d.image for d in size) >= 3 * math.prod(d.out for d in size)


def _by_taps(x, w, dy, size, precision):
    """dx for strides of 1: a product of dy for each of the kernel's pixels, added where it belongs.

    As a convolution, dy has zeros on all sides. The second layer of the CNN then takes 2.25 times
    as many operations for images of 28x28, and 9 times as many for 16x16.
    """
    b, h, v, o = dy.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums are at least float32
    taps = w.transpose(0, 1, 3, 2).reshape(-1, o, w.shape[2])
    rows = dy.reshape(-1, o)

    def add(tap, sums):
        part = jnp.dot(rows, taps[tap], precision=precision, preferred_element_type=wide)
        start = (0, tap // w.shape[1], tap % w.shape[1], 0)
        here = lax.dynamic_slice(sums, start, (b, h, v, w.shape[2]))
        return lax.dynamic_update_slice(sums, here + part.reshape(here.shape), start)

    # All pixels that the kernel meets, with those of the padding; then x's own.
    met = [d.out + d.kernel - 1 for d in size]
    sums = lax.fori_loop(0, len(taps), add, jnp.zeros((b, *met, w.shape[2]), wide))
    edges = [(-d.pad, d.image + d.pad - n, 0) for d, n in zip(size, met, strict=True)]
    return lax.pad(sums, jnp.zeros((), wide), [(0, 0, 0), *edges, (0, 0, 0)]).astype(x.dtype)


def _columns(x, size):
    """What the kernel sees at each place, ``[B * H' * W', h * w * I]``."""
    zero = jnp.zeros((), x.dtype)
    image = lax.pad(x, zero, [(0, 0, 0), *((*d.pads, 0) for d in size), (0, 0, 0)])
    down, right = size
    shifted = [
        image[
            :,
            i : i + (down.out - 1) * down.stride + 1 : down.stride,
            j : j + (right.out - 1) * right.stride + 1 : right.stride,
        ]
        for i in range(down.kernel)
        for j in range(right.kernel)
    ]
    return jnp.concatenate(shifted, -1).reshape(-1, down.kernel * right.kernel * x.shape[3])


def _kernel_gradient(x, w, dy, size, precision, as_product):
    """A convolution of the images with dy as the kernel; pixels one by one are a product."""
    if as_product or w.shape[:2] == (1, 1):
        columns = _columns(x, size)
        return jnp.dot(columns.T, dy.reshape(-1, w.shape[3]), precision=precision).reshape(w.shape)
    image, kernel = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
    pads = [d.pads for d in size]
    run = functools.partial(
        lax.conv_general_dilated,
        rhs=kernel,
        window_strides=(1, 1),
        padding=pads,
        rhs_dilation=[d.stride for d in size],
        dimension_numbers=NHWC,
        precision=precision,
    )
    return _by_parts(run, image, kernel, pads, w.shape[:2]).transpose(1, 2, 0, 3)


_conv.defvjp(_forward, _backward)


# ---------------------------------------------------------------- finding slow ones


def check_convs(step: Callable, *args) -> list[str]:
    """One sentence for each convolution of a step that XLA:CPU would run with a slow kernel.

    The step is traced, not run. Trace it on CPU: elsewhere ``conv`` is the stock function.

    Args:
      step: any function of arrays, such as a round; the gradient must be taken inside it.
      *args: what it is called with; arrays, or anything with their shapes and dtypes.

    Returns:
      Sentences that say which convolution, why it is slow and what to do; ``[]`` if all is well.

    >>> check_convs(jax.grad(lambda w: conv(jnp.ones((1, 4, 4, 2)), w, (1, 1), "SAME",
    ...     dimension_numbers=NHWC).sum()), jnp.ones((3, 3, 2, 5)))
    []
    """
    return slow_convs(jax.make_jaxpr(step)(*args))


def slow_convs(closed: "core.ClosedJaxpr") -> list[str]:
    """``check_convs`` of what is traced already, such as ``jax.jit(step).trace(*args).jaxpr``."""
    convolutions = _convolutions(closed.jaxpr, False)
    return [text for eqn, looped in convolutions if (text := _say(eqn, looped))]


def _convolutions(jaxpr: "core.Jaxpr", looped: bool) -> Iterator[tuple["core.JaxprEqn", bool]]:
    """Every convolution of a jaxpr and of those inside it, and whether a loop runs it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn, looped
        for inner in jaxprs_in(eqn):
            yield from _convolutions(inner, looped or eqn.primitive.name in ("scan", "while"))


def jaxprs_in(eqn: "core.JaxprEqn") -> "Iterator[core.Jaxpr]":
    """The jaxprs that an equation runs.

    ``jax.extend.core.jaxprs_in_params`` does the same, and importing it takes a twelfth of the time
    of ``import jfu``.
    """
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _say(eqn: "core.JaxprEqn", looped: bool) -> str:
    lhs, rhs = (cast(jax.core.ShapedArray, v.aval) for v in eqn.invars)
    layer = str(eqn.source_info.name_stack)  # Linen writes the layer's path there
    what = f"the convolution of {lhs.str_short()} with {rhs.str_short()}"
    what += f" in {layer}" if layer else ""
    groups = max(eqn.params["feature_group_count"], eqn.params["batch_group_count"])
    if groups > 1:
        return (
            f"{what} has {groups} groups, which XLA:CPU runs slowly; if they are clients with "
            "kernels of their own under vmap, run one client at a time (chunk=1). A layer's own "
            "groups stay slow"
        )
    # Batch first and channels last; kernels with both channel axes last.
    spatial = range(1, lhs.ndim - 1)
    images = (0, lhs.ndim - 1, *spatial)
    kernels = (rhs.ndim - 1, rhs.ndim - 2, *(i - 1 for i in spatial))
    numbers = eqn.params["dimension_numbers"]
    if looped and tuple(map(tuple, numbers)) != (images, kernels, images):
        remedy = (
            "make the layer with nn.Conv(..., conv_general_dilated=jfu.conv), which speeds up "
            "those without groups and dilation"
            if lhs.ndim == 4
            else "jfu.conv speeds up 2-D convolutions only; run this one outside of loops"
        )
        return (
            f"{what} runs in a loop and is not in NHWC/HWIO order, which XLA:CPU runs slowly; "
            f"{remedy}"
        )
    return ""
