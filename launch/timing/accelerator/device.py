"""Step 1: what this device is. Rates of products, of copies and of transfers, and memory.

Rates are those of random numbers, since products of zeros and ones can be faster. Each is the
median of several runs that are waited for. A copy counts the bytes read and the bytes written.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from launch.timing.accelerator import files

KEY = ("what", "precision")
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bf16": None}


class Sizes(NamedTuple):
    """How large the operands are."""

    side: int  # of square matrices
    batch: int  # products of small matrices at once
    small: int  # side of these
    megabytes: int  # of an array that is copied
    images: int  # of 24x24x64, for convolutions
    repeats: int


SIZES = Sizes(8192, 1024, 512, 1024, 512, 10)
REHEARSED = Sizes(64, 2, 16, 1, 2, 2)


def measure(path: str, sizes: Sizes) -> None:
    """Measures all that is not yet in the file ``path``, and adds a row for each."""
    there = {tuple(row[name] for name in KEY) for row in files.read(path)}
    for (what, precision), measured in questions(sizes):
        if (what, precision) in there:
            continue
        try:
            found = measured()
        except Exception as error:  # memory, or an operation that the device lacks
            found = dict(error=f"{type(error).__name__}: {error}".splitlines()[0][:300])
        files.add(path, dict(what=what, precision=precision) | found, KEY)


def questions(sizes: Sizes) -> Iterator[tuple[tuple[str, str | None], Callable[[], dict]]]:
    """What is measured, and the function that measures it, in order."""
    yield ("facts", None), facts
    for precision in ("tf32", "bf16", "float32"):
        yield ("product", precision), lambda: product(sizes, precision)
        yield ("products of clients", precision), lambda: products(sizes, precision)
    for groups in (1, 10):
        name = f"convolution in {groups} group" + "s" * (groups > 1)
        yield (name, "tf32"), lambda: convolution(sizes, groups)
    yield ("copy", None), lambda: copy(sizes)
    yield ("to the device", None), lambda: transfer(sizes, away=False)
    yield ("from the device", None), lambda: transfer(sizes, away=True)
    yield ("call", None), lambda: call(sizes)
    yield ("turn of a loop", None), lambda: turn(sizes)


def facts() -> dict[str, Any]:
    """The device, its memory, and the software."""
    import jax
    import jaxlib

    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    return dict(
        device=device.device_kind,
        backend=jax.default_backend(),
        devices=jax.device_count(),
        memory_mb=None if memory is None else memory / 2**20,
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        python=sys.version.split()[0],
        platform=str(getattr(device.client, "platform_version", "")).splitlines()[:3],
    )


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of one run, waited for: the median after two that are not counted."""
    import jax

    seconds = []
    for number in range(repeats + 2):
        began = time.perf_counter()
        jax.block_until_ready(run())
        if number >= 2:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _random(shape: tuple[int, ...], precision: str | None) -> Any:
    import jax
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    return jax.block_until_ready(jax.random.normal(jax.random.key(0), shape, dtype))


def product(sizes: Sizes, precision: str) -> dict[str, Any]:
    """A product of two square matrices."""
    import jax
    import jax.numpy as jnp

    a = _random((sizes.side, sizes.side), precision)
    run = jax.jit(lambda a: jnp.dot(a, a, precision=PRECISIONS[precision]))
    seconds = timed(lambda: run(a), sizes.repeats)
    rate = 2 * sizes.side**3 / seconds / 1e12
    return dict(value=rate, unit="TFLOP/s", seconds=seconds, shape=[sizes.side] * 3)


def products(sizes: Sizes, precision: str) -> dict[str, Any]:
    """As many products at once as there are clients: a batch of small matrices."""
    import jax
    import jax.numpy as jnp

    a = _random((sizes.batch, sizes.small, sizes.small), precision)
    run = jax.jit(lambda a: jnp.matmul(a, a, precision=PRECISIONS[precision]))
    seconds = timed(lambda: run(a), sizes.repeats)
    rate = 2 * sizes.batch * sizes.small**3 / seconds / 1e12
    shape = [sizes.batch] + [sizes.small] * 3
    return dict(value=rate, unit="TFLOP/s", seconds=seconds, shape=shape)


def convolution(sizes: Sizes, groups: int) -> dict[str, Any]:
    """The second convolution of ``cifar_cnn``, for one client or for ten in groups.

    Both do the same operations: ten clients have a tenth of the images each.
    """
    import jax

    count, many = max(1, sizes.images // groups), 64 * groups
    x, kernel = _random((count, 14, 14, many), None), _random((5, 5, 64, many), None)
    numbers = ("NHWC", "HWIO", "NHWC")

    def run(x, kernel):
        options: dict[str, Any] = dict(precision="tensorfloat32", feature_group_count=groups)
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=numbers, **options
        )

    run = jax.jit(run)
    seconds = timed(lambda: run(x, kernel), sizes.repeats)
    rate = 2 * count * 10 * 10 * 25 * 64 * many / seconds / 1e12
    return dict(value=rate, unit="TFLOP/s", seconds=seconds, shape=[count, 14, 14, many])


def copy(sizes: Sizes) -> dict[str, Any]:
    """An array read and written once."""
    import jax

    a = _random((sizes.megabytes, 2**18), None)
    run = jax.jit(lambda a: a + 1)
    seconds = timed(lambda: run(a), sizes.repeats)
    rate = 2 * a.nbytes / seconds / 1e9
    return dict(value=rate, unit="GB/s", seconds=seconds, shape=list(a.shape))


def transfer(sizes: Sizes, *, away: bool) -> dict[str, Any]:
    """An array on its way between the host's memory and the device's."""
    import jax
    import numpy as np

    host = np.random.default_rng(0).random((max(1, sizes.megabytes // 4), 2**18), np.float32)
    there = [jax.device_put(host + i) for i in range(sizes.repeats + 2)] if away else []
    # An array remembers its copy on the host, so each is fetched once.
    run = (lambda: np.asarray(there.pop())) if away else (lambda: jax.device_put(host))
    seconds = timed(run, sizes.repeats)
    return dict(value=host.nbytes / seconds / 1e9, unit="GB/s", seconds=seconds)


def call(sizes: Sizes) -> dict[str, Any]:
    """A program that does nearly nothing: what each call costs."""
    import jax

    a = _random((8,), None)
    run = jax.jit(lambda a: a + 1)
    seconds = timed(lambda: run(a), 10 * sizes.repeats)
    return dict(value=1e6 * seconds, unit="µs", seconds=seconds)


def turn(sizes: Sizes) -> dict[str, Any]:
    """One turn of a loop in a program: a step of training that has nothing to compute."""
    import jax
    import jax.numpy as jnp

    a, times = _random((256, 256), None), 1000
    step = lambda _, a: jnp.tanh(a)
    run = jax.jit(lambda a: jax.lax.fori_loop(0, times, step, a))
    seconds = timed(lambda: run(a), sizes.repeats) / times
    return dict(value=1e6 * seconds, unit="µs", seconds=seconds)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    measure(asked["path"], REHEARSED if asked["rehearse"] else SIZES)
