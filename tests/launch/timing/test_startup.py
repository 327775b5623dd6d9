"""Time from a command to its first round."""

import json
from types import SimpleNamespace

import pytest

from helpers.forks import launch
from launch.timing import startup


@pytest.mark.slow
def test_startup_times_the_quickstarts_first_round(tmp_path):
    path = tmp_path / "s.jsonl"
    out, error = launch("startup", "--runs=1", f"--json={path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["cache"] for row in rows] == ["none", "warm"]
    assert all(row["seconds_median"] > 1 for row in rows)  # Python and JAX started
    assert out.count("launch.train --rounds=1") == 2 and error.count("run 1/1") == 2


def test_a_warm_start_finds_what_an_earlier_one_compiled(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(startup, "once", lambda command: ran.append(command) or float(len(ran)))
    monkeypatch.setattr(startup, "FLAGS", SimpleNamespace(runs=2, json=str(tmp_path / "s.jsonl")))
    startup.startup()
    filling, none, again, *warm = ran
    assert none == again == ["-m", "launch.train", "--rounds=1"]
    assert warm == [filling, filling] and filling[-1].startswith("--compilation_cache=")
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row["seconds"] for row in rows] == [[2.0, 3.0], [4.0, 5.0]]
    assert [row["seconds_median"] for row in rows] == [2.5, 4.5]


def test_a_start_that_fails_is_no_time():
    with pytest.raises(ValueError, match="failed: error: .*nothing"):
        startup.once(["-m", "launch.train", "--dataset=nothing"])
