"""The ClientApp of a node. It knows nothing of requests: an operator has nothing to change."""

import importlib
import os

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .data import part

app = ClientApp()
BATCH = 32


def opened(message: Message, context: Context):
    """The model that came, the node's number and examples. The message is counted in a file."""
    node, nodes = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    with open(os.path.join(str(context.run_config["counts"]), f"node-{node}.txt"), "a") as file:
        file.write(f"{context.node_id} {message.metadata.message_type}\n")
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    framework = importlib.import_module(f".in_{context.run_config['clients']}", __package__)
    return framework, model, node, part(node, nodes)


@app.train()
def train(message: Message, context: Context) -> Message:
    framework, model, node, (x, y) = opened(message, context)
    config = message.content["config"]
    draw = np.random.default_rng([config["server-round"], node])
    orders = [draw.permutation(len(y)) for _ in range(int(context.run_config["epochs"]))]
    whole = range(0, len(y) - BATCH + 1, BATCH)
    batches = [(x[o[i : i + BATCH]], y[o[i : i + BATCH]]) for o in orders for i in whole]
    model = framework.train(model, batches, config["lr"])
    arrays = ArrayRecord({name: Array(a) for name, a in model.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": len(y)})})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    framework, model, _, (x, y) = opened(message, context)
    accuracy = float((framework.predict(model, x) == y).mean())
    metrics = MetricRecord({"accuracy": accuracy, "num-examples": len(y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
