"""Rollback: return to before the leaving clients came, and train on from there without them.

    t       = min over clients k that lose examples of joined_k, the first round of k
    theta'  = theta^t and the server's optimizer, as they were before round t;
    then the rounds t, t + 1, ... R - 1 of training on the retained data

The state before round t does not depend on clients that had not come by then. So this is exact
unlearning, as retraining is, in R - t rounds instead of R. A client that took part in the first
round leaves nothing to return to but the initial model. Then it is retraining from there.

It is exact where the others' part in a round does not depend on who else is there. ``jfu.sampled``
and ``jfu.absent`` draw each client by its identity, so theta^t is to the bit what training without
the leaving clients would have made. With training's own keys the rounds after it are, too. With
other keys the result is one that retraining could have had, with the same chance.

As it is done in Plato (examples/unlearning/fedunlearning of TL-System/plato on GitHub), after Liu,
Xu, Yuan, Wang, Li. The Right to be Forgotten in Federated Learning: An Efficient Realization with
Rapid Retraining. INFOCOM 2022, arXiv 2203.07320.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jfu.types import ClientData, FederatedAlgorithm, Needs, Unlearner
from jfu.unlearn.finetune import on_retained


def rollback(fed: FederatedAlgorithm) -> Unlearner:
    """The state before the leaving clients came, then rounds of ``fed``.

    The state counts rounds as training did: after ``perturb`` its ``round`` is t, so schedules go
    on where they were. R - t rounds bring it to where training ended. If the leaving clients never
    came, the trained model does not depend on them and t is R.

    Args:
      fed: the federation of training, or one with the same kind of state.

    >>> rollback(fed).needs.history
    ('before',)
    """

    def perturb(trained, request, key):
        from jfu.io import by_name  # ``import jfu`` is sooner without what files need

        del key
        before, like = trained.history["before"], fed.init(trained.variables)
        number, states = first_round(before, request.forget), by_name(before["states"])
        there = states["round"] == number
        there &= jnp.arange(there.shape[0]) < before["used"]

        def one(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return jnp.where(there.any(), states[name][there.argmax()], leaf)

        never = like._replace(round=number.astype(like.round.dtype))
        return jax.tree_util.tree_map_with_path(one, never)

    return Unlearner(perturb, on_retained(fed), Needs(history=("before",)))


def first_round(before: dict[str, Any], forget: ClientData) -> jax.Array:
    """The first round in which a client that loses examples took part, int32; R if there is none.

    Args:
      before: the history of that name, see ``jfu.recorded``.
      forget: the side of the request to forget, ``Split.forget``.

    >>> from jfu import forget_client, split, stack
    >>> data = stack(jnp.zeros((3, 1)), [0, 0, 0], [[0], [1], [2]])
    >>> request = split(data, forget_client(data, [1, 2]))
    >>> int(first_round({"joined": jnp.array([0, 5, 3])}, request.forget))
    3
    """
    joined = jnp.asarray(before["joined"])
    return jnp.where(forget.mask.any(1), joined, jnp.iinfo(joined.dtype).max).min()
