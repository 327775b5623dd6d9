"""Measurements and facts of a fresh process, as JSON."""

import json
import resource
import statistics
import time

from launch.timing import workloads


def describe(common: dict) -> None:
    """Prints the default strategy, the devices, and the operations of a round, as JSON."""
    import jax
    import jax.numpy as jnp

    import jfu
    from jfu.costs import entries
    from jfu.devices import cores

    job = workloads.Workload(**common["job"])
    jfu.cpu_devices(max(1, min(cores(), job.clients)), ahead=False)
    devices = jax.device_count()
    model = workloads.model(common["workload"], job, "stock")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    share = -(-job.clients // devices)
    at_once = jfu.clients_at_once(jax.default_backend(), share, entries(variables))
    kind = jnp.float32 if common["workload"] in workloads.PORTABLE else jnp.uint8
    shaped = jax.ShapeDtypeStruct
    batch = jfu.Batch(
        shaped((job.batch_size, *job.shape), kind),
        shaped((job.batch_size,), jnp.int32),
        shaped((job.batch_size,), jnp.float32),
    )
    flops = jfu.step_flops(jfu.classification(model.apply), variables, batch) / job.batch_size
    gflop = flops * job.clients * job.examples / 1e9
    facts = dict(strategy=f"{devices}x{at_once}", devices=devices, gflop=gflop)
    print(json.dumps(facts | dict(backend=jax.default_backend())))


def point(asked: dict[str, int]) -> None:
    """Runs rounds with these sizes and prints their costs, as JSON."""
    import jax
    import numpy as np
    import optax

    import jfu

    jfu.cpu_devices(asked["devices"], ahead=False)
    from jfu.models import from_linen
    from jfu.models.mlp import MLP

    count = asked["clients"] * asked["images"]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    y = rng.integers(0, 10, count, dtype=np.int32)
    model = from_linen(MLP(10, asked["width"]), jax.ShapeDtypeStruct((1, 28, 28, 1), x.dtype))
    local = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.01, 0.9), batch_size=32)
    fed = jfu.fedavg(local, chunk=asked["chunk"])
    mesh = jfu.clients_mesh(jax.devices()[: asked["devices"]])
    with jax.set_mesh(mesh):
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        clients = jfu.stack(x, y, np.arange(count).reshape(asked["clients"], -1))
        clients = jax.device_put(clients, spread)
        state = jax.device_put(fed.init(model.init(jax.random.key(0))), spread)
        key = jax.device_put(jax.random.key(1), spread)
        step = jax.jit(fed.round, donate_argnums=0, out_shardings=spread)
        step = step.lower(state, clients, key).compile()
        params = sum(a.size for a in jax.tree.leaves(state.params))
        seconds = []
        for number in range(100):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, clients, key))
            seconds.append(time.perf_counter() - began)
            if number >= 2 and sum(seconds) > 3:
                break
    text = step.as_text()
    number_of = lambda op: text.count(f" {op}(") + text.count(f" {op}-start(")
    found = dict(
        parameters=params,
        seconds=statistics.median(seconds[1:]),
        temporary_mb=step.memory_analysis().temp_size_in_bytes / 2**20,
        data_mb=x.nbytes / 2**20,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        all_reduces=number_of("all-reduce"),
        gathers=number_of("all-gather") + number_of("all-to-all"),
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
    )
    print(json.dumps(found))
