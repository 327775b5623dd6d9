"""Pools by device: every device has the examples of its own clients and no others.

``stack`` makes one pool, which every device of a mesh has whole. ``spread`` divides it. Of K
clients on D devices, the k-th is on device ``k // ceil(K / D)``, where ``map_clients`` and
``sum_clients`` run it in any case. So no example is moved, and every number stays the same. With
several hosts, a host puts the examples of its own clients on its devices, and reads no others.

Only the order of the all-reduce's sum can change. Masks and indices stay on every device, with five
bytes for each example, so each host decides requests, absences and samples alone. A sample takes as
many places on each device as it may have chosen clients. An example's augmentation depends on its
row of the whole pool, which ``ClientData.row`` keeps. Evaluation is divided in the same way: a host
evaluates its own clients' examples and a share of the test images.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jfu.devices import AXIS
from jfu.stacking import on_device, pools_of
from jfu.types import ClientData


def spread(clients: ClientData, mesh: Mesh | None = None) -> ClientData:
    """The same clients with a pool for each device, ``x [D, P, ...]``, ``y`` and ``row [D, P]``.

    ``index`` then counts within the pool of the client's device. ``mask``, ``id`` and the order of
    clients stay, so a ``forget`` mask of the given clients fits the result. Requests that look at
    labels or rows must be made before.

    Args:
      clients: as ``stack`` makes them; the arrays may be NumPy's. On several hosts every host
        calls this with the same ``index``, ``mask`` and ``id``. Of ``x`` and ``y`` it reads only
        the rows of the clients on its own devices.
      mesh: of the axis "clients"; the one that is set if not given, and without any one device.

    Raises:
      ValueError: the pool is laid out already.

    >>> from jfu import clients_mesh, stack
    >>> data = stack(np.arange(8.0).reshape(4, 2), np.arange(4), [[0, 1], [3]])
    >>> apart = spread(data, clients_mesh(jax.devices()[:2]))
    >>> apart.x.shape, [shard.data.shape for shard in apart.x.addressable_shards]
    ((2, 2, 2), [(1, 2, 2), (1, 2, 2)])
    >>> apart.row.tolist(), apart.index.tolist()
    ([[0, 1], [3, 0]], [[0, 1], [0, 0]])
    """
    if (already := pools_of(clients)) is not None:
        raise ValueError(
            f"these clients' examples lie on {already} devices already; spread those "
            "that stack made"
        )
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    devices = 1 if mesh.empty else mesh.shape[AXIS]
    index, mask = np.asarray(clients.index), np.asarray(clients.mask)
    parts = rows_by_device(index, mask, devices)
    apart = np.zeros_like(index)
    for k, device in enumerate(homes(len(index), devices)):
        apart[k] = np.where(mask[k], np.searchsorted(parts[device], index[k]), 0)
    each = [
        deal(a, parts, mesh) for a in (clients.x, clients.y, np.arange(len(clients.y), dtype="i4"))
    ]
    x, y, row = each
    index, mask, ids = (everywhere(np.asarray(a), mesh) for a in (apart, mask, clients.id))
    return ClientData(x, y, index, mask, ids, row)


def homes(clients: int, devices: int) -> np.ndarray:
    """The device of each client, int ``[K]``.

    >>> homes(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    return np.arange(clients) // max(1, -(-clients // devices))


def rows_by_device(index: np.ndarray, mask: np.ndarray, devices: int) -> list[np.ndarray]:
    """For each device the sorted rows of the whole pool that its clients have, each once.

    >>> rows_by_device(np.array([[2, 0], [2, 9]]), np.array([[True, True], [True, False]]), 2)
    [array([0, 2]), array([2])]
    """
    home = homes(len(index), devices)
    return [np.unique(index[home == device][mask[home == device]]) for device in range(devices)]


def deal(a: jax.Array | np.ndarray, parts: Sequence[np.ndarray], mesh: Mesh, *, flat: bool = False):
    """Rows ``parts[d]`` of ``a`` on device d, zeros behind them: ``[D, P, ...]``.

    Args:
      a: on the host; only rows for devices of this host are read.
      parts: rows for every device; P is as many as the longest part has.
      flat: one after the other, ``[D * P, ...]``.
    """
    longest = max(1, *map(len, parts))

    def block(where):
        device = (where[0].start or 0) // (longest if flat else 1)
        rows = np.asarray(a[parts[device]])
        rows = rows.astype(on_device(rows.dtype), copy=False)
        rows = np.pad(rows, [(0, longest - len(rows))] + [(0, 0)] * (rows.ndim - 1))
        return rows if flat else rows[None]

    lead = (longest * len(parts),) if flat else (len(parts), longest)
    return jax.make_array_from_callback((*lead, *a.shape[1:]), _over(mesh, AXIS), block)


def everywhere(a: np.ndarray, mesh: Mesh) -> jax.Array:
    """An array that every host has, on every device of the mesh, without any communication."""
    return jax.make_array_from_callback(a.shape, _over(mesh), lambda where: a[where])


def _over(mesh: Mesh, *axes: str):
    if mesh.empty:
        return SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(mesh, PartitionSpec(*axes))
