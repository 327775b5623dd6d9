"""The jobs that ``launch.bench`` times: data, networks and first weights, from fixed seeds.

``mlp`` and ``cnn`` are small enough for two cores, and simple enough to write in any framework.
Another framework with the same numbers reaches the same loss, up to the order of batches. The
other jobs are for accelerators.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10


class Workload(NamedTuple):
    """Clients of equal size, one local epoch of SGD with momentum a round, plain averaging."""

    clients: int
    examples: int  # examples of each client
    shape: tuple[int, ...]  # of an image
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.9  # starts from zero every round


class Job:
    """A worker's job: a round, the loss, a function to end it, and facts known before a round."""

    def __init__(
        self,
        run: Callable,
        loss: Callable | None = None,
        close: Callable = lambda: None,
        **facts: Any,
    ):
        self.run, self.loss, self.close, self.facts = run, loss, close, facts


WORKLOADS = {
    "mlp": Workload(100, 60, (28, 28, 1)),
    "cnn": Workload(10, 600, (28, 28, 1)),
    "cifar_cnn": Workload(10, 5000, (32, 32, 3)),
    "resnet18": Workload(10, 500, (32, 32, 3)),
    "vit_tiny": Workload(10, 500, (32, 32, 3)),
    "vit_base": Workload(10, 64, (224, 224, 3)),
}

STRATEGY = re.compile(r"(\d+)x(\d+)(?::(stock|product))?")

# Jobs whose first weights are made here, so that other frameworks can start from them.
PORTABLE = ("mlp", "cnn")


def strategy(text: str) -> tuple[int, int, str]:
    """Devices, clients at once on each (0 means all), and the convolution (empty means jfu's own).

    Raises:
      ValueError: another form.

    >>> strategy("2x1"), strategy("1x0:product")
    ((2, 1, ''), (1, 0, 'product'))
    """
    found = STRATEGY.fullmatch(text)
    if not found or found[1] == "0":
        raise ValueError(
            f"{text!r} is not a strategy; write DEVICESxCLIENTS, as 2x1, or 1x0 for all clients at "
            "once, and :stock or :product behind it for another convolution"
        )
    return int(found[1]), int(found[2]), found[3] or ""


def data(name: str, workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """One pattern for each class plus noise: images ``[K, N, ...]``, labels int32 ``[K, N]``.

    If the job is portable, images are float32: standard normal noise plus 0.3 times the pattern.
    Otherwise they are random bytes.
    """
    size = (workload.clients, workload.examples)
    if name not in PORTABLE:
        rng = np.random.default_rng(0)
        y = rng.integers(0, CLASSES, size, dtype=np.int32)
        return rng.integers(0, 256, (*size, *workload.shape), dtype=np.uint8), y
    rng = np.random.RandomState(0)
    patterns = rng.randn(CLASSES, *workload.shape).astype(np.float32)
    y = rng.randint(0, CLASSES, size).astype(np.int32)
    noise = rng.randn(*size, *workload.shape).astype(np.float32)
    return noise + 0.3 * patterns[y], y


def layers(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the kernels of a portable job, in call order; biases have the last dimension."""
    if name == "mlp":
        return dict(stem=(784, 200), hidden=(200, 200), head=(200, CLASSES))
    return dict(stem=(5, 5, 1, 32), conv2=(5, 5, 32, 64), hidden=(3136, 512), head=(512, CLASSES))


def weights(name: str) -> dict[str, dict[str, np.ndarray]]:
    """First weights of a portable job: kernels uniform in ±1/sqrt(fan in), biases 0."""
    rng = np.random.RandomState(1)
    made = {}
    for layer, shape in layers(name).items():
        fan_in = np.float32(np.sqrt(np.prod(shape[:-1])))
        kernel = rng.uniform(-1, 1, shape).astype(np.float32) / fan_in
        made[layer] = dict(kernel=kernel, bias=np.zeros(shape[-1], np.float32))
    return made


def model(name: str, workload: Workload, convolution: str = "") -> Any:
    """The network as a ``jfu.Model``; a portable one starts from ``weights`` for any key.

    Args:
      convolution: ``jfu.conv`` if empty; "stock", ``lax.conv_general_dilated``; "product",
        ``jfu.conv`` as one matrix product.
    """
    import jax

    import jfu
    from jfu import models

    product = functools.partial(jfu.conv, as_product=True)
    used = {"": jfu.conv, "stock": jax.lax.conv_general_dilated, "product": product}[convolution]

    if name != "cnn":
        known = {"cifar_cnn": "cnn"}.get(name, name)
        made = models.build(known, classes=CLASSES, image_shape=workload.shape, convolution=used)
    else:
        made = _cnn(workload, used)
    if name in PORTABLE:
        made = made._replace(init=lambda key: {"params": weights(name)})
    return made


def _cnn(workload: Workload, convolution: Callable) -> Any:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    import jfu
    from jfu import models
    from jfu.models.layers import max_pool

    class Net(nn.Module):
        """Two 5x5 convolutions that keep the image's size, each pooled, and a hidden layer."""

        @nn.compact
        def __call__(self, x):
            for name, width in ("stem", 32), ("conv2", 64):
                x = nn.Conv(width, (5, 5), conv_general_dilated=convolution, name=name)(x)
                x = max_pool(nn.relu(x))
            dense = functools.partial(nn.Dense, dot_general=jfu.dot_general)
            x = nn.relu(dense(512, name="hidden")(x.reshape(len(x), -1)))
            return dense(CLASSES, name="head")(x)

    return models.from_linen(Net(), jax.ShapeDtypeStruct((1, *workload.shape), jnp.float32))
