"""The processes that are timed: each runs rounds of one job, one when it is told to.

  python -m launch.workers '{"name": "jfu", "workload": "mlp", "strategy": "2x1", ...}'

A worker says what it does in lines of JSON: ``ready`` once it could run, ``round`` after each
round that a line ``go`` asked for, ``done`` after as many rounds without asking, ``end`` with
the loss it reached. Everything heavy is imported inside the worker that needs it.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from launch import workloads


class Job:
    """What a worker hands over: a round, the loss, and facts that are known before a round."""

    def __init__(self, run: Callable, loss: Callable | None = None, **facts: Any):
        self.run, self.loss, self.facts = run, loss, facts


def jfu_rounds(asked: dict) -> Job:
    """jfu's round; ``strategy`` as in ``workloads.strategy``."""
    import jax

    import jfu

    devices, chunk, convolution = workloads.strategy(asked["strategy"])
    jfu.cpu_devices(devices)
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jfu import models

    workload = workloads.Workload(**asked["job"])
    model = workloads.model(asked["workload"], workload, convolution)
    model = models.at_precision(model, asked["precision"])
    x, y = workloads.data(asked["workload"], workload)
    count = workload.clients * workload.examples
    x, y = x.reshape(count, *workload.shape), y.reshape(count)
    rows = np.arange(count).reshape(workload.clients, -1)
    size = workload.batch_size
    if asked["name"] == "central":  # one client holds everything and walks the total batch
        rows, size = rows.reshape(1, -1), size * workload.clients
    optimizer = optax.sgd(workload.lr, workload.momentum)
    local = jfu.local_sgd(jfu.classification(model.apply), optimizer, batch_size=size)
    fed = jfu.fedavg(local, chunk=chunk)
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
        batch = jfu.Batch(*few, jnp.ones(len(few[1])))
        logits, _ = model.apply(mine["state"].variables, batch.x)
        return float(jfu.cross_entropy(logits, batch))

    def device_mb():
        stats = jax.devices()[0].memory_stats() or {}
        peak = stats.get("peak_bytes_in_use")
        return None if peak is None else peak / 2**20

    return Job(
        run,
        loss,
        compile_seconds=seconds,
        device=f"{devices} {jax.devices()[0].device_kind}",
        version=jax.__version__,
        device_mb=device_mb,
    )


def torch_rounds(asked: dict) -> Job:
    """Plain PyTorch: clients one after another, one model, a running sum; no DataLoader."""
    import torch
    from torch import nn

    workload = workloads.Workload(**asked["job"])
    x, y = workloads.data(asked["workload"], workload)
    on = "cuda" if torch.cuda.is_available() else "cpu"
    # One channel: the images' rows and columns keep their places when it comes first.
    x = torch.from_numpy(x).reshape(*x.shape[:2], 1, *workload.shape[:2]).to(on)
    y = torch.from_numpy(y).long().to(on)

    if asked["workload"] == "mlp":
        stem, hidden, head = nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)
        named = dict(stem=stem, hidden=hidden, head=head)
        net = nn.Sequential(nn.Flatten(), stem, nn.ReLU(), hidden, nn.ReLU(), head)
    else:
        stem, conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        hidden, head = nn.Linear(3136, 512), nn.Linear(512, 10)
        named = dict(stem=stem, conv2=conv2, hidden=hidden, head=head)
        pool = lambda: nn.MaxPool2d(2)
        net = [
            stem,
            nn.ReLU(),
            pool(),
            conv2,
            nn.ReLU(),
            pool(),
            nn.Flatten(),
            hidden,
            nn.ReLU(),
            head,
        ]
        net = nn.Sequential(*net)
    with torch.no_grad():
        for layer, made in workloads.weights(asked["workload"]).items():
            kernel = torch.from_numpy(made["kernel"])
            if layer == "hidden" and asked["workload"] == "cnn":  # channels come first here
                kernel = kernel.reshape(7, 7, 64, 512).permute(2, 0, 1, 3).reshape(3136, 512)
            named[layer].weight.copy_(kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T)
            named[layer].bias.copy_(torch.from_numpy(made["bias"]))
    net = net.to(on)
    params = list(net.parameters())
    cross_entropy = nn.functional.cross_entropy
    torch.manual_seed(0)

    def run():
        received = [p.detach().clone() for p in params]
        total = [torch.zeros_like(p) for p in received]
        for images, labels in zip(x, y, strict=True):
            with torch.no_grad():
                torch._foreach_copy_(params, received)
            optimizer = torch.optim.SGD(params, lr=workload.lr, momentum=workload.momentum)
            for rows in torch.randperm(len(labels)).split(workload.batch_size):
                optimizer.zero_grad()
                cross_entropy(net(images[rows]), labels[rows]).backward()
                optimizer.step()
            torch._foreach_add_(total, [p.detach() for p in params])
        with torch.no_grad():
            torch._foreach_copy_(params, torch._foreach_div(total, float(len(x))))
        if on == "cuda":
            torch.cuda.synchronize()

    def loss():
        with torch.no_grad():
            flat = x.reshape(-1, *x.shape[2:])[:600]
            return float(cross_entropy(net(flat), y.reshape(-1)[:600]))

    device = torch.cuda.get_device_name() if on == "cuda" else f"{torch.get_num_threads()} threads"
    return Job(run, loss, device=device, version=torch.__version__)


def fedjax_rounds(asked: dict) -> Job:
    """FedJAX's federated averaging with its default backend."""
    import fedjax
    import jax
    import jax.numpy as jnp
    from fedjax.algorithms import fed_avg

    workload = workloads.Workload(**asked["job"])
    x, y = workloads.data(asked["workload"], workload)

    def logits(params, x):
        if asked["workload"] == "cnn":
            for name in "stem", "conv2":
                layer = params[name]
                x = jax.lax.conv_general_dilated(
                    x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.relu(x + layer["bias"])
                # Not reduce_window, as Haiku and stax have it: a CPU takes twice as long for that.
                x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
        x = x.reshape(len(x), -1)
        dense = [name for name, layer in params.items() if layer["kernel"].ndim == 2]
        for name in sorted(dense, key=("stem", "hidden", "head").index):
            x = x @ params[name]["kernel"] + params[name]["bias"]
            x = x if name == "head" else jax.nn.relu(x)
        return x

    def objective(params, batch, key):
        return fedjax.metrics.unreduced_cross_entropy_loss(
            batch["y"], logits(params, batch["x"])
        ).mean()

    algorithm = fed_avg.federated_averaging(
        jax.grad(objective),
        fedjax.optimizers.sgd(workload.lr, workload.momentum),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch_size, num_epochs=1),
    )
    start = jax.tree.map(jnp.asarray, workloads.weights(asked["workload"]))
    mine = dict(state=algorithm.init(start), number=0)
    sets = [fedjax.ClientDataset({"x": a, "y": b}) for a, b in zip(x, y, strict=True)]

    def run():
        key = jax.random.fold_in(jax.random.PRNGKey(0), mine["number"])
        keys = jax.random.split(key, len(sets))
        clients = [(b"%d" % i, data, keys[i]) for i, data in enumerate(sets)]
        mine["state"], _ = algorithm.apply(mine["state"], clients)
        mine["number"] += 1
        jax.block_until_ready(mine["state"].params)

    def loss():
        flat = dict(x=x.reshape(-1, *workload.shape)[:600], y=y.reshape(-1)[:600])
        return float(objective(mine["state"].params, flat, None))

    version = importlib.metadata.version("fedjax")
    return Job(run, loss, device=f"1 {jax.devices()[0].device_kind}", version=version)


def matmul_rounds(asked: dict) -> Job:
    """The device's matrix-product rate: a product of two square matrices, over and over."""
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
        version=jax.__version__,
    )


def streaming_rounds(asked: dict) -> Job:
    """Rounds of ``launch.streaming``: the images in a file, streamed or brought to the devices."""
    import jax

    import jfu

    jfu.cpu_devices(asked["devices"])
    import numpy as np
    import optax

    from jfu.data import partition
    from launch import streaming

    clients, workload = asked["clients"], workloads.WORKLOADS["mlp"]
    count = clients * streaming.IMAGES
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
    # A copy in memory; a file that is mapped could be taken for a device's own memory as it is.
    data = jfu.stack(x if streamed else np.array(x), y, rows, host=streamed)
    if streamed:
        step = jfu.streamed(fed, piece=asked["piece"]).round
    else:
        step, data = jax.jit(fed.round, out_shardings=spread), jax.device_put(data, spread)
    mine = dict(state=jax.device_put(fed.init(model.init(jax.random.key(0))), spread), number=0)
    memory = streaming.follow()

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
    "torch": torch_rounds,
    "fedjax": fedjax_rounds,
    "matmul": matmul_rounds,
    "streaming": streaming_rounds,
}


def work(asked: dict) -> None:
    """Serves one job until it is told to quit, or through ``rounds`` rounds."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not for the listener
    say = lambda event, **facts: out.write(json.dumps(dict(event=event, **facts)) + "\n")
    job = WORKERS[asked["name"]](asked)
    late = {name: fact for name, fact in job.facts.items() if callable(fact)}
    say("ready", **{name: fact for name, fact in job.facts.items() if name not in late})
    rounds = asked.get("rounds")
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
    work(json.loads(sys.argv[1]))
