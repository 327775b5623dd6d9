"""The audit and the ledger read the folder of a live server."""

import json

import numpy as np
import pytest

import jfu
from helpers.forks import launch
from jfu import live

MODEL = {"stem": np.float32([1, -2]), "head": np.float32([3])}
NODES = [live.Node("1", "ab"), live.Node("2")]


@pytest.fixture
def server(tmp_path):
    return live.Server(tmp_path, jfu.by_path("stem"), most=1)


def answered(server, learns):
    """A folder with a request that was answered, and one that was refused."""
    standing = live.end(
        server, MODEL, live.met(live.Standing(), NODES), {"1": (0.5, 9), "2": (1, 9)}
    )
    asked = [dict(id="a", forget=["2"]), dict(id="b", forget=[])]
    server.path("requests.jsonl").write_text("".join(json.dumps(x) + "\n" for x in asked))
    model, standing = live.begin(server, MODEL, standing, NODES)
    model = {name: a + np.float32(learns) for name, a in model.items()}
    live.end(server, model, standing, {"1": (0.75, 9)})


def test_what_needs_data_or_retraining_is_not_shown(server):
    answered(server, 0.5)
    out, _ = launch("audit", f"--workdir={server.folder}")
    assert "request a, answered by not: 1 rounds, accuracy regained, before 50.0, after 75.0" in out
    report = json.loads(server.path("audit.json").read_text())
    assert report["refused"] == {"b": "it names nobody"} and report["open"] == []
    verdicts = {verdict for verdict, _ in report["questions"].values()}
    assert verdicts == {"not shown"} and "forgotten" in report["questions"]


def test_the_ledger_is_printed_and_verified(server):
    answered(server, 0.5)
    out, _ = launch("ledger", f"--workdir={server.folder}")
    assert "negated stem for a" in out and "request b is refused: it names nobody" in out
    assert "4 lines are valid, checked against its files" in out


@pytest.mark.parametrize("script", ["audit", "ledger"])
def test_another_model_is_found(server, script):
    answered(server, 0.5)
    path = server.path("model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    _, error = launch(script, f"--workdir={server.folder}", expect=2 if script == "audit" else 1)
    assert "is not the model that" in error


def test_a_model_that_did_not_recover_is_refused(server):
    answered(server, 0.0)
    _, error = launch("audit", f"--workdir={server.folder}", expect=2)
    assert "before any recovery; it has forgotten nothing" in error
