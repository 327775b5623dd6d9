"""The processes that are timed: each runs rounds of one job, one round for each request.

  python -m launch.timing.workers '{"name": "jfu", "workload": "mlp", "strategy": "2x1", ...}'

A worker writes lines of JSON. ``ready``: it can run. ``round``: it has run a round, which a line
``go`` requested. ``done``: it has run a given number of rounds without requests. ``end``: its loss.
Each worker imports the slow packages that it needs itself.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from launch.timing import peers, workloads
from launch.timing.workloads import Job


def jfu_rounds(asked: dict) -> Job:
    """jfu's round; ``strategy`` as in ``workloads.strategy``."""
    import jax

    import jfu

    devices, chunk, convolution = workloads.strategy(asked["strategy"])
    jfu.cpu_devices(devices, ahead=False)
    import jax.numpy as jnp

    if len(jax.devices()) < devices:
        raise ValueError(f"{asked['strategy']} needs {devices} devices; {jax.device_count()} here")
    model, fed, (x, y, rows) = jfu_task(asked, chunk, convolution)
    mesh = jfu.clients_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        clients = jax.device_put(jfu.stack(x, y, rows), spread)
        few = jax.device_put((x[:600], y[:600]), spread)
        state = jax.device_put(fed.init(model.init(jax.random.key(0))), spread)
        key = lambda number: jax.device_put(jax.random.key(number), spread)
        jax.block_until_ready((clients, state))
        del x
        began = time.perf_counter()
        step = jax.jit(fed.round, donate_argnums=0, out_shardings=spread)
        step = step.lower(state, clients, key(0)).compile()
        seconds = time.perf_counter() - began
    mine = dict(state=state, number=0)

    def run():
        mine["state"], info = step(mine["state"], clients, key(mine["number"]))
        mine["number"] += 1
        jax.block_until_ready((mine["state"], info))

    def loss():
        batch = jfu.Batch(few[0], few[1], jnp.ones(len(few[1])))
        mean = jax.jit(lambda v, b: jfu.cross_entropy(model.apply(v, b.x)[0], b))
        return float(mean(mine["state"].variables, batch))

    def device_mb():
        stats = jax.devices()[0].memory_stats() or {}
        peak = stats.get("peak_bytes_in_use")
        return None if peak is None else peak / 2**20

    return Job(
        run,
        loss,
        compile_seconds=seconds,
        device=f"{devices} {jax.devices()[0].device_kind}",
        jax=jax.__version__,
        device_mb=device_mb,
    )


def jfu_task(asked: dict, chunk: int | None, convolution: str) -> tuple[Any, Any, tuple]:
    """The model, the federation, and what ``jfu.stack`` takes: images, labels, clients' rows."""
    import jax
    import numpy as np
    import optax

    import jfu
    from jfu import models
    from jfu.costs import entries

    workload = workloads.Workload(**asked["job"])
    model = workloads.model(asked["workload"], workload, convolution)
    model = models.at_precision(model, asked["precision"])
    x, y = workloads.data(asked["workload"], workload)
    count = workload.clients * workload.examples
    x, y = x.reshape(count, *workload.shape), y.reshape(count)
    rows = np.arange(count).reshape(workload.clients, -1)
    size = workload.batch_size
    if asked["name"] == "central":  # one client has all examples and trains on all batches
        variables = jax.eval_shape(model.init, jax.random.key(0))
        backend, many = jax.default_backend(), workload.clients
        if backend != "cpu":  # of as many as fit its memory together
            many = jfu.clients_at_once(backend, many, entries(variables))
        rows, size = rows.reshape(1, -1), size * many
    optimizer = optax.sgd(workload.lr, workload.momentum)
    local = jfu.local_sgd(jfu.classification(model.apply), optimizer, batch_size=size)
    return model, jfu.fedavg(local, chunk=chunk), (x, y, rows)


def matmul_rounds(asked: dict) -> Job:
    """The device's rate of matrix products: a product of two square matrices, repeated."""
    import jax
    import jax.numpy as jnp

    half_width = asked["precision"] == "bf16"
    side, times = (2048, 2) if jax.default_backend() == "cpu" else (8192, 20)
    precision = {"float32": "highest", "tf32": "tensorfloat32"}.get(asked["precision"])
    a = jnp.ones((side, side), jnp.bfloat16 if half_width else jnp.float32) / side

    @jax.jit
    def products(a):
        return jax.lax.fori_loop(0, times, lambda _, b: jnp.dot(a, b, precision=precision), a)

    return Job(
        lambda: jax.block_until_ready(products(a)),
        gflop=2 * side**3 * times / 1e9,
        device=f"1 {jax.devices()[0].device_kind}",
        jax=jax.__version__,
    )


def updates(optimizer: Any, steps: int) -> Callable:
    """Steps of an optimizer with a constant gradient."""
    import jax
    import optax

    def run(params, memory, slope):
        def step(_, carry):
            params, memory = carry
            change, memory = optimizer.update(slope, memory, params)
            return optax.apply_updates(params, change), memory

        return jax.lax.fori_loop(0, steps, step, (params, memory))

    return run


def update_rounds(asked: dict) -> Job:
    """The time of the optimizer alone in a round."""
    import jax

    import jfu

    devices, chunk, _ = workloads.strategy(asked["strategy"])
    jfu.cpu_devices(devices, ahead=False)
    import jax.numpy as jnp
    import optax

    job = workloads.Workload(**asked["job"])
    model = workloads.model(asked["workload"], job)
    share = -(-job.clients // devices)
    chunk = min(chunk or share, share)
    steps = -(-share // chunk) * -(-job.examples // job.batch_size)  # one after another
    optimizer = optax.sgd(job.lr, job.momentum)
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    full = lambda value: lambda a: jnp.full((devices * chunk, *a.shape), value, a.dtype)
    mesh = jfu.clients_mesh(jax.devices()[:devices])
    rows = jax.sharding.PartitionSpec(jfu.devices.AXIS)
    spread = jax.sharding.NamedSharding(mesh, rows)
    slope = jax.device_put(jax.tree.map(full(1e-3), shapes), spread)
    params = jax.device_put(jax.tree.map(full(1.0), shapes), spread)
    mine = dict(params=params, memory=jax.device_put(optimizer.init(params), spread))
    del params
    specs = dict(in_specs=rows, out_specs=rows)
    run = jax.shard_map(updates(optimizer, steps), mesh=mesh, **specs, check_vma=False)
    run = jax.jit(run, donate_argnums=(0, 1))

    def one():
        updated = jax.block_until_ready(run(mine["params"], mine["memory"], slope))
        mine["params"], mine["memory"] = updated

    return Job(
        one,
        gflop=None,
        device=f"{devices} {jax.devices()[0].device_kind}",
        jax=jax.__version__,
    )


def streaming_rounds(asked: dict) -> Job:
    """Rounds of ``launch.streaming``: images in a file, streamed or moved to the devices."""
    import jax

    import jfu

    jfu.cpu_devices(asked["devices"], ahead=False)
    import numpy as np
    import optax

    from jfu.data import partition
    from launch.timing import memory as memories

    clients, workload = asked["clients"], workloads.WORKLOADS["mlp"]
    count = clients * memories.IMAGES
    x = np.load(asked["pool"], mmap_mode="r")[:count]
    y = np.random.default_rng(1).integers(0, workloads.CLASSES, count, dtype=np.int32)
    rows = np.split(np.arange(count), clients)
    if asked["sizes"] == "dirichlet":  # of one class, so that it is the sizes that are drawn
        rows = partition.dirichlet(np.zeros(count, int), clients, 0.1, seed=0)
    model = workloads.model("mlp", workload)
    optimizer = optax.sgd(workload.lr, workload.momentum)
    local = jfu.local_sgd(jfu.classification(model.apply), optimizer, batch_size=32)
    fed = jfu.fedavg(local)
    mesh = jfu.clients_mesh(jax.devices()[: asked["devices"]])
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    streamed = asked["how"] == "streamed"
    # A copy in memory, because JAX could use a mapped file directly as a device's memory.
    data = jfu.stack(x if streamed else np.array(x), y, rows, host=streamed)
    if streamed:
        step = jfu.streamed(fed, piece=asked["piece"]).round
    else:
        step, data = jax.jit(fed.round, out_shardings=spread), jax.device_put(data, spread)
    mine = dict(state=jax.device_put(fed.init(model.init(jax.random.key(0))), spread), number=0)
    memory = memories.follow()

    def run():
        key = jax.random.fold_in(jax.random.key(1), mine["number"])
        with jax.set_mesh(mesh):
            mine["state"], _ = jax.block_until_ready(step(mine["state"], data, key))
        mine["number"] += 1

    return Job(
        run,
        smallest=min(map(len, rows)),
        largest=max(map(len, rows)),
        data_mb=x.nbytes / 2**20,
        device=f"{asked['devices']} {jax.devices()[0].device_kind}",
        jax=jax.__version__,
        peak_mb=lambda: memory["peak"],
    )


WORKERS = {
    "jfu": jfu_rounds,
    "central": jfu_rounds,
    "torch": peers.torch_rounds,
    "fedjax": peers.fedjax_rounds,
    "drjax": peers.drjax_rounds,
    "flower": peers.flower_rounds,
    "matmul": matmul_rounds,
    "update": update_rounds,
    "streaming": streaming_rounds,
}


def work(asked: dict, say: Callable) -> None:
    """Serves one job until a line says to quit, or for ``rounds`` rounds."""
    job = WORKERS[asked["name"]](asked)
    try:
        serve(job, asked.get("rounds"), say)
    finally:
        job.close()


def serve(job: Job, rounds: int | None, say: Callable) -> None:
    late = {name: fact for name, fact in job.facts.items() if callable(fact)}
    say("ready", **{name: fact for name, fact in job.facts.items() if name not in late})
    if rounds:
        for _ in range(rounds):
            job.run()
        say("done")
    else:
        for line in sys.stdin:
            if line.strip() != "go":
                break
            began = time.perf_counter()
            job.run()
            say("round", seconds=time.perf_counter() - began)
    say(
        "end",
        loss=job.loss() if job.loss else None,
        **{name: fact() for name, fact in late.items()},
    )


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that output of libraries does not mix with the lines
    tell = lambda event, **facts: out.write(json.dumps(dict(event=event, **facts)) + "\n")
    work(json.loads(sys.argv[1]), tell)
