"""PUF: for one round the leaving client's update enters the mean with a negative sign.

    w <- w + sum_{k stays} p_k D_k - rate * p_u D_u      p_k = n_k / sum over all clients

Every client trains as usual, the leaving one on its own data. Its pseudo-gradient is negated and
scaled. With ``alone`` only the leaving client takes part: ``w <- w - rate * D_u``. Then the others
train on.

Mora, Mazzocca, Montanari, Bellavista. Federated Unlearning Made Practical: Seamless Integration
via Negated Pseudo-Gradients. 2025, arXiv 2504.05822.

The client can negate its own update, so the server needs only the sum.
"""

import jax

from jfu.aggregate import weighted_mean
from jfu.clients import sum_clients
from jfu.faults import guarded
from jfu.fedavg import sender
from jfu.types import Broadcast, ClientFn, FederatedAlgorithm, Needs, Unlearner, check_numbers
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.phases import moved, phases, together


def puf(
    fed: FederatedAlgorithm,
    local: ClientFn,
    *,
    rate: float | None = None,
    alone: bool = False,
    chunk: int | None = None,
) -> Unlearner:
    """A round with negated pseudo-gradients, then rounds of ``fed``.

    Args:
      local: a client's ordinary training.
      rate: factor on the leaving clients' updates. If not given it is the paper's 20, or 2 with
        ``alone``.
      alone: whether only the leaving clients take part in the round.

    >>> puf(fed, local(), rate=10.0).needs.per_client  # the sum is enough
    False
    """
    rate = (2.0 if alone else 20.0) if rate is None else rate
    check_numbers("puf", "(-inf, inf)", rate=rate)
    mean, local = weighted_mean(), guarded(local)

    def negated(shared, client, key):
        update, info = local(shared, client, key)
        away = jax.tree.map(lambda u: -rate * u, update["params"])
        # Statistics are not gradients; those of the leaving client are not used.
        still = {name: jax.tree.map(lambda u: 0 * u, tree) for name, tree in update.items()}
        return mean.encode({**still, "params": away}, info.weight), info

    def early(state, request, key):
        stay_key, leave_key = jax.random.split(key)
        shared = Broadcast(state.variables, state.round)
        stay = request.retain
        if alone:
            stay = stay._replace(mask=stay.mask & False)
        sent, info = sum_clients(sender(local, mean), chunk=chunk)(shared, stay, stay_key)
        gone, theirs = sum_clients(negated, chunk=chunk)(shared, request.forget, leave_key)
        update, _ = mean.decode(jax.tree.map(lambda a, b: a + b, sent, gone), (), key)
        return moved(state, update, together(info, theirs, stay.id))

    needs = Needs(target=True, forget_data=True)
    recover = phases(1, early, on_retained(fed))
    return finetune(fed)._replace(recover=recover, needs=needs, own=1)
