"""Secure aggregation (SecAgg+): a request is answered though the server sees sums only."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import jfu
import jfu.flower
import jfu.ledger
from jfu import live

pytest.importorskip("flwr")
from flwr.app import Context, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from helpers.grids import LocalGrid

pytestmark = pytest.mark.flower
MODEL = [np.float32([[1, -2], [3, -4]]), np.float32([0.5, -0.5])]


class Adds(NumPyClient):
    def __init__(self, amount):
        self.amount = amount

    def fit(self, parameters, config):
        return [a + np.float32(self.amount) for a in parameters], 10, {}

    def evaluate(self, parameters, config):
        return 0.0, 10, {"accuracy": 0.9}


def app(amount, secure):
    def client_fn(context: Context):
        return Adds(amount).to_client()

    return ClientApp(client_fn, mods=[secaggplus_mod] if secure else [])


class Secure(LocalGrid):
    """Nodes with Flower's own module for secure aggregation, or without it."""

    run = SimpleNamespace(run_id=1)

    def __init__(self, amounts, secure=True):
        super().__init__(amounts)
        self.apps = {node: app(amount, secure) for node, amount in amounts.items()}
        self.contexts = {node: context() for node in amounts}

    def answer(self, message):
        node = message.metadata.dst_node_id
        self.sent.append((node, message.metadata.message_type))
        message.metadata.__dict__["_message_id"] = f"{len(self.sent)}"
        message = message_from_proto(message_to_proto(message))  # nothing is shared by nodes
        reply = self.apps[node](message, self.contexts[node])
        reply.metadata.__dict__["_src_node_id"] = node
        return reply


def context():
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})


def run(grid, server, rounds, fit):
    strategy = FedAvg(
        min_fit_clients=2,
        min_available_clients=2,
        min_evaluate_clients=2,
        initial_parameters=ndarrays_to_parameters(MODEL),
    )
    given = LegacyContext(context(), ServerConfig(num_rounds=rounds), strategy)
    workflow = DefaultWorkflow(fit_workflow=fit)
    return jfu.flower.start_workflow(workflow, grid, given, server)


@pytest.mark.parametrize("secure", [True, False])
def test_a_workflow_answers_a_request(secure, tmp_path):
    server = live.Server(tmp_path / "folder", [0], most=3)
    (tmp_path / "folder").mkdir()
    fit = SecAggPlusWorkflow(1.0, 0.5, max_weight=100) if secure else None
    grid = Secure({1: 0.5, 2: 2.0, 3: 1.0}, secure)
    run(grid, server, 1, fit)
    server.path("requests.jsonl").write_text(json.dumps({"id": "a", "forget": ["2"]}) + "\n")
    told = len(grid.sent)
    model = run(grid, server, 3, fit)  # a restart, from the checkpoint
    # By hand: the first round adds 3.5 / 3; the sign of the first array changes; each later round
    # adds 1.5 / 2. Quantized to steps of 16 / 2^22, and weights to whole numbers.
    first = MODEL[0] + 3.5 / 3, MODEL[1] + 3.5 / 3
    np.testing.assert_allclose(model["0"], 1.5 - first[0], atol=1e-3)
    np.testing.assert_allclose(model["1"], 1.5 + first[1], atol=1e-3)
    assert 2 in {node for node, _ in grid.sent[:told]}
    assert {node for node, _ in grid.sent[told:]} == {1, 3}
    lines = jfu.ledger.read(server.path("ledger.jsonl"))
    assert [line["event"] for line in lines] == ["asked", "negated", "answered"]
    assert lines[1]["arrays"] == ["0"] and lines[2]["after"] == {"retain": 90.0}


def test_a_warm_up_is_refused(tmp_path):
    server = live.Server(tmp_path / "folder", [0], warmup=2)
    with pytest.raises(ValueError, match="on_fit_config_fn"):
        run(Secure({1: 1.0, 2: 2.0}), server, 1, None)
