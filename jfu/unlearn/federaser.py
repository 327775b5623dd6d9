"""FedEraser: replay training without the leaving client, with updates of the stored lengths.

During training, the length of each client's update is stored every ``interval`` rounds. Unlearning
starts from the initial model M_0 and the first updates of the retained clients,

    M <- M_0 + sum_{k stays} p_k U_k.

The retained clients then calibrate round by round. A shorter local training from M gives the
direction, and the stored update gives the length:

    U~_k = ||U_k^t|| U^_k / ||U^_k||,   M <- M + sum_{k stays} p_k U~_k.

Liu, Ma, Yang, Wang, Liu. FedEraser: Enabling Efficient Client-Level Data Removal from Federated
Learning Models. IWQoS 2021.

Differences: the paper stores whole updates. After the first round it uses only their lengths, so
only lengths are stored here. The paper's extra factor 1 / (K - 1) is left out, since the weights
already sum to one. A length is that of a client's whole update, not of each tensor. Local epochs
are whole numbers; half of one epoch is rounded up to one.
"""

import jax
import jax.numpy as jnp

from jfu.aggregate import weighted_mean
from jfu.clients import sum_clients
from jfu.faults import guarded
from jfu.fedavg import summarise
from jfu.stacking import weights
from jfu.sums import norm, plus, wide
from jfu.types import (
    Broadcast,
    ClientFn,
    FederatedAlgorithm,
    Needs,
    RoundInfo,
    Unlearner,
    check_counts,
)
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.phases import Beside, inside, moved, phases


def federaser(
    fed: FederatedAlgorithm,
    local: ClientFn,
    *,
    interval: int = 2,
    within: int | None = None,
    chunk: int | None = None,
) -> Unlearner:
    """Calibrated replay of every ``interval``-th round, then rounds of ``fed``.

    Args:
      local: the calibration training; the paper uses half of the usual local epochs.
      interval: distance between stored rounds, at least 1.
      within: the budget of rounds; the interval grows until the replay fits.

    >>> federaser(fed, local(epochs=1), interval=4).needs.history
    ('start', 'norms', 'first')
    """
    check_counts("federaser", 1, interval=interval)
    mean, local = weighted_mean(), guarded(local)

    def perturb(trained, request, key):
        del key
        history, stay = trained.history, weights(request.retain)
        stay = jnp.where(history["norms"][0] > 0, stay, 0)  # who took part
        share = stay / jnp.where(stay.sum() > 0, stay.sum(), 1)
        start = history["start"]
        mean = lambda u: jnp.tensordot(share.astype(u.dtype), u, 1)
        params = plus(start["params"], jax.tree.map(mean, wide(history["first"])))
        rounds = history["norms"].shape[0]
        apart = interval if within is None else max(interval, -(-rounds // (within + 1)))
        return Beside(fed.init({**start, "params": params}), history["norms"][::apart][1:])

    def calibrate(state, request, key):
        lengths = state.own[state.round]
        ids = request.retain.id
        shared = Broadcast(state.variables, state.round)

        def send(shared, client, key):
            update, info = local(shared, client, key)
            length = jnp.where(ids == client.id, lengths, 0).sum()
            now = norm(update["params"])
            # An update of zero stays zero, instead of a number near infinity.
            scale = jnp.where(now > 0, length / jnp.maximum(now, 1e-30), 0)
            long = jax.tree.map(lambda u: scale.astype(u.dtype) * u, wide(update["params"]))
            # A client that missed the stored round has no stored length, so its weight is 0.
            weight = jnp.where(length > 0, info.weight, 0)
            return mean.encode({**update, "params": long}, weight), info

        sent, info = sum_clients(send, chunk=chunk)(shared, request.retain, key)
        update, _ = mean.decode(sent, (), key)
        inner, info = moved(state.inner, update, RoundInfo(info, summarise(info), ids))
        return state._replace(inner=inner), info

    def recover(state, request, key):
        replay = phases(state.own.shape[0], calibrate, inside(on_retained(fed)))
        return replay(state, request, key)

    needs = Needs(history=("start", "norms", "first"), per_client=True, whole_clients=True)
    replays = lambda state: state.round < state.own.shape[0]
    return Unlearner(perturb, recover, needs, own_now=replays)
