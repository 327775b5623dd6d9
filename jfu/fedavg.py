"""Federated averaging: broadcast, train locally, aggregate, take a server step.

With the server optimizer ``optax.sgd(1.0)`` this is FedAvg (McMahan et al., AISTATS 2017, arXiv
1602.05629). With momentum it is FedAvgM, and with a proximal local loss FedProx. With
``jfu.fedadam`` or ``jfu.fedyogi`` it is FedAdam or FedYogi. These two read the mean update as a
negative gradient (Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv 2003.00295).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu.aggregate import Aggregator, weighted_mean
from jfu.clients import map_clients, sum_clients
from jfu.faults import REASONS, censored, guarded
from jfu.sums import plus, squares, wide
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    FederatedAlgorithm,
    Key,
    LocalInfo,
    Params,
    Parts,
    PyTree,
    RoundInfo,
    Variables,
)


class FedAvgState(NamedTuple):
    variables: Variables  # the global model
    server: PyTree  # the server optimizer's state
    aggregator: PyTree  # the aggregator's state
    round: jax.Array  # [] int32, rounds done

    @property
    def params(self) -> Params:
        return self.variables["params"]


def fedavg(
    local: ClientFn,
    *,
    server: optax.GradientTransformation | None = None,
    aggregator: Aggregator | None = None,
    chunk: int | None = None,
    keep_updates: bool = False,
    max_update_norm: float | None = None,
    weigh: Callable[[ClientData], jax.Array] | None = None,
) -> FederatedAlgorithm:
    """Federated averaging over clients that run ``local``, weighted by their live examples.

    A client whose update is not finite is left out of the round, and counted. A client's weight is
    what its ``LocalInfo.weight`` claims, but at most its live examples, which the server knows.

    Args:
      local: a client's work, such as ``local_sgd(...)``.
      server: optax optimizer for the parameters; ``optax.sgd(1.0)``, plain averaging, if not
        given. Other collections (batch statistics) are averaged without it.
      aggregator: ``weighted_mean()`` if not given.
      chunk: how many clients run at once on a device. 1 means one after the other with a
        running sum, 0 all of them, and None the number from ``clients_at_once``.
      keep_updates: whether ``RoundInfo.updates`` has every client's update ``[K, ...]``.
      max_update_norm: clients whose update is longer are left out of the round too. See
        ``jfu.faults``.
      weigh: ``client -> []``, a client's largest weight; by default its live examples.
        ``lambda client: 1.0`` gives all clients that train the same weight. ``lambda client:
        jnp.inf`` accepts any weight. Methods' own rounds weight by live examples.

    Returns:
      ``init(variables) -> state`` and ``round(state, clients, key) -> (state, info)``; both
      pure. ``variables`` is a dict with ``params`` and any other collections of numbers. If a
      round's mean or new model is not finite, the model stays as it was, and
      ``metrics["not_applied"]`` is 1. Means and the server optimizer's state are at least float32,
      whatever the type of the parameters (``jfu.sums``).

    >>> loss = lambda variables, batch, key: ((batch.x[:, 0] - variables["params"]) ** 2).mean()
    >>> from jfu.local import local_sgd
    >>> from jfu.stacking import stack
    >>> fed = fedavg(local_sgd(loss, optax.sgd(0.25), batch_size=2))
    >>> data = stack([[0.0], [0.0], [8.0], [8.0]], [0, 0, 0, 0], [[0, 1], [2, 3]])
    >>> state, info = fed.round(fed.init({"params": jnp.zeros(())}), data, jax.random.key(0))
    >>> state.params  # one client stays at 0, the other goes to 0 + 0.25 * 2 * 8 = 4
    Array(2., dtype=float32)
    """
    server = optax.sgd(1.0) if server is None else server
    aggregator = weighted_mean() if aggregator is None else aggregator
    if max_update_norm is None and weigh is None:
        local = guarded(local)
    else:
        local = censored(local, max_update_norm, **({} if weigh is None else dict(weigh=weigh)))

    send = sender(local, aggregator)
    collect = _collecting(local, aggregator, chunk, keep_updates)

    def init(variables: Variables) -> FedAvgState:
        check_numbers(variables)
        # Copied, so that the caller keeps the model that was passed in if it donates the state.
        variables = _copied(dict(variables))
        return FedAvgState(
            variables,
            server.init(wide(variables["params"])),
            aggregator.init(variables),
            jnp.zeros((), jnp.int32),
        )

    def round(state: FedAvgState, clients: ClientData, key: Key) -> tuple[FedAvgState, RoundInfo]:
        return watched(None)(state, clients, key, None)[:2]

    def watched(see):
        return functools.partial(one_round, see)

    def one_round(see, state, clients, key, rows):
        shared, clients_key, server_key = begin(state, key)
        sent, info, updates, rows = collect(shared, clients, clients_key, see, rows)
        new, info = finish(state, sent, info, clients.id, server_key)
        return new, info._replace(updates=updates), rows

    def begin(state: FedAvgState, key: Key) -> tuple[Broadcast, Key, Key]:
        return Broadcast(state.variables, state.round), *jax.random.split(key)

    def finish(state: FedAvgState, sent: PyTree, info: LocalInfo, ids: jax.Array, server_key: Key):
        """The server's step from what clients sent."""
        update, memory = aggregator.decode(sent, state.aggregator, server_key)
        check_shapes(update, state.variables)
        update = wide(update)
        slope = jax.tree.map(jnp.negative, update["params"])
        change, server_state = server.update(slope, state.server, wide(state.params))
        variables = {
            name: plus(tree, change if name == "params" else update[name])
            for name, tree in state.variables.items()
        }
        new = FedAvgState(variables, server_state, memory, state.round + 1)
        usable = jnp.isfinite(squares(update)) & jnp.isfinite(squares(variables))
        new = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, state)
        metrics = summarise(info) | {"not_applied": 1.0 - usable.astype(jnp.float32)}
        return new._replace(round=state.round + 1), RoundInfo(info, metrics, ids)

    summed = not (aggregator.stacked or keep_updates)
    parts = Parts(begin, send, finish, chunk) if summed else None
    return FederatedAlgorithm(init, round, watched, parts)


def _collecting(
    local: ClientFn, aggregator: Aggregator, chunk: int | None, keep_updates: bool
) -> Callable:
    """A round's work at the clients, ``(shared, clients, key, see, rows) -> (sent, info, updates,
    rows)``.

    ``sent`` is what the server gets, summed unless the aggregator needs single updates. ``updates``
    is None unless they are kept. ``see`` makes each client's new row, as in ``FederatedAlgorithm``.
    """
    send = sender(local, aggregator)

    def send_and_show(shared, client, key):
        update, info = local(shared, client, key)
        return aggregator.encode(update, info.weight), info, update

    def summed(shared, clients, key, see, rows):
        if see is None:
            return *sum_clients(send, chunk=chunk)(shared, clients, key), None, rows
        total = jnp.maximum(clients.mask.sum(), 1)

        def send_and_see(shared, client, key, row):
            update, info = local(shared, client, key)
            row = see(row, update, info, info.weight / total)
            return aggregator.encode(update, info.weight), info, row

        sent, info, rows = sum_clients(send_and_see, chunk=chunk)(shared, clients, key, rows)
        return sent, info, None, rows

    def stacked(shared, clients, key, see, rows):
        sent, info, updates = map_clients(send_and_show, chunk=chunk)(shared, clients, key)
        if see is not None:
            total = jnp.maximum(clients.mask.sum(), 1)
            rows = jax.vmap(see)(rows, updates, info, info.weight / total)
        if not aggregator.stacked:
            sent = jax.tree.map(lambda a: a.sum(0), wide(sent))
        return sent, info, updates if keep_updates else None, rows

    return stacked if aggregator.stacked or keep_updates else summed


@jax.jit
def _copied(tree: PyTree) -> PyTree:
    """Copies all leaves in one program; one by one, each shape would be compiled by itself."""
    return jax.tree.map(jnp.array, tree)


def check_numbers(variables: Variables) -> None:
    """Raises an error without ``params``, or for leaves that have no mean: keys, bools, text."""
    if "params" not in variables:
        raise ValueError(
            f"variables has the keys {sorted(variables)}; pass a dict with 'params', as "
            "Linen's init returns it"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        kind = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.issubdtype(kind, jnp.number):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"the variables have {name} of the type {kind}, but a federation can average only "
                "numbers; let the loss close over it, or make it floats"
            )


def check_shapes(update: PyTree, variables: Variables) -> None:
    """Raises an error, when the round is traced, if an update's tree or shapes are wrong."""
    wanted, sent = (jax.tree_util.tree_leaves_with_path(t) for t in (dict(variables), update))
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    wanted, sent = ({name(path): leaf.shape for path, leaf in t} for t in (wanted, sent))
    if wanted != sent:
        off = sorted(k for k in wanted.keys() | sent.keys() if wanted.get(k) != sent.get(k))
        raise ValueError(
            f"clients' updates differ from the model in {', '.join(off[:5])} "
            f"({sent.get(off[0])} for {wanted.get(off[0])}); return an update with the tree and "
            "shapes of the received variables"
        )


def sender(local: ClientFn, aggregator: Aggregator) -> ClientFn:
    """What a client does and sends: its update as the aggregator encodes it, and its scalars.

    Everything that crosses the network enters or leaves this function, so costs are counted here.
    """

    def send(shared: Broadcast, client: ClientData, key: Key):
        update, info = local(shared, client, key)
        return aggregator.encode(update, info.weight), info

    return send


def summarise(info: LocalInfo) -> dict[str, jax.Array]:
    """Scalars of a round, float32.

    * ``clients``, ``examples``: how many took part
    * ``down``, ``up``: models sent to clients and by clients
    * ``steps``, ``forwards``: as in ``LocalInfo``
    * ``loss``: the mean of finite losses; NaN if there is none, as in a round without clients
    * ``late``, ``not_finite``, ``too_long``: clients that were left out, by reason
    * ``not_applied``: 1 if the round's mean was not finite and the model stayed as it was
    """
    has_loss = jnp.isfinite(info.loss)
    took, why = info.weight > 0, jnp.broadcast_to(info.left_out, info.weight.shape)
    columns = {
        "clients": took,
        "examples": info.weight,
        "down": took | (why > 0),
        "steps": info.steps,
        "forwards": info.forwards,
        "loss": jnp.where(has_loss, info.loss * info.weight, 0),
        "told": has_loss * info.weight,
        **{name: why == code for name, code in REASONS.items()},
    }
    # One pass over the clients; a sum for each would be as many programs to compile and start.
    columns = {n: jnp.broadcast_to(a, why.shape).astype(jnp.float32) for n, a in columns.items()}
    zeros = dict.fromkeys(columns, jnp.float32(0))
    add = lambda a, b: jax.tree.map(jnp.add, a, b)
    sums = jax.lax.reduce(columns, zeros, add, dimensions=(0,))
    loss = sums["loss"] / sums.pop("told")
    return sums | dict(up=sums["clients"], loss=loss, not_applied=jnp.float32(0))


def reasons(why: jax.Array) -> dict[str, jax.Array]:
    """The number of clients for each reason in ``LocalInfo.left_out [K]``, by its name."""
    return {name: (why == code).sum().astype(jnp.float32) for name, code in REASONS.items()}
