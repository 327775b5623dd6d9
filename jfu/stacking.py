"""Clients as one pytree: a pool of examples, and each client's rows of it.

Sampling clients gathers indices, not images. Padding costs five bytes for each slot. With 10,000
clients, the largest with 6,000 examples, it takes 300 MB.
"""

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jfu.targets import are_numbers, are_texts
from jfu.types import ClientData

INT32 = np.iinfo(np.int32)


def stack(
    x: np.ndarray,
    y: np.ndarray,
    indices: Sequence[np.ndarray],
    *,
    ids: Sequence[int] | None = None,
    classes: int | None = None,
    host: bool = False,
) -> ClientData:
    """Makes one pytree of a pool of examples and each client's rows of it.

    Args:
      x: ``[M, ...]`` examples; uint8 images stay uint8, float64 becomes float32 and integers
        int32 unless ``jax_enable_x64`` is set. Arrays of any byte order.
      y: ``[M]`` integer labels, int32; the targets of a regression, float32; or the next tokens of
        texts, ``[M, T]`` integers, -1 where there is none (``jfu.data.tokens``).
      indices: an array of rows for each client, of any lengths; short ones are padded.
      ids: the clients' identities, int32; ``0 ... K-1`` if not given.
      classes: the number of classes; labels outside ``0 ... classes-1`` are refused. Without it,
        such labels give NaN in ``cross_entropy`` and their clients are left out.
      host: whether everything stays in host memory as NumPy arrays, for ``streamed``. ``x`` is then
        not copied, so it may be a memory map (``np.load(file, mmap_mode="r")``). It may also be
        an object that is read by row, as from ``jfu.data.load(..., by_row=True)``; its values
        are not checked here.

    Raises:
      ValueError: the lists of clients, rows or labels do not fit the pool, or a client is empty.
        Labels are not integers. Values are not finite, or too large for the type on the device.

    >>> data = stack(np.zeros((5, 2)), np.arange(5), [[0, 1], [2, 3, 4]])
    >>> data.index.shape, data.mask.sum(1).tolist()
    ((2, 3), [2, 3])
    """
    by_row = host and hasattr(x, "dtype") and not isinstance(x, np.ndarray | jax.Array)
    x, y = x if by_row else _array(x, "examples"), _array(y, "labels")
    if not x.shape or len(x) != len(y):
        many = len(x) if x.shape else "no list of"
        raise ValueError(f"stack was given {many} examples and {len(y)} labels; pass one each")
    _check_labels(y, classes)
    if not by_row:
        _check_examples(x)
    rows = _rows(indices)
    ids = _ids(ids, len(rows))
    for name, i in zip(ids, rows, strict=True):
        _check_rows(name, i, len(x))
    longest = max(map(len, rows))
    index = np.zeros((len(rows), longest), np.int32)
    mask = np.zeros((len(rows), longest), bool)
    for k, i in enumerate(rows):
        index[k, : len(i)], mask[k, : len(i)] = i, True
    arrays = (as_targets(y), index, mask, np.asarray(ids, np.int32))
    if host:
        return ClientData._make((x, *arrays, None))
    x = x.astype(on_device(x.dtype), copy=False)
    return _placed(ClientData._make((x, *arrays, None)))


def as_targets(y: np.ndarray) -> np.ndarray:
    """Labels as int32, and targets that are floats as float32.

    >>> as_targets(np.array([1, 2])).dtype.name, as_targets(np.array([0.5])).dtype.name
    ('int32', 'float32')
    """
    return y.astype(np.float32 if are_numbers(y) else np.int32)


def on_device(dtype: np.dtype) -> np.dtype:
    """The type that an array of this type has on a device, in the machine's byte order.

    >>> on_device(np.dtype(">f8")), on_device(np.dtype("u1"))
    (dtype('float32'), dtype('uint8'))
    """
    return jax.dtypes.canonicalize_dtype(np.dtype(dtype).newbyteorder("="))


def _array(given, what: str) -> np.ndarray:
    """The values as an array without masked entries."""
    if isinstance(given, Mapping):
        raise ValueError(
            f"{what} are a dictionary of {', '.join(map(repr, given))}; pass one array: join them, "
            "or pass row numbers, np.arange(M)[:, None], and let the loss look rows up"
        )
    if np.ma.is_masked(given):
        raise ValueError(f"some {what} are masked; fill them in, or leave their rows out")
    try:
        return np.asarray(given)
    except ValueError:
        raise ValueError(f"{what} differ in shape from one another; pad them to one") from None


def _check_labels(y: np.ndarray, classes: int | None) -> None:
    floats = are_numbers(y) and classes is None
    # A column of labels is a mistake, and a text of one token has nothing to predict.
    if are_texts(y) and y.shape[1] > 1 and np.issubdtype(y.dtype, np.integer):
        return _check_tokens(y, classes)
    if y.ndim != 1 or not (floats or np.issubdtype(y.dtype, np.integer)):
        raise ValueError(
            f"labels must be integers [M], or floats for a regression, got {y.dtype} "
            f"{list(y.shape)}; other targets can be columns of x"
        )
    if floats:
        if bad := int((~np.isfinite(y.astype(np.float32))).sum()):
            raise ValueError(f"{bad} of {len(y)} targets are not finite; remove or repair them")
        return
    low, high = (int(y.min()), int(y.max())) if len(y) else (0, 0)
    if low < INT32.min or high > INT32.max:
        raise ValueError(
            f"labels run from {low} to {high}, beyond 32 bits; number the classes 0, 1, ..., as "
            "np.unique(y, return_inverse=True)[1] does"
        )
    if classes is not None and (low < 0 or high >= classes):
        raise ValueError(
            f"labels run from {low} to {high}, and there are {classes} classes; number them 0 to "
            f"{classes - 1}"
        )


def _check_tokens(y: np.ndarray, vocabulary: int | None) -> None:
    """Refuses next tokens ``[M, T]`` that are none of a vocabulary."""
    low, high = (int(y.min()), int(y.max())) if y.size else (0, 0)
    if low < -1 or high > INT32.max or (vocabulary is not None and high >= vocabulary):
        last = INT32.max if vocabulary is None else vocabulary - 1
        raise ValueError(
            f"next tokens run from {low} to {high}, and the vocabulary is 0 to {last}; -1 marks a "
            "place without a next token"
        )
    if len(y) and not (y >= 0).any(1).all():
        first = int((y < 0).all(1).argmax())
        raise ValueError(f"example {first} has no next token at any place; leave it out")


def _check_examples(x: np.ndarray) -> None:
    if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
        raise ValueError(f"examples are of the type {x.dtype}; pass numbers")
    bad = sum(int((~_finite(block)).sum()) for block in _blocks(x))
    if bad:
        raise ValueError(
            f"{bad} of {len(x)} examples contain NaN or infinity; remove or repair them"
        )
    kind = on_device(x.dtype)
    if any(not _held(block, kind) for block in _blocks(x) if block.size):
        raise ValueError(
            f"examples are {x.dtype}, and some are beyond what {kind} holds, which they become on "
            "a device; scale or renumber them, or set jax_enable_x64"
        )


def _rows(indices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each client's rows."""
    if isinstance(indices, Mapping):
        raise ValueError(
            "rows are a dictionary of clients; pass list(rows.values()), and names that are "
            "integers as ids=list(rows)"
        )
    rows = [_array(i, "rows") for i in indices]
    if not rows:
        raise ValueError("stack was given no clients; pass one array of rows for each client")
    return rows


def _check_rows(name: int, rows: np.ndarray, pool: int) -> None:
    if rows.dtype == bool and rows.ndim == 1:
        raise ValueError(
            f"client {name}'s rows are a mask of {len(rows)} bools; pass the rows' numbers, as "
            "np.flatnonzero(mask) gives them"
        )
    if rows.ndim == 1 and not len(rows):
        raise ValueError(f"client {name} has no examples; give it at least one row")
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"client {name}'s rows are {rows.dtype} {list(rows.shape)}; pass one list of whole "
            f"numbers, 0 to {pool - 1}, for each client"
        )
    if rows.min() < 0 or rows.max() >= pool:
        raise ValueError(f"client {name} names rows outside the pool of {pool} examples")


def _ids(ids: Sequence[int] | None, clients: int) -> list[int]:
    ids = list(range(clients)) if ids is None else list(ids)
    whole = all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in ids)
    if not whole:
        raise ValueError(
            f"ids are integers, the roots of clients' randomness, and got {ids[:5]}; keep names in "
            "a list beside, and pass their places in it"
        )
    ids = list(map(int, ids))
    if len(ids) != clients or len(set(ids)) != clients or min(ids) < 0:
        raise ValueError(f"{clients} clients need as many different ids from 0 on, got {ids}")
    if max(ids) > INT32.max:
        raise ValueError(f"the id {max(ids)} is beyond 32 bits; number the clients 0, 1, ...")
    return ids


def _placed(clients: ClientData) -> ClientData:
    """Copies the clients to every device of the current mesh, apart from the caller's memory."""
    if jax.default_backend() == "cpu":
        # JAX may use an array without a copy, and would then see the caller's later changes. An
        # aligned copy is also used without a copy, by all CPU devices, so the pool exists once.
        clients = jax.tree.map(aligned, clients)
    mesh = jax.sharding.get_mesh()
    everywhere = None if mesh.empty else NamedSharding(mesh, PartitionSpec())
    return jax.block_until_ready(jax.device_put(clients, everywhere))


def empty_aligned(shape: Sequence[int], dtype: np.dtype, to: int = 64) -> np.ndarray:
    """``np.empty`` that begins at a multiple of ``to`` bytes: CPU devices share it, uncopied.

    >>> empty_aligned((3, 5), np.float32).ctypes.data % 64
    0
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + to, np.uint8)
    begin = -room.ctypes.data % to
    return room[begin : begin + size].view(dtype).reshape(shape)


def aligned(a: np.ndarray) -> np.ndarray:
    """A copy that CPU devices share: ``jax.device_put`` uses it as it is, so do not change it.

    >>> a = np.arange(6).reshape(2, 3)
    >>> aligned(a).ctypes.data % 64, np.array_equal(aligned(a), a)
    (0, True)
    """
    copy = empty_aligned(a.shape, a.dtype)
    copy[...] = a
    return copy


def _blocks(x: np.ndarray, many: int = 4096) -> Iterator[np.ndarray]:
    """Some examples at a time, so that a pool on disk is never wholly in memory."""
    return (x[i : i + many] for i in range(0, len(x), many))


def _finite(block: np.ndarray) -> np.ndarray:
    """Which examples contain neither NaN nor infinity."""
    if not jnp.issubdtype(block.dtype, jnp.inexact):
        return np.ones(len(block), bool)
    return np.asarray(np.isfinite(block).all(tuple(range(1, block.ndim))))


def _held(block: np.ndarray, kind: np.dtype) -> bool:
    """Whether finite numbers keep their values in a type that may be smaller."""
    if block.dtype.itemsize <= kind.itemsize:
        return True
    if np.issubdtype(kind, np.integer):
        return np.iinfo(kind).min <= block.min() and block.max() <= np.iinfo(kind).max
    with np.errstate(over="ignore"):
        return bool(np.isfinite(block.astype(kind)).all())


def pools_of(clients: ClientData) -> int | None:
    """The number of devices that have a pool of their own after ``jfu.spread``; None before it.

    >>> pools_of(stack(np.zeros((2, 1)), np.arange(2), [[0], [1]])) is None
    True
    """
    row = clients.row
    return None if row is None or row.ndim == 1 else row.shape[0]


def weights(clients: ClientData) -> jax.Array:
    """Live examples of each client, float32 ``[K]``."""
    return clients.mask.sum(-1).astype(jnp.float32)
