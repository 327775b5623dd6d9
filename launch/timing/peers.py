"""Rounds of other libraries, written as their users would, for ``launch.bench``.

Each is measured if it is installed, in its own interpreter if one is named.
"""

import functools
import importlib.metadata
import json
from typing import Any

from launch.timing import workloads
from launch.timing.workloads import Job


def torch_rounds(asked: dict) -> Job:
    """Plain PyTorch: clients one after another, one model, a running sum; no DataLoader."""
    import torch

    workload = workloads.Workload(**asked["job"])
    on = "cuda" if torch.cuda.is_available() else "cpu"
    net, x, y = torch_start(asked, on)
    params = list(net.parameters())
    torch.manual_seed(0)

    def run():
        received = [p.detach().clone() for p in params]
        total = [torch.zeros_like(p) for p in received]
        for images, labels in zip(x, y, strict=True):
            with torch.no_grad():
                torch._foreach_copy_(params, received)
            torch_epoch(net, images, labels, workload)
            torch._foreach_add_(total, [p.detach() for p in params])
        with torch.no_grad():
            torch._foreach_copy_(params, torch._foreach_div(total, float(len(x))))
        if on == "cuda":
            torch.cuda.synchronize()

    device = torch.cuda.get_device_name() if on == "cuda" else f"{torch.get_num_threads()} threads"
    return Job(run, lambda: torch_loss(net, x, y), device=device, version=torch.__version__)


def torch_start(asked: dict, on: str) -> tuple[Any, Any, Any]:
    """A portable job's network with its first weights, images ``[K, N, 1, H, W]`` and labels."""
    import torch
    from torch import nn

    workload = workloads.Workload(**asked["job"])
    x, y = workloads.data(asked["workload"], workload)
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
    return net.to(on), x, y


def torch_epoch(net: Any, images: Any, labels: Any, workload: workloads.Workload) -> None:
    """A client's work in a round: one epoch of SGD with a fresh momentum."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    optimizer = torch.optim.SGD(net.parameters(), lr=workload.lr, momentum=workload.momentum)
    for rows in torch.randperm(len(labels)).split(workload.batch_size):
        optimizer.zero_grad()
        cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()


def torch_loss(net: Any, x: Any, y: Any) -> float:
    """Cross-entropy on the first 600 images."""
    import torch

    with torch.no_grad():
        flat = x.reshape(-1, *x.shape[2:])[:600]
        return float(torch.nn.functional.cross_entropy(net(flat), y.reshape(-1)[:600]))


def flower_rounds(asked: dict) -> Job:
    """Flower's simulation: its FedAvg and Ray engine, PyTorch clients, one core for each client.

    Its evaluation, statistics and usage reports are off. Every actor makes the data once.
    """
    import os
    import queue
    import threading

    os.environ |= dict(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    workload = workloads.Workload(**asked["job"])
    text = json.dumps(asked)
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message, context):
        net, x, y = flower_actor(text)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        which = int(context.node_config["partition-id"])
        torch_epoch(net, x[which], y[which], workload)
        trained = dict(
            arrays=ArrayRecord(net.state_dict()),
            metrics=MetricRecord({"num-examples": len(y[which])}),
        )
        return Message(content=RecordDict(trained), reply_to=message)

    # Flower blocks the thread of its run; rounds are requested and returned through these queues.
    wanted, finished = queue.Queue(), queue.Queue()
    net, x, y = torch_start(asked, "cpu")

    @server.main()
    def serve(grid, context):
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=workload.clients)
        arrays = ArrayRecord(net.state_dict())
        while wanted.get():
            arrays = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=1).arrays
            finished.put(arrays)

    def simulate():
        try:
            run_simulation(
                server_app=server,
                client_app=client,
                num_supernodes=workload.clients,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
        finally:
            finished.put(None)

    thread = threading.Thread(target=simulate)
    thread.start()

    def run():
        wanted.put(True)
        arrays = finished.get()
        if not arrays:  # a client that fails leaves Flower without a model and without an error
            raise RuntimeError("Flower's round ended without a model; see what it logged")
        net.load_state_dict(arrays.to_torch_state_dict())

    def close():
        wanted.put(False)
        thread.join()

    version = importlib.metadata.version("flwr")
    facts = dict(device="1 core a client", version=version)
    return Job(run, lambda: torch_loss(net, x, y), close, **facts)


@functools.lru_cache(1)
def flower_actor(text: str) -> tuple[Any, Any, Any]:
    """What an actor keeps between clients: the network and the images of all clients."""
    import torch

    torch.set_num_threads(1)
    return torch_start(json.loads(text), "cpu")


def logits(workload: str, params: dict, x: Any) -> Any:
    """A portable job's network in plain JAX, as a user of another JAX library would write it."""
    import jax

    if workload == "cnn":
        for name in "stem", "conv2":
            layer = params[name]
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["bias"])
            # Not reduce_window, which Haiku and stax use: it takes twice as long on a CPU.
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
    x = x.reshape(len(x), -1)
    dense = [name for name, layer in params.items() if layer["kernel"].ndim == 2]
    for name in sorted(dense, key=("stem", "hidden", "head").index):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = x if name == "head" else jax.nn.relu(x)
    return x


def fedjax_rounds(asked: dict) -> Job:
    """FedJAX's federated averaging with its default backend."""
    import fedjax
    import jax
    import jax.numpy as jnp
    from fedjax.algorithms import fed_avg

    workload = workloads.Workload(**asked["job"])
    x, y = workloads.data(asked["workload"], workload)

    def objective(params, batch, key):
        return fedjax.metrics.unreduced_cross_entropy_loss(
            batch["y"], logits(asked["workload"], params, batch["x"])
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
    facts = dict(device=f"1 {jax.devices()[0].device_kind}", version=version, jax=jax.__version__)
    return Job(run, loss, **facts)


def drjax_rounds(asked: dict) -> Job:
    """DrJAX: one jitted program, clients mapped by ``drjax.map_fn``, and the mean of their models.

    Its map is a ``vmap``, so a network with convolutions takes too long on a CPU.
    """
    import drjax
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    workload = workloads.Workload(**asked["job"])
    x, y = map(jnp.asarray, workloads.data(asked["workload"], workload))
    optimizer = optax.sgd(workload.lr, workload.momentum)
    size, count = workload.batch_size, workload.examples
    steps = -(-count // size)
    rng = np.random.default_rng(0)

    def loss(params, x, y, live):
        each = optax.softmax_cross_entropy_with_integer_labels(
            logits(asked["workload"], params, x), y
        )
        return (each * live).sum() / live.sum()

    def local(params, x, y, rows):
        def step(carry, batch):
            params, memory = carry
            rows, live = batch
            slope = jax.grad(loss)(params, x[rows], y[rows], live)
            change, memory = optimizer.update(slope, memory, params)
            return (optax.apply_updates(params, change), memory), None

        live = jnp.pad(jnp.ones(count), (0, steps * size - count)).reshape(steps, size)
        rows = jnp.pad(rows, (0, steps * size - count)).reshape(steps, size)
        return jax.lax.scan(step, (params, optimizer.init(params)), (rows, live))[0][0]

    @jax.jit
    @drjax.program(placements={"clients": workload.clients})
    def together(params, x, y, rows):
        trained = drjax.map_fn(local, (drjax.broadcast(params), x, y, rows))
        return drjax.reduce_mean(trained)

    mine = dict(params=jax.tree.map(jnp.asarray, workloads.weights(asked["workload"])))

    def run():
        rows = rng.permuted(np.tile(np.arange(count), (workload.clients, 1)), axis=1)
        mine["params"] = jax.block_until_ready(together(mine["params"], x, y, jnp.asarray(rows)))

    def mean_loss():
        flat = x.reshape(-1, *workload.shape)[:600]
        return float(loss(mine["params"], flat, y.reshape(-1)[:600], jnp.ones(600)))

    version = importlib.metadata.version("drjax")
    facts = dict(device=f"1 {jax.devices()[0].device_kind}", version=version, jax=jax.__version__)
    return Job(run, mean_loss, **facts)
