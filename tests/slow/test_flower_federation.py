"""A real Flower federation on the loopback address: SuperLink, SuperNodes, and a request.

Three SuperNodes with keys of their own. A request to forget node 0, which has planted a backdoor,
comes in while the federation runs. The server is killed after the negation and started again. Then
the same nodes train once more, and a recovery that only fine-tunes is the control.
"""

import json
import os
import signal
import time
from typing import NamedTuple

import pytest

import jfu.ledger

pytest.importorskip("flwr")
from helpers import flowers
from helpers.forks import launch
from launch.live import processes, running

pytestmark = [pytest.mark.slow, pytest.mark.flower]

CONFIG = dict(clients="numpy", nodes=3, rounds=4, lr=0.1, epochs=5, warmup=0)
CONFIG |= {"recovery-rounds": 4}


class Seen(NamedTuple):
    folder: object
    rows: list
    lines: list
    counts: dict  # node -> kinds of the messages that it received, in their order
    killed_after: int = 0  # rounds done when the server was killed


def seen(folder, killed_after=0):
    of = lambda node: [
        line.split()[1] for line in (folder / f"node-{node}.txt").read_text().splitlines()
    ]
    lines = jfu.ledger.read(folder / "ledger.jsonl")
    counts = {node: of(node) for node in range(3)}
    return Seen(folder, running.rows_of(folder), lines, counts, killed_after)


def wait(happened, run, log):
    until = time.monotonic() + 400
    while not happened():
        assert run.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def federations(tmp_path_factory):
    """What a run with negation and one without it have left."""
    scratch = tmp_path_factory.mktemp("flower")
    (scratch / "bin").mkdir()
    with pytest.MonkeyPatch.context() as patch, flowers.commands(scratch / "bin") as commands:
        patch.setattr(processes, "TOOLS", [str(commands), *processes.TOOLS])
        with processes.deployment(scratch, 3, secure=True) as there:
            found = []
            for negate in (True, False):
                folder = scratch / f"negate-{negate}"
                folder.mkdir()
                config = CONFIG | dict(folder=str(folder), counts=str(folder), negate=negate)
                project = processes.app(scratch, config)
                run, log = processes.submit(there, project), scratch / "run.log"
                first = folder / "node-0.txt"  # round 2 has begun
                wait(lambda first=first: running.received(first) > 2, run, log)
                request = json.dumps(dict(id="a", forget=["node-0"])) + "\n"
                (folder / "requests.jsonl").write_text(request)
                killed = 0
                if negate:
                    ledger = folder / "ledger.jsonl"
                    wait(lambda ledger=ledger: "negated" in text_of(ledger), run, log)
                    os.kill(int((folder / "lock").read_text()), signal.SIGKILL)
                    processes.stop(run)
                    killed = running.rows_of(folder)[-1]["round"]
                    run = processes.submit(there, project)
                run.wait(400)
                found.append(seen(folder, killed))
    return found


def text_of(path):
    return path.read_text() if path.exists() else ""


def test_the_leaving_node_receives_no_message_after_the_request(federations):
    negated, _ = federations
    rounds = negated.lines[0]["round"]  # that were done when the request was seen
    assert negated.counts[0] == ["train", "evaluate"] * rounds
    others = negated.counts[1].count("evaluate"), negated.counts[2].count("evaluate")
    assert min(others) >= negated.rows[-1]["round"] > rounds


def test_a_killed_server_goes_on_and_does_not_negate_twice(federations):
    negated, _ = federations
    assert [line["event"] for line in negated.lines] == ["asked", "negated", "answered"]
    last = negated.rows[-1]["round"]
    assert negated.killed_after < last and last >= CONFIG["rounds"]
    assert [row["round"] for row in negated.rows] == list(range(last + 1))
    assert negated.lines[-1]["regained"]


def test_the_backdoor_is_gone_and_fine_tuning_keeps_it(federations):
    before = [
        next(r for r in one.rows if r["round"] == one.lines[0]["round"]) for one in federations
    ]
    after = [one.rows[-1] for one in federations]
    assert min(row["asr"] for row in before) > 85
    assert after[0]["asr"] < 5 and after[1]["asr"] > 60
    assert min(row["test"] for row in after) > 93


def test_the_ledger_names_the_node_by_its_key_and_verifies(federations):
    for one in federations:
        (node,) = one.lines[0]["nodes"]
        assert len(node["key"]) == 64
        out, _ = launch("ledger", f"--workdir={one.folder}")
        assert f"{len(one.lines)} lines are valid, checked against its files" in out
        model = one.folder / "model.safetensors"
        assert one.lines[-1]["model"] == jfu.ledger.digest(model)


def test_the_table_shows_what_happened(federations):
    negated, _ = federations
    text = running.table(negated.rows, negated.lines)
    assert text.count("asked, negated") == 1 and text.count("answered") == 1
