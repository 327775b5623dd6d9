"""Jobs that are timed in turns, and the lines that come of it."""

import json

import jax
import pytest

from helpers.forks import launch
from launch.timing import bench


@pytest.mark.slow
def test_bench_measures_in_turns(tmp_path):
    path = tmp_path / "b.jsonl"
    flags = ["--workload=mlp", "--clients=4", "--examples=40", "--rounds=2", "--cold_runs=1"]
    flags += ["--strategies=2x1,1x0", "--peers=", "--central", f"--json={path}"]
    out, error = launch("bench", *flags)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["name"], row["strategy"]) for row in rows] == [
        ("jfu", "2x1"),
        ("jfu", "1x0"),
        ("central", "1x1"),
        ("matmul", ""),
        ("update", "2x1"),
    ]
    for row in rows:
        assert 0 < row["seconds_min"] <= row["seconds_median"] <= row["seconds_max"]
        assert row["name"] == "update" or row["gflop_per_second"] > 0
        assert row["jax"] == jax.__version__
        assert row["workload"] == "mlp" and row["device"]
    two, one, central, _, _ = rows
    assert two["ratio"] == 1
    for row in two, one, central:
        assert row["compile_seconds"] > 0 and row["peak_mb"] > 50
        assert row["cold_seconds"] > 0.5  # starts Python and JAX; compiled in another process
    # Twenty rounds of the same job; how clients are laid out changes rounding only.
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4) and two["loss"] < 2.31
    assert one["efficiency"] == central["seconds_median"] / one["seconds_median"]
    assert two["bound"] > 0 and "bound" not in central
    # 2 flops for each weight forward, 4 back, but none to the images: a lower bound.
    least = 6 * (784 * 200 + 200 * 200 + 2000) - 2 * 784 * 200
    assert least * 160 / 1e9 < two["gflop"] < 1.3 * least * 160 / 1e9
    assert out.count("| jfu") == 2 and "round 2/2" in error


def test_what_rounds_are_judged_by():
    """3 GFLOP at 100 GFLOP/s are 30 ms, and updates 10: half of a round of 80."""
    row = lambda name, seconds, **more: dict(name=name, seconds_median=seconds, **more)
    rows = [
        row("jfu", 0.08, strategy="2x1", gflop=3.0),
        row("jfu", 0.16, strategy="1x1", gflop=3.0),
        row("central", 0.04, strategy="1x1", gflop=3.0),
        row("torch", 0.4, strategy="", gflop=3.0),
        row("matmul", 1.0, strategy="", gflop_per_second=100.0),
        row("update", 0.01, strategy="2x1"),
    ]
    bench.judge(rows, True)
    assert [row.get("bound") for row in rows] == pytest.approx([0.5, 0.25, None, 0.1, None, None])
    assert [row.get("efficiency") for row in rows] == [None, 0.25, None, None, None, None]
    few = [row("jfu", 0.08, strategy="1x1", gflop=3.0), row("update", 0.01, strategy="1x1")]
    bench.judge(few, True)
    assert "bound" not in few[0] and "efficiency" not in few[0]


def test_bench_says_what_it_cannot():
    _, error = launch("bench", "--workload=gpt", expect=1)
    assert "mlp" in error
    for wrong in "--peers=torch,tff", "--python=tff=/bin/python":
        _, error = launch("bench", wrong, expect=2)
        assert "'tff' is not among the libraries" in error and "flower" in error


def test_nothing_measured_is_written_over(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text("mine\n")
    for script in "bench", "scaling", "streaming", "startup":
        out, error = launch(script, f"--json={path}", expect=2)
        assert "exists already" in error and error.count("\n") == 1 and out == ""
    assert path.read_text() == "mine\n"
    _, error = launch("bench", f"--json={tmp_path / 'nowhere' / 'b.jsonl'}", expect=2)
    assert "no folder" in error
