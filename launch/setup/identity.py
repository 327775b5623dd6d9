"""The identity of a run: digests of data, owners and draws, and JAX settings that change bits.

A work directory keeps three things. A script that reads the directory compares those it needs:

data      digests of the examples that were read, in ``config.json``. They depend on the content
          alone. So files may be moved or rewritten, or lie elsewhere on each machine.
numerics  the settings of JAX that change bits, in ``config.json``.
draws     in ``draws/<seed>.json``: each client's examples, what every request took out, and what
          was poisoned. The rows that a request took out are stored and read from there. So no
          forgotten example comes back because a draw came out differently.

An older work directory may lack them. It is accepted, and a note says that it was not compared.

Each example is hashed by itself, so that several hosts can share the reading. Layouts of devices
are compared elsewhere: by the command that continues a run.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jfu
from jfu.data.rows import Rows
from jfu.files import read_json
from jfu.io import write_bytes
from jfu.targets import are_numbers
from launch.shell import hosts
from launch.shell.folders import make_folder
from launch.shell.software import numerics

DRAWS = "draws"  # the folder in a work directory
BLOCK = 1024  # examples that are read from a file at once

# The parts of a data set that have digests, in words.
DATA = dict(
    train="the training examples",
    test="the test examples",
    owners="the clients of the examples",
    classes="the classes",
)


# ---------------------------------------------------------------- data


def of_data(data: Any) -> dict[str, str | None]:
    """Digests of a ``jfu.data.Dataset``: of its content, wherever its files are.

    Each example is hashed by itself with SHA-256, and the hashes are hashed together. So several
    hosts can share the reading of examples from files. Two hosts read each part.

    Returns:
      hexadecimal digests by the names of ``DATA``; ``owners`` is None without client ids.

    Raises:
      ValueError: on all of several hosts, if one has read different data.

    >>> from jfu.data import digits
    >>> of_data(digits())["train"][:12]
    '25ce4dbf89b6'
    """
    return of_read(data)[0]


def of_read(data: Any) -> tuple[dict[str, str | None], Any]:
    """``of_data``, and the data set; its training examples are compared when they are read.

    This comparison is needed if three or more hosts share the hashing of examples in files. Then
    other hosts may have hashed what a host trains on. Each of two hosts has hashed everything.
    """
    owners, x, y = data.client, data.x_train, data.y_train
    known = dict(
        test=_whole(data.x_test, _rows(data.x_test, 0, len(data.x_test)), data.y_test),
        owners=None if owners is None else _text([str(owners.dtype.kind), owners.tolist()]),
        classes=_text(list(data.labels)),
    )
    shapes = _text([str(x.dtype), list(x.shape), hashlib.sha256(_labels(y)).hexdigest()])
    _same_on_hosts(known | dict(shapes=shapes))
    make = lambda start, stop: _rows(x, start, stop)
    apart = isinstance(x, Rows) and hosts.several()
    rows = hosts.shared(make, len(x), 32, DATA["train"]) if apart else make(0, len(x))
    train = dict(train=_whole(x, rows, y))
    _same_on_hosts(train)
    checked = as_hashed(x, rows) if apart and jax.process_count() > 2 else x
    return train | known, data._replace(x_train=checked)


def as_hashed(x: Rows, hashes: bytes) -> Rows:
    """The same examples, but each is compared with its hash when it is read.

    Args:
      hashes: 32 bytes for each example.

    Raises:
      ValueError: when an example that is read differs from its hash.
    """
    wanted = np.frombuffer(hashes, np.uint8).reshape(len(x), 32)

    def read(places):
        some = x[places]
        if _rows(some, 0, len(some)) != wanted[places].tobytes():
            raise ValueError(
                f"it differs from other hosts in {DATA['train']}; give all hosts the same data"
            )
        return some

    return Rows(read, np.arange(len(x)), x.each, x.dtype)


def _same_on_hosts(digests: Mapping[str, str | None]) -> None:
    words = DATA | dict(shapes="the number, kind or labels of the training examples")
    hosts.same_content({words[name]: digest for name, digest in digests.items()})


def _whole(x: np.ndarray | Rows, rows: bytes, y: np.ndarray) -> str:
    whole = hashlib.sha256(_header(x.dtype, x.shape))
    whole.update(rows)
    whole.update(_header(y.dtype, y.shape))
    whole.update(_labels(y))
    return whole.hexdigest()


def _labels(y: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(y, "<f4" if are_numbers(y) else "<i4")


def _rows(x: np.ndarray | Rows, start: int, stop: int) -> bytes:
    """The hashes of some examples, 32 bytes each."""
    found = []
    for i in range(start, stop, BLOCK):
        block = np.asarray(x[i : min(i + BLOCK, stop)])
        block = np.ascontiguousarray(block, block.dtype.newbyteorder("<")).reshape(len(block), -1)
        found += [hashlib.sha256(row).digest() for row in block]
    return b"".join(found)


def _header(dtype: np.dtype, shape: Sequence[int]) -> bytes:
    return f"{np.dtype(dtype).name} {list(shape)}\n".encode()


def _text(value: Any) -> str:
    """The digest of a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- comparing


def same_data(kept: Mapping[str, Any] | None, now: Mapping[str, Any], where: Any) -> None:
    """Refuses data that differs from the data of a work directory.

    Args:
      kept: the digests in the directory; None if it is too old to have them.
      where: the work directory.

    Raises:
      ValueError: what differs, in a sentence.
    """
    if kept is None:
        return
    differing = [DATA[name] for name in DATA if kept.get(name) != now.get(name)]
    if differing:
        raise ValueError(
            f"the data is not that of {where}: {_listed(differing)} differ; restore the data, or "
            "give its new place with --dataset or --data_dir"
        )


def same_numerics(kept: Mapping[str, Any] | None, where: Any) -> None:
    """Refuses settings of JAX under which a run would not have the same bits as before.

    Raises:
      ValueError: what differs, in a sentence.
    """
    now = numerics()
    differing = [name for name in kept or () if name in now and kept[name] != now[name]]
    if differing:
        had = ", ".join(f"{name}={kept[name]}" for name in differing)
        has = ", ".join(f"{name}={now[name]}" for name in differing)
        raise ValueError(
            f"{where} was made with {had}; JAX is now set to {has}, which changes bits; set the "
            "old value with the environment variable of that name in capitals"
        )


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def changed(met: Any, answer: Any, method: str) -> bool:
    """Whether an answer differs from the original model by more than signs.

    Signs alone hide little: someone who knows that they were changed can change them back.

    Args:
      met, answer: variables; their parameters are compared bit by bit.

    Raises:
      ValueError: all parameters are the same, so that nothing was forgotten.
    """
    leaves = [map(np.asarray, jax.tree.leaves(each["params"])) for each in (met, answer)]
    pairs = list(zip(*leaves, strict=True))
    if all(a.tobytes() == b.tobytes() for a, b in pairs):
        raise ValueError(
            f"the model of {method} equals the original model bit for bit; nothing was forgotten "
            "and no answer was written; give more recovery rounds and a larger rate, or choose "
            "another method"
        )
    return not all(np.array_equal(np.abs(a), np.abs(b), equal_nan=True) for a, b in pairs)


# ---------------------------------------------------------------- draws


class Draws(NamedTuple):
    """The draws of one seed: digests, and the rows that requests took out.

    Rows are rows of the training examples, by the client's name: ``{"alice": [0, 5]}``. A request
    for whole clients draws nothing and is None.
    """

    partition: str  # digest of the clients' examples
    poison: str | None  # digest of the rows with a trigger
    past: tuple[dict[str, list[int]] | None, ...] = ()  # one for each entry of Config.past
    request: dict[str, list[int]] | None = None

    def digest(self) -> str:
        return _text([self.partition, self.poison, list(self.past), self.request])[:16]


def of_lists(names: Sequence, lists: Sequence[np.ndarray]) -> str:
    """The digest of the clients' names and their rows, in order."""
    digest = hashlib.sha256(json.dumps([str(name) for name in names]).encode())
    for rows in lists:
        digest.update(_header(np.dtype("<i8"), (len(rows),)))
        digest.update(np.ascontiguousarray(rows, "<i8"))
    return digest.hexdigest()


def of_rows(rows: np.ndarray) -> str:
    """The digest of a set of rows."""
    return hashlib.sha256(np.ascontiguousarray(np.sort(rows), "<i8")).hexdigest()


def as_rows(mask: Any, clients: jfu.ClientData, names: Sequence[Any]) -> dict[str, list[int]]:
    """A mask ``[K, N]`` as rows of the pool, by client's name; clients without a row are left out.

    >>> clients = jfu.stack(np.zeros((3, 1)), np.zeros(3, int), [[2, 0], [1]], host=True)
    >>> rows = as_rows(np.array([[True, True], [False, False]]), clients, ["alice", "bob"])
    >>> rows, as_mask(rows, clients, ["alice", "bob"]).tolist()
    ({'alice': [0, 2]}, [[True, True], [False, False]])
    """
    mask, index = np.asarray(mask), np.asarray(clients.index)
    some = np.flatnonzero(mask.any(1)).tolist()
    return {str(names[k]): np.sort(index[k][mask[k]]).tolist() for k in some}


def as_mask(
    rows: Mapping[str, Sequence[int]], clients: jfu.ClientData, names: Sequence
) -> np.ndarray:
    """Rows of the pool, by client's name, as a mask, bool ``[K, N]``.

    Raises:
      ValueError: a client that does not exist, or a row that the client does not have.
    """
    index, own = np.asarray(clients.index), np.asarray(clients.mask)
    place = {str(name): k for k, name in enumerate(names)}
    mask = np.zeros(own.shape, bool)
    for name, some in rows.items():
        if name not in place:
            raise ValueError(
                f"a request took rows of client {name} out, and there is no such client; restore "
                "the data and its split"
            )
        k = place[name]
        mask[k] = np.isin(index[k], some) & own[k]
        if mask[k].sum() != len(set(some)):
            raise ValueError(
                f"a request took rows of client {name} out that this client does not have; restore "
                "the data and its split"
            )
    return mask


def same_draws(kept: Draws | None, now: Draws) -> None:
    """Refuses a split or poison that differs from that of an earlier model.

    Raises:
      ValueError: what differs, in a sentence.
    """
    if kept is None:
        return
    words = dict(partition="the clients' examples", poison="the examples with the trigger")
    differing = [words[name] for name in words if getattr(kept, name) != getattr(now, name)]
    if differing:
        raise ValueError(
            f"{_listed(differing)} are not the same as when the model was made; restore the lists "
            "of --partition=file:, or the versions that config.json names"
        )


def same_draws_on_hosts(each: Mapping[int, Draws]) -> None:
    """Refuses hosts whose lists or masks differ from the first host's.

    Args:
      each: this host's draws, by seed.

    Raises:
      ValueError: on all hosts, if one differs.
    """
    digests: dict[str, Any] = {}
    for seed, draws in each.items():
        requests = _text([list(draws.past), draws.request])
        digests[f"the clients' examples (seed {seed})"] = draws.partition
        digests[f"the examples with the trigger (seed {seed})"] = draws.poison
        digests[f"the examples to forget (seed {seed})"] = requests
    hosts.same_content(digests)


def read(folder: Any, seeds: Iterable[int], *, needed: bool = False) -> dict[int, Draws]:
    """The draws that a work directory keeps for its seeds; of several hosts the first one reads.

    Args:
      needed: whether the directory must have them.

    Raises:
      ValueError: a file is not as jfu wrote it, or is needed and missing.
    """

    def found():
        known = {}
        for seed in seeds:
            path = _place(folder, seed)
            if path.exists():
                known[str(seed)] = _parsed(path)
            elif needed:
                raise ValueError(
                    f"{path} is missing, which has the rows that requests took out; restore it"
                )
        return known

    return {int(seed): _draws(value) for seed, value in hosts.agreed(found).items()}


def write(folder: Any, seed: int, draws: Draws) -> None:
    """Writes a seed's draws, unless they are there already."""
    path = _place(folder, seed)
    if not hosts.first() or path.exists():
        return
    make_folder(path.parent)
    content = dict(seed=seed, draws=draws._asdict(), digest=draws.digest())
    write_bytes(path, (json.dumps(content) + "\n").encode())


def _place(folder: Any, seed: int) -> pathlib.Path:
    return pathlib.Path(folder) / DRAWS / f"{seed}.json"


def _parsed(path: pathlib.Path) -> dict[str, Any]:
    """The draws in a file, as JSON values."""
    try:
        kept = read_json(path, most=2**27)  # 10 million rows
        value, digest, seed = kept["draws"], kept["digest"], kept["seed"]
        if _draws(value).digest() != digest or str(seed) != path.stem:
            raise ValueError("its digest differs")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not as it was written ({error!r}); restore it, or choose another --workdir"
        ) from None
    return value


def _draws(value: Mapping[str, Any]) -> Draws:
    return Draws(value["partition"], value["poison"], tuple(value["past"]), value["request"])
