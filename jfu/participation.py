"""FedAU: averaging that counts clients as if all came equally often.

FedAvg divides a round's sum by those who came. A client that comes twice as often then pulls twice
as hard, and the model ends at the optimum of another objective. FedAU divides by all clients, and
multiplies each update by how many rounds its client usually lets pass:

    x <- x + sum_{k came} p_k w_k D_k,   p_k = n_k / sum over all clients

    w_k = the mean length of the intervals of client k before this round, 1 if it has none

An interval ends when the client comes, or when it has ``longest`` rounds; its length counts the
round in which it ends. So w_k estimates 1 / P(k comes), and the expected step is that of a
federation in which everybody comes. The server needs to know who came and three numbers a client,
and no single update.

Wang, Ji. A Lightweight Method for Tackling Unknown Participation Statistics in Federated Averaging.
ICLR 2024, arXiv 2306.03401. The order of steps is that of their code (IBM/fedau), whose intervals
have no limit by default.

Differences: their clients have equal weight; here they are weighted by their examples, as in
FedAvg. A client that is left out of a round, as one that is late, did not come.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.aggregate import Aggregator, weighted_mean
from jfu.faults import checked, guarded
from jfu.types import ClientFn, FederatedAlgorithm, check_counts


class Intervals(NamedTuple):
    """What the server remembers of who came; ``[K]`` each, and the examples of all."""

    waiting: jax.Array  # int32, rounds since the last interval ended
    rounds: jax.Array  # int32, the total length of the intervals
    many: jax.Array  # int32, their number
    examples: jax.Array  # [] float32, of all clients; 1 before the first round


def fedau(clients: int) -> Aggregator:
    """The aggregator of a federation that ``evened`` wraps.

    Args:
      clients: K, the number of rows of the federation's clients.

    >>> fedau(3).init({}).waiting.tolist()
    [0, 0, 0]
    """
    check_counts("fedau", 1, clients=clients)
    mean = weighted_mean()

    def init(variables):
        del variables
        none = jnp.zeros(clients, jnp.int32)
        return Intervals(none, none, none, jnp.ones((), jnp.float32))

    def decode(total, state, key):
        del key
        update, _ = total
        return jax.tree.map(lambda u: u / state.examples.astype(u.dtype), update), state

    return mean._replace(init=init, decode=decode)


def evened(
    local: ClientFn,
    around: Callable[[ClientFn], FederatedAlgorithm],
    *,
    longest: int | None = None,
) -> FederatedAlgorithm:
    """A federation in which clients that come rarely count as much as those that come always.

    Args:
      local: a client's work, such as ``local_sgd(...)``.
      around: makes the federation of a client's work, with the aggregator ``fedau``, and with who
        takes part in a round: ``lambda work: jfu.absent(jfu.fedavg(work, aggregator=jfu.fedau(3)),
        0.5)``.
      longest: the length at which an interval ends although the client did not come, at least 1;
        without limit if not given.

    Returns:
      A federation without ``watched``: its updates are scaled, and no history of them is kept.

    Raises:
      ValueError: when the state is made, if ``around`` gives another aggregator. When a round is
        traced, if there are more or fewer clients than ``fedau`` was told.

    >>> import optax
    >>> from jfu.fedavg import fedavg
    >>> from jfu.local import local_sgd
    >>> from jfu.stacking import stack
    >>> loss = lambda variables, batch, key: ((batch.x[:, 0] - variables["params"]) ** 2).mean()
    >>> local = local_sgd(loss, optax.sgd(0.25), batch_size=2)
    >>> fed = evened(local, lambda work: fedavg(work, aggregator=fedau(2)))
    >>> data = stack([[0.0], [0.0], [8.0], [8.0]], [0, 0, 0, 0], [[0, 1], [2, 3]])
    >>> state, _ = fed.round(fed.init({"params": jnp.zeros(())}), data, jax.random.key(0))
    >>> state.params, state.aggregator.rounds.tolist()  # all came, as in fedavg's example
    (Array(2., dtype=float32), [1, 1])
    """
    check_counts("evened", 1, **({} if longest is None else dict(longest=longest)))
    local = guarded(local)

    def init(variables):
        state = around(local).init(variables)
        if not isinstance(getattr(state, "aggregator", None), Intervals):
            raise ValueError(
                "evened weighs clients by when they came, and this federation does not remember "
                "that; give its fedavg the aggregator jfu.fedau(number of clients)"
            )
        return state

    def round(state, clients, key):
        known = state.aggregator
        if clients.id.shape != known.many.shape:
            raise ValueError(
                f"there are {clients.id.shape[0]} clients, and fedau was given "
                f"{known.many.shape[0]}; make it for the number of rows of the clients"
            )
        factor = jnp.where(known.many > 0, known.rounds / jnp.maximum(known.many, 1), 1.0)
        factor = jnp.where(clients.mask.any(-1), factor, 0)  # a row of padding may have any id

        def scaled(shared, client, key):
            update, info = local(shared, client, key)
            mine = jnp.where(clients.id == client.id, factor, 0).sum()
            return jax.tree.map(lambda u: u * mine.astype(u.dtype), update), info

        total = jnp.maximum(clients.mask.sum(), 1).astype(jnp.float32)
        state = state._replace(aggregator=known._replace(examples=total))
        state, info = around(checked(scaled)).round(state, clients, key)
        came = jnp.isin(clients.id, jnp.where(info.clients.weight > 0, info.ids, -1))
        return state._replace(aggregator=_later(state.aggregator, came, longest)), info

    return FederatedAlgorithm(init, round)


def _later(known: Intervals, came: jax.Array, longest: int | None) -> Intervals:
    """The intervals after a round.

    >>> three = jnp.array([0, 1, 2], jnp.int32)
    >>> after = _later(Intervals(three, 0 * three, 0 * three, 1.0), three == 1, 3)
    >>> after.waiting.tolist(), after.rounds.tolist(), after.many.tolist()
    ([1, 0, 0], [0, 2, 3], [0, 1, 1])
    """
    waited = known.waiting + 1
    ends = came if longest is None else came | (waited >= longest)
    return known._replace(
        waiting=jnp.where(ends, 0, waited),
        rounds=known.rounds + jnp.where(ends, waited, 0),
        many=known.many + ends,
    )
