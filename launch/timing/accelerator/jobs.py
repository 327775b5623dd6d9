"""The federations whose rounds are timed on an accelerator, and the ways to run their clients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.timing import workloads
from launch.timing.workloads import Workload

PRECISIONS = ("tf32", "bf16", "float32")  # the default first
LARGE = 256  # the batch of one client after another that fills a device alone


class Job(NamedTuple):
    """Clients of one network, and the strategies to compare: ``(strategy, batch size)``."""

    workload: str
    sizes: Workload
    strategies: tuple[tuple[str, int], ...]


def _job(workload: str, clients: int, *strategies: str, **changes: int) -> Job:
    sizes = workloads.WORKLOADS[workload]._replace(clients=clients, **changes)
    ways = [(strategy, sizes.batch_size) for strategy in strategies]
    return Job(workload, sizes, (*ways, ("1x1", LARGE)))


# The convolutional networks run as grouped convolutions, as products, in chunks, and one after
# another. A ViT has no convolution but its patches, so it runs in the rule's chunks or one by one.
JOBS: dict[str, Job] = {
    "cifar_cnn-10": _job("cifar_cnn", 10, "1x0", "1x0:product", "1x5", "1x1"),
    "resnet18-10": _job("resnet18", 10, "1x0", "1x0:product", "1x5", "1x1"),
    "vit_tiny-10": _job("vit_tiny", 10, "1x0", "1x1"),
    "vit_base-10": _job("vit_base", 10, "1x3", "1x1"),
    "cifar_cnn-100": _job("cifar_cnn", 100, "1x0", "1x20", "1x20:product", "1x1", examples=500),
    "resnet18-100": _job("resnet18", 100, "1x20", "1x20:product", "1x1"),
    "vit_tiny-100": _job("vit_tiny", 100, "1x20", "1x1"),
    "vit_base-100": _job("vit_base", 100, "1x3", "1x1"),
}

# The stand-ins of a rehearsal: networks that compile in seconds, on a handful of examples.
STAND_INS = dict(cifar_cnn="small", resnet18="small", vit_tiny="mlp1", vit_base="mlp1")


def rehearsed(job: Job, precisions: Sequence[str] = PRECISIONS[:1]) -> Job:
    """The job at a size for a rehearsal on CPU, with at most three ways to run its clients.

    Beside the default precision one way is enough, since its programs differ in a type only.

    >>> job = rehearsed(JOBS["resnet18-100"])
    >>> job.sizes.clients, job.sizes.examples, job.strategies
    (4, 8, (('1x2', 4), ('1x2:product', 4), ('1x1', 8)))
    """
    sizes = Workload(min(job.sizes.clients // 10, 3) + 1, 8, (8, 8, 3), 4)
    ways = []
    for strategy, batch in job.strategies:
        devices, at_once, convolution = workloads.strategy(strategy)
        text = f"{devices}x{min(at_once, 2)}" + f":{convolution}" * bool(convolution)
        ways.append((text, 8 if batch == LARGE else 4))
    ways = [ways[0], *(way for way in ways if "product" in way[0]), ways[-1]]
    ways = ways if PRECISIONS[0] in precisions else ways[:1]
    return job._replace(sizes=sizes, strategies=tuple(ways))


def batch(job: Job, size: int) -> Any:
    """The shapes of a client's batch, a ``jfu.Batch``: x uint8 [size, ...], y, live rows."""
    import jax
    import jax.numpy as jnp

    import jfu

    shaped = jax.ShapeDtypeStruct
    return jfu.Batch(
        shaped((size, *job.sizes.shape), jnp.uint8),
        shaped((size,), jnp.int32),
        shaped((size,), jnp.float32),
    )


def network(job: Job, convolution: str, rehearse: bool) -> Any:
    """The job's network as a ``jfu.Model``, or its stand-in."""
    if not rehearse:
        return workloads.model(job.workload, job.sizes, convolution)
    return workloads.model(STAND_INS[job.workload], job.sizes, convolution)
