"""A multilayer perceptron."""

from functools import partial

import flax.linen as nn
import jax

from jfu.dot import dot_general
from jfu.models.layers import pixels


class MLP(nn.Module):
    """Hidden layers of 200.

    Two are the "2NN" of McMahan et al. (AISTATS 2017, arXiv 1602.05629).
    """

    classes: int
    width: int = 200
    depth: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = pixels(x)
        x = x.reshape(x.shape[0], -1)
        dense = partial(nn.Dense, dot_general=dot_general)
        x = nn.relu(dense(self.width, name="stem")(x))
        for number in range(1, self.depth):
            name = f"hidden{number if number > 1 else ''}"
            x = nn.relu(dense(self.width, name=name)(x))
        return dense(self.classes, name="head")(x)
