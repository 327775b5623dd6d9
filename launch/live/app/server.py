"""The ServerApp: FedAvg, and ``jfu.flower.start`` in place of ``strategy.start``."""

import importlib
import json
import pathlib

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

import jfu
import jfu.flower
import jfu.live

from .data import outcome

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    framework = importlib.import_module(f".in_{config['clients']}", __package__)
    folder = pathlib.Path(str(config["folder"]))

    def evaluate(number: int, record: ArrayRecord) -> MetricRecord:
        model = {name: array.numpy() for name, array in record.items()}
        row = outcome(framework.predict, model)
        with open(folder / "rounds.jsonl", "a") as file:
            file.write(json.dumps(dict(round=number, **row)) + "\n")
        return MetricRecord(row)

    server = jfu.live.Server(
        folder,
        jfu.by_path(framework.LAYERS) if config["negate"] else None,
        most=int(config["recovery-rounds"]),
        warmup=int(config["warmup"]),
    )
    nodes = int(config["nodes"])
    jfu.flower.start(
        FedAvg(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=nodes - 1),
        grid,
        ArrayRecord({name: Array(a) for name, a in framework.init().items()}),
        server,
        num_rounds=int(config["rounds"]),
        train_config=ConfigRecord({"lr": float(config["lr"])}),
        evaluate_fn=evaluate,
    )
