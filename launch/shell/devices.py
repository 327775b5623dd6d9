"""How clients run: on which devices, and how many at once. The work directory keeps this layout.

A rule gives the layout. On CPU there is one device for each core, and at most one for each client.
One client at a time runs on each device, with a running sum. Elsewhere all devices are used. As
many clients run at once as have 2^28 parameters together (``jfu.clients_at_once``). The layout is
kept because another layout rounds differently. The rule for CPU comes from measurements with
``launch.bench``. The rule for accelerators is not measured yet.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jfu
from jfu.devices import cores
from jfu.pools import everywhere
from launch.shell import hosts


class Layout(NamedTuple):
    """How clients run. A rule gives it, not a time measurement; the work directory keeps it."""

    backend: str
    devices: int
    chunk: int | None  # clients at once on a device; 0 means all; None until the model is known


def start(
    devices: int | None,
    chunk: int | None,
    clients: int,
    kept: Layout | None,
    cache: str | None = None,
) -> Layout:
    """Chooses how clients run; must be called before JAX uses a device.

    On CPU: one device for each core, at most one for each client. Elsewhere: all devices, or the
    first ones. Joined hosts already have their devices, and count those of all hosts.
    """
    if hosts.several():
        wanted = len(jax.devices())
    else:
        wanted = split_cpu(
            devices or (kept.devices if kept and kept.backend == "cpu" else None), clients
        )
    if cache:
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    backend = jax.default_backend()
    if kept and kept.backend != backend:
        raise ValueError(
            f"the work directory was begun on {kept.backend} and this is {backend}; continue on "
            f"{kept.backend}, or use another --workdir"
        )
    there = len(jax.devices())
    if backend != "cpu" and devices and devices > there:
        raise ValueError(f"--devices={devices}, and there are {there}; leave it out to use all")
    chosen = devices or (kept.devices if kept else there)
    count = wanted if backend == "cpu" or hosts.several() else chosen
    if chunk is None and kept:
        chunk = kept.chunk
    layout = Layout(backend, count, chunk)
    if kept and layout != kept:
        raise ValueError(
            f"the work directory was begun with {kept.devices} devices and --chunk={kept.chunk}, "
            f"not {layout.devices} and {layout.chunk}; other layouts round differently, so use "
            "the same layout, or another --workdir"
        )
    return layout


def split_cpu(devices: int | None, clients: int) -> int:
    """Makes this host's CPU devices: as many as given, or one a core and at most one a client."""
    # Scripts wait for every round.
    return jfu.cpu_devices(devices or max(1, min(cores(), clients)), ahead=False)


def on_devices(layout: Layout) -> contextlib.AbstractContextManager:
    """The mesh of a layout; everything that runs must run inside this context."""
    if layout.devices == 1:
        return contextlib.nullcontext()
    return jax.set_mesh(jfu.clients_mesh(jax.devices()[: layout.devices]))


def place(tree: Any) -> Any:
    """Puts a tree on every device of the mesh; each of several hosts has it, and sends nothing."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(tree)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def put(a):
        alone = getattr(a, "is_fully_addressable", True)
        if not hosts.several() or not alone or jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.device_put(a, sharding)
        return everywhere(np.asarray(a), mesh)

    return jax.tree.map(put, tree)


def near(a: Any) -> Any:
    """An array in NumPy, whose sums need no program; on several hosts as it is.

    >>> near(jax.numpy.ones(2)).sum()
    np.float32(2.0)
    """
    return np.asarray(a) if getattr(a, "is_fully_addressable", True) else a


def compiled(fn: Callable) -> Callable:
    """``fn`` jitted, with results that are whole on every host."""
    return jax.jit(fn, out_shardings=jax.sharding.PartitionSpec() if hosts.several() else None)
