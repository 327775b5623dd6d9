"""Step 2: rounds of one job, by the ways to run its clients, beside centralised training.

All ways run in one process, which makes the data once. Each is compiled and runs twice; then its
row is written, so that a process that is killed leaves what it has measured. At the end the ways
take turns, and the rows get the medians of these.

``device_mb`` is what the compiler reserves for a round: arguments, results and temporaries. The
peak of a process could not tell the ways apart, since it never falls.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from launch.timing import workloads
from launch.timing.accelerator import files, jobs

KEY = ("job", "name", "strategy", "batch_size", "precision")
SECONDS, MOST_TURNS = 2.0, 7  # of each way's turns


class Way(NamedTuple):
    """One way to run the job's clients."""

    name: str  # "jfu", or "central"
    strategy: str
    batch_size: int
    precision: str


class Ready(NamedTuple):
    """A compiled round."""

    row: dict[str, Any]
    run: Callable[[], float]  # seconds of one more round


def ways(job: jobs.Job, precisions: Sequence[str], chosen: int) -> list[Way]:
    """Centralised training first, then the job's strategies, and the rule's choice if it differs.

    Args:
      chosen: clients at once by ``jfu.clients_at_once``.

    >>> job = jobs.JOBS["vit_tiny-10"]
    >>> [way.strategy for way in ways(job, ["tf32"], 10)]
    ['1x1', '1x0', '1x1', '1x1']
    >>> ways(job, ["bf16"], 5)[-1]
    Way(name='jfu', strategy='1x5', batch_size=32, precision='bf16')
    """
    found = []
    for precision in precisions:
        found.append(Way("central", "1x1", job.sizes.batch_size, precision))
        found += [Way("jfu", strategy, size, precision) for strategy, size in job.strategies]
        usual = [strategy for strategy, size in job.strategies if size == job.sizes.batch_size]
        if not any(at_once(job, s) == chosen for s in usual if ":" not in s):
            found.append(Way("jfu", f"1x{chosen}", job.sizes.batch_size, precision))
    return found


def at_once(job: jobs.Job, strategy: str) -> int:
    return workloads.strategy(strategy)[1] or job.sizes.clients


def measure(asked: dict[str, Any]) -> None:
    """Times every way that has no row in the file ``asked["path"]`` yet."""
    import jax

    import jfu
    from jfu.costs import entries

    jfu.cpu_devices(1, ahead=False)
    job, path = jobs.JOBS[asked["job"]], asked["path"]
    job = jobs.rehearsed(job, asked["precisions"]) if asked["rehearse"] else job
    model = jobs.network(job, "", asked["rehearse"])
    parameters = entries(jax.eval_shape(model.init, jax.random.key(0)))
    backend = jax.default_backend()
    chosen = jfu.clients_at_once(backend, job.sizes.clients, parameters)
    common = dict(job=asked["job"], workload=job.workload, parameters=parameters)
    common |= dict(clients=job.sizes.clients, examples=job.sizes.examples, at_once_by_rule=chosen)
    common |= dict(gflop=operations(job, asked["rehearse"]), device=jax.devices()[0].device_kind)
    common |= dict(backend=backend, jax=jax.__version__, rehearsed=asked["rehearse"])
    there = {tuple(row[name] for name in KEY) for row in files.read(path)}
    data = place(job)
    ready = []
    for way in ways(job, asked["precisions"], chosen):
        row = common | way._asdict()
        if tuple(row[name] for name in KEY) in there:
            continue
        row["at_once"] = at_once(job, way.strategy)
        row["large"] = way.batch_size != job.sizes.batch_size
        try:
            one = prepare(job, way, data, row, asked["rehearse"])
            seconds = [one.run(), one.run()]
            row |= dict(seconds_median=seconds[1], seconds_min=min(seconds), rounds=2)
            ready.append(one)
        except Exception as error:  # memory, or an operation that the device lacks
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        files.add(path, row, KEY)
    for row in turns(ready):
        files.add(path, row, KEY)


def operations(job: jobs.Job, rehearse: bool) -> float | None:
    """GFLOP of a round by XLA's count of one step, with stock convolutions."""
    import jax

    import jfu

    model, size = jobs.network(job, "stock", rehearse), job.sizes.batch_size
    batch = jobs.batch(job, size)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    try:
        step = jfu.step_flops(jfu.classification(model.apply), variables, batch)
    except Exception:  # some backends have no such count; the page of expectations has it
        return None
    return step / size * job.sizes.clients * job.sizes.examples / 1e9


def place(job: jobs.Job) -> tuple[Any, Any]:
    """Random images on the device, and labels: one pool for every way."""
    import jax

    x, y = workloads.data(job.workload, job.sizes)
    count = job.sizes.clients * job.sizes.examples
    return jax.device_put((x.reshape(count, *job.sizes.shape), y.reshape(count)))


def prepare(job: jobs.Job, way: Way, data: tuple, row: dict, rehearse: bool) -> Ready:
    """A way's round, compiled; the facts known before it runs go into ``row``."""
    import jax
    import numpy as np
    import optax

    import jfu
    from jfu import models

    chunk, convolution = workloads.strategy(way.strategy)[1:]
    model = models.at_precision(jobs.network(job, convolution, rehearse), way.precision)
    rows, size = np.arange(len(data[1])).reshape(job.sizes.clients, -1), way.batch_size
    if way.name == "central":  # one client with everybody's batches in one
        rows, size = rows.reshape(1, -1), size * row["at_once_by_rule"]
    optimizer = optax.sgd(job.sizes.lr, job.sizes.momentum)
    local = jfu.local_sgd(jfu.classification(model.apply), optimizer, batch_size=size)
    fed = jfu.fedavg(local, chunk=chunk)
    x, y = data
    clients = jfu.stack(x, y, rows)
    mine = dict(state=fed.init(model.init(jax.random.key(0))), number=0)
    began = time.perf_counter()
    lowered = jax.jit(fed.round, donate_argnums=0).lower(mine["state"], clients, jax.random.key(0))
    middle = time.perf_counter()
    step = lowered.compile()
    row |= dict(trace_seconds=middle - began, compile_seconds=time.perf_counter() - middle)
    row["device_mb"] = reserved(step)

    def run() -> float:
        key = jax.random.key(mine["number"])
        began = time.perf_counter()
        mine["state"], _ = jax.block_until_ready(step(mine["state"], clients, key))
        mine["number"] += 1
        return time.perf_counter() - began

    return Ready(row, run)


def reserved(step: Any) -> float | None:
    """MB that a compiled program needs; a donated argument's memory counts once."""
    sizes = step.memory_analysis()
    if sizes is None:
        return None
    total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return (total - sizes.alias_size_in_bytes) / 2**20


def turns(ready: Sequence[Ready]) -> list[dict[str, Any]]:
    """The rows after rounds in turns: at least three, and as many as fit ``SECONDS`` a way."""
    taken: list[list[float]] = [[] for _ in ready]
    for number in range(MOST_TURNS):
        for one, seconds in zip(ready, taken, strict=True):
            if number < 3 or sum(seconds) < SECONDS:
                seconds.append(one.run())
    return [
        one.row
        | dict(seconds_median=statistics.median(seconds), seconds_min=min(seconds))
        | dict(seconds_max=max(seconds), rounds=len(seconds))
        for one, seconds in zip(ready, taken, strict=True)
    ]


if __name__ == "__main__":
    measure(json.loads(sys.argv[1]))
