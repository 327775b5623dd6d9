"""A network of 64, 64 and 10 units in NumPy alone."""

import numpy as np

LAYERS = "stem/.*"
Model = dict[str, np.ndarray]


def init() -> Model:
    draw = np.random.default_rng(0)
    normal = lambda *shape: draw.normal(scale=np.sqrt(2 / shape[0]), size=shape).astype(np.float32)
    zeros = lambda n: np.zeros(n, np.float32)
    stem = {"stem/kernel": normal(64, 64), "stem/bias": zeros(64)}
    return stem | {"head/kernel": normal(64, 10), "head/bias": zeros(10)}


def logits(model: Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.maximum(x @ model["stem/kernel"] + model["stem/bias"], 0)
    return hidden, hidden @ model["head/kernel"] + model["head/bias"]


def predict(model: Model, x: np.ndarray) -> np.ndarray:
    return logits(model, x)[1].argmax(1)


def gradient(model: Model, x: np.ndarray, y: np.ndarray) -> Model:
    """Of the mean cross-entropy of a batch."""
    hidden, out = logits(model, x)
    error = np.exp(out - out.max(1, keepdims=True))
    error /= error.sum(1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    inside = (error @ model["head/kernel"].T) * (hidden > 0)
    stem = {"stem/kernel": x.T @ inside, "stem/bias": inside.sum(0)}
    return stem | {"head/kernel": hidden.T @ error, "head/bias": error.sum(0)}


def train(model: Model, batches: list[tuple[np.ndarray, np.ndarray]], lr: float) -> Model:
    """SGD with momentum 0.9."""
    speed = {name: np.zeros_like(a) for name, a in model.items()}
    for x, y in batches:
        slope = gradient(model, x, y)
        speed = {name: 0.9 * speed[name] + slope[name] for name in model}
        model = {name: model[name] - np.float32(lr) * speed[name] for name in model}
    return model
