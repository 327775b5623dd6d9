"""Records of training for later requests, as a wrapper around a federation.

Training itself is unaware of it. After round ``t`` with updates ``D_k`` and weights ``p_k = n_k /
sum_j n_j`` of the clients that took part, without those that were left out:

    norms[t, k] = ||D_k||    sums[k] += p_k D_k    first[k], last[k] = D_k    updates[t, k] = D_k

``norms`` costs four bytes for each round and client. ``sums``, ``first`` and ``last`` need one
model for each client, and ``updates`` one for each client and round. Each client writes its own row
during the round, so all clients' updates are never in memory at once. ``start`` is the initial
model of training. ``came[k]`` is the weight ``n_k`` in the last round, kept beside ``last``. A
round that was not applied did not move the model, so all its ``p_k`` are zero.

``before`` has the state of the federation before each round in which a client took part for the
first time. No other state is useful to someone who wants to go back to before a client came. There
is room for one a client, or one a round if there are fewer rounds. A client that was drawn for a
round has come, even if it was then absent or left out: it took another's place.

It is known who is left out only after all clients have trained. Their updates are then no longer in
memory. A history of sums therefore first adds with the expected shares. If a client was left out,
all clients repeat the round in the same way, and each adds what is missing. This costs twice the
time of such a round, instead of twice the memory of every round.
"""

import functools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfu.sums import norm, wide
from jfu.types import (
    ClientData,
    FederatedAlgorithm,
    LocalInfo,
    Params,
    PyTree,
    RoundInfo,
    Variables,
)

SINGLE = ("norms", "sums", "first", "last", "updates")  # what a sum of updates does not reveal
KEPT = ("start", *SINGLE, "before")
BESIDE = {"last": "came"}  # records that are kept automatically beside another
LEAST = np.finfo(np.float32).tiny  # the norm of a client that sent zeros; 0 means it was absent
EXACT = 1e-5  # shares whose sum is this close to one need no correction


class Recorded(NamedTuple):
    """The state of a federation, and its history."""

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
    """A federation that also keeps a history of its clients' parameter updates, or of its states.

    Args:
      fed: a federation that can be watched, as all of jfu's can.
      keep: out of ``start``, ``norms`` [R, K], ``sums``, ``first``, ``last`` [K, ...],
        ``updates`` [K, R, ...] and ``before``. Dtypes are those of the parameters; norms and sums
        are float32 at least. A client that missed a round, or was left out, has zeros for it; its
        ``first`` and ``last`` stay as they were. ``came`` [K] says who took part in the last round.
        ``before`` has ``states``, whose leaves are [S, ...] with S = min(K, R), how many of these
        are ``used`` [], and the round in which each client ``joined`` [K], R if in none.
      clients: the federation's clients; rows of the history are in their order.
      rounds: R, the number of rounds with space; later ones are not recorded.

    Raises:
      ValueError: there is no such record, or the federation cannot be watched.

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
        params = variables["params"]
        room = lambda *lead, like=params: jax.tree.map(
            lambda p: jnp.zeros((count, *lead, *p.shape), p.dtype), like
        )
        make = dict(
            start=lambda: jax.tree.map(jnp.array, dict(variables)),
            norms=lambda: jnp.zeros((rounds, count), jnp.float32),
            sums=lambda: room(like=wide(params)),
            first=room,
            last=room,
            updates=lambda: room(rounds),
            came=lambda: jnp.zeros(count, jnp.float32),
            before=lambda: _nobody_yet(fed.init(variables), count, rounds),
        )
        named = [name for name in KEPT if name in keep]
        named += [BESIDE[name] for name in named if name in BESIDE]
        return Recorded(fed.init(variables), {name: make[name]() for name in named})

    def round(state: Recorded, clients: ClientData, key: jax.Array):
        number, old = state.inner.round, state.history
        rows = {name: old[name] for name in SINGLE if name in old}
        if not rows:
            inner, info = fed.round(state.inner, clients, key)
            return Recorded(inner, _with_state(old, state.inner, clients, info)), info
        nobody = jnp.zeros(count, jnp.float32)  # who is not there writes no row
        if "norms" in rows:
            rows["norms"] = rows["norms"].T  # a row a client
        see = functools.partial(_see, number)
        rows |= dict(came=nobody, share=nobody)
        inner, info, rows = fed.watched(see)(state.inner, clients, key, rows)
        applied = info.metrics.get("not_applied", 0) == 0
        share, came = rows.pop("share"), rows.pop("came")
        if "norms" in rows:
            rows["norms"] = rows["norms"].T.at[number].multiply(applied, mode="drop")
        if "last" in rows:
            rows["came"] = jnp.where(applied, came, 0)
        if "sums" in rows:
            again = lambda see, rows: fed.watched(see)(state.inner, clients, key, rows)[2]
            rows["sums"] = _as_moved(again, rows["sums"], share, applied)
        return Recorded(inner, _with_state({**old, **rows}, state.inner, clients, info)), info

    return FederatedAlgorithm(init, round)


def needed(history: Mapping[str, Any], kinds: Collection[str]) -> dict[str, Any]:
    """The histories of these kinds, with what is kept beside them; earlier ones may lack that."""
    beside = [BESIDE[kind] for kind in kinds if kind in BESIDE]
    return {kind: history[kind] for kind in kinds} | {b: history[b] for b in beside if b in history}


def _dictionary(state: PyTree) -> dict[str, Any]:
    """A state as files keep it; ``import jfu`` is sooner without what files need."""
    from jfu.io import by_name, unflatten

    return unflatten(by_name(state))


def _nobody_yet(state: PyTree, count: int, rounds: int) -> dict[str, Any]:
    """The history ``before``, of states like this one, before any round."""
    room = lambda leaf: jnp.zeros((min(count, rounds), *leaf.shape), leaf.dtype)
    return dict(
        states=_dictionary(jax.tree.map(room, state)),
        used=jnp.zeros((), jnp.int32),
        joined=jnp.full(count, rounds, jnp.int32),
    )


def _with_state(history: dict[str, Any], state: PyTree, clients: ClientData, info: RoundInfo):
    """The history after a round that began in ``state``; that is kept in ``before``, if need be."""
    if "before" not in history:
        return history
    states, used, old = (history["before"][name] for name in ("states", "used", "joined"))
    joined = jnp.where(_here(clients, info), jnp.minimum(old, state.round), old)
    fresh = (joined != old).any()
    place = jnp.where(fresh, used, old.shape[0])  # beyond all room, so that nothing is written
    put = lambda kept, now: kept.at[place].set(now, mode="drop")
    states = jax.tree.map(put, states, _dictionary(state))
    return {**history, "before": dict(states=states, used=used + fresh, joined=joined)}


def _here(clients: ClientData, info: RoundInfo) -> jax.Array:
    """Who had a part in a round, bool [K].

    If clients were drawn, these are all that were. Even one that was then absent or left out took
    another's place.
    """
    if info.ids.shape[0] < clients.id.shape[0]:
        return jnp.isin(clients.id, info.ids) & clients.mask.any(-1)
    return (info.clients.weight > 0) | (jnp.asarray(info.clients.left_out) > 0)


def _see(number: jax.Array, row: PyTree, update: PyTree, info: LocalInfo, share: jax.Array):
    """A client's row of the history after a round; ``share`` is its part of who was expected."""
    sent, here = update["params"], info.weight > 0
    new = dict(came=jnp.where(here, info.weight, 0), share=jnp.where(here, share, 0))
    if "norms" in row:
        length = jnp.where(here, jnp.maximum(norm(sent), LEAST), 0)
        new["norms"] = row["norms"].at[number].set(length.astype(jnp.float32), mode="drop")
    if "sums" in row:
        add = lambda s, u: s + jnp.where(here, share.astype(u.dtype) * u, 0)
        new["sums"] = jax.tree.map(add, row["sums"], wide(sent))
    if "first" in row:
        put = lambda s, u: jnp.where(here & (number == 0), u, s)
        new["first"] = jax.tree.map(put, row["first"], sent)
    if "last" in row:
        new["last"] = jax.tree.map(lambda s, u: jnp.where(here, u, s), row["last"], sent)
    if "updates" in row:
        put = lambda s, u: s.at[number].set(jnp.where(here, u, 0), mode="drop")
        new["updates"] = jax.tree.map(put, row["updates"], sent)
    return new


def _as_moved(again, sums: PyTree, share: jax.Array, applied: jax.Array) -> PyTree:
    """The sums with each client's share of those who took part, not of those who were expected.

    It is known who takes part only after all have trained, when no update is in memory. If a client
    was left out, all repeat their work, and each adds what is missing.
    """
    came = share.sum()
    right = applied & (jnp.abs(came - 1) <= EXACT) | (came == 0)
    missing = jnp.where(applied, 1 / jnp.where(came > 0, came, 1), 0) - 1

    def see(row, update, info, share):
        del info, share
        part = row["share"] * missing
        add = lambda s, u: s + jnp.where(part != 0, part.astype(u.dtype) * u, 0)
        return {**row, "sums": jax.tree.map(add, row["sums"], wide(update["params"]))}

    correct = lambda _, sums: again(see, dict(sums=sums, share=share))["sums"]
    # A loop of no step or one writes in place, where a branch would copy every row.
    return jax.lax.fori_loop(0, jnp.where(right, 0, 1), correct, sums)
