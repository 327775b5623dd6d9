"""Joining several hosts, which run the same script, and refusing those that are set up otherwise.

Every host runs the same script with the same flags but for ``OWN``. What they tell one another
once they are joined is in ``launch.shell.hosts``.
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

import jfu
from jfu.devices import cores
from launch.shell import address, software, watch
from launch.shell.hosts import as_first, several
from launch.shell.say import complain, say

# Flags that a host may have to itself.
OWN = ("coordinator", "coordinator_bind", "host_id", "host_timeout", "data_dir", "workdir")
OWN += ("compilation_cache", "init_from", "export_params", "debug")

STILL = 60  # seconds without a sign of life, after which a host counts as lost


def join(given: Any, clients: int) -> None:
    """Joins the hosts that the flags name; nothing on one host. Before JAX touches a device.

    Args:
      given: the flags: coordinator, hosts, host_id, host_timeout, devices.
      clients: there need be no more CPU devices on a host.

    Raises:
      ValueError: flags that do not fit together, no cluster that JAX finds by itself, or hosts
        that were given other flags.
    """
    if not check(given.coordinator, given.hosts, given.host_id):
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    split_cpu(given.devices, clients)
    # A host that waits in vain is ended by JAX with a stack trace; this says it in a sentence.
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
    """Joins the hosts that the flags name, and listens for them on the first."""
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
    """Whether several hosts are asked for.

    Raises:
      ValueError: flags that do not fit together.

    >>> check(None, None, None), check("10.0.0.1:1234", 2, 1), check("auto", None, None)
    (False, True, True)
    """
    if hosts is not None and host_id is not None and host_id >= hosts:
        raise ValueError(
            f"--host_id={host_id} is none of {hosts} hosts; they count from 0 to {hosts - 1}"
        )
    if coordinator == "auto":
        return True
    if coordinator is None:
        if hosts in (None, 1) and host_id in (None, 0):
            return False
        raise ValueError(
            f"--{'hosts' if hosts else 'host_id'} asks for several hosts, and nothing says where "
            "they meet; add --coordinator=HOST:PORT, a free port of the host with --host_id=0, or "
            "--coordinator=auto where Slurm, Kubernetes or the like starts them"
        )
    if not re.fullmatch(r".+:\d+", coordinator) or not 0 < address.split(coordinator)[1] < 1 << 16:
        raise ValueError(
            f"--coordinator={coordinator} is no address; write HOST:PORT, a free port of the host "
            "with --host_id=0, or auto"
        )
    if hosts is None or host_id is None:
        raise ValueError(
            f"--coordinator={coordinator} needs --hosts, how many there are, and --host_id, which "
            "this one is, from 0 on"
        )
    return True


def alike(hosts: Sequence[int], backend: str) -> None:
    """Refuses hosts of unequal size before they tell one another anything, which would fail.

    Args:
      hosts: for each device of all of them, whose it is. Every host knows that.

    >>> alike([0, 0, 1], "cpu")
    Traceback (most recent call last):
    ...
    ValueError: the hosts have 2 and 1 devices, and clients are spread evenly over all of them; \
give all hosts the same --devices
    """
    counts = [hosts.count(host) for host in sorted(set(hosts))]
    if len(set(counts)) > 1:
        *others, last = map(str, counts)
        mend = "give all hosts the same --devices"
        if backend != "cpu":
            mend = f"start hosts that have equally many {backend} devices, or show each as many"
        raise ValueError(
            f"the hosts have {', '.join(others)} and {last} devices, and clients are spread evenly "
            f"over all of them; {mend}"
        )


def _in_vain(given: Any, nobody: str = "") -> None:
    where = "" if given.coordinator == "auto" else f" at {given.coordinator}"
    many = f"{given.hosts} hosts" if given.hosts else "the hosts"
    sentence = (
        f"not all of {many} met{where} within {given.host_timeout} s{nobody}; see that every one "
        "of them was started, has a --host_id of its own and can reach the first, or wait longer "
        "with --host_timeout"
    )
    with contextlib.suppress(SystemExit):
        complain(sentence)
    end(2)


def failed(error: BaseException) -> None:
    """Ends this host with what is wrong."""
    status = error.code if isinstance(error, SystemExit) else 1
    if isinstance(error, jax.errors.JaxRuntimeError):
        with contextlib.suppress(SystemExit):
            complain(watch.lost(str(error)))
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if jax.process_index() == 0:
        time.sleep(2)  # the others, who may be saying the same, do not outlive the first
    end(status)


def end(status: int) -> None:
    """Ends this host now: an ordinary end would wait for the others, who wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def leave() -> None:
    """The last thing that a host does: none goes before all are done."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jfu is done")


def refuse(given: Any, script: str) -> None:
    """For scripts that run on one host."""
    if check(given.coordinator, given.hosts, given.host_id):
        raise ValueError(
            f"launch.{script} runs on one host; leave --coordinator, --hosts and --host_id out"
        )


def split_cpu(devices: int | None, clients: int) -> int:
    """CPU devices of this host: as many as given, or one a core and at most one a client."""
    # Scripts wait for every round.
    return jfu.cpu_devices(devices or max(1, min(cores(), clients)), ahead=False)


def flags_of(given: Any) -> dict[str, Any]:
    """The flags that must be the same on all hosts."""
    modules = given.flags_by_module_dict()
    ours = [f.name for m, some in modules.items() if not m.startswith("absl") for f in some]
    theirs = {n: given[n].value for n in ours if n not in OWN}
    return {n: v for n, v in theirs.items() if isinstance(v, str | int | float | list | None)}


def same(values: dict[str, Any]) -> None:
    """Refuses hosts that were given other flags than the first.

    Raises:
      ValueError: on all hosts, if one differs.
    """

    def told(other, wanted):
        had = ", ".join(f"--{n}={values[n]}" for n in other)
        first = ", ".join(f"--{n}={wanted.get(n)}" for n in other)
        return (
            f"it was given {had} and host 0 {first}; give all hosts the same flags, apart from "
            f"{', '.join(f'--{n}' for n in OWN)}"
        )

    as_first(values, told)


def same_software(values: dict[str, Any]) -> None:
    """Refuses hosts that compute with something else than the first.

    Args:
      values: versions of packages and settings, by name.

    Raises:
      ValueError: on all hosts, if one differs.
    """

    def told(other, wanted):
        had = ", ".join(f"{n} {values[n]}" for n in other)
        first = ", ".join(f"{n} {wanted.get(n)}" for n in other)
        return f"it has {had} and host 0 {first}; set all hosts up alike"

    as_first(values, told)
