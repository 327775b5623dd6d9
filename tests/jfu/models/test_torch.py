"""Weights by PyTorch's names, against convolutions and products written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfu.models import from_linen
from jfu.models.torch import from_torch


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.Conv(2, (3, 3), padding="VALID", name="stem")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


LAYERS = {"features.0": "stem", "features.1": "norm", "fc": "head"}
draw = np.random.default_rng(0).normal
WEIGHTS = {
    "features.0.weight": draw(size=(2, 1, 3, 3)),
    "features.0.bias": draw(size=2),
    "features.1.weight": draw(size=2),
    "features.1.bias": draw(size=2),
    "features.1.running_mean": draw(size=2),
    "features.1.running_var": draw(size=2) ** 2,
    "features.1.num_batches_tracked": np.array(7),
    "fc.weight": draw(size=(3, 2 * 2 * 3)),
    "fc.bias": draw(size=3),
}
MODEL = from_linen(Net(), jnp.zeros((1, 4, 5, 1)))
LIKE = jax.eval_shape(MODEL.init, jax.random.key(0))


def test_a_network_gives_what_its_weights_give_in_pytorchs_order():
    w, x = WEIGHTS, draw(size=(2, 1, 4, 5))  # N C H W
    out = np.zeros((2, 2, 2, 3))
    for i in range(2):
        for j in range(3):
            patch = x[:, :, i : i + 3, j : j + 3]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", patch, w["features.0.weight"])
    wide = lambda a: a[None, :, None, None]
    out += wide(w["features.0.bias"])
    out = (out - wide(w["features.1.running_mean"])) / np.sqrt(
        wide(w["features.1.running_var"]) + 1e-5
    )
    out = out * wide(w["features.1.weight"]) + wide(w["features.1.bias"])
    logits = out.reshape(2, -1) @ w["fc.weight"].T + w["fc.bias"]
    variables = from_torch(WEIGHTS, LIKE, LAYERS, flattened={"fc": (2, 2, 3)})
    ours, _ = MODEL.apply(variables, jnp.float32(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(other=np.zeros(3)), "no place for other; its layers are head, norm, stem"),
        ({"fc.bias": np.zeros(4)}, r"fc.bias becomes \[4\], and head/bias is \[3\]"),
        ({"fc.bias": None}, "the weights have nothing for head/bias"),
    ],
)
def test_weights_of_another_network_are_a_sentence(change, words):
    weights = {name: a for name, a in (WEIGHTS | change).items() if a is not None}
    with pytest.raises(ValueError, match=words):
        from_torch(weights, LIKE, LAYERS)
