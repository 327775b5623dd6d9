"""Other libraries' rounds of the portable jobs, for ``launch.bench``: what their users would write.

Each is measured where it is installed, in an interpreter of its own if one is named.
"""

import importlib.metadata
from typing import Any

from launch import workloads
from launch.workloads import Job


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


def logits(workload: str, params: dict, x: Any) -> Any:
    """A portable job's network in plain JAX, as another JAX library's user would write it."""
    import jax

    if workload == "cnn":
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
    return Job(run, loss, device=f"1 {jax.devices()[0].device_kind}", version=version)


def drjax_rounds(asked: dict) -> Job:
    """DrJAX: one jitted program, clients mapped by ``drjax.map_fn``, their models' mean.

    Its map is a ``vmap``, so a network with convolutions is not worth waiting for on a CPU.
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
    return Job(run, mean_loss, device=f"1 {jax.devices()[0].device_kind}", version=version)
