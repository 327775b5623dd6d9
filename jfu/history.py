"""What training remembers for requests to come, as a wrapper round a federation.

Training itself is unaware of it. After round ``t`` with updates ``D_k`` and weights ``p_k =
n_k / sum_j n_j`` of the clients that took part:

    norms[t, k] = ||D_k||     sums[k] += p_k D_k     last[k] = D_k     updates[t, k] = D_k

``norms`` costs four bytes a round and client and lets a round keep its running sum; the others
make a round hold every client's update (``fedavg(..., keep_updates=True)``).
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jfu.types import ClientData, FederatedAlgorithm, Params, PyTree, Variables

KEPT = ("norms", "sums", "last", "updates")


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
      fed: makes ``RoundInfo.updates`` unless only ``norms`` are kept.
      keep: out of ``norms`` [R, K], ``sums`` [K, ...], ``last`` [K, ...], ``updates``
        [R, K, ...]; float32 or the parameters' dtype. Clients that missed a round leave zeros
        in it, and their ``last`` as it was.
      clients: the federation's clients; rows of the history are in their order.
      rounds: R, the rounds there is room for; later ones are not recorded.

    Raises:
      ValueError: a name that is not among these; a federation that shows no updates.

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
    ids, count = clients.id, clients.id.shape[0]

    def init(variables: Variables) -> Recorded:
        room = lambda *lead: jax.tree.map(
            lambda p: jnp.zeros((*lead, *p.shape), p.dtype), variables["params"]
        )
        make = dict(
            norms=lambda: jnp.zeros((rounds, count)),
            sums=lambda: room(count),
            last=lambda: room(count),
            updates=lambda: room(rounds, count),
        )
        return Recorded(fed.init(variables), {name: make[name]() for name in KEPT if name in keep})

    def round(state: Recorded, clients: ClientData, key: jax.Array):
        number, old = state.inner.round, state.history
        inner, info = fed.round(state.inner, clients, key)
        if info.updates is None and set(keep) - {"norms"}:
            raise ValueError(
                f"to keep {', '.join(keep)} the federation must show single updates; make it with "
                "fedavg(..., keep_updates=True)"
            )
        # Who worked may be a sample: their places among all clients.
        known = info.ids[:, None] == ids[None]
        place = jnp.where(known.any(1), known.argmax(1), count)  # strangers fall off the end
        here = info.clients.weight > 0
        share = info.clients.weight / jnp.maximum(info.clients.weight.sum(), 1)
        sent = None if info.updates is None else info.updates["params"]
        wide = lambda v, u: v.reshape(v.shape + (1,) * (u.ndim - 1)).astype(u.dtype)
        new = dict(old)
        if "norms" in old:
            new["norms"] = old["norms"].at[number, place].set(info.clients.norm, mode="drop")
        if "sums" in old:
            add = lambda s, u: s.at[place].add(wide(share, u) * u, mode="drop")
            new["sums"] = jax.tree.map(add, old["sums"], sent)
        if "last" in old:
            keep_old = jnp.where(here, place, count)
            last = lambda s, u: s.at[keep_old].set(u, mode="drop")
            new["last"] = jax.tree.map(last, old["last"], sent)
        if "updates" in old:
            put = lambda s, u: s.at[number, place].set(u, mode="drop")
            new["updates"] = jax.tree.map(put, old["updates"], sent)
        return Recorded(inner, new), info

    return FederatedAlgorithm(init, round)
