"""The job of ``launch.bench --whole`` in PyTorch and in Flower, as their users would write it.

  python -m launch.timing.whole_peers '{"name": "torch", "data": "whole.npz", ...}'

A federation is trained. It is trained again without its first client, and once more with other
random numbers. Models are evaluated in the rounds, and on the examples, in which jfu's own run was
evaluated. The last line is JSON: the accuracies of the three last models, and the seconds of their
rounds.
"""

import functools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

RUNS = ("original", "retrain", "retrain_again")
AT_ONCE = 500  # images in a forward pass of the evaluation


class Data(NamedTuple):
    """Images ``[M, 1, H, W]`` and labels of training and test examples, and each client's rows."""

    x: Any
    y: Any
    x_test: Any
    y_test: Any
    rows: list[Any]


def read(asked: dict[str, Any]) -> Data:
    """The data in PyTorch; clients have equal shares, drawn once."""
    import torch

    with np.load(asked["data"]) as arrays:
        put = lambda name: torch.from_numpy(arrays[name])
        images = lambda name: (put(name).float() / 255).permute(0, 3, 1, 2).contiguous()
        x, x_test = images("x_train"), images("x_test")
        y, y_test = put("y_train").long(), put("y_test").long()
    order = np.random.default_rng(0).permutation(len(y))
    rows = [torch.from_numpy(part) for part in np.split(order, asked["clients"])]
    return Data(x, y, x_test, y_test, rows)


def network(data: Data) -> Any:
    """The layers of jfu's ``cnn``."""
    from torch import nn

    channels, side = data.x.shape[1:3]
    last = ((side - 4) // 2 - 4) // 2
    layers: list[Any] = [nn.Conv2d(channels, 64, 5), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(64, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(64 * last * last, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(192, 10))


def epoch(net: Any, data: Data, rows: Any, asked: dict[str, Any]) -> None:
    """A client's round: one epoch of SGD with a fresh momentum."""
    import torch

    optimizer = torch.optim.SGD(net.parameters(), lr=asked["lr"], momentum=asked["momentum"])
    for some in rows[torch.randperm(len(rows))].split(asked["batch_size"]):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(data.x[some]), data.y[some]).backward()
        optimizer.step()


def evaluate(net: Any, data: Data, tests: bool) -> dict[str, float]:
    """Accuracies and losses on retained, forgotten and, if asked for, test examples."""
    import torch

    def judged(x: Any, y: Any) -> tuple[float, float]:
        with torch.no_grad():
            parts = [net(some) for some in x.split(AT_ONCE)]
        logits = torch.cat(parts)
        right = (logits.argmax(1) == y).float().mean()
        return 100 * float(right), float(torch.nn.functional.cross_entropy(logits, y))

    sides = dict(retain=torch.cat(data.rows[1:]), forget=data.rows[0])
    found = {}
    for name, rows in sides.items():
        found[name], found[f"loss_{name}"] = judged(data.x[rows], data.y[rows])
    if tests:
        found["test"], _ = judged(data.x_test, data.y_test)
    return found


def looked(asked: dict[str, Any], run: str) -> dict[int, bool]:
    """The evaluated rounds of a run, and whether test examples are evaluated too."""
    return {number: tests for name, number, tests in asked["looks"] if name == run}


def torch_whole(asked: dict[str, Any]) -> tuple[dict[str, dict[str, float]], float]:
    """Plain PyTorch: clients one after another, one model, a running sum; no DataLoader."""
    import torch

    data = read(asked)
    last, training = {}, 0.0
    for number, run in enumerate(RUNS):
        torch.manual_seed(number)
        net, looks = network(data), looked(asked, run)
        params = list(net.parameters())
        clients = data.rows if run == "original" else data.rows[1:]
        rows = [evaluate(net, data, looks[0])] if 0 in looks else []
        for at in range(1, asked["rounds"] + 1):
            began = time.perf_counter()
            received = [p.detach().clone() for p in params]
            total = [torch.zeros_like(p) for p in received]
            for own in clients:
                with torch.no_grad():
                    torch._foreach_copy_(params, received)
                epoch(net, data, own, asked)
                torch._foreach_add_(total, [p.detach() for p in params])
            with torch.no_grad():
                torch._foreach_copy_(params, torch._foreach_div(total, float(len(clients))))
            training += time.perf_counter() - began
            if at in looks:
                rows.append(evaluate(net, data, looks[at]))
        last[run] = rows[-1]
    return last, training


def flower_whole(asked: dict[str, Any]) -> tuple[dict[str, dict[str, float]], float]:
    """Flower's simulation: FedAvg, PyTorch clients on one core each, evaluation at the server.

    The client that leaves answers with the model that it was sent, and no examples.
    """
    os.environ |= dict(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server = ClientApp(), ServerApp()
    text = json.dumps(asked)

    @client.train()
    def train(message, context):
        data, net = flower_actor(text)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        which = int(context.node_config["partition-id"])
        leaves = which == 0 and not message.content["config"]["all"]
        if not leaves:
            epoch(net, data, data.rows[which], asked)
        count = 0 if leaves else len(data.rows[which])
        trained = dict(arrays=ArrayRecord(net.state_dict()))
        trained |= dict(metrics=MetricRecord({"num-examples": count}))
        return Message(content=RecordDict(trained), reply_to=message)

    results: queue.Queue = queue.Queue()

    @server.main()
    def serve(grid, context):
        results.put(_trained(asked, grid, FedAvg, ArrayRecord, ConfigRecord))

    def simulate():
        resources = dict(client_resources=dict(num_cpus=1, num_gpus=0.0))
        try:
            run_simulation(server, client, asked["clients"], backend_config=resources)
        finally:
            results.put(None)

    thread = threading.Thread(target=simulate)
    thread.start()
    found = results.get()
    thread.join()
    if not found:  # a failure leaves Flower without a model and without an error
        raise RuntimeError("Flower ended without a model; see what it logged")
    return found


@functools.lru_cache(1)
def flower_actor(text: str) -> tuple[Data, Any]:
    """What an actor keeps between clients: the data and the network."""
    import torch

    torch.set_num_threads(1)
    data = read(json.loads(text))
    return data, network(data)


def _trained(asked: dict[str, Any], grid: Any, fedavg: Any, array: Any, config: Any) -> tuple:
    """The three runs at Flower's server, and the seconds that are no evaluation."""
    import torch

    data = read(asked)
    last, training, judging = {}, 0.0, []
    for number, run in enumerate(RUNS):
        torch.manual_seed(number)
        net, looks, rows = network(data), looked(asked, run), []

        def judge(at, arrays, net=net, looks=looks, rows=rows):
            if at in looks:
                began = time.perf_counter()
                net.load_state_dict(arrays.to_torch_state_dict())
                rows.append(evaluate(net, data, looks[at]))
                judging.append(time.perf_counter() - began)

        began = time.perf_counter()
        strategy = fedavg(fraction_evaluate=0.0, min_available_nodes=asked["clients"])
        strategy.start(
            grid=grid,
            initial_arrays=array(net.state_dict()),
            num_rounds=asked["rounds"],
            train_config=config({"all": run == "original"}),
            evaluate_fn=judge,
        )
        training += time.perf_counter() - began
        last[run] = rows[-1]
    return last, training - sum(judging)


def table(last: dict[str, dict[str, float]]) -> str:
    """The three models' accuracies as Markdown."""
    lines = ["| model | retain % | forget % | test % |", "|---|---:|---:|---:|"]
    for run, row in last.items():
        lines.append(f"| {run} | {row['retain']:.1f} | {row['forget']:.1f} | {row['test']:.1f} |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    asked = json.loads(words[0])
    runs: dict[str, Callable] = dict(torch=torch_whole, flower=flower_whole)
    last, training = runs[asked["name"]](asked)
    print(f"{table(last)}\n{json.dumps(dict(last=last, training=training))}", flush=True)


if __name__ == "__main__":
    from launch.timing import whole_peers  # by its name, under which Flower's actors import it too

    whole_peers.main(sys.argv[1:])
