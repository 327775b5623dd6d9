"""Clients as one pytree: a pool of examples and each client's rows of it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jfu.types import ClientData


def stack(
    x: np.ndarray,
    y: np.ndarray,
    indices: Sequence[np.ndarray],
    *,
    ids: Sequence[int] | None = None,
    host: bool = False,
) -> ClientData:
    """A pool of examples and each client's rows of it, as one pytree.

    Args:
      x: ``[M, ...]`` examples; uint8 images stay uint8.
      y: ``[M]`` integer labels.
      indices: one array of rows a client, of any lengths; short ones are padded.
      ids: the clients' identities, int32; ``0 ... K-1`` if not given.
      host: whether everything stays in host memory as NumPy arrays, for ``streamed``; ``x`` is
        then not copied, so it may be a memory map (``np.load(file, mmap_mode="r")``) or anything
        that is read by row, such as ``jfu.data.load(..., by_row=True)`` gives, which is not looked
        at here.

    Raises:
      ValueError: no clients, an empty client, rows outside the pool, lengths that differ,
        labels that are not integers, or values that are not finite.

    >>> data = stack(np.zeros((5, 2)), np.arange(5), [[0, 1], [2, 3, 4]])
    >>> data.index.shape, data.mask.sum(1).tolist()
    ((2, 3), [2, 3])
    """
    by_row = host and hasattr(x, "dtype") and not isinstance(x, np.ndarray)
    x, y = x if by_row else np.asarray(x), np.asarray(y)
    if len(x) != len(y):
        raise ValueError(f"stack was given {len(x)} examples and {len(y)} labels; pass one each")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers [M], got {y.dtype} {list(y.shape)}")
    if not by_row and (bad := _not_finite(x)):
        raise ValueError(f"{bad} of {len(x)} examples hold NaN or infinity; remove or repair them")
    rows = [np.asarray(i) for i in indices]
    if not rows:
        raise ValueError("stack was given no clients; pass one array of rows for each client")
    ids = list(range(len(rows))) if ids is None else list(ids)
    if len(set(ids)) != len(rows) or min(ids) < 0:
        raise ValueError(f"{len(rows)} clients need as many different ids from 0 on, got {ids}")
    for name, i in zip(ids, rows, strict=True):
        if i.ndim != 1 or len(i) == 0:
            raise ValueError(f"client {name} holds no examples; give it at least one row")
        if not np.issubdtype(i.dtype, np.integer) or i.min() < 0 or i.max() >= len(x):
            raise ValueError(f"client {name} names rows outside the pool of {len(x)} examples")
    longest = max(map(len, rows))
    index = np.zeros((len(rows), longest), np.int32)
    mask = np.zeros((len(rows), longest), bool)
    for k, i in enumerate(rows):
        index[k, : len(i)], mask[k, : len(i)] = i, True
    arrays = (y.astype(np.int32), index, mask, np.asarray(ids, np.int32))
    if host:
        return ClientData(x, *arrays)
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    return _placed(ClientData(x, *arrays))


def _placed(clients: ClientData) -> ClientData:
    """On every device of the mesh that is set, in memory that is not the caller's."""
    if jax.default_backend() == "cpu":
        # An array may be taken as it is, and would change where its owner writes into it. A copy
        # that is aligned is taken too, by all CPU devices: the pool is then held once.
        clients = jax.tree.map(_aligned, clients)
    mesh = jax.sharding.get_mesh()
    everywhere = None if mesh.empty else NamedSharding(mesh, PartitionSpec())
    return jax.block_until_ready(jax.device_put(clients, everywhere))


def _aligned(a: np.ndarray, to: int = 64) -> np.ndarray:
    """A copy that begins at a multiple of ``to`` bytes."""
    room = np.empty(a.nbytes + to, np.uint8)
    begin = -room.ctypes.data % to
    copy = room[begin : begin + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def _not_finite(x: np.ndarray, many: int = 4096) -> int:
    """Examples that hold NaN or infinity; ``many`` are looked at together, so that a pool on disk
    is never in memory."""
    if not np.issubdtype(x.dtype, np.floating):
        return 0
    inside = tuple(range(1, x.ndim))
    blocks = (x[i : i + many] for i in range(0, len(x), many))
    return sum(int((~np.isfinite(block).all(inside)).sum()) for block in blocks)


def weights(clients: ClientData) -> jax.Array:
    """Live examples of each client, float32 ``[K]``."""
    return clients.mask.sum(-1).astype(jnp.float32)
