"""A Flower grid in one process: its nodes are functions, and every message is counted."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """``nodes``: id -> work(model, config, kind) -> model or accuracy, and a number of examples."""

    run = None

    def __init__(self, nodes, key=lambda node: f"key of {node}".encode()):
        self.nodes, self.key, self.sent = nodes, key, []
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

    def set_run(self, run):
        raise NotImplementedError

    create_message = push_messages = pull_messages = set_run

    def get_node_ids(self):
        return list(self.nodes)

    def get_nodes(self):
        return [NodeInfo(node_id=node, public_key=self.key(node)) for node in self.nodes]

    def send_and_receive(self, messages, *, timeout=None):
        return [self.answer(message) for message in messages]

    def answer(self, message):
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        config = dict(message.content["config"])
        self.sent.append((node, kind, config))
        model = {name: array.numpy() for name, array in message.content["arrays"].items()}
        found, examples = self.nodes[node](model, config, kind)
        metrics = {"num-examples": examples}
        if kind == "evaluate":
            content = {"metrics": MetricRecord(metrics | {"accuracy": float(found)})}
        else:
            arrays = ArrayRecord({name: Array(np.asarray(a)) for name, a in found.items()})
            metrics = MetricRecord(metrics | {"train_loss": 0.5})
            content = {"arrays": arrays, "metrics": metrics}
        message.metadata.__dict__["_message_id"] = f"{len(self.sent)}"
        reply = Message(RecordDict(content), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply
