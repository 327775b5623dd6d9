"""Lowered programs with planted slow operations, bounds by hand, and a trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from launch.timing.accelerator import expected, jobs, lowered, profile

SIZES = dict(x=(3, 2, 6, 6, 4), kernel=(3, 2, 2, 4, 5))


def text(run, *arguments, platform="cuda"):
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments]
    return export.export(jax.jit(run), platforms=[platform])(*shapes).mlir_module()


def convolve(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def planted(x, kernels, table, rows):
    """A grouped convolution, a gather in a loop, one outside, and a call of the host."""
    y = jax.vmap(convolve)(x, kernels)
    told = jax.pure_callback(np.sum, jax.ShapeDtypeStruct((), np.float32), table)
    first = jax.lax.fori_loop(0, 4, lambda i, sum_: sum_ + table[rows * i].sum(), 0.0)
    return y.sum() + told + first + table[rows].sum()


def test_what_is_slow_is_found_where_it_was_planted():
    made = [jnp.zeros(shape) for shape in SIZES.values()]
    made += [jnp.zeros(8), jnp.zeros(3, jnp.int32)]
    found = lowered.findings(jax.jit(planted).lower(*made).as_text())  # callbacks need a backend
    assert (found["convolutions"], found["grouped"], found["groups"]) == (1, 1, 3)
    assert (found["gathers"], found["gathers_in_loops"]) == (2, 1)
    assert found["host_transfers"] == 1 and found["deepest"] >= 1 and found["float64"] == 0
    one = lowered.findings(text(convolve, made[0][0], made[1][0], platform="tpu"))
    assert (one["convolutions"], one["grouped"], one["groups"]) == (1, 0, 1)
    assert one["host_transfers"] == one["gathers"] == one["deepest"] == 0
    doubled = "%0 = stablehlo.add %a, %b : tensor<3xf64>"
    assert lowered.findings(doubled)["float64"] == 1


@pytest.mark.slow
def test_a_round_lowers_for_accelerators_without_one():
    both = [lowered.lowered("cifar_cnn-10", "1x0", 32, "tf32", p) for p in lowered.PLATFORMS]
    for found in map(lowered.findings, both):
        assert found["groups"] == 10 and found["host_transfers"] == found["float64"] == 0
    found = lowered.findings(lowered.lowered("cifar_cnn-10", "1x1", 32, "tf32", "cuda"))
    assert found["grouped"] == 0 and found["gathers_in_loops"] > 0


def test_bounds_by_hand():
    """100 clients of 500 in batches of 32 are 16 steps each; 20 at once are five turns."""
    step = dict(what="step", workload="resnet18", batch_size=32, parameters=1)
    step |= dict(gflop=100.0, gigabytes=1.0, kernels=200)
    device = expected.Device("made up", tflops=100.0, gigabytes=1000.0, launch=1e-5)
    found = expected.bound(jobs.JOBS["resnet18-100"], "1x20", step, device)
    assert found.steps == 80 and found.gflop == 160_000 and found.gigabytes == 1600
    assert found.operations == pytest.approx(1.6) and found.bytes == pytest.approx(1.6)
    assert found.launches == pytest.approx(0.16)
    alone = expected.bound(jobs.JOBS["resnet18-100"], "1x1", step, device)
    assert alone.steps == 1600 and alone.launches == pytest.approx(3.2)
    assert (alone.limit, alone.least) == ("launches", alone.launches)
    shown = expected.markdown([step], device).splitlines()
    (line,) = [line for line in shown if "resnet18-100" in line and " 1x1 " in line]
    assert [value.strip() for value in line.split("|")[-4:-1]] == ["3.200", "3.200", "launches"]


def test_a_trace_names_the_longest_operations(tmp_path):
    a = jnp.ones((200, 200))
    run = jax.jit(lambda a: jnp.tanh(a @ a) @ a)
    path = profile.record(lambda: jax.block_until_ready(run(a)), tmp_path)
    assert path.suffix == ".pb" and list(tmp_path.rglob("perfetto_trace.json.gz"))
    found = list(profile.events(path))
    top = profile.longest(found)
    assert 1 <= len(top) <= 10 and all(times % profile.ROUNDS == 0 for _, times, _ in top)
    assert top == sorted(top, key=lambda row: -row[2])
    shown = profile.markdown(found)
    assert top[0][0][:40] in shown and "compilations: 0 events" in shown
