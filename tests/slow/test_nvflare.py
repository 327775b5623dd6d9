"""The controller that jfu/live/README.md shows, in NVFlare's simulator with three sites."""

import os
import subprocess
import sys

import pytest

import jfu.ledger
from helpers.scripts import ROOT

pytest.importorskip("nvflare")
from safetensors.numpy import load_file

from helpers.nvflare_client import OURS, named
from launch.live.app import data, in_numpy

pytestmark = pytest.mark.slow


def test_the_controller_of_the_readme_answers_a_request(tmp_path):
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    job = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "nvflare_job.py", tmp_path],
        **dict(env=dict(os.environ, PYTHONPATH=places), cwd=tmp_path, timeout=500),
        **dict(capture_output=True, text=True),
    )
    lines = jfu.ledger.read(tmp_path / "federation" / "ledger.jsonl")
    said = job.stdout[-3000:] + job.stderr[-3000:]
    assert [line["event"] for line in lines] == ["asked", "negated", "answered"], said
    assert lines[0]["nodes"] == [{"id": "site-1", "key": ""}] and lines[2]["regained"]
    assert lines[1]["arrays"] == ["conv1.weight", "conv1.bias"]
    received = [len((tmp_path / f"site-{n}").read_text().splitlines()) for n in (1, 2, 3)]
    asked = lines[0]["round"]
    rounds = max(4, asked + lines[2]["rounds"])
    assert received == [2 * asked, 2 * rounds, 2 * rounds] and asked < rounds
    model = named(load_file(tmp_path / "federation" / "model.safetensors"), OURS)
    measures = data.outcome(in_numpy.predict, model)
    assert measures["test"] > 90 and measures["asr"] < 5
