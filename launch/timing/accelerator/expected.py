"""What a round should take on an accelerator at least, with the arithmetic beside each number.

A round of K clients with N examples, C at once, in batches of B, takes steps one after another:

  steps = ceil(K / C) * ceil(N / B)

Each of three times is a lower bound, if its assumption holds:

  operations: GFLOP of the round / the device's rate for products
  bytes:      K * ceil(N / B) * bytes of a step / the device's bandwidth
  launches:   steps * kernels of a step * the time of one launch

Operations, bytes and kernels of a step are XLA's for a program compiled for CPU (``lowered``). The
largest bound is what a round takes at least, and names what limits it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from launch.timing import workloads
from launch.timing.accelerator import jobs

Row = Mapping[str, Any]


class Device(NamedTuple):
    """Assumed rates; the first step of the suite measures them."""

    name: str
    tflops: float  # of TF32 products
    gigabytes: float  # a second
    launch: float  # seconds of one kernel's launch, at least


# The data sheet of the NVIDIA H200 (SXM): 989 TFLOP/s in TF32 with sparsity, half of it without;
# 4.8 TB/s. 3 µs a kernel is this page's guess.
H200 = Device("H200 (data sheet)", 494.5, 4800.0, 3e-6)


class Bound(NamedTuple):
    """What a round takes at least."""

    steps: int
    gflop: float
    gigabytes: float
    operations: float  # seconds
    bytes: float
    launches: float

    @property
    def least(self) -> float:
        return max(self.operations, self.bytes, self.launches)

    @property
    def limit(self) -> str:
        return max(("operations", "bytes", "launches"), key=lambda name: getattr(self, name))


def bound(job: jobs.Job, strategy: str, step: Row, device: Device = H200) -> Bound:
    """The bounds of a round.

    Args:
      step: the row of one local step with the job's batches.

    >>> step = dict(gflop=1.0, gigabytes=0.5, kernels=10)
    >>> found = bound(jobs.JOBS["resnet18-10"], "1x5", step, Device("a", 1.0, 100.0, 1e-5))
    >>> found.steps, found.gflop, found.gigabytes, found.limit, found.least
    (32, 160.0, 80.0, 'bytes', 0.8)
    """
    clients, batches = job.sizes.clients, math.ceil(job.sizes.examples / job.sizes.batch_size)
    together = workloads.strategy(strategy)[1] or clients
    steps = math.ceil(clients / together) * batches
    gflop = clients * batches * step["gflop"]
    gigabytes = clients * batches * step["gigabytes"]
    seconds = (gflop / device.tflops / 1e3, gigabytes / device.gigabytes)
    return Bound(steps, gflop, gigabytes, *seconds, steps * step["kernels"] * device.launch)


def markdown(rows: Sequence[Row], device: Device = H200) -> str:
    """The bounds of every job and way that is timed with the job's own batches."""
    from jfu import tables

    of = {(row["workload"], row["batch_size"]): row for row in rows if row["what"] == "step"}
    lines = [["job", "way", "steps", "GFLOP", "operations s", "GB", "bytes s", "kernels"]]
    lines[0] += ["launches s", "at least s", "limit"]
    for name, job in jobs.JOBS.items():
        step = of.get((job.workload, job.sizes.batch_size))
        for strategy, size in job.strategies if step else ():
            if size == job.sizes.batch_size and ":" not in strategy:
                found = bound(job, strategy, step, device)
                lines.append(
                    [name, strategy, f"{found.steps:,}", f"{found.gflop:,.0f}"]
                    + [f"{found.operations:.3f}", f"{found.gigabytes:,.0f}", f"{found.bytes:.3f}"]
                    + [f"{step['kernels']}", f"{found.launches:.3f}", f"{found.least:.3f}"]
                    + [found.limit]
                )
    return tables.aligned(lines)


def steps(rows: Sequence[Row]) -> str:
    """One local step of each network, from which the bounds follow."""
    from jfu import tables

    lines = [["network", "batch", "parameters", "GFLOP", "GB", "kernels", "FLOP a byte"]]
    for row in rows:
        if row["what"] == "step":
            intensity = row["gflop"] / row["gigabytes"]
            lines.append([row["workload"], str(row["batch_size"]), f"{row['parameters']:,}"])
            lines[-1] += [f"{row['gflop']:.2f}", f"{row['gigabytes']:.3f}", f"{row['kernels']}"]
            lines[-1] += [f"{intensity:.1f}"]
    return tables.aligned(lines)


def programs(rows: Sequence[Row]) -> str:
    """What is in the rounds as JAX lowers them for accelerators."""
    from jfu import tables

    lines = [["job", "way", "precision", "for", "convolutions", "grouped", "groups"]]
    lines[0] += ["products", "gathers", "in loops", "host transfers", "float64"]
    for row in rows:
        if row["what"] == "round":
            names = ("convolutions", "grouped", "groups", "products", "gathers")
            names += ("gathers_in_loops", "host_transfers", "float64")
            first = [row["job"], row["strategy"], row["precision"], row["platform"]]
            lines.append([*first, *(str(row[name]) for name in names)])
    return tables.aligned(lines)
