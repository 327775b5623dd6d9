"""What training remembers for requests to come, as a wrapper round a federation.

Training itself is unaware of it. After round ``t`` with updates ``D_k`` and weights ``p_k =
n_k / sum_j n_j`` of the clients that took part:

    norms[t, k] = ||D_k||    sums[k] += p_k D_k    first[k], last[k] = D_k    updates[t, k] = D_k

``norms`` costs four bytes a round and client. ``sums``, ``first`` and ``last`` hold one model a
client, ``updates`` one a client and round; each is written by the client's own step of the
round, which never holds all clients' updates beside it. ``start`` is the model that training
began from.
"""

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jfu.types import ClientData, FederatedAlgorithm, LocalInfo, Params, PyTree, Variables

KEPT = ("start", "norms", "sums", "first", "last", "updates")
SINGLE = KEPT[1:]  # what is told of each client apart, which a sum does not tell


class Recorded(NamedTuple):
    """The state of a federation, and what it remembers."""

    inner: PyTree
    history: dict[str, Any]

    @property
    def variables(self) -> Variables:
        return self.inner.variables

    @property
    def params(self) -> Params:
        return self.inner.params

    @property
    def round(self) -> jax.Array:
        return self.inner.round


def recorded(
    fed: FederatedAlgorithm, keep: Collection[str], *, clients: ClientData, rounds: int
) -> FederatedAlgorithm:
    """A federation that also keeps a history of its clients' parameter updates.

    Args:
      fed: a federation that can be watched, as all of jfu's can.
      keep: out of ``start``, ``norms`` [R, K], ``sums``, ``first``, ``last`` [K, ...] and
        ``updates`` [K, R, ...]; in the parameters' dtypes, norms in float32. Clients that
        missed a round leave zeros in it, and their ``first`` and ``last`` as they were.
      clients: the federation's clients; rows of the history are in their order.
      rounds: R, the rounds there is room for; later ones are not recorded.

    Raises:
      ValueError: a name that is not among these; a federation that cannot be watched.

    >>> from jfu import fedavg, local_sgd, stack
    >>> import optax
    >>> loss = lambda variables, batch, key: (batch.x[:, 0] * variables["params"]).mean()
    >>> data = stack([[3.0], [4.0]], [0, 0], [[0], [1]])
    >>> fed = recorded(fedavg(local_sgd(loss, optax.sgd(1.0))), ["norms"], clients=data, rounds=2)
    >>> state, _ = fed.round(fed.init({"params": jnp.zeros(())}), data, jax.random.key(0))
    >>> state.history["norms"].tolist()
    [[3.0, 4.0], [0.0, 0.0]]
    """
    if unknown := sorted(set(keep) - set(KEPT)):
        raise ValueError(f"there is no history {', '.join(unknown)}; it can keep {', '.join(KEPT)}")
    if fed.watched is None:
        raise ValueError(
            "this federation cannot be watched; give its FederatedAlgorithm a `watched`, as "
            "jfu.fedavg does"
        )
    count = clients.id.shape[0]

    def init(variables: Variables) -> Recorded:
        room = lambda *lead: jax.tree.map(
            lambda p: jnp.zeros((count, *lead, *p.shape), p.dtype), variables["params"]
        )
        make = dict(
            start=lambda: jax.tree.map(jnp.array, dict(variables)),
            norms=lambda: jnp.zeros((rounds, count)),
            sums=room,
            first=room,
            last=room,
            updates=lambda: room(rounds),
        )
        return Recorded(fed.init(variables), {name: make[name]() for name in KEPT if name in keep})

    def round(state: Recorded, clients: ClientData, key: jax.Array):
        number, old = state.inner.round, state.history
        see = functools.partial(_see, number)
        rows = {name: old[name] for name in KEPT[1:] if name in old}
        if "norms" in rows:
            rows["norms"] = rows["norms"].T  # a row a client
        if rows:
            inner, info, rows = fed.watched(see)(state.inner, clients, key, rows)
        else:
            inner, info = fed.round(state.inner, clients, key)
        if "norms" in rows:
            rows["norms"] = rows["norms"].T
        return Recorded(inner, {**old, **rows}), info

    return FederatedAlgorithm(init, round)


def _see(number: jax.Array, row: PyTree, update: PyTree, info: LocalInfo, share: jax.Array):
    """A client's row of the history after a round."""
    sent, here, new = update["params"], info.weight > 0, {}
    if "norms" in row:
        norm = jnp.where(here, optax.tree.norm(sent), 0)
        new["norms"] = row["norms"].at[number].set(norm, mode="drop")
    if "sums" in row:
        add = lambda s, u: s + jnp.where(here, share.astype(u.dtype) * u, 0)
        new["sums"] = jax.tree.map(add, row["sums"], sent)
    if "first" in row:
        put = lambda s, u: jnp.where(here & (number == 0), u, s)
        new["first"] = jax.tree.map(put, row["first"], sent)
    if "last" in row:
        new["last"] = jax.tree.map(lambda s, u: jnp.where(here, u, s), row["last"], sent)
    if "updates" in row:
        put = lambda s, u: s.at[number].set(jnp.where(here, u, 0), mode="drop")
        new["updates"] = jax.tree.map(put, row["updates"], sent)
    return new
