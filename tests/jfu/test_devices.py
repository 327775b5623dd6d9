"""The devices that clients run on: settings before JAX starts, and how many clients run at once."""

import json
import os
import subprocess
import sys
import warnings

import jax
import pytest

import jfu


def test_mesh_has_one_axis_and_the_devices_given():
    mesh = jfu.clients_mesh(jax.devices()[2:5])
    assert dict(mesh.shape) == {"clients": 3}
    assert list(mesh.devices) == jax.devices()[2:5]
    assert jfu.clients_mesh().size == len(jax.devices()) == 8


def test_devices_that_could_starve_are_told_of(monkeypatch):
    """A thread for each to run on and one for each to launch on, or nobody may be left to work."""
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv("NPROC", "15")
    with pytest.warns(RuntimeWarning, match="8 CPU devices share 15 threads.*jfu.cpu_devices"):
        jfu.clients_mesh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jfu.clients_mesh(jax.devices()[:7])
        monkeypatch.setenv("NPROC", "16")
        jfu.clients_mesh()
        monkeypatch.setenv("PJRT_NPROC", "8")  # as if cpu_devices had been called with it
        jfu.clients_mesh()


STARTS = """
import json, os, sys, traceback, jax, jfu
for line in sys.stdin:
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            print("null", flush=True)
        continue
    try:
        count, ahead, env = json.loads(line)
        os.environ.update(env)
        count = jfu.cpu_devices(count, ahead=ahead)
        flags, threads = os.environ.get("XLA_FLAGS", ""), int(os.environ.get("PJRT_NPROC", 0))
        print(json.dumps([count, jax.device_count("cpu"), threads, flags]), flush=True)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
"""
WAIT = "--xla_cpu_collective_call_terminate_timeout_seconds"


@pytest.fixture(scope="module")
def started():
    """What ``cpu_devices`` does in a process without JAX's backend, forked off one with imports."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC", "XLA_FLAGS")}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", STARTS], env=kept, **pipes) as process:

        def started(count, ahead=True, **env):
            print(json.dumps([count, ahead, env]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield started


def test_devices_that_wait_leave_threads_to_work(started):
    cores = len(os.sched_getaffinity(0))
    count, devices, threads, flags = started(cores + 3)
    assert count == devices == cores + 3
    assert threads == 2 * count
    assert flags == f"{WAIT}=3600"


def test_what_the_user_set_is_kept_where_it_is_enough(started):
    flags = f"{WAIT}=7 --xla_cpu_enable_fast_math=false"
    found = started(2, PJRT_NPROC="9", XLA_FLAGS=flags)
    assert found == [2, 2, 9, flags]
    assert started(2, PJRT_NPROC="3")[2] == 4
    assert started(2, NPROC="1")[2] == 4


def test_rounds_that_are_waited_for_need_a_thread_a_device(started):
    cores = len(os.sched_getaffinity(0))
    assert started(cores, ahead=False)[:3] == [cores, cores, cores if cores > 1 else 0]
    assert started(cores + 3, ahead=False)[2] == cores + 3
    assert started(2, ahead=False, PJRT_NPROC="9")[2] == 9
    assert started(2, ahead=False, NPROC="1")[2] == 2


def test_one_device_changes_nothing(started):
    assert started(1) == [1, 1, 0, ""]


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
