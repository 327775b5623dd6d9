"""Flower's strategies, wrapped: what they send, what they aggregate, and what a restart keeps."""

import json

import numpy as np
import pytest

import jfu
import jfu.flower
import jfu.ledger
from jfu import live

pytest.importorskip("flwr")
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as flower

from helpers.grids import LocalGrid

pytestmark = pytest.mark.flower

MODEL = {"stem.weight": np.float32([[1, -2], [3, 4]]), "head.weight": np.float32([5, -6])}
SMALL = dict(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


def record(model):
    return ArrayRecord({name: Array(a) for name, a in model.items()})


def arrays(result):
    return jfu.flower.arrays_of(result.arrays)


def bits(model):
    return {name: (a.dtype.name, a.tobytes()) for name, a in model.items()}


def adds(amount, accuracy=0.9, examples=10):
    """A node that adds an amount to all it gets."""

    def work(model, config, kind):
        if kind == "evaluate":
            return accuracy, examples
        return {name: a + np.float32(amount) for name, a in model.items()}, examples

    return work


def ask(server, *lines):
    with open(server.path("requests.jsonl"), "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def server(tmp_path):
    return live.Server(tmp_path, jfu.by_path("stem.*"), most=2)


@pytest.fixture(autouse=True)
def in_order(request, monkeypatch):
    """Nodes in their order, so that sums are the same to the bit."""
    if "sample" not in request.node.name:
        monkeypatch.setattr("random.sample", lambda nodes, count: list(nodes)[:count])


@pytest.fixture
def grid():
    return LocalGrid({1: adds(1), 2: adds(10), 3: adds(3)})


def start(strategy, grid, server, rounds, asked=None, **more):
    """A run; ``asked`` are requests, by the round in which they come."""

    def watch(number, arrays):
        ask(server, *(asked or {}).get(number, []))

    return jfu.flower.start(
        strategy, grid, record(MODEL), server, num_rounds=rounds, evaluate_fn=watch, **more
    )


def test_without_requests_it_is_the_strategy_itself(server, grid):
    plain = flower.FedAdam(eta=0.5, **SMALL).start(grid, record(MODEL), num_rounds=3)
    sent, grid.sent = grid.sent, []
    found = start(flower.FedAdam(eta=0.5, **SMALL), grid, server, 3)
    assert grid.sent == sent  # no other message, and nothing else in one
    assert bits(arrays(found)) == bits(jfu.flower.arrays_of(plain.arrays))
    assert found.evaluate_metrics_clientapp == plain.evaluate_metrics_clientapp


def test_a_node_that_left_is_not_asked_again_and_the_stem_is_negated_once(server, grid):
    result = start(flower.FedAvg(**SMALL), grid, server, 3, {1: [{"id": "a", "forget": ["2"]}]})
    # By hand: round 1 adds (1 + 10 + 3) / 3; then the sign changes; rounds 2 and 3 add 2 each.
    first = np.float32(14 / 3)
    want = {
        "stem.weight": -(MODEL["stem.weight"] + first) + 4,
        "head.weight": MODEL["head.weight"] + first + 4,
    }
    for name, a in arrays(result).items():
        np.testing.assert_allclose(a, want[name], rtol=1e-6)
    assert [(node, kind) for node, kind, _ in grid.sent if node == 2] == [
        (2, "train"),
        (2, "evaluate"),
    ]
    key = jfu.flower.nodes_of(grid)[1].key
    lines = jfu.ledger.read(server.path("ledger.jsonl"))
    assert [line["event"] for line in lines] == ["asked", "negated", "answered"]
    assert lines[0]["nodes"] == [{"id": "2", "key": key}] and len(key) == 64


def test_a_sample_never_draws_who_left(server):
    """With a fraction, the strategy samples from the nodes that it sees."""
    grid = LocalGrid({node: adds(node) for node in range(1, 7)})
    strategy = flower.FedAvg(fraction_train=0.5, fraction_evaluate=0.5, **SMALL)
    start(strategy, grid, server, 20, {0: [{"id": "a", "forget": [1, 2, 3]}]})
    trained = [node for node, kind, _ in grid.sent if kind == "train"]
    assert set(trained) == {4, 5, 6} and len(trained) == 20  # a half of three, each round


@pytest.mark.parametrize(
    "make",
    [
        lambda: flower.FedAvg(**SMALL),
        lambda: flower.FedAdam(eta=0.1, **SMALL),
        lambda: flower.FedYogi(eta=0.1, **SMALL),
        lambda: flower.FedAvgM(server_momentum=0.9, **SMALL),
        lambda: flower.Krum(num_malicious_nodes=0, **SMALL),
        lambda: flower.FedMedian(**SMALL),
        lambda: flower.FedTrimmedAvg(beta=0.2, **SMALL),
        lambda: flower.QFedAvg(client_learning_rate=0.1, **SMALL),
        lambda: flower.DifferentialPrivacyClientSideFixedClipping(
            flower.FedAdam(eta=0.1, **SMALL), 0.0, 100.0, 3
        ),
    ],
    ids=lambda make: "",
)
def test_any_strategy_goes_on_after_a_negation_as_one_that_begins_there(
    make, server, grid, tmp_path
):
    """Moments and copies of the old model are gone: as a new strategy from the negated model."""
    result = start(make(), grid, server, 5, {2: [{"id": "a", "forget": ["2"]}]})
    before = make().start(grid, record(MODEL), num_rounds=2)
    model = live.negated(jfu.flower.arrays_of(before.arrays), ["stem.weight"])
    without = LocalGrid({node: work for node, work in grid.nodes.items() if node != 2})
    after = make().start(without, record(model), num_rounds=3)
    assert bits(arrays(result)) == bits(jfu.flower.arrays_of(after.arrays))


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: flower.FedAdam(eta=0.5, **SMALL),
        lambda: flower.FedAvgM(server_momentum=0.5, **SMALL),
        lambda: flower.DifferentialPrivacyClientSideFixedClipping(
            flower.FedYogi(eta=0.5, **SMALL), 0.0, 100.0, 3
        ),
    ],
    ids=["FedAdam", "FedAvgM", "inside"],
)
def test_a_restart_keeps_the_servers_moments(make, rounds, server, grid, tmp_path):
    ask(server, {"id": "a", "forget": ["2"]})
    start(make(), grid, server, rounds)
    again = start(make(), grid, server, 5)
    other = server._replace(folder=tmp_path / "other")
    (tmp_path / "other").mkdir()
    ask(other, {"id": "a", "forget": ["2"]})
    assert bits(arrays(again)) == bits(arrays(start(make(), grid, other, 5)))


def test_clients_get_a_lower_rate_while_recovery_is_warm(server):
    grid = LocalGrid({1: adds(1, 0.9), 2: adds(1), 3: adds(1)})
    falls = iter([0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9])
    grid.nodes[1] = lambda model, config, kind: (
        (next(falls), 10) if kind == "evaluate" else (model, 10)
    )
    grid.nodes[3] = adds(0, 0.9)
    asked = {1: [{"id": "a", "forget": ["2"]}]}
    config = ConfigRecord({"lr": 0.4, "batch": 32})
    slow = server._replace(warmup=4, most=9)
    start(flower.FedAvg(**SMALL), grid, slow, 7, asked, train_config=config)
    rates = [config["lr"] for node, kind, config in grid.sent if (node, kind) == (1, "train")]
    assert rates == pytest.approx([0.4, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert dict(config) == {"lr": 0.4, "batch": 32}  # the caller's own is as it was


def test_a_warm_up_needs_a_rate(server, grid):
    with pytest.raises(ValueError, match="a warm-up lowers the rate 'lr' of train_config"):
        start(flower.FedAvg(**SMALL), grid, server._replace(warmup=2), 1)


def test_a_recovery_ends_though_the_rounds_are_over(server):
    falls = iter([0.9, 0.1, 0.1, 0.9])
    grid = LocalGrid(
        {1: lambda m, c, k: (next(falls), 1) if k == "evaluate" else (m, 1), 2: adds(1)}
    )
    asked = {1: [{"id": "a", "forget": ["2"]}]}
    start(flower.FedAvg(**SMALL), grid, server._replace(most=9), 2, asked)
    (answered,) = [
        x for x in jfu.ledger.read(server.path("ledger.jsonl")) if x["event"] == "answered"
    ]
    assert (answered["rounds"], answered["regained"]) == (3, True)


def test_nodes_that_fail_change_nothing(server):
    """A round without a usable reply leaves the model, negated, as it is."""

    class Silent(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            return [] if len(self.sent) >= 4 else super().send_and_receive(messages)

    grid = Silent({1: adds(1), 2: adds(1)})
    asked = {1: [{"id": "a", "forget": ["2"]}]}
    result = start(flower.FedAvg(**SMALL), grid, server._replace(most=2), 3, asked)
    assert arrays(result)["stem.weight"].tolist() == (-(MODEL["stem.weight"] + 1)).tolist()
    last = jfu.ledger.read(server.path("ledger.jsonl"))[-1]
    assert (last["event"], last["regained"]) == ("answered", False)


def test_lists_without_names_take_positions(tmp_path, grid):
    server = live.Server(tmp_path, [0], most=1)
    ask(server, {"id": "a", "forget": ["2"]})
    result = jfu.flower.start(
        flower.FedAvg(**SMALL), grid, ArrayRecord(list(MODEL.values())), server, num_rounds=1
    )
    first, second = result.arrays.to_numpy_ndarrays()
    assert first.tolist() == (2 - MODEL["stem.weight"]).tolist()
    assert second.tolist() == (2 + MODEL["head.weight"]).tolist()


def test_a_torch_module_is_negated_by_name_to_the_bit(server, grid):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential()
    net.add_module("conv1", torch.nn.Conv2d(1, 4, 3))
    net.add_module("bn1", torch.nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    same = lambda model, config, kind: (0.9 if kind == "evaluate" else model, 10)
    ask(server, {"id": "a", "forget": ["2"]})
    result = jfu.flower.start(
        flower.FedAvg(**SMALL),
        LocalGrid(dict.fromkeys((1, 2, 3), same)),
        ArrayRecord(net.state_dict()),
        server._replace(select=jfu.by_path(r"conv1\..*"), most=1),
        num_rounds=1,
    )
    found = result.arrays.to_torch_state_dict()
    net.load_state_dict(found)
    for name, tensor in net.state_dict().items():
        want = -tensor if name.startswith("conv1") else tensor
        assert torch.equal(want, before[name]), name


def test_a_strategy_that_waits_for_more_nodes_than_stay_is_noted(server, grid, caplog):
    ask(server, {"id": "a", "forget": ["2"]})
    strategy = flower.FedAvg(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=2)
    start(strategy, grid, server, 1)
    waits = "nodes stay, and the strategy waits for"
    assert waits not in caplog.text
    standing = live.Standing(
        gone=["2"], lines=[dict(event="asked", request="a", round=0, nodes=[])]
    )
    strategy = flower.FedAvg(min_available_nodes=3)
    jfu.flower._tell(standing, strategy, jfu.flower.nodes_of(grid))
    assert f"2 {waits} 3" in caplog.text


def test_the_adapter_gives_the_model_of_a_simulation(server):
    """The same clients, request and rounds through jfu's own federation."""
    import jax
    import optax

    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    parts = [range(10), range(10, 35), range(35, 60)]
    start_ = {"stem": 0.5 * draw.normal(size=(4, 6)), "head": draw.normal(size=(6, 2))}
    start_ = {name: a.astype(np.float32) for name, a in start_.items()}

    def loss(variables, batch, key):
        hidden = jax.numpy.tanh(batch.x @ variables["params"]["stem"])
        return jfu.cross_entropy(hidden @ variables["params"]["head"], batch)

    def rounds_of(clients, state, number):
        for _ in range(number):
            state, _ = step(state, clients, jax.random.key(0))
        return state

    local = jfu.local_sgd(loss, optax.sgd(0.5), epochs=3, batch_size=25)
    fed = jfu.fedavg(local)
    step = jax.jit(fed.round)
    clients = jfu.stack(x, y, parts)
    request = jfu.split(clients, jfu.forget_client(clients, [1]))
    trained = rounds_of(clients, fed.init({"params": start_}), 2)
    method = jfu.negation(fed, jfu.by_path("stem"))
    answer = method.perturb(jfu.Trained(trained.variables), request, None)
    simulated = rounds_of(request.retain, answer, 3).params

    def node(number):
        """A client as a federation of its own: its model after a round is its local model."""
        only = jax.numpy.arange(3)[:, None] == number
        alone = clients._replace(mask=clients.mask & only)

        def work(model, config, kind):
            if kind == "evaluate":
                return 0.5, len(parts[number])
            state = rounds_of(alone, fed.init({"params": model}), 1)
            return state.params, len(parts[number])

        return work

    grid = LocalGrid({number + 1: node(number) for number in range(3)})
    found = jfu.flower.start(
        flower.FedAvg(**SMALL),
        grid,
        record(start_),
        server._replace(select=jfu.by_path("stem"), most=3),
        num_rounds=5,
        evaluate_fn=lambda number, _: (
            ask(server, {"id": "a", "forget": ["2"]}) if number == 2 else None
        ),
    )
    assert [node for node, kind, _ in grid.sent if kind == "train"] == [1, 2, 3] * 2 + [1, 3] * 3
    for name, a in arrays(found).items():
        assert np.abs(a - start_[name]).max() > 0.1
        np.testing.assert_allclose(a, simulated[name], rtol=2e-5, atol=2e-6)
