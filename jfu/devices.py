"""Devices: settings before JAX starts, the mesh of clients, and how many clients run at once.

A CPU device gets two threads, or one if the program waits for every round (``ahead=False``).
XLA:CPU runs all devices of a process on one pool of threads, as many as cores. An all-reduce blocks
its thread until the others arrive, or ends the process after 40 s. With one or two threads, 81
rounds of a CNN on two devices ended that way. They were dispatched without waiting, beside other
work. An all-reduce blocked the thread, and the work that it waited for was behind it in the queue.

With three threads they ran, but 400 short rounds with other programs between them hung on jax
0.10.2 in nine runs of ten. JAX lets 32 programs of a device wait. Until there was room, launches of
the next round blocked a thread on both devices. One device blocked the third thread and waited for
the other. With four threads none hung. Synchronous dispatch (``jax_cpu_enable_async_dispatch``)
does not help, since a program still waits for inputs that are being copied.

Idle threads take pieces of each product to any core. This made rounds of the job ``mlp`` of
``launch.bench`` a third slower, and of ``cnn`` 8 %. The scripts wait for every round and need no
thread for launches, so they request one thread for each device. A device may wait an hour. Slow
tests run 200 to 2,000 rounds beside a busy core, dispatched ahead and not.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import jax

AXIS = "clients"  # the mesh axis that clients are spread over

# Seconds that one CPU device may wait for another: clients' work may be uneven.
PATIENCE = 3600

# Parameters of clients that a device may train at once, by backend.
PARAMETERS_AT_ONCE = {"cpu": 0, "gpu": 2**28, "tpu": 2**28}


def setting(name: str) -> Any:
    """A setting of JAX as it is here and now, such as ``"jax_default_matmul_precision"``.

    ``jax.config`` makes its attributes when it runs, so a type checker knows none of them.
    """
    return getattr(jax.config, name)


def cpu_devices(count: int | None = None, *, ahead: bool = True) -> int:
    """Splits the CPU into JAX devices that clients can be spread over; call it first of all.

    Sets ``jax_num_cpu_devices`` and two things more. Without them, devices that wait for one
    another in an all-reduce can end the process. XLA:CPU runs all devices on one pool of threads,
    as many as cores. A device that waits blocks its thread. If many rounds are dispatched ahead,
    the launch of the next one blocks another thread for each device. With fewer than two threads
    for each device, no thread may be left for the work that all wait for. So the pool gets at least
    that many (``PJRT_NPROC``). The longest wait becomes an hour instead of 40 s (``XLA_FLAGS``,
    unless it has another value). Other backends are not touched.

    Args:
      count: number of devices; by default the number of cores that this process may use.
      ahead: whether rounds may be dispatched ahead. Pass False if the program waits for each round,
        as ``rounds`` does; one thread for each device is then enough. More threads than cores move
        pieces of one device's work to another's core, which can cost a quarter of the speed.

    Returns:
      The number of devices.

    Raises:
      ValueError: fewer than one device, or JAX has started already.
    """
    count = cores() if count is None else count
    if count < 1:
        raise ValueError(f"the CPU cannot be {count} devices; ask for at least 1")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise ValueError(
            f"the CPU can be split into {count} devices only before JAX is used; call "
            "jfu.cpu_devices at the start of the program"
        ) from error
    if count > 1:
        os.environ["PJRT_NPROC"] = str(max(threads(), 2 * count if ahead else count))
        flag = "xla_cpu_collective_call_terminate_timeout_seconds"
        flags = os.environ.get("XLA_FLAGS", "")
        if flag not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{flag}={PATIENCE}".strip()
    return count


def cores() -> int:
    """Cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads that all CPU devices of this process share, as XLA:CPU counts them."""
    return int(os.environ.get("PJRT_NPROC") or os.environ.get("NPROC") or cores())


def clients_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh that spreads clients over devices; enter it with ``jax.set_mesh``.

    Warns of CPU devices that were not made by ``cpu_devices`` and may wait for ever.

    >>> with jax.set_mesh(clients_mesh()):
    ...     pass  # rounds traced here run on all devices
    """
    devices = jax.devices() if devices is None else list(devices)
    here = sum(d.platform == "cpu" and d.process_index == jax.process_index() for d in devices)
    if here > 1 and "PJRT_NPROC" not in os.environ and threads() < 2 * here:
        warnings.warn(
            f"{here} CPU devices share {threads()} threads and may hang in an all-reduce; they "
            f"need {2 * here} threads. Call jfu.cpu_devices at the start of the program, in place "
            "of jax_num_cpu_devices or --xla_force_host_platform_device_count",
            RuntimeWarning,
            stacklevel=2,
        )
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=auto, devices=devices)


def clients_at_once(backend: str, clients: int, parameters: int) -> int:
    """How many clients should run at once on a device: the rule behind ``chunk=None``.

    On CPU the number is one. A client's products fill a core, and kernels of several clients under
    ``vmap`` become grouped convolutions, which XLA:CPU runs slowly. On other devices, clients with
    ``PARAMETERS_AT_ONCE`` together run at once, in chunks of equal size. A large network fills a
    device alone, but small ones only side by side.

    Args:
      backend: ``jax.default_backend()``.
      clients: of the cohort, on one device.
      parameters: of the model.

    >>> clients_at_once("cpu", 100, 200_000), clients_at_once("gpu", 100, 200_000)
    (1, 100)
    >>> clients_at_once("gpu", 100, 11_000_000), clients_at_once("gpu", 100, 86_000_000)
    (20, 3)
    """
    limit = PARAMETERS_AT_ONCE.get(backend, PARAMETERS_AT_ONCE["gpu"])
    most = max(1, min(clients, limit // max(1, parameters)))
    return -(-clients // -(-clients // most))
