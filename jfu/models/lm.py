"""A small causal transformer (Radford et al., Language Models are Unsupervised Multitask Learners,
OpenAI 2019): every block normalises first, and a token sees itself and those before it.
"""

import flax.linen as nn
import jax

from jfu.models.vit import Block


class Embedding(nn.Module):
    """A row of ``embedding [V, D]`` for each token, as a product: no scatter in its derivative."""

    tokens: int
    width: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        shape = (self.tokens, self.width)
        table = self.param("embedding", nn.initializers.normal(self.width**-0.5), shape)
        return jax.nn.one_hot(ids, self.tokens, dtype=table.dtype) @ table


class LM(nn.Module):
    """Token ids ``[B, T]`` to logits of the next token ``[B, T, V]``.

    The first layer is the embedding, so that is what NoT negates. Positions are learned; the last
    layer does not share the embedding.
    """

    classes: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = Embedding(self.classes, self.width, name="embed")(ids)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        past = nn.make_causal_mask(ids)
        for number in range(1, self.depth + 1):
            x = Block(self.heads, name=f"block{number}")(x, past)
        x = nn.LayerNorm(name="head_norm")(x)
        return nn.Dense(self.classes, name="head")(x)
