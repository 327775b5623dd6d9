"""Whole commands: what a row says, and the evaluations that others have to do too."""

import sys

import numpy as np
import pytest

from launch.timing import process, whole

ASKED = dict(clients=3, examples=40, tests=10_000, rounds=4, batch_size=32, lr=0.05, momentum=0.9)
ASKED |= dict(looks=[("original", 4, True)], data="whole.npz")
LAST = {run: dict(test=70.0) for run in ("original", "retrain", "retrain_again")}


def runs(*times):
    return [dict(seconds=s, cpu=c, last=LAST, training=0.75 * s) for s, c in times]


def test_a_row_is_compared_turn_by_turn():
    first = runs((10.0, 8.0), (20.0, 8.0), (10.0, 16.0))
    row = whole.row("torch", runs((30.0, 16.0), (30.0, 16.0), (10.0, 16.0)), first, ASKED)
    assert row["ratio"] == pytest.approx(1.5)  # of 3, 1.5 and 1
    assert row["cpu_ratio"] == pytest.approx(2.0)  # of 2, 2 and 1
    assert (row["seconds_min"], row["seconds_median"], row["seconds_max"]) == (10.0, 30.0, 30.0)
    assert row["test"]["retrain"] == 70.0 and row["evaluations"] == 1 and row["rounds"] == 4
    assert whole.row("flower", first, first, ASKED)["cpu_median"] is None
    mine = whole.row("jfu", first, first, ASKED)
    assert mine["not_training"] == 0.25 and mine["ratio"] == 1
    assert row["not_training"] == 0.25  # a quarter in each of the three runs
    # Medians of 30 s, of which three times four rounds take three quarters; and of 10 s.
    assert (row["round_median"], mine["round_median"]) == (1.875, 0.625)


def test_a_library_that_is_not_here_has_an_empty_row_and_a_sentence(monkeypatch):
    monkeypatch.setitem(process.PEERS, "torch", "no_such_module")
    why = whole.missing("torch", sys.executable)
    assert "no_such_module" in why and why.endswith("not installed")
    rows = [whole.row("jfu", runs((10.0, 8.0)), runs((10.0, 8.0)), ASKED)]
    rows.append(whole.row("torch", [dict(error=why)], runs((10.0, 8.0)), ASKED))
    text = whole.markdown(rows)
    line = next(line for line in text.splitlines() if line.startswith("| torch"))
    assert set(line.replace("| torch", "")) == {" ", "|"}
    assert text.splitlines()[-1] == f"torch was not measured: {why}."


def test_others_evaluate_what_jfu_has_evaluated():
    row = lambda name, number, test: dict(method=name, round=number, test=test)
    rows = [row("original", 0, 70.0), row("retrain", 0, None), row("retrain", 1, None)]
    rows += [row("retrain", 4, 69.0), row("retrain_again", 4, 68.0)]
    assert whole.looks(rows, 4) == [
        ("original", 4, True),
        ("retrain", 0, False),
        ("retrain", 1, False),
        ("retrain", 4, True),
        ("retrain_again", 4, True),
    ]


@pytest.mark.slow
def test_pytorch_trains_the_network_that_jfu_trains(tmp_path):
    torch = pytest.importorskip("torch")
    from launch.timing import whole_peers

    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (30, 28, 28, 1), np.uint8), np.arange(30) % 3
    parts = dict(x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    np.savez(tmp_path / "whole.npz", **parts)
    asked = ASKED | dict(data=str(tmp_path / "whole.npz"), name="torch", rounds=2)
    asked["looks"] = [(run, 2, True) for run in whole_peers.RUNS]
    data = whole_peers.read(asked)
    net = whole_peers.network(data)
    assert sum(p.numel() for p in net.parameters()) == 573_578
    assert data.x.shape == (30, 1, 28, 28) and float(data.x.max()) <= 1
    found = whole_peers.evaluate(net, data, tests=False)
    with torch.no_grad():
        logits = net(data.x[data.rows[0]]).double().numpy()
    right = logits.argmax(1) == data.y[data.rows[0]].numpy()
    assert found["forget"] == pytest.approx(100 * right.mean()) and "test" not in found
    last, training = whole_peers.torch_whole(asked)
    assert set(last) == set(whole_peers.RUNS) and 0 < training < 60
