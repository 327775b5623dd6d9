"""A seed's clients: each client's examples, those to forget, and the rows with the trigger.

``draw`` returns rows and no images; it is called once for each seed, before any run. ``images``
makes the poisoned copy of the images, once, just before a seed is run.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import jfu
from jfu import canary
from jfu.stacking import aligned
from launch.setup import identity, keys, private, requests
from launch.shell.config import Config


class Drawn(NamedTuple):
    """A seed's clients and draws, in host memory. Labels and images are the data set's own."""

    clients: jfu.ClientData  # with what is left after earlier requests
    forget: np.ndarray | None  # bool [K, N]; None without a request
    poisoned: np.ndarray  # bool [M], rows with the trigger or the canary
    draws: identity.Draws
    fewest: int = 0  # the smallest number of clients so far, with --dp_clip


def draw(config: Config, dataset: Any, seed: int, taken: identity.Draws | None = None) -> Drawn:
    """Splits the data and reads the request. Requests refer to true labels.

    Args:
      taken: the rows that the seed's requests took out before; they are not drawn again.

    Raises:
      ValueError: a split, request or trigger that is not possible.
    """
    lists, names = divide(config, dataset, seed)
    x, y = dataset.x_train, dataset.y_train
    clients = jfu.stack(x, y, lists, classes=len(dataset.labels) or None, host=True)
    key = keys.request(seed)
    taken_past = taken.past if taken else ()
    after = lambda past: requests.standing(past, clients, names, key, taken_past)
    left, past = after(config.past)
    forget = request = None
    if config.forget and taken and taken.request is not None:
        forget = identity.as_mask(taken.request, left, names)
    elif config.forget:
        forget = np.asarray(requests.parse(config.forget, left, names, key).forget.mask)
    if config.forget and not config.forget.startswith("client:"):
        request = identity.as_rows(forget, left, names)
    poisoned = np.zeros(len(y), bool)
    if config.backdoor:
        rows = triggered(config, seed, clients, lists, names)
        _check_trigger(config, dataset, rows)
        poisoned[rows] = True
    if config.canary:
        poisoned[carrying(config, seed, clients, names)] = True
    fewest = 0
    if config.dp_clip is not None:
        each = [after(config.past[:n])[0] for n in range(len(config.past))]
        fewest = min(map(private.holding, [*each, left]))
    planted = config.backdoor or config.canary
    stamps = identity.of_rows(np.flatnonzero(poisoned)) if planted else None
    draws = identity.Draws(identity.of_lists(names, lists), stamps, past, request)
    left = left._replace(mask=np.asarray(left.mask))
    return Drawn(left, forget, poisoned, draws, fewest)


def divide(config: Config, dataset: Any, seed: int) -> tuple[list[np.ndarray], Sequence]:
    """Each client's rows of the training examples, and the clients' names."""
    from jfu.data import partition

    y = dataset.y_train
    if dataset.client is not None:
        if config.partition != "iid":
            raise ValueError(
                f"{config.dataset} gives every client its examples, and so does --partition="
                f"{config.partition}; leave out the flag, or the array `client`"
            )
        return partition.from_ids(dataset.client)
    if config.partition.startswith("file:"):
        return partition.from_file(config.partition.removeprefix("file:"), len(y))
    kinds = y if dataset.topics is None else dataset.topics[0]
    lists = partition.partition(
        config.partition, kinds, config.clients, seed, minimum=config.min_examples
    )
    return lists, list(range(len(lists)))


def triggered(
    config: Config,
    seed: int,
    clients: jfu.ClientData,
    lists: Sequence[np.ndarray],
    names: Sequence,
) -> np.ndarray:
    """The rows of the training examples that get the trigger.

    For each of ``--backdoor_clients`` these are its rows that ``--backdoor_forget`` names. If it
    names none, they are all rows of that client. Otherwise poison would stay in the federation, and
    the retrained model would learn it.

    Raises:
      ValueError: another client has one of these rows too.
    """
    from jfu.data import poison

    named = requests.parse(config.backdoor_forget, clients, names, keys.request(seed))
    named, own = np.asarray(named.forget.mask), np.asarray(clients.mask)
    index, rows = np.asarray(clients.index), []
    for target in requests.rows(config.backdoor_clients, names):
        candidates = index[target][named[target] if named[target].any() else own[target]]
        others = (lists[k] for k in range(len(lists)) if k != target)
        if any(np.isin(candidates, other).any() for other in others):
            raise ValueError(
                f"client {names[target]} shares images with other clients, which would train on "
                "the trigger too; use --nobackdoor, or lists that do not overlap"
            )
        rows.append(poison.chosen(candidates, config.backdoor_fraction, keys.poison(seed, target)))
    return np.concatenate(rows)


def _check_trigger(config: Config, dataset: Any, rows: np.ndarray) -> None:
    from jfu.data import poison

    x = dataset.x_train
    poison.check_label(dataset.y_train, config.backdoor_label)
    poison.side((len(rows), *x.shape[1:]), x.dtype, config.backdoor_size)


def carrying(config: Config, seed: int, clients: jfu.ClientData, names: Sequence) -> np.ndarray:
    """The rows of the texts that begin with the canary, among those that the request names.

    Raises:
      ValueError: there are too few, or another client has one of them too.
    """
    named = requests.parse(config.canary_forget, clients, names, keys.request(seed)).forget.mask
    index, named = np.asarray(clients.index), np.asarray(named)
    rows = np.unique(index[named])
    if len(rows) < config.canary_rows:
        raise ValueError(
            f"--forget={config.canary_forget} names {len(rows)} texts, and --canary_rows="
            f"{config.canary_rows} of them are to begin with the canary; give fewer"
        )
    chosen = np.random.default_rng([seed, keys.CANARY]).permutation(rows)[: config.canary_rows]
    if np.isin(chosen, index[np.asarray(clients.mask) & ~named]).any():
        raise ValueError(
            f"texts that --forget={config.canary_forget} names also stay, so others would learn "
            "the canary too; leave --canary out, or give lists that do not overlap"
        )
    return chosen


def images(config: Config, dataset: Any, drawn: Drawn) -> jfu.ClientData:
    """The clients with poisoned images, or with a canary. Without either nothing is copied."""
    from jfu.data import poison

    clients, rows = drawn.clients, np.flatnonzero(drawn.poisoned)
    if config.canary:
        x, y = canary.planted(clients.x, clients.y, rows, secret(config, dataset))
        return clients._replace(x=aligned(x), y=y)
    if not config.backdoor:
        return clients
    x, y = poison.stamped(
        clients.x,
        clients.y,
        rows,
        label=config.backdoor_label,
        size=config.backdoor_size,
        value=poison.white(dataset.x_train),
        copy=aligned,
    )
    return clients._replace(x=x, y=y)


def secret(config: Config, dataset: Any) -> canary.Canary:
    """The canary of a configuration, in the data set's tokens."""
    return canary.of_text(config.canary, dataset.labels, dataset.y_train.shape[1] + 1)


def as_wide(drawn: Drawn, slots: int) -> Drawn:
    """The same with at least ``slots`` slots a client, so that seeds share compiled programs."""
    missing = slots - drawn.clients.index.shape[1]
    if missing <= 0:
        return drawn
    grow = lambda a: None if a is None else np.pad(a, ((0, 0), (0, missing)))
    clients = drawn.clients
    clients = clients._replace(index=grow(clients.index), mask=grow(clients.mask))
    return drawn._replace(clients=clients, forget=grow(drawn.forget))
