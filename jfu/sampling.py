"""Partial participation, as wrappers round a federation: who works this round."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jfu.clients import pick
from jfu.types import FederatedAlgorithm, is_whole


def sampled(fed: FederatedAlgorithm, size: int) -> FederatedAlgorithm:
    """Each round, ``size`` clients drawn without replacement from those with live examples.

    Only their rows of indices are gathered; the pool of examples stays where it is. Where
    fewer than ``size`` have live examples, all of them take part.

    Args:
      size: clients a round, at least 1.
    """
    if not is_whole(size, 1):
        raise ValueError(
            f"{size} clients were to be sampled each round; ask for a whole number from 1 on"
        )

    def draw(clients, key):
        # Drawn by identity, so that neither order nor padding of the clients changes who works.
        value = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(clients.id)
        live = clients.mask.any(-1)
        chosen = jnp.sort(jnp.argsort(jnp.where(live, value, jnp.inf))[:size])
        return chosen, *pick(clients, chosen)

    def of_chosen(info, places):
        """The round's facts for the places where chosen clients worked."""
        if places is None:
            return info
        at = lambda tree: jax.tree.map(lambda a: a[places], tree)
        return info._replace(clients=at(info.clients), ids=at(info.ids), updates=at(info.updates))

    def round(state, clients, key):
        draw_key, key = jax.random.split(key)
        _, some, places = draw(clients, draw_key)
        state, info = fed.round(state, some, key)
        return state, of_chosen(info, places)

    if fed.watched is None:
        return FederatedAlgorithm(fed.init, round)
    inner = fed.watched

    def watched(see):
        def watched_round(state, clients, key, rows):
            draw_key, key = jax.random.split(key)
            chosen, some, places = draw(clients, draw_key)
            theirs = jax.tree.map(lambda a: a[chosen], rows)
            if places is not None:
                room = lambda a: jnp.zeros((some.id.shape[0], *a.shape[1:]), a.dtype)
                theirs = jax.tree.map(lambda a: room(a).at[places].set(a), theirs)
            state, info, theirs = inner(see)(state, some, key, theirs)
            if places is not None:
                theirs = jax.tree.map(lambda a: a[places], theirs)
            rows = jax.tree.map(lambda a, new: a.at[chosen].set(new), rows, theirs)
            return state, of_chosen(info, places), rows

        return watched_round

    return FederatedAlgorithm(fed.init, round, watched)


def absent(fed: FederatedAlgorithm, rate: float | Sequence[float]) -> FederatedAlgorithm:
    """Each round, every client stays away with probability ``rate``, by a zero mask.

    Args:
      rate: in [0, 1); or one for each client [K], in their order.
    """
    if not all(0 <= one < 1 for one in np.ravel(rate)):
        raise ValueError(f"the rate of absence is {rate}; it must lie in [0, 1)")
    missing = float(rate) if isinstance(rate, int | float) else np.asarray(rate, np.float32)

    def present(clients, key):
        value = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(clients.id)
        return clients._replace(mask=clients.mask & (value >= missing)[:, None])

    def round(state, clients, key):
        draw_key, key = jax.random.split(key)
        return fed.round(state, present(clients, draw_key), key)

    if fed.watched is None:
        return FederatedAlgorithm(fed.init, round)
    inner = fed.watched

    def watched(see):
        def watched_round(state, clients, key, rows):
            draw_key, key = jax.random.split(key)
            return inner(see)(state, present(clients, draw_key), key, rows)

        return watched_round

    return FederatedAlgorithm(fed.init, round, watched)
