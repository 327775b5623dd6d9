"""The same network with JAX and optax; its parameters have the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .in_numpy import LAYERS, Model, init, predict

__all__ = ["LAYERS", "init", "predict", "train"]


def loss(model, x, y):
    hidden = jax.nn.relu(x @ model["stem/kernel"] + model["stem/bias"])
    out = hidden @ model["head/kernel"] + model["head/bias"]
    return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()


def train(model: Model, batches: list[tuple[np.ndarray, np.ndarray]], lr: float) -> Model:
    optimizer = optax.sgd(lr, momentum=0.9)

    def step(carry, batch):
        model, state = carry
        updates, state = optimizer.update(jax.grad(loss)(model, *batch), state)
        return (optax.apply_updates(model, updates), state), None

    x, y = (jnp.asarray(np.stack(some)) for some in zip(*batches, strict=True))
    start = (model, optimizer.init(model))
    model, _ = jax.jit(lambda start, x, y: jax.lax.scan(step, start, (x, y))[0])(start, x, y)
    return {name: np.asarray(a) for name, a in model.items()}
