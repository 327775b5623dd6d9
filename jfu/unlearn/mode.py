"""MoDe: move the model towards a second one trained from scratch, then guide it back.

A second model M_de starts from scratch. For ``degrade`` rounds the retained clients train it
by federated averaging, and the model M moves towards it,

    M <- lam M + (1 - lam) M_de.

Memory guidance follows in each of the first ``guide`` rounds. All clients train M. Retained clients
train on their labels, and the leaving client on the predictions of M_de for its data:

    y(x) = argmax M_de(x),   M <- sum_k p_k w_k over all clients.

Then the others train on.

Zhao, Wang, Qi, Huang, Wei, Zhang. Federated Unlearning with Momentum Degradation. IEEE Internet of
Things Journal, 2023.

No code was published. The numbers of rounds are those of the comparison in PUF (arXiv 2504.05822).
That comparison guides with two learning rates, 0.1 for the leaving client and 5e-4 for the others.
Here all clients are guided at the rate of training; ``stay_lr`` sets another for those that stay.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jfu.aggregate import weighted_mean
from jfu.clients import sum_clients
from jfu.faults import guarded
from jfu.fedavg import fedavg, reasons, sender
from jfu.local import classification
from jfu.sums import narrow, wide
from jfu.types import (
    Broadcast,
    ClientFn,
    FederatedAlgorithm,
    LossFn,
    Model,
    Needs,
    Unlearner,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.phases import Beside, borrowed, inside, moved, phases, together

COUNTS = ("down", "up", "steps", "forwards")


def mode(
    fed: FederatedAlgorithm,
    model: Model,
    local: Callable[..., ClientFn],
    *,
    lam: float = 0.95,
    degrade: int = 6,
    guide: int = 10,
    stay_lr: float | None = None,
    within: int | None = None,
    chunk: int | None = None,
) -> Unlearner:
    """Momentum degradation and memory guidance, then rounds of ``fed``.

    Args:
      local: ``local(loss) -> ClientFn``, a client's training on another loss; with ``stay_lr``
        also ``local(loss, optimizer=...)``.
      lam: share of the model that stays when it moves towards M_de, in [0, 1].
      degrade: rounds that train M_de, at most ``guide``.
      guide: rounds with memory guidance, at least 1.
      stay_lr: learning rate of SGD for retained clients in guided rounds; training's optimizer
        if not given.
      within: the budget of rounds; both schedules shrink to fit half of it, at least one round.

    Raises:
      ValueError: ``degrade``, ``guide`` or ``lam`` is out of range.

    >>> mode(fed, model, local, within=40).needs.history
    ()
    """
    check_numbers("mode", "[0, inf)", stay_lr=stay_lr)
    degrade, guide = _schedule(degrade, guide, within)
    if not 0 <= lam <= 1:
        raise ValueError(f"mode's lam is {lam}; it is the model's share and must lie in [0, 1]")
    loss, mean = classification(model.apply), weighted_mean()
    train, plain = guarded(local(loss)), inside(on_retained(fed))
    stays = train
    if stay_lr is not None:
        stays = guarded(local(loss, optimizer=optax.sgd(stay_lr)))
    degrading = borrowed(fedavg(train, chunk=chunk))

    def perturb(trained, request, key):
        del request
        fresh = fed.init(model.init(key))
        return Beside(fed.init(trained.variables), fresh.variables)

    def guided_round(state, request, key):
        degrade_key, stay_key, leave_key = jax.random.split(key, 3)
        inner, old = state.inner, state.own

        def degraded(model, request, key):
            other, info = degrading(inner._replace(variables=old), request.retain, key)
            blend = lambda m, d: lam * m + (1 - lam) * d
            blended = narrow(jax.tree.map(blend, wide(model), wide(other.variables)), model)
            counts = [info.metrics[name] for name in COUNTS]
            return blended, other.variables, counts, info.clients.left_out

        def left(model, request, key):
            del key
            nobody = jnp.zeros(request.retain.id.shape, jnp.float32)
            return model, old, [jnp.float32(0) for name in COUNTS], nobody

        blended, fresh, before, why = jax.lax.cond(
            inner.round < degrade, degraded, left, inner.variables, request, degrade_key
        )
        shared = Broadcast(blended, inner.round)
        says = guarded(local(pseudo_labelled(model, loss, fresh)))

        def guided(shared, client, key):
            update, info = says(shared, client, key)
            return mean.encode(update, info.weight), info._replace(forwards=info.steps)

        stay, leave = request.retain, request.forget
        sent, info = sum_clients(sender(stays, mean), chunk=chunk)(shared, stay, stay_key)
        gone, theirs = sum_clients(guided, chunk=chunk)(shared, leave, leave_key)
        update, _ = mean.decode(jax.tree.map(jnp.add, sent, gone), (), key)
        info = together(info, theirs, stay.id)
        inner, info = moved(inner._replace(variables=blended), update, info)
        # Also counted: M_de to and from the clients that train it, and to those it guides.
        metrics = info.metrics | reasons(jnp.maximum(info.clients.left_out, why))
        for name, count in zip(COUNTS, before, strict=True):
            metrics[name] += count
        metrics["down"] += (theirs.weight > 0).sum()
        return Beside(inner, fresh), info._replace(metrics=metrics)

    recover = phases(guide, guided_round, plain)
    return Unlearner(perturb, recover, Needs(target=True, forget_data=True), own=guide)


def _schedule(degrade: int, guide: int, within: int | None) -> tuple[int, int]:
    """``degrade`` and ``guide``, checked, and shrunk alike to half of a budget of rounds.

    >>> _schedule(6, 10, None), _schedule(6, 10, 40), _schedule(6, 10, 10), _schedule(6, 10, 1)
    ((6, 10), (6, 10), (3, 5), (1, 1))
    """
    check_counts("mode", 0, degrade=degrade, guide=guide)
    if not 0 <= degrade <= guide or guide < 1:
        raise ValueError(
            f"mode has degrade={degrade} and guide={guide}; guide must be at least 1, and degrade "
            "must lie between 0 and guide"
        )
    fewer = guide if within is None else min(guide, max(1, within // 2))
    return -(-degrade * fewer // guide), fewer


def pseudo_labelled(model: Model, loss: LossFn, guide) -> LossFn:
    """The loss with the guide's predicted classes as labels."""

    def guided(variables, batch, key):
        says = model.apply(guide, batch.x)[0].argmax(-1).astype(batch.y.dtype)
        return loss(variables, batch._replace(y=says), key)

    return guided
