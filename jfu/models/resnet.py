"""ResNet-18 for small images (He et al., Deep Residual Learning, CVPR 2016, arXiv 1512.03385)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from jfu.conv import conv
from jfu.models.layers import pixels


def _normaliser(kind: str, train: bool, mask: jax.Array | None) -> Callable:
    """``(x [B, H, W, C], name) -> x`` of one kind, made inside the module that calls it."""
    if kind == "group":
        # Two groups, as in Reddi et al. (ICLR 2021, arXiv 2003.00295) after Hsieh et al. (The
        # Non-IID Data Quagmire, ICML 2020, arXiv 1910.00189). Batch statistics of clients whose
        # labels differ do not fit each other. Statistics of one example have no such trouble.
        return lambda x, name: nn.GroupNorm(num_groups=2, epsilon=1e-5, name=name)(x)
    live = None if mask is None else mask.reshape(-1, 1, 1, 1)
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    return lambda x, name: norm(name=name)(x, mask=live)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, projected where the shape changes."""

    width: int
    stride: int
    norm: str
    convolution: Callable

    @nn.compact
    def __call__(self, x, *, train, mask):
        normalise = _normaliser(self.norm, train, mask)
        convolve = partial(_convolution, self.convolution)
        y = convolve(self.width, 3, self.stride, "conv1")(x)
        y = nn.relu(normalise(y, "norm1"))
        y = convolve(self.width, 3, 1, "conv2")(y)
        y = normalise(y, "norm2")
        if x.shape != y.shape:
            x = convolve(self.width, 1, self.stride, "shortcut")(x)
            x = normalise(x, "shortcut_norm")
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18 with a 3x3 stem of stride 1 and no first pooling, as used on CIFAR.

    ``norm`` is "group" or "batch". Batch statistics are those of the live rows of ``mask``
    [B] alone; their running averages are the collection ``batch_stats``.
    """

    classes: int
    norm: str = "group"
    convolution: Callable = conv
    widths: tuple[int, ...] = (64, 128, 256, 512)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask=None) -> jax.Array:
        x = pixels(x)
        x = _convolution(self.convolution, self.widths[0], 3, 1, "stem")(x)
        x = nn.relu(_normaliser(self.norm, train, mask)(x, "stem_norm"))
        for stage, width in enumerate(self.widths, 1):
            for block in 1, 2:
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                layer = Block(width, stride, self.norm, self.convolution, name=name)
                x = layer(x, train=train, mask=mask)
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))


def _convolution(convolution: Callable, width: int, size: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=convolution,
        name=name,
    )
