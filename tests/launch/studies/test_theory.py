"""The theory's experiments: verdicts, work directories, and a run on a small scale."""

import json

import numpy as np
import pytest

from jfu import theory
from launch.studies import theorems
from launch.studies import theory as script


def test_a_work_directory_is_taken_over_only_from_the_same_run(tmp_path):
    mine = script.claim(tmp_path / "mine", 3)
    (mine / "theory.jsonl").write_text("old")
    assert script.claim(mine, 3) == mine
    with pytest.raises(ValueError, match="a run with seeds=3, and the flags say seeds=2"):
        script.claim(mine, 2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "theory.jsonl").write_text("theirs")
    with pytest.raises(ValueError, match="was not made by launch.theory"):
        script.claim(other, 3)
    (other / "config.json").write_text('{"script": "tune", "seeds": 3}')
    with pytest.raises(ValueError, match=r"has a run of launch\.tune"):
        script.claim(other, 3)
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match="unreadable"):
        script.claim(other, 3)
    with pytest.raises(ValueError, match="was not made by"):
        script.claim(other / "theory.jsonl", 3)
    assert (other / "theory.jsonl").read_text() == "theirs"


@pytest.mark.slow
def test_the_script_on_a_small_scale(tmp_path, monkeypatch):
    """One activation, one seed, two widths: every check has a row, a table entry and a place."""
    monkeypatch.setattr(theory, "ACTIVATIONS", {"identity": lambda y: y})
    for name, value in dict(
        RETAIN=20,
        FORGET=10,
        WIDTH=4,
        WIDTHS=(4, 6),
        DRAWS=2,
        KEPT=np.repeat(np.float32([1, 0]), [20, 10]),
        TRAINING=dict(steps=20, rate=0.01),
        FLOW=dict(rate=0.005, steps=40, every=20, iterations=5),
        REPAIR=dict(steps=10, rate=0.01),
    ).items():
        monkeypatch.setattr(theorems, name, value)
    text, _ = script.run(tmp_path / "run", seeds=1)
    rows = [json.loads(line) for line in (tmp_path / "run/theory.jsonl").read_text().splitlines()]
    assert {row["what"] for row in rows} == set(theorems.CHECKS)
    for row in rows:
        assert row["activation"] == "identity" and row["theorem"] == theorems.CHECKS[row["what"]][0]
        assert row["consistent"] in (True, False, None)
        assert np.isfinite([row["value"], row["bound"]]).all()
    of = lambda what: [row for row in rows if row["what"] == what]
    # What is true for odd activations whatever the weights.
    for what in ("time, trained", "time, negated", "first", "halves"):
        assert all(row["consistent"] for row in of(what)), what
    assert all(row["consistent"] is None for row in of("narrow to wide, trained"))
    assert of("pair")[0]["value"] < 1e-5
    assert [row["width"] for row in of("noise")] == [4, 6]
    assert (tmp_path / "run/theory.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run/theory.md").read_text() == text
    assert "Theorem 4" in text and text.count("\n") == len(theorems.CHECKS) + 2 + 1 + 4 + 2
