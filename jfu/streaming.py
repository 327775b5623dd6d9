"""Clients that stay in host memory, or in a file, and come to the devices in pieces.

If a round's server needs only a sum, its clients can be grouped in any way. ``streamed`` takes them
in pieces. While the devices work on one piece, the host gathers the examples of the next and sends
them. At most two pieces are on the devices at any time. Memory therefore depends on the size of a
piece, not on the number of clients. Every device keeps its own sum over all pieces. One all-reduce
and the server's work end the round.

Clients are taken in the order of their sizes, largest first. A piece has as many slots for each
client as its largest needs, rounded up to a power of two. It has as many clients as then fit into
its bytes. So clients of one size make pieces of one shape, and one compiled program. Ragged clients
make a program for each power of two, a dozen at most. With one shape for all, a client of one image
would get the slots of a client of thousands. Only the last piece is filled up. Clients next to one
another in size go to different devices, which then have equal work.

It is the same round in parts: a federation shows what it begins with, what a client sends and what
the server does (``FederatedAlgorithm.parts``). An example's randomness stays that of its row in the
whole pool (``ClientData.row``).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jfu.clients import NOBODY, sum_clients
from jfu.collectives import all_reduce
from jfu.devices import AXIS
from jfu.stacking import on_device
from jfu.sums import summable
from jfu.types import (
    Broadcast,
    ClientData,
    FederatedAlgorithm,
    Key,
    LocalInfo,
    PyTree,
    RoundInfo,
    check_counts,
)

LEAST = 64  # slots of the smallest shape: smaller ones would not be faster
WHOLE, MINE = PartitionSpec(), PartitionSpec(AXIS)  # on all devices; divided among them


class Piece(NamedTuple):
    """Some clients with their own examples, of P clients with S slots each."""

    x: np.ndarray  # [P, S, ...], zeros where there is no live example
    y: np.ndarray  # [P, S, ...], as in ClientData
    mask: np.ndarray  # [P, S] bool
    row: np.ndarray  # [P, S] int32, rows of the whole pool
    id: np.ndarray  # [P] int32, NOBODY where nobody is


def streamed(fed: FederatedAlgorithm, *, piece: int = 2**24) -> FederatedAlgorithm:
    """The same federation for clients in host memory, with few clients on the devices at a time.

    Keys, weights, faults and the server's work are those of ``fed``. The numbers are the same too,
    except for rounding, since the order of sums differs. ``round`` runs on the host: call it
    without ``jit``; it compiles what it needs. ``sampled`` and ``absent`` wrap it. Methods with
    ordinary rounds, such as NoT, recover with it.

    Args:
      fed: from ``fedavg``, with an aggregator that needs only sums.
      piece: bytes of examples that a device gets at once; two such pieces are on it at any time.
        A client with more is a piece by itself.

    Returns:
      ``init`` of ``fed`` and ``round(state, clients, key)``, whose clients come from
      ``stack(..., host=True)``.

    Raises:
      ValueError: the federation needs single updates, or is wrapped already. When called: the
        clients' pool is on a device, or the caller is a compiled function.

    >>> import optax, tempfile
    >>> from jfu import fedavg, local_sgd, rounds, stack
    >>> loss = lambda variables, batch, key: ((batch.x[:, 0] - variables["params"]) ** 2).mean()
    >>> fed = streamed(fedavg(local_sgd(loss, optax.sgd(0.25), batch_size=2)), piece=2**20)
    >>> state, key = fed.init({"params": jnp.zeros(())}), jax.random.key(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", [[0.0], [0.0], [8.0], [8.0]])
    ...     x = np.load(f"{folder}/x.npy", mmap_mode="r")
    ...     clients = stack(x, [0, 0, 0, 0], [[0, 1], [2, 3]], host=True)
    ...     for done in rounds(fed.round, state, clients, key, stop=2):
    ...         print(done.state.params)  # each client goes half the way, to 0 and to 8
    2.0
    3.0
    """
    if fed.parts is None:
        raise ValueError(
            "this federation cannot be streamed: its aggregator or keep_updates needs single "
            "updates, or it is wrapped already. Stream a jfu.fedavg that needs sums alone, and put "
            "jfu.sampled or jfu.absent around the streamed one"
        )
    check_counts("streamed", 1, piece=piece)
    parts = fed.parts

    def send(shared: Broadcast, client: ClientData, key: Key):
        sent, info = parts.send(shared, client, key)
        # Padding sends zeros, even if an aggregator encodes an empty update as something else.
        real = client.id != NOBODY
        return jax.tree.map(lambda a: jnp.where(real, a, jnp.zeros_like(a)), sent), info

    def add_here(shared: Broadcast, total: PyTree, some: Piece, key: Key):
        """One device's clients of a piece; its sum has a leading axis of length one."""
        clients = _pooled(some)
        sent, info = sum_clients(send, chunk=parts.chunk)(shared, clients, key)
        return jax.tree.map(lambda t, a: t + a[None], total, sent), info

    def add(shared: Broadcast, total: PyTree, some: Piece, key: Key):
        return _spread(add_here, (WHOLE, MINE, MINE, WHOLE), MINE)(shared, total, some, key)

    def start(state: PyTree, some: Piece, key: Key):
        """What is broadcast, the keys, and a sum of nothing for each device."""
        shared, clients_key, server_key = parts.begin(state, key)
        one = _pooled(jax.tree.map(lambda a: a[:1], some))
        one = one._replace(index=one.index[0], mask=one.mask[0], id=one.id[0])
        sent, _ = jax.eval_shape(parts.send, shared, one, clients_key)
        sent = jax.eval_shape(summable, sent)
        zero = lambda s: jnp.zeros((_devices(), *s.shape), s.dtype)
        return shared, clients_key, server_key, _kept(jax.tree.map(zero, sent), MINE)

    def finish(state: PyTree, total: PyTree, info: LocalInfo, ids: jax.Array, key: Key):
        def summed(total: PyTree) -> PyTree:
            own = jax.tree.map(lambda a: a[0], total)
            return all_reduce(own) if _devices() > 1 else own

        sent = _spread(summed, (MINE,), WHOLE)(total)
        return _kept(parts.finish(state, sent, info, ids, key), WHOLE)

    start, finish = jax.jit(start), jax.jit(finish)
    add = jax.jit(add, donate_argnums=1)

    def round(state: PyTree, clients: ClientData, key: Key) -> tuple[PyTree, RoundInfo]:
        _check_host(state, clients, key)
        clients = ClientData._make(None if a is None else np.asarray(a) for a in clients)
        state, key = _place((state, key), WHOLE)
        shared = clients_key = server_key = total = None
        reports: list[tuple[np.ndarray, LocalInfo]] = []
        for who, slots in plan(clients, piece, _devices()):
            some = _place(gather(clients, who, slots), MINE)
            if total is None:
                shared, clients_key, server_key, total = start(state, some, key)
            total, info = add(shared, total, some, clients_key)
            reports.append((who, info))
            del some
            if len(reports) > 1:
                jax.block_until_ready(reports[-2])  # two pieces on the devices, not more
        info = _in_order(reports, len(clients.id))
        return finish(state, total, *_place((info, clients.id), WHOLE), server_key)

    return FederatedAlgorithm(fed.init, round)


def plan(clients: ClientData, piece: int, devices: int) -> Iterator[tuple[np.ndarray, int]]:
    """Which clients make up which piece: ``(who [P], slots)``, device by device.

    ``who`` has positions of clients, and ``NOBODY`` in places of the last piece that stay empty.

    >>> from jfu import stack
    >>> rows = [range(n) for n in (3, 200, 1, 130, 2)]
    >>> data = stack(np.zeros((200, 4), np.uint8), np.zeros(200, int), rows, host=True)
    >>> [(who.tolist(), slots) for who, slots in plan(data, 256 * 4, 2)]
    [([1, 3], 200), ([0, 2, -1, 4, -1, -1], 64)]
    """
    longest, count = clients.mask.shape[1], len(clients.mask)
    lengths = np.where(clients.mask.any(1), longest - clients.mask[:, ::-1].argmax(1), 0)
    each = max(1, clients.x[:1].nbytes)
    order, share = np.argsort(-lengths, kind="stable"), -(-count // devices)
    while len(order):
        largest = int(lengths[order[0]])
        slots = min(longest, max(LEAST, 1 << (largest - 1).bit_length()))
        most = max(1, piece // (slots * each))
        many = -(-share // -(-share // most)) * devices  # pieces of equal size, if all were alike
        who = np.full(many, NOBODY)
        who[: len(order[:many])] = order[:many]
        yield who.reshape(-1, devices).T.ravel(), slots
        order = order[many:]


def gather(clients: ClientData, who: np.ndarray, slots: int) -> Piece:
    """A piece with copies of its clients' live examples, in the slots that they have."""
    kind = on_device(clients.x.dtype)
    shape = (len(who), slots)
    some = Piece(
        np.zeros((*shape, *clients.x.shape[1:]), kind),
        np.zeros((*shape, *clients.y.shape[1:]), clients.y.dtype),
        np.zeros(shape, bool),
        np.zeros(shape, np.int32),
        np.where(who == NOBODY, NOBODY, clients.id[who]).astype(np.int32),
    )
    # New arrays for every piece: a device may read these very bytes for as long as it works.
    for place in np.flatnonzero(who != NOBODY):
        live = np.flatnonzero(clients.mask[who[place], :slots])
        rows = clients.index[who[place], live]
        some.x[place, live], some.y[place, live] = clients.x[rows], clients.y[rows]
        some.mask[place, live], some.row[place, live] = True, rows
    return some


def _pooled(some: Piece) -> ClientData:
    """A piece as clients of a pool of its own."""
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    index = jnp.arange(some.mask.size, dtype=jnp.int32).reshape(some.mask.shape)
    return ClientData._make((flat(some.x), flat(some.y), index, some.mask, some.id, flat(some.row)))


def _in_order(reports: list[tuple[np.ndarray, LocalInfo]], count: int) -> LocalInfo:
    """The pieces' scalars as ``[K]``, in the order of the clients."""
    who = np.concatenate([who for who, _ in reports])
    position = np.empty(count, int)
    position[who[who != NOBODY]] = np.flatnonzero(who != NOBODY)
    infos = jax.device_get([info for _, info in reports])
    return jax.tree.map(lambda *a: np.concatenate(a)[position], *infos)


def _devices() -> int:
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def _spread(fn: Callable, in_specs: tuple, out_specs: PartitionSpec) -> Callable:
    """``fn`` on every device of the mesh, on its part of what is divided."""
    if _devices() == 1:
        return fn
    # check_vma off: a gradient taken inside must stay each client's own, not be summed.
    return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _place(tree: PyTree, spec: PartitionSpec) -> PyTree:
    """Brings arrays to the devices of the mesh, or to the one device."""
    mesh = jax.sharding.get_mesh()
    return jax.device_put(tree, None if mesh.empty else NamedSharding(mesh, spec))


def _kept(tree: PyTree, spec: PartitionSpec) -> PyTree:
    """Says where results lie, so that the next round finds them where this one found its state."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, spec)


def _check_host(state: PyTree, clients: ClientData, key: Key) -> None:
    if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((state, clients, key))):
        raise ValueError(
            "a streamed round was called inside jit, vmap, scan or cond; it runs on the host, so "
            "call it as it is"
        )
    if isinstance(clients.x, jax.Array) or isinstance(clients.y, jax.Array):
        raise ValueError(
            "a streamed round was given clients whose pool of examples is on a device; make them "
            "with jfu.stack(..., host=True)"
        )
