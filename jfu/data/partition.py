"""Division of examples among clients: a list of rows for each client, for ``jfu.stack``.

``iid``, ``dirichlet`` and ``shards`` use every example exactly once. ``partition`` chooses among
them by a string. ``from_file`` and ``from_ids`` are for your own divisions. Rows are int32 and
sorted. The same seed gives the same rows.
"""

import collections
import math
import os
from collections.abc import Iterable

import numpy as np

from jfu.files import read_json, read_npz, shown
from jfu.targets import are_numbers, are_texts

Rows = list[np.ndarray]  # one sorted int32 array a client


def partition(spec: str, y: np.ndarray, clients: int, seed: int = 0, *, minimum: int = 1) -> Rows:
    """Divides the examples as the string says: ``iid``, ``dirichlet:B`` or ``shards:S``.

    Args:
      spec: ``iid``; ``dirichlet:0.5`` with any beta > 0; ``shards:2`` with shards a client.
      y: ``[M]`` integer labels, or topics of texts; floats, the targets of a regression, count as
        ten classes by size. Next tokens ``[M, T]`` have no classes.
      minimum: examples that each client gets at least.

    Raises:
      ValueError: a string, a minimum or a number of clients that does not work.

    >>> [rows.tolist() for rows in partition("shards:1", np.array([1, 0, 0, 1]), clients=2)]
    [[0, 3], [1, 2]]
    """
    if minimum > 1 and minimum * clients > len(y):
        raise ValueError(
            f"{clients} clients of at least {minimum} examples need {minimum * clients}, and there "
            f"are {len(y)}"
        )
    y = np.asarray(y)
    if are_numbers(y):
        y = tenths(y)
    if are_texts(y):
        if spec != "iid":
            raise ValueError(
                f"the partition is {spec!r}, which goes by classes, and these texts have none; use "
                "iid, your own lists, or an array client in the file"
            )
        y = np.zeros(len(y), int)
    if spec == "iid":
        return iid(y, clients, seed)
    kind, _, value = spec.partition(":")
    try:
        number = {"dirichlet": float, "shards": int}[kind](value)
        if not 0 < number < math.inf:
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(
            f"the partition is {spec!r}; it must be iid, dirichlet:B with a beta > 0 such as "
            "dirichlet:0.5, or shards:S with a whole number such as shards:2"
        ) from None
    if kind == "dirichlet":
        lists = dirichlet(y, clients, number, seed, minimum=minimum)
    else:
        lists = shards(y, clients, int(number), seed)
    if (fewest := min(map(len, lists))) < minimum:
        raise ValueError(
            f"{spec} leaves a client {fewest} examples, and each is to have at least {minimum}; "
            "give fewer clients, a smaller minimum, or dirichlet:B, which evens them out"
        )
    return lists


def tenths(y: np.ndarray) -> np.ndarray:
    """Ten classes of targets by their size, as equal as equal targets allow.

    >>> tenths(np.arange(20.0))[[0, 1, 2, 19]].tolist()
    [0, 0, 1, 9]
    """
    return np.searchsorted(np.quantile(y, np.arange(1, 10) / 10), y, side="left")


def iid(y: np.ndarray, clients: int, seed: int = 0) -> Rows:
    """A random division into equal parts, whose sizes differ by one at most."""
    y = _check(y, clients)
    return _sorted(np.array_split(_rng(seed).permutation(len(y)), clients))


def dirichlet(y: np.ndarray, clients: int, beta: float, seed: int = 0, *, minimum: int = 1) -> Rows:
    """Label skew: each class is spread over the clients in proportions ~ Dirichlet(beta).

    Yurochkin et al., ICML 2019, arXiv 1905.12022; Li et al., Federated Learning on Non-IID
    Data Silos, ICDE 2022, arXiv 2102.02079. Small beta gives each class to few clients, large
    beta to all alike. Clients that lack examples get random ones of the largest client, instead
    of a new draw. So it ends for any beta > 0.

    Args:
      y: ``[M]`` integer labels.
      minimum: examples that every client gets at least.

    >>> [len(rows) for rows in dirichlet(np.zeros(10, int), 3, 1e-6)]  # one had all
    [1, 8, 1]
    """
    y = _check(y, clients)
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta}; it must be a number greater than 0")
    if minimum < 1 or minimum * clients > len(y):
        raise ValueError(
            f"{clients} clients cannot have {minimum} of {len(y)} examples each; the minimum must "
            f"be between 1 and {len(y) // clients}"
        )
    rng = _rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        # A random offset rounds the cuts, so that no client gets the remainders of all classes.
        ends = np.cumsum(_proportions(rng, clients, beta))[:-1] * len(rows) + rng.random()
        cuts = np.minimum(np.floor(ends).astype(int), len(rows))
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    lists = [rng.permutation(np.concatenate(part)).tolist() for part in parts]
    sizes = np.array([len(rows) for rows in lists])
    for k in np.flatnonzero(sizes < minimum):
        while sizes[k] < minimum:
            largest = sizes.argmax()  # the first of several; has more than the minimum
            lists[k].append(lists[largest].pop())
            sizes[k], sizes[largest] = sizes[k] + 1, sizes[largest] - 1
    return _sorted(lists)


def _proportions(rng: np.random.Generator, clients: int, beta: float) -> np.ndarray:
    """One draw of Dirichlet(beta, ..., beta), float64 ``[clients]``.

    In logarithms, by Gamma(b) = Gamma(b + 1) * U ** (1 / b), because Generator.dirichlet
    underflows or overflows at the ends. Beyond the bounds float64 sees no difference.
    """
    beta = min(max(beta, 1e-300), 1e300)
    logs = np.log(rng.standard_gamma(beta + 1, clients)) + np.log1p(-rng.random(clients)) / beta
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def shards(y: np.ndarray, clients: int, per_client: int, seed: int = 0) -> Rows:
    """Sorts by label, cuts ``clients * per_client`` equal shards and deals them at random.

    McMahan et al., AISTATS 2017, arXiv 1602.05629: with 2 shards of one class each, a client
    knows two classes at most.
    """
    y = _check(y, clients)
    many = clients * per_client
    if not per_client >= 1 or many > len(y):
        raise ValueError(
            f"{clients} clients with {per_client} shards each need {many} shards of {len(y)} "
            f"examples; the shards a client must be between 1 and {len(y) // clients}"
        )
    rng = _rng(seed)
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    pieces = np.array_split(order, many)
    dealt = rng.permutation(many).reshape(clients, per_client)
    return _sorted(np.concatenate([pieces[i] for i in hand]) for hand in dealt)


def from_ids(client: np.ndarray) -> tuple[Rows, tuple[str | int, ...]]:
    """The rows of each own client id, and the ids in ascending order.

    Args:
      client: ``[M]`` strings or integers, as ``Dataset.client``.

    >>> lists, ids = from_ids(np.array(["b", "a", "b"]))
    >>> [rows.tolist() for rows in lists], ids
    ([[1], [0, 2]], ('a', 'b'))
    """
    client = np.asarray(client)
    if client.ndim != 1 or client.dtype.kind not in "iuU" or len(client) == 0:
        raise ValueError(
            f"client ids are {client.dtype} {list(client.shape)}; give [M] strings or integers"
        )
    ids, number = np.unique(client, return_inverse=True)
    cuts = np.cumsum(np.bincount(number))[:-1]
    return _sorted(np.split(np.argsort(number, kind="stable"), cuts)), tuple(ids.tolist())


def from_file(path: str | os.PathLike[str], examples: int) -> tuple[Rows, tuple[str | int, ...]]:
    """Own lists of rows, and the clients' ids.

    Examples may be left out, and clients may share one.

    Args:
      path: ``.npz`` has an integer array for each client, named by the client's id. ``.json`` has
        an object id -> list, or a list of lists (ids 0, 1, ...).
      examples: the size of the pool, ``M``.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is damaged or not a plain file, or the lists do not fit.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/own.npz", anna=[2, 0], ben=[1])
    ...     lists, ids = from_file(folder + "/own.npz", examples=3)
    >>> [rows.tolist() for rows in lists], ids
    ([[0, 2], [1]], ('anna', 'ben'))
    """
    path = os.fspath(path)
    name = shown(path)
    if path.endswith(".npz"):
        pairs = list(read_npz(path).items())
    elif path.endswith(".json"):
        pairs = _json_pairs(path)
    else:
        raise ValueError(f"{name} must end in .npz or .json")
    if not pairs:
        raise ValueError(f"{name} holds no clients; give one list of rows for each")
    ids = tuple(client for client, _ in pairs)
    counts = collections.Counter(ids)
    if twice := sorted(client for client, count in counts.items() if count > 1):
        raise ValueError(f"{name} names the client {shown(twice[0])} twice; give each one list")
    for client, rows in pairs:
        who = f"client {shown(client)} of {name}"
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) == 0:
            hint = "; of a mask they are np.flatnonzero(mask)" if rows.dtype == bool else ""
            raise ValueError(
                f"{who} must have a list of integers, not empty, and has {rows.dtype} "
                f"{list(rows.shape)}{hint}"
            )
        if rows.min() < 0 or rows.max() >= examples:
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise ValueError(f"{who} names row {wrong}; the rows are 0 to {examples - 1}")
        if len(np.unique(rows)) < len(rows):
            raise ValueError(f"{who} names a row twice; name it once")
    return _sorted(rows for _, rows in pairs), ids


def _json_pairs(path: str) -> list[tuple[str | int, np.ndarray]]:
    # Objects become tuples of pairs, so they differ from lists and no id is lost.
    value = read_json(path, objects=tuple)
    if not isinstance(value, (tuple, list)):
        raise ValueError(
            f"{shown(path)} must hold an object id -> list of rows, or a list of lists"
        )
    pairs = list(value) if isinstance(value, tuple) else list(enumerate(value))
    for name, rows in pairs:
        who = f"client {shown(name)} of {shown(path)}"
        wrong = [i for i in rows if type(i) is not int] if isinstance(rows, list) else [rows]
        if wrong:
            said = shown(repr(wrong[0])[:50])
            raise ValueError(f"{who} must have a list of integers, not empty, and has {said}")
    return [(name, np.array(rows)) for name, rows in pairs]


def _rng(seed: int) -> np.random.Generator:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"the seed is {seed!r}; it must be a whole number from 0 on")
    return np.random.default_rng(seed)


def _check(y: np.ndarray, clients: int) -> np.ndarray:
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers [M], got {y.dtype} {list(y.shape)}")
    if not 1 <= clients <= len(y):
        raise ValueError(
            f"{clients} clients cannot share {len(y)} examples; give between 1 and {len(y)} clients"
        )
    return y


def _sorted(lists: Iterable) -> Rows:
    return [np.sort(np.asarray(rows, np.int32)) for rows in lists]
