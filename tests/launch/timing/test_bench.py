"""The jobs that are timed, and that the scripts that time them run."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.forks import launch
from launch.timing import bench, memory, process, scaling, startup, streaming, workers, workloads


def test_the_jobs_are_as_they_are_written_down():
    """Sizes, parameters and first weights; the last line from the numbers' definition."""
    assert workloads.WORKLOADS["mlp"][:3] == (100, 60, (28, 28, 1))
    assert workloads.WORKLOADS["cnn"][:3] == (10, 600, (28, 28, 1))
    assert all(w[3:] == (32, 0.01, 0.9) for w in workloads.WORKLOADS.values())
    counts = {"mlp": 199_210, "cnn": 1_663_370}
    for name, count in counts.items():
        made = workloads.weights(name)
        assert sum(a.size for layer in made.values() for a in layer.values()) == count
        model = workloads.model(name, workloads.WORKLOADS[name])
        assert model.layers == tuple(made)
    rng = np.random.RandomState(1)
    kernel = rng.uniform(-1, 1, (784, 200)).astype(np.float32) / np.float32(28)
    np.testing.assert_array_equal(workloads.weights("mlp")["stem"]["kernel"], kernel)


def test_the_data_is_noise_round_patterns():
    small = workloads.Workload(3, 400, (28, 28, 1))
    x, y = workloads.data("mlp", small)
    assert x.dtype == np.float32 and x.shape == (3, 400, 28, 28, 1) and y.shape == (3, 400)
    patterns = np.random.RandomState(0).randn(10, 28, 28, 1).astype(np.float32)
    flat, labels = x.reshape(1200, -1), y.reshape(-1)
    for label in range(10):
        mean = flat[labels == label].mean(0)
        slope = mean @ patterns[label].ravel() / (patterns[label] ** 2).sum()
        assert slope == pytest.approx(0.3, abs=0.03)
    x, _ = workloads.data("resnet18", workloads.Workload(2, 5, (32, 32, 3)))
    assert x.dtype == np.uint8 and x.shape == (2, 5, 32, 32, 3)


def test_the_cnn_in_numpy():
    """Two SAME convolutions of 5x5, each pooled, in float64."""
    job = workloads.Workload(1, 2, (28, 28, 1))
    x, _ = workloads.data("cnn", job)
    model, w = workloads.model("cnn", job), workloads.weights("cnn")
    found, _ = model.apply({"params": jax.tree.map(jnp.asarray, w)}, x[0])
    a = x[0].astype(np.float64)
    for name in "stem", "conv2":
        high, wide = a.shape[1:3]
        a = np.pad(a, ((0, 0), (2, 2), (2, 2), (0, 0)))
        kernel = w[name]["kernel"].astype(np.float64)
        a = sum(a[:, i : i + high, j : j + wide] @ kernel[i, j] for i in range(5) for j in range(5))
        a = np.maximum(a, 0).reshape(2, high // 2, 2, wide // 2, 2, -1).max((2, 4))
    a = np.maximum(a.reshape(2, -1) @ w["hidden"]["kernel"], 0) @ w["head"]["kernel"]
    np.testing.assert_allclose(found, a, atol=1e-4)


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


def test_updates_by_hand():
    """9 steps of SGD with momentum from a slope of 0.001."""
    optimizer = optax.sgd(0.5, 0.9)
    params = {"w": jnp.ones((2, 3))}
    run = jax.jit(workers.updates(optimizer, 9))
    found, memory = run(params, optimizer.init(params), {"w": jnp.full((2, 3), 1e-3)})
    p, m = 1.0, 0.0
    for _ in range(9):
        m = 0.9 * m + 1e-3
        p -= 0.5 * m
    np.testing.assert_allclose(found["w"], p, rtol=1e-6)
    np.testing.assert_allclose(jax.tree.leaves(memory)[0], m, rtol=1e-6)


def test_bench_says_what_it_cannot():
    _, error = launch("bench", "--workload=gpt", expect=1)
    assert "mlp" in error
    for wrong in "--peers=torch,tff", "--python=tff=/bin/python":
        _, error = launch("bench", wrong, expect=2)
        assert "'tff' is no peer" in error and "flower" in error


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_candidates_memory_is_that_of_all_its_processes():
    """Flower's clients are processes of their own; 64 MB that a grandchild holds are counted."""
    hold = "held = bytearray(b'1') * 2**26; print(flush=True); input()"
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    before = process._resident(os.getpid())
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", between], **pipes) as child:
        child.stdout.readline()
        during = process._resident(os.getpid())
        child.communicate(b"\n")
    assert during - before > 2**26
    assert process._resident(child.pid) == 0  # it has ended


def test_a_failing_round_still_closes_what_the_job_holds():
    events, closed = [], []
    job = workloads.Job(lambda: 1 / 0, close=lambda: closed.append(True))
    known = mock.patch.dict(workers.WORKERS, {"jfu": lambda asked: job})
    with known, pytest.raises(ZeroDivisionError):
        workers.work(dict(name="jfu", rounds=1), lambda event, **facts: events.append(event))
    assert events == ["ready"] and closed == [True]


def test_scaling_by_hand():
    assert scaling.slope([10, 100, 1000], [0.1, 1.0, 20.0]) == pytest.approx(np.log10(20))
    row = dict(clients=7, width=50, parameters=42_310)
    assert scaling.grown(dict(sweep="clients") | row) == 7
    assert scaling.grown(dict(sweep="width") | row) == 42_310


@pytest.mark.slow
def test_scaling_counts_collectives(tmp_path):
    """More devices, one all-reduce and no gathers; more clients at once, more memory."""
    point = dict(clients=4, images=8, width=64, devices=1, chunk=1)
    alone = scaling.measured(point)
    assert alone["all_reduces"] == alone["gathers"] == 0
    assert alone["parameters"] == 784 * 64 + 64 + 64 * 64 + 64 + 650
    two = scaling.measured(point | dict(devices=2))
    assert (two["all_reduces"], two["gathers"]) == (1, 0)
    many = scaling.measured(point | dict(chunk=4))
    assert many["temporary_mb"] > 2 * alone["temporary_mb"]
    rows = [dict(sweep="devices") | point | alone]
    rows.append(dict(sweep="devices") | point | two | dict(devices=2))
    scaling.draw(rows, str(tmp_path / "s.png"))
    assert (tmp_path / "s.png").stat().st_size > 5000
    assert scaling.markdown(rows).count("all-reduce") == 2


def test_streaming_by_hand():
    """Milliseconds a client, one number where all sizes are alike, a ratio that is a median."""
    row = dict(how="streamed", sizes="equal", clients=1000, smallest=100, largest=100)
    row |= dict(data_mb=74.8, seconds=2.5, ratio=0.98, peak_mb=412.4)
    ragged = row | dict(sizes="dirichlet", smallest=1, largest=4321)
    lines = streaming.markdown([row, ragged]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    shown = ["streamed", "equal", "1,000", "100", "75", "2.50", "2.50", "0.98", "412"]
    assert cells[2] == shown
    assert cells[3][1:4] == ["Dirichlet 0.1", "1,000", "1 to 4,321"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_that_is_followed_is_the_process_own(tmp_path):
    """64 MB of NumPy are seen at once and after they are gone, 64 MB of a mapped file never."""
    seen, before = memory.follow(), memory.anonymous()
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2**26,))
    mapped[:] = 1
    assert memory.anonymous() - before < 32
    own = np.ones(2**26, np.uint8)
    assert memory.anonymous() - before > 48
    time.sleep(0.1)
    del own
    seen["over"] = True
    assert seen["peak"] - before > 48


@pytest.mark.slow
def test_streaming_measures_in_turns(tmp_path, monkeypatch):
    """A streamed worker and a resident one, with the same data and a ratio between them."""
    streaming.write(tmp_path / "x.npy", 1000)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert x.shape == (1000, 28, 28, 1) and x.dtype == np.uint8 and 120 < x.mean() < 135
    monkeypatch.setattr(streaming, "REFERENCE", ("resident", "equal", 10))
    rows = [streaming.REFERENCE, ("streamed", "equal", 10), ("streamed", "dirichlet", 10)]
    given = SimpleNamespace(rounds=2, devices=2, piece=2**18)
    monkeypatch.setattr(streaming, "FLAGS", given)
    first, second, third = streaming.taking_turns(rows, str(tmp_path / "x.npy"))
    assert first["rounds"] == 6 and second["rounds"] == third["rounds"] == 2
    assert (second["smallest"], second["largest"]) == (100, 100)
    assert third["smallest"] == 1 < 100 < third["largest"]
    assert second["data_mb"] == 1000 * 784 / 2**20
    assert second["ratio"] > 0 and second["peak_mb"] > 50


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


def test_nothing_measured_is_written_over(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text("mine\n")
    for script in "bench", "scaling", "streaming", "startup":
        out, error = launch(script, f"--json={path}", expect=2)
        assert "exists already" in error and error.count("\n") == 1 and out == ""
    assert path.read_text() == "mine\n"
    _, error = launch("bench", f"--json={tmp_path / 'nowhere' / 'b.jsonl'}", expect=2)
    assert "no folder" in error
