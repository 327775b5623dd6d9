"""How clients run: on which devices and how many at once, kept in the work directory.

The layout is a rule. On CPU one device a core, at most one a client, with one client at a time on
each and a running sum. Elsewhere every device, and as many clients at once as hold 2^28 parameters
together (``jfu.clients_at_once``). It is kept because another layout rounds differently. The rule
for CPU is what ``launch.bench`` measured; that for accelerators has not been measured yet.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jfu
from jfu.pools import everywhere
from launch.shell import hosts, joining


class Layout(NamedTuple):
    """How clients run: by rule, not by a stopwatch, and kept in the work directory."""

    backend: str
    devices: int
    chunk: int | None  # clients at once on a device; 0 is all; None until the model is known


def start(
    devices: int | None,
    chunk: int | None,
    clients: int,
    kept: Layout | None,
    cache: str | None = None,
) -> Layout:
    """Chooses how clients run; must be called before JAX touches a device.

    On CPU one device a core, at most one a client; elsewhere every device, or the first of them.
    Hosts that were joined have been given theirs, and count all of them.
    """
    if hosts.several():
        wanted = len(jax.devices())
    else:
        wanted = joining.split_cpu(
            devices or (kept.devices if kept and kept.backend == "cpu" else None), clients
        )
    if cache:
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    backend = jax.default_backend()
    if kept and kept.backend != backend:
        raise ValueError(
            f"the work directory was begun on {kept.backend} and this is {backend}; go on there, "
            "or use another --workdir"
        )
    there = len(jax.devices())
    if backend != "cpu" and devices and devices > there:
        raise ValueError(f"--devices={devices}, and there are {there}; leave it out for all")
    chosen = devices or (kept.devices if kept else there)
    count = wanted if backend == "cpu" or hosts.several() else chosen
    if chunk is None and kept:
        chunk = kept.chunk
    layout = Layout(backend, count, chunk)
    if kept and layout != kept:
        raise ValueError(
            f"the work directory was begun with {kept.devices} devices and --chunk={kept.chunk}, "
            f"not {layout.devices} and {layout.chunk}; other layouts round differently, so use "
            "the same or another --workdir"
        )
    return layout


def on_devices(layout: Layout) -> contextlib.AbstractContextManager:
    """The mesh of a layout, to be entered round everything that runs."""
    if layout.devices == 1:
        return contextlib.nullcontext()
    return jax.set_mesh(jfu.clients_mesh(jax.devices()[: layout.devices]))


def place(tree: Any) -> Any:
    """On every device of the mesh; on several hosts each has the same and sends nothing."""
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


def compiled(fn: Callable) -> Callable:
    """``fn`` jitted, with results that every host holds whole."""
    return jax.jit(fn, out_shardings=jax.sharding.PartitionSpec() if hosts.several() else None)
