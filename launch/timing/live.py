"""What jfu.flower adds to a round of Flower's FedAvg: time of the server, and bytes.

  python -m launch.timing.live live.jsonl

The same strategy runs by ``strategy.start`` and by ``jfu.flower.start``, in turns of three rounds
in one process. Three nodes answer at once with the model that they got. So a round is the server's
own work: it writes and reads messages as they go over the wire, and averages. Clients' work and
waiting are not in it, so the shares are upper bounds. Needs Flower.
"""

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from launch.timing.process import free, publish

NODES, ROUNDS, TURNS = 3, 3, 5
# Parameters: of the digits' perceptron of launch.flower, and of the CNN of launch.bench.
SIZES = {"perceptron": 4_810, "cnn": 1_663_370}


class Taken(NamedTuple):
    """Of one round, on average."""

    seconds: float
    cpu: float
    messages: float
    bytes: float


def grid_of(nodes: int) -> Any:
    """A grid whose nodes return what they get; counts messages and their bytes, both ways."""
    from flwr.app import Message, MetricRecord, RecordDict
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as Proto
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.serverapp import Grid
    from flwr.supercore.task_identity import TaskIdentity

    class Echo(Grid):
        messages = bytes = 0
        first: tuple[float, float] | None = None  # when the first message was sent

        @property
        def run(self) -> Any:
            raise NotImplementedError

        def set_run(self, run: Any) -> None:
            raise NotImplementedError

        def create_message(self, *args: Any, **kwargs: Any) -> Message:
            raise NotImplementedError

        def push_messages(self, messages: Any) -> list[str]:
            raise NotImplementedError

        def pull_messages(self, message_ids: Any) -> list[Message]:
            raise NotImplementedError

        def get_node_ids(self) -> list[int]:
            return list(range(1, nodes + 1))

        def get_nodes(self) -> list[NodeInfo]:
            return [NodeInfo(node_id=node, public_key=b"key") for node in self.get_node_ids()]

        def sent(self, message: Message) -> Message:
            wire = message_to_proto(message).SerializeToString()
            self.messages, self.bytes = self.messages + 1, self.bytes + len(wire)
            return message_from_proto(Proto.FromString(wire))

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
            self.first = self.first or (time.perf_counter(), time.process_time())
            return [self.answer(self.sent(message)) for message in messages]

        def answer(self, message: Message) -> Message:
            metrics = {"num-examples": 100}
            content: dict[str, Any] = dict(metrics=MetricRecord(metrics | {"accuracy": 0.5}))
            if message.metadata.message_type == "train":
                content["arrays"] = message.content["arrays"]
            message.metadata.__dict__["_message_id"] = f"{self.messages}"
            reply = Message(RecordDict(content), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
            return self.sent(reply)

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    return Echo()


def taken(arrays: dict[str, np.ndarray], folder: Path | None) -> Taken:
    """Rounds by the strategy alone, or by ``jfu.flower`` with this folder."""
    from flwr.serverapp.strategy import FedAvg

    import jfu.flower
    import jfu.live
    from jfu.select import by_path

    grid, strategy, record = grid_of(NODES), FedAvg(), jfu.flower.record_of(arrays)
    if folder is None:
        strategy.start(grid, record, num_rounds=ROUNDS)
    else:
        server = jfu.live.Server(folder, by_path("stem"))
        jfu.flower.start(strategy, grid, record, server, num_rounds=ROUNDS)
    wall, cpu = (now - began for now, began in zip(clocks(), grid.first, strict=True))
    return Taken(*(a / ROUNDS for a in (wall, cpu, grid.messages, grid.bytes)))


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measured(name: str, parameters: int) -> dict[str, Any]:
    """A row: medians over turns, in which the two take turns in a random order."""
    draw = np.random.default_rng(0)
    arrays = {"stem": draw.normal(size=parameters // 2), "head": draw.normal(size=parameters)}
    arrays["head"] = arrays["head"][parameters // 2 :]
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    pairs, kept = [], 0
    for turn in range(TURNS + 1):
        with tempfile.TemporaryDirectory() as scratch:
            places = [None, Path(scratch) / "federation"]
            found = {i: taken(arrays, places[i]) for i in draw.permutation(2)}
            kept = (Path(scratch) / "federation" / "checkpoint.safetensors").stat().st_size
        if turn:  # the first is to warm up
            pairs.append((found[0], found[1]))
    median = lambda values: float(statistics.median(values))
    plain, wrapped = pairs[0]
    return dict(
        model=name,
        parameters=parameters,
        nodes=NODES,
        ratio=round(median(b.seconds / a.seconds for a, b in pairs), 3),
        ratios=[round(b.seconds / a.seconds, 3) for a, b in pairs],
        ms=round(median(1000 * (b.seconds - a.seconds) for a, b in pairs), 2),
        cpu_ms=round(median(1000 * (b.cpu - a.cpu) for a, b in pairs), 2),
        messages=[plain.messages, wrapped.messages],
        bytes=[plain.bytes, wrapped.bytes],
        written=kept,
    )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of these rows."""
    head = (
        "| model | parameters | x | ms more | CPU ms more | messages more | bytes more | MB kept |"
    )
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        more = [f"{b - a:g}" for a, b in (row["messages"], row["bytes"])]
        cells = [row["model"], f"{row['parameters']:,}", f"{row['ratio']:.2f}", f"{row['ms']:.1f}"]
        cells += [f"{row['cpu_ms']:.1f}", *more, f"{row['written'] / 1e6:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(path: str) -> None:
    free(path)
    logging.disable(logging.INFO)  # what Flower says of each round
    rows = [measured(name, parameters) for name, parameters in SIZES.items()]
    publish(path, rows, markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1])
