"""Ridge: the statistics of what stays are added up again, and the head is solved anew.

    W = (lambda I + sum_k A_k)^-1 sum_k B_k     without the statistics of those who leave

in a federation of ridge heads on frozen features (``jfu.ridge``). The server keeps every client's
statistics. It drops those of each client that loses any example, adds up the others, and solves.
This is its own work, without a round. Clients that keep some of their examples then send their
statistics once more, in one round. After it the head is that of retraining, to the bit.

``ridge_subtract`` is the published form, for a server that may see sums only:

    W = (lambda I + A - A_f)^-1 (B - B_f)

The leaving clients send the statistics of the forgotten examples once more, and the server takes
them from its total. This loses digits (``jfu.ridge``).

Quan, Wu, Montana. arXiv 2603.12977, 2026.
"""

import jax
import jax.numpy as jnp

from jfu import types
from jfu.faults import guarded
from jfu.ridge import RidgeState, answered, check_rows, collecting, sender, silent, subtract
from jfu.types import Model, Needs, Unlearner
from jfu.unlearn.none import idle
from jfu.unlearn.phases import phases


def ridge(
    model: Model, *, penalty: float = 1.0, batch_size: int = 256, chunk: int | None = None
) -> Unlearner:
    """Adds up the statistics of clients that lose nothing; the others send theirs again.

    Args:
      model, penalty, batch_size, chunk: those of the ``jfu.ridge.federation`` that was trained.

    >>> from jfu import Trained, forget_client, ridge as heads, split, stack
    >>> x, y = np.random.default_rng(0).normal(size=(8, 4, 4, 1)), np.arange(8) % 3
    >>> data = stack(x, y, [[0, 1, 2], [3, 4, 5], [6, 7]])
    >>> fed, key = heads.federation(model, clients=3), jax.random.key(1)
    >>> start = model.init(jax.random.key(0))
    >>> state, _ = fed.round(fed.init(start), data, key)  # all of training
    >>> request, trained = split(data, forget_client(data, [0])), Trained(*state[:2])
    >>> answer = ridge(model).perturb(trained, request, key)
    >>> again, _ = fed.round(fed.init(start), request.retain, key)
    >>> same = jax.tree.map(np.allclose, answer.variables, again.variables)
    >>> all(jax.tree.leaves(same))
    True
    """
    types.check_numbers("ridge", "(0, inf)", penalty=penalty)
    alone = collecting(silent(model), chunk=chunk)
    again = collecting(guarded(sender(model, batch_size=batch_size)), chunk=chunk)

    def answer(collect, state, asked, key):
        kept, info = collect(state.variables, asked, key, state.history["statistics"])
        return answered(model, state, kept, penalty, info, asked.id)

    def perturb(trained, request, key):
        check_rows(trained.history["statistics"], request.retain)
        loses = request.forget.mask.any(1)
        drop = lambda a: jnp.where(loses.reshape(-1, *[1] * (a.ndim - 1)), 0, a)
        history = dict(statistics=jax.tree.map(drop, trained.history["statistics"]))
        state = RidgeState(dict(trained.variables), history, jnp.zeros((), jnp.int32))
        nobody = request.retain._replace(mask=jnp.zeros_like(request.retain.mask))
        return answer(alone, state, nobody, key)[0]

    def recover(state, request, key):
        loses = request.forget.mask.any(1)[:, None]
        some = request.retain._replace(mask=request.retain.mask & loses)
        return answer(again, state._replace(round=state.round + 1), some, key)

    return Unlearner(perturb, recover, Needs(history=("statistics",), per_client=True))


def ridge_subtract(
    model: Model, *, penalty: float = 1.0, batch_size: int = 256, chunk: int | None = None
) -> Unlearner:
    """Subtracts the statistics of the forgotten examples, which their clients send once more.

    Args:
      model, penalty, batch_size, chunk: as in ``ridge``.

    >>> ridge_subtract(model).needs.per_client  # sums will do
    False
    """
    types.check_numbers("ridge_subtract", "(0, inf)", penalty=penalty)
    collect = collecting(guarded(sender(model, batch_size=batch_size)), chunk=chunk)

    def perturb(trained, request, key):
        del request, key
        history = dict(total=trained.history["total"])
        return RidgeState(dict(trained.variables), history, jnp.zeros((), jnp.int32))

    def early(state, request, key):
        gone, info = collect(state.variables, request.forget, key, None)
        kept = dict(total=subtract(state.history["total"], gone["total"]))
        state = state._replace(round=state.round + 1)
        return answered(model, state, kept, penalty, info, request.forget.id)

    def later(state, request, key):
        return idle(state._replace(round=state.round + 1), request, key)

    needs = Needs(history=("total",), target=True, forget_data=True)
    return Unlearner(perturb, phases(1, early, later), needs, own=1)
