"""A multilayer perceptron."""

import flax.linen as nn
import jax

from jfu.models.layers import pixels


class MLP(nn.Module):
    """Two hidden layers of 200, the "2NN" of McMahan et al. (AISTATS 2017, arXiv 1602.05629)."""

    classes: int
    width: int = 200

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = pixels(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.width, name="stem")(x))
        x = nn.relu(nn.Dense(self.width, name="hidden")(x))
        return nn.Dense(self.classes, name="head")(x)
