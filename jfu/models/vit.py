"""Vision transformers (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfu.conv import conv
from jfu.models.layers import pixels


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a LayerNorm and beside a shortcut.

    ``seen`` says which places each place attends to, bool ``[B, 1, T, T]``; all if not given.
    """

    heads: int

    @nn.compact
    def __call__(self, x, seen=None):
        width = x.shape[-1]
        glorot, tiny = nn.initializers.xavier_uniform(), nn.initializers.normal(1e-6)
        y = nn.LayerNorm(name="norm1")(x)
        attention = nn.MultiHeadDotProductAttention(
            self.heads, kernel_init=glorot, name="attention"
        )
        x = x + attention(y, mask=seen)
        y = nn.LayerNorm(name="norm2")(x)
        y = nn.Dense(4 * width, kernel_init=glorot, bias_init=tiny, name="mlp1")(y)
        y = nn.gelu(y, approximate=False)
        return x + nn.Dense(width, kernel_init=glorot, bias_init=tiny, name="mlp2")(y)


class ViT(nn.Module):
    """Patches, a class token, learned positions, blocks that normalise first, a linear head.

    Patches are 16x16 where the shorter side has at least 96 pixels, and 4x4 elsewhere.
    """

    classes: int
    width: int
    depth: int
    heads: int
    convolution: Callable = conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = pixels(x)
        side = 16 if min(x.shape[1:3]) >= 96 else 4
        if x.shape[1] % side or x.shape[2] % side:
            raise ValueError(
                f"the images are {x.shape[1]}x{x.shape[2]} and the patches {side}x{side}; resize "
                f"the images so that both sides are multiples of {side}"
            )
        patches = nn.Conv(
            self.width,
            (side, side),
            strides=side,
            padding="VALID",
            conv_general_dilated=self.convolution,
            name="stem",
        )
        x = patches(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], 1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for number in range(1, self.depth + 1):
            x = Block(self.heads, name=f"block{number}")(x)
        x = nn.LayerNorm(name="head_norm")(x[:, 0])
        return nn.Dense(self.classes, name="head")(x)
