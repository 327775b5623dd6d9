"""Requests: which examples are to be forgotten, as masks over the clients' slots."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jfu.stacking import pools_of, weights
from jfu.targets import are_texts
from jfu.types import ClientData, Key, Split


def split(clients: ClientData, forget: jax.Array) -> Split:
    """Divides the data into retained and forgotten examples, with masks only and no copies.

    Args:
      forget: bool ``[K, N]``, as the ``forget_*`` functions make it. Slots that were not
        live stay masked on both sides.

    >>> from jfu.stacking import stack
    >>> data = stack(np.zeros((4, 2)), np.arange(4), [[0, 1], [2, 3]])
    >>> request = split(data, forget_client(data, [1]))
    >>> weights(request.retain).tolist(), weights(request.forget).tolist()
    ([2.0, 0.0], [0.0, 2.0])
    """
    if forget.dtype != bool:
        raise ValueError(
            f"forget is {forget.dtype}; it must be bool [K, N], as the forget_* functions make it"
        )
    if forget.shape != clients.mask.shape:
        raise ValueError(
            f"forget has shape {list(forget.shape)}, the clients' mask has "
            f"{list(clients.mask.shape)}; use a forget_* function of these clients"
        )
    return Split(
        retain=clients._replace(mask=clients.mask & ~forget),
        forget=clients._replace(mask=clients.mask & forget),
    )


def forget_client(clients: ClientData, ids: Sequence[int]) -> jax.Array:
    """All examples of the named clients, bool ``[K, N]``.

    Args:
      ids: ids of clients. For a mask ``[K]`` over clients, pass ``clients.id[mask]``.

    Raises:
      ValueError: no client has such an id, or a mask was given in place of ids.
    """
    return clients.mask & _of_clients(clients, ids)[:, None]


def forget_class(
    clients: ClientData, labels: Sequence[int], *, ids: Sequence[int] | None = None
) -> jax.Array:
    """Every example with one of the labels, of the named clients or of all, bool ``[K, N]``.

    Labels are the pool's, including poisoned ones.

    Raises:
      ValueError: the named clients have no example with a label, or no client has an id.
    """
    _whole(clients)
    wanted = _named(labels, "labels")
    if are_texts(clients.y):
        raise ValueError(
            f"a request for classes {wanted.tolist()} was given texts, which have no classes; "
            "name clients, a fraction or examples"
        )
    y = clients.y[clients.index]
    live = clients.mask & _of_clients(clients, ids)[:, None]
    present = np.unique(np.asarray(y)[np.asarray(live)])
    if missing := sorted(set(wanted.tolist()) - set(present.tolist())):
        raise ValueError(f"no example has class {missing}; the classes are {present.tolist()}")
    return live & jnp.isin(y, jnp.asarray(wanted, y.dtype))


def forget_fraction(
    clients: ClientData, fraction: float, key: Key, *, ids: Sequence[int] | None = None
) -> jax.Array:
    """A random part of each named client's examples (of all clients' by default), bool ``[K, N]``.

    Each client loses ``round(fraction * n)`` of its ``n`` examples, at least one.

    Raises:
      ValueError: the fraction is outside (0, 1], or no client has an id.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction to forget is {fraction}; it must lie in (0, 1]")
    named = _of_clients(clients, ids)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, clients.id)
    draw = jax.vmap(lambda k, m: jax.random.uniform(k, m.shape))(keys, clients.mask)
    rank = jnp.argsort(jnp.argsort(jnp.where(clients.mask, draw, jnp.inf), axis=1), axis=1)
    many = jnp.maximum(1, jnp.round(fraction * weights(clients)))
    return clients.mask & named[:, None] & (rank < many[:, None])


def forget_examples(clients: ClientData, chosen: np.ndarray) -> jax.Array:
    """The examples of your own mask over the pool, bool ``[M]`` -> bool ``[K, N]``."""
    _whole(clients)
    rows = jnp.asarray(chosen)
    if rows.shape != (len(clients.y),) or rows.dtype != bool:
        raise ValueError(
            f"the mask is {rows.dtype} {list(rows.shape)}; it must be bool, one value for "
            f"each of the {len(clients.y)} examples of the pool"
        )
    return rows[clients.index] & clients.mask


def _of_clients(clients: ClientData, ids: Sequence[int] | None) -> np.ndarray:
    if ids is None:
        return np.ones(clients.id.shape, bool)
    known, ids = np.asarray(clients.id).tolist(), _named(ids, "ids").tolist()
    if unknown := [i for i in ids if i not in known]:
        raise ValueError(f"there is no client {unknown}; the clients are {_shorten(known)}")
    return np.isin(known, ids)  # in NumPy, since every operation of JAX would be compiled


def _named(given, what: str) -> np.ndarray:
    """Names as an array. Refuses bools, which would be read as the names 0 and 1."""
    each = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    kinds = {getattr(a, "dtype", np.dtype(type(a))) for a in each}
    if np.dtype(bool) in kinds:
        raise ValueError(
            f"{what} are bools and would be read as 0 and 1; pass the {what}, such as "
            "np.asarray(clients.id)[mask] for a mask over the clients"
        )
    return np.atleast_1d(np.asarray(given))


def _whole(clients: ClientData) -> None:
    if pools_of(clients) is not None:
        raise ValueError(
            "these clients' examples are spread over devices; make the request from the clients "
            "that stack returned, since its mask fits both"
        )


def _shorten(names: list) -> str:
    return str(names) if len(names) <= 12 else f"{names[:10]} ... {names[-1]}"
