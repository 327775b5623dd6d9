"""Gaussian amnesiac: the client learns targets that are drawn anew. For regressions.

    y'_i ~ N(m, s^2) for the forgotten examples,   m, s: mean and deviation of all targets

For one round all clients train for an epoch, those that stay on their targets and the leaving
client on y'. The round's mean weights clients by their examples. Then the others train on.

It is the regression's form of amnesiac unlearning, in which forgotten examples get random classes
(Graves, Nagisetty, Ganesh. AAAI 2021, arXiv 2010.10981). The formula is from Tarun, Chundawat,
Mandal, Kankanhalli. Deep Regression Unlearning. ICML 2023, arXiv 2210.08196, and from the authors'
code (ayu987/deep-regression-unlearning): s divides by n - 1, and one epoch with Adam follows.

For m and s each client sends its number of targets, their sum and their sum of squares before it
trains. These three numbers are counted with the round's message.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jfu.aggregate import weighted_mean
from jfu.clients import sum_clients
from jfu.faults import guarded
from jfu.fedavg import sender
from jfu.local import take
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    FederatedAlgorithm,
    Key,
    LossFn,
    Model,
    Needs,
    Split,
    Unlearner,
    check_numbers,
)
from jfu.unlearn.blindspot import absolute
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.phases import moved, params_only, phases, together


def amnesiac(
    fed: FederatedAlgorithm,
    model: Model,
    local: Callable[..., ClientFn],
    *,
    lr: float = 1e-3,
    chunk: int | None = None,
) -> Unlearner:
    """A round on redrawn targets, then rounds of ``fed``.

    Args:
      model: with one output, ``[B, 1]``.
      local: ``local(loss=..., optimizer=..., epochs=...) -> ClientFn``, a client's training.
      lr: learning rate of Adam in that round.

    >>> amnesiac(fed, model, local).needs.history
    ()
    """
    check_numbers("amnesiac", "[0, inf)", lr=lr)
    how = dict(optimizer=optax.adam(lr), epochs=1)
    stays, mean = guarded(local(loss=absolute(model), **how)), weighted_mean()

    def early(state, request, key):
        stay_key, leave_key = jax.random.split(key)
        middle, spread = moments(request, key, chunk)
        leaves = params_only(guarded(local(loss=redrawn(model, middle, spread), **how)))
        shared = Broadcast(state.variables, state.round)
        work = lambda client: sum_clients(sender(client, mean), chunk=chunk)
        sent, info = work(stays)(shared, request.retain, stay_key)
        gone, theirs = work(leaves)(shared, request.forget, leave_key)
        update, _ = mean.decode(jax.tree.map(jnp.add, sent, gone), (), key)
        state, info = moved(state, update, together(info, theirs, request.retain.id))
        three = 3 * info.metrics["clients"] / optax.tree.size(state.variables)
        return state, info._replace(metrics={**info.metrics, "up": info.metrics["up"] + three})

    recover = phases(1, early, on_retained(fed))
    needs = Needs(target=True, forget_data=True)
    return finetune(fed)._replace(recover=recover, needs=needs, own=1)


def redrawn(model: Model, middle: jax.Array, spread: jax.Array) -> LossFn:
    """The mean absolute error from targets of a Gaussian, drawn anew in every step."""
    error = absolute(model)

    def loss(variables, batch, key):
        draw_key, key = jax.random.split(key)
        y = middle + spread * jax.random.normal(draw_key, batch.mask.shape)
        return error(variables, batch._replace(y=y), key)

    return loss


def moments(request: Split, key: Key, chunk: int | None = None) -> tuple[jax.Array, jax.Array]:
    """The mean ``[]`` of all clients' targets and their deviation ``[]``, from sums over clients.

    >>> from jfu.requests import forget_client, split
    >>> from jfu.stacking import stack
    >>> data = stack([[0.0]] * 3, [1001.0, 1002.0, 1006.0], [[0, 1], [2]])
    >>> request = split(data, forget_client(data, [1]))
    >>> [round(float(m), 3) for m in moments(request, jax.random.key(0))]  # ((4 + 1 + 9) / 2)^0.5
    [1003.0, 2.646]
    """

    def totals(power):
        def work(shared, client: ClientData, key):
            del key
            batch, _ = take(client, jnp.arange(client.mask.shape[0]))
            apart = jnp.where(batch.mask > 0, batch.y.astype(jnp.float32) - shared, 0)
            return (apart**power).sum(), batch.mask.sum()

        def total(shared):
            sides = [sum_clients(work, chunk=chunk)(shared, side, key) for side in request]
            return sum(each for each, _ in sides), sum(many.sum() for _, many in sides)

        return total

    # Squares of differences, since sums of squares would lose the digits of a large mean.
    total, many = totals(1)(jnp.float32(0))
    middle = total / jnp.maximum(many, 1)
    return middle, jnp.sqrt(totals(2)(middle)[0] / jnp.maximum(many - 1, 1))
