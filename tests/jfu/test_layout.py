"""What must be said to JAX before it starts, and how many clients run at once."""

import json
import os
import subprocess
import sys

import jax
import pytest

import jfu


def fresh(code, **env):
    """The last line that a fresh process prints, read as JSON."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC", "XLA_FLAGS")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=kept | env
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


STARTED = """
import json, os, jax, jfu
count = jfu.cpu_devices({count}, ahead={ahead})
flags, threads = os.environ.get("XLA_FLAGS", ""), int(os.environ.get("PJRT_NPROC", 0))
print(json.dumps([count, jax.device_count("cpu"), threads, flags]))
"""
WAIT = "--xla_cpu_collective_call_terminate_timeout_seconds"


def started(count, ahead=True):
    return STARTED.format(count=count, ahead=ahead)


def test_devices_that_wait_leave_threads_to_work():
    cores = len(os.sched_getaffinity(0))
    count, devices, threads, flags = fresh(started(cores + 3))
    assert count == devices == cores + 3
    assert threads == 2 * count
    assert flags == f"{WAIT}=3600"


def test_what_the_user_set_is_kept_where_it_is_enough():
    flags = f"{WAIT}=7 --xla_cpu_enable_fast_math=false"
    found = fresh(started(2), PJRT_NPROC="9", XLA_FLAGS=flags)
    assert found == [2, 2, 9, flags]
    assert fresh(started(2), PJRT_NPROC="3")[2] == 4
    assert fresh(started(2), NPROC="1")[2] == 4


def test_rounds_that_are_waited_for_need_a_thread_a_device():
    cores = len(os.sched_getaffinity(0))
    assert fresh(started(cores, ahead=False))[:3] == [cores, cores, cores if cores > 1 else 0]
    assert fresh(started(cores + 3, ahead=False))[2] == cores + 3
    assert fresh(started(2, ahead=False), PJRT_NPROC="9")[2] == 9
    assert fresh(started(2, ahead=False), NPROC="1")[2] == 2


def test_one_device_changes_nothing():
    assert fresh(started(1)) == [1, 1, 0, ""]


def test_too_late_or_too_few_is_said():
    jax.devices()
    with pytest.raises(ValueError, match="only before JAX is used"):
        jfu.cpu_devices(3)
    with pytest.raises(ValueError, match="cannot be 0 devices"):
        jfu.cpu_devices(0)


@pytest.mark.parametrize(
    ("backend", "clients", "parameters", "at_once"),
    [
        ("cpu", 10, 1000, 1),
        ("cpu", 1, 10**9, 1),
        ("gpu", 10, 2**28 // 10, 10),
        ("gpu", 10, 2**28 // 10 + 1, 5),  # nine at most: two chunks of five
        ("gpu", 10, 2**28, 1),
        ("gpu", 10, 10**12, 1),
        ("tpu", 7, 2**28 // 4, 4),  # two chunks: four and three
        ("metal", 3, 1, 3),
    ],
)
def test_how_many_clients_at_once(backend, clients, parameters, at_once):
    assert jfu.clients_at_once(backend, clients, parameters) == at_once


KEPT = """
import json, os, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_compilation_cache_dir", {folder!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from launch.running.cells import Programs
images = np.random.default_rng(0).integers(0, 255, (16, 8, 8), np.uint8)
def without(x): return 2 * x
def holding(x): return x * jnp.asarray(images).sum()
def after(x): return 3 * x
for fn in (without, holding, after): Programs()(fn, jnp.ones(3))
print(json.dumps(sorted(name.partition("-")[0] for name in os.listdir({folder!r}))))
"""


def test_a_program_that_holds_images_is_not_kept(tmp_path):
    found = fresh(KEPT.format(folder=str(tmp_path)))
    assert {"jit_without", "jit_after"} <= set(found)
    assert "jit_holding" not in found
