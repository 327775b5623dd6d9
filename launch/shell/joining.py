"""Joins several hosts that run the same script, and refuses hosts that are set up differently.

Every host runs the same script with the same flags, except those in ``OWN``. How joined hosts
exchange values is in ``launch.shell.hosts``.
"""

import contextlib
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

import jax

from launch.shell import address, software, watch
from launch.shell.devices import split_cpu
from launch.shell.hosts import as_first, several
from launch.shell.say import complain, say

# Flags that may differ between hosts.
OWN = ("coordinator", "coordinator_bind", "host_id", "host_timeout", "data_dir", "workdir")
OWN += ("compilation_cache", "init_from", "export_params", "debug")

STILL = 60  # seconds without a sign of life, after which a host counts as lost


def join(given: Any, clients: int) -> None:
    """Joins the hosts that the flags name, before JAX uses a device; does nothing on one host.

    Args:
      given: the flags: coordinator, hosts, host_id, host_timeout, devices.
      clients: the most CPU devices that a host needs.

    Raises:
      ValueError: flags that do not fit together, no cluster that JAX finds by itself, or hosts
        with different flags.
    """
    if not check(given.coordinator, given.hosts, given.host_id):
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    split_cpu(given.devices, clients)
    # JAX ends a host that waits too long with a stack trace; this timer gives a sentence instead.
    patience = threading.Timer(given.host_timeout, _in_vain, [given])
    patience.daemon = True
    patience.start()
    try:
        _meet(given)
        devices = jax.devices()
    finally:
        patience.cancel()
    alike([device.process_index for device in devices], jax.default_backend())
    same(flags_of(given))
    same_software(software.own())


def _meet(given: Any) -> None:
    """Joins the hosts that the flags name; the first host listens for the others."""
    by_jax, listen = given.coordinator == "auto", given.coordinator_bind
    if not by_jax and given.host_id == 0:
        listen, note = address.bound(given.coordinator, given.coordinator_bind)
        if note:
            say(note)
    elif not by_jax:
        try:
            address.wait_for_first(given.coordinator, given.host_timeout)
        except TimeoutError as nobody:
            _in_vain(given, f" ({nobody})")
    try:
        jax.distributed.initialize(
            None if by_jax else given.coordinator,
            given.hosts,
            given.host_id,
            cluster_detection_method=None if by_jax else "deactivate",
            initialization_timeout=given.host_timeout + 60,
            heartbeat_timeout_seconds=STILL,
            coordinator_bind_address=listen,
        )
    except (ValueError, RuntimeError, OSError) as error:
        what = " ".join(str(error).split())
        if by_jax:
            raise ValueError(
                f"--coordinator=auto found no cluster that JAX can join by itself ({what}); it "
                "knows Slurm, Open MPI, Kubernetes (with the package kubernetes) and Cloud TPU; "
                "elsewhere give --coordinator=HOST:PORT, --hosts and --host_id"
            ) from None
        raise ValueError(f"the hosts could not be joined: {what}") from None


def check(coordinator: str | None, hosts: int | None, host_id: int | None) -> bool:
    """Whether the flags are for several hosts.

    Raises:
      ValueError: flags that do not fit together.

    >>> check(None, None, None), check("10.0.0.1:1234", 2, 1), check("auto", None, None)
    (False, True, True)
    """
    if hosts is not None and host_id is not None and host_id >= hosts:
        raise ValueError(
            f"--host_id={host_id} is not one of {hosts} hosts; give a number from 0 to {hosts - 1}"
        )
    if coordinator == "auto":
        return True
    if coordinator is None:
        if hosts in (None, 1) and host_id in (None, 0):
            return False
        raise ValueError(
            f"--{'hosts' if hosts else 'host_id'} is for several hosts, and no flag says where "
            "they meet; add --coordinator=HOST:PORT, a free port of the host with --host_id=0; if "
            "Slurm, Kubernetes or the like starts them, add --coordinator=auto"
        )
    if not re.fullmatch(r".+:\d+", coordinator) or not 0 < address.split(coordinator)[1] < 1 << 16:
        raise ValueError(
            f"--coordinator={coordinator} is not an address; write auto, or HOST:PORT with a free "
            "port of the host with --host_id=0"
        )
    if hosts is None or host_id is None:
        raise ValueError(
            f"--coordinator={coordinator} needs --hosts, the number of hosts, and --host_id, the "
            "number of this host from 0 on"
        )
    return True


def alike(hosts: Sequence[int], backend: str) -> None:
    """Refuses hosts with unequal numbers of devices, before an exchange between them would fail.

    Args:
      hosts: the host of each device, for the devices of all hosts. Every host knows this list.

    >>> alike([0, 0, 1], "cpu")
    Traceback (most recent call last):
    ...
    ValueError: the hosts have 2 and 1 devices, and clients are spread evenly over all devices; \
give all hosts the same --devices
    """
    counts = [hosts.count(host) for host in sorted(set(hosts))]
    if len(set(counts)) > 1:
        *others, last = map(str, counts)
        mend = "give all hosts the same --devices"
        if backend != "cpu":
            mend = (
                f"use hosts with equal numbers of {backend} devices, or make equal numbers visible"
            )
        raise ValueError(
            f"the hosts have {', '.join(others)} and {last} devices, and clients are spread evenly "
            f"over all devices; {mend}"
        )


def _in_vain(given: Any, nobody: str = "") -> None:
    where = "" if given.coordinator == "auto" else f" at {given.coordinator}"
    many = f"{given.hosts} hosts" if given.hosts else "the hosts"
    sentence = (
        f"not all of {many} met{where} within {given.host_timeout} s{nobody}; check that each was "
        "started, has its own --host_id and can reach the first host; --host_timeout waits longer"
    )
    with contextlib.suppress(SystemExit):
        complain(sentence)
    end(2)


def failed(error: BaseException) -> None:
    """Ends this host with an error message."""
    status = error.code if isinstance(error, SystemExit) else 1
    if isinstance(error, jax.errors.JaxRuntimeError):
        # A broken exchange may be seen before its cause. The runtime ends this process by the cause
        # if it learns of one, and the parent's sentence names it.
        time.sleep(2)
        with contextlib.suppress(SystemExit):
            complain(watch.lost(str(error)))
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if jax.process_index() == 0:
        time.sleep(2)  # the others end with the first, and may still be printing the same error
    end(status)


def end(status: int) -> None:
    """Ends this host now. An ordinary end would wait for other hosts, which wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def leave() -> None:
    """The last step of a host: it waits until all hosts are done."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jfu is done")


def refuse(given: Any, script: str) -> None:
    """Refuses the flags of several hosts, for scripts that run on one host."""
    if check(given.coordinator, given.hosts, given.host_id):
        raise ValueError(
            f"launch.{script} runs on one host; leave --coordinator, --hosts and --host_id out"
        )


def flags_of(given: Any) -> dict[str, Any]:
    """The flags that must be the same on all hosts."""
    modules = given.flags_by_module_dict()
    ours = [f.name for m, some in modules.items() if not m.startswith("absl") for f in some]
    theirs = {n: given[n].value for n in ours if n not in OWN}
    return {n: v for n, v in theirs.items() if isinstance(v, str | int | float | list | None)}


def same(values: dict[str, Any]) -> None:
    """Refuses hosts with flags that differ from those of the first host.

    Raises:
      ValueError: on all hosts, if one differs.
    """

    def wrong(other, wanted):
        had = ", ".join(f"--{n}={values[n]}" for n in other)
        first = ", ".join(f"--{n}={wanted.get(n)}" for n in other)
        return (
            f"it was given {had} and host 0 {first}; give all hosts the same flags, apart from "
            f"{', '.join(f'--{n}' for n in OWN)}"
        )

    as_first(values, wrong)


def same_software(values: dict[str, Any]) -> None:
    """Refuses hosts that compute with software that differs from the first host's.

    Args:
      values: versions of packages and settings, by name.

    Raises:
      ValueError: on all hosts, if one differs.
    """

    def wrong(other, wanted):
        had = ", ".join(f"{n} {values[n]}" for n in other)
        first = ", ".join(f"{n} {wanted.get(n)}" for n in other)
        return f"it has {had} and host 0 {first}; install the same software on all hosts"

    as_first(values, wrong)
