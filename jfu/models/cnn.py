"""Plain convolutional networks."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from jfu.conv import conv
from jfu.dot import dot_general
from jfu.models.layers import max_pool, pixels


class SmallNet(nn.Module):
    """Two 3x3 convolutions and a hidden layer of 64, for 8x8 digits: seconds on a CPU.

    ``norm="group"`` adds a GroupNorm of one group after each convolution.
    """

    classes: int
    norm: str = "none"
    convolution: Callable = conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = pixels(x)
        if min(x.shape[1:3]) < 4:
            raise ValueError(
                f"the images are {x.shape[1]}x{x.shape[2]} and the network 'small' needs at least "
                "4x4; use 'mlp'"
            )
        he = nn.initializers.he_normal()
        conv3x3 = partial(
            nn.Conv, kernel_size=(3, 3), kernel_init=he, conv_general_dilated=self.convolution
        )
        for name, width in dict(stem=16, conv2=32).items():
            x = conv3x3(width, name=name)(x)
            if self.norm == "group":
                x = nn.GroupNorm(num_groups=1, name=f"{name}_norm")(x)
            x = max_pool(nn.relu(x))
        x = x.reshape(x.shape[0], -1)
        dense = partial(nn.Dense, kernel_init=he, dot_general=dot_general)
        x = nn.relu(dense(64, name="hidden")(x))
        return dense(self.classes, name="head")(x)


class CNN(nn.Module):
    """Two 5x5 convolutions and two hidden layers, for 32x32 images.

    The network of the TensorFlow tutorial that McMahan et al. (AISTATS 2017, arXiv
    1602.05629) train on CIFAR-10, with VALID convolutions on the whole image: 797,962
    parameters for 32x32x3 and 10 classes. ``norm="group"`` adds a GroupNorm of one group
    after each convolution.
    """

    classes: int
    norm: str = "none"
    convolution: Callable = conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = pixels(x)
        if min(x.shape[1:3]) < 16:
            raise ValueError(
                f"the images are {x.shape[1]}x{x.shape[2]} and the network 'cnn' needs at least "
                "16x16; use 'small' or 'mlp'"
            )
        conv5x5 = partial(
            nn.Conv,
            kernel_size=(5, 5),
            padding="VALID",
            conv_general_dilated=self.convolution,
        )
        for name in "stem", "conv2":
            x = conv5x5(64, name=name)(x)
            if self.norm == "group":
                x = nn.GroupNorm(num_groups=1, name=f"{name}_norm")(x)
            x = max_pool(nn.relu(x))
        x = x.reshape(x.shape[0], -1)
        dense = partial(nn.Dense, dot_general=dot_general)
        x = nn.relu(dense(384, name="hidden")(x))
        x = nn.relu(dense(192, name="hidden2")(x))
        return dense(self.classes, name="head")(x)
