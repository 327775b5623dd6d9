"""What a run was made of, by digest: data, owners, draws, and numerics that change bits.

A work directory keeps three things of it, and whoever reads the directory compares what it needs:

data      digests of the examples that were read, in ``config.json``. They are of the content, so
          that files may move, be written anew, and lie elsewhere on each machine.
numerics  the settings of JAX that change bits, in ``config.json``.
draws     who holds what, what every request took out and what was poisoned, in
          ``draws/<seed>.json``. What a request took out is kept as rows and read from there, so
          that nothing forgotten comes back because a draw came out otherwise.

What is older than these is taken as it is, and a note says that it could not be compared.

Each example is hashed by itself, so that several hosts share the reading. Layouts of devices are
compared apart, where they matter: by the run that goes on.
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
from launch.shell import hosts
from launch.shell.folders import make_folder
from launch.shell.software import numerics

DRAWS = "draws"  # the folder in a work directory
BLOCK = 1024  # examples read at once where they lie in files

# What the digests of a data set are of, in words.
DATA = dict(
    train="the training examples",
    test="the test examples",
    owners="who holds which example (client)",
    classes="the classes",
)


# ---------------------------------------------------------------- data


def of_data(data: Any) -> dict[str, str | None]:
    """Digests of a ``jfu.data.Dataset``: of what it holds, wherever that lies.

    Each example is hashed by itself, in SHA-256, and the hashes are hashed together. So several
    hosts share the reading of examples that lie in files: each part is read by two of them.

    Returns:
      hexadecimal digests by the names of ``DATA``; ``owners`` is None without client ids.

    Raises:
      ValueError: on all of several hosts, if one has read something else than another.

    >>> from jfu.data import digits
    >>> of_data(digits())["train"][:12]
    '25ce4dbf89b6'
    """
    return of_read(data)[0]


def of_read(data: Any) -> tuple[dict[str, str | None], Any]:
    """``of_data``, and the data set, whose training examples are compared as they are read.

    That is where three or more hosts share the hashing of examples in files: what one of them
    trains on was then perhaps hashed by others. Two hosts have each hashed all of it.
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
    """The same examples, each of which is compared with its hash when it is read.

    Args:
      hashes: 32 bytes for each.

    Raises:
      ValueError: when one is read that is another.
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
    return np.ascontiguousarray(y, "<i4")


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
    """The digest of what JSON holds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- comparing


def same_data(kept: Mapping[str, Any] | None, now: Mapping[str, Any], where: Any) -> None:
    """Refuses data that are not those that a work directory was made of.

    Args:
      kept: what the directory says, None where it is too old to say anything.
      where: the work directory.

    Raises:
      ValueError: what differs, in a sentence.
    """
    if kept is None:
        return
    differing = [DATA[name] for name in DATA if kept.get(name) != now.get(name)]
    if differing:
        raise ValueError(
            f"the data is not what {where} was made of: {_listed(differing)} differ"
            f"{'' if len(differing) > 1 or differing[0][-1] == 's' else 's'}; restore the data, "
            "or say where it lies now with --dataset or --data_dir"
        )


def same_numerics(kept: Mapping[str, Any] | None, where: Any) -> None:
    """Refuses settings of JAX under which a run would not be the one that was begun.

    Raises:
      ValueError: what differs, in a sentence.
    """
    now = numerics()
    differing = [name for name in kept or () if name in now and kept[name] != now[name]]
    if differing:
        had = ", ".join(f"{name}={kept[name]}" for name in differing)
        has = ", ".join(f"{name}={now[name]}" for name in differing)
        raise ValueError(
            f"{where} was made with {had}, and JAX is set to {has}, which changes bits; set it as "
            "it was, by the environment variable of that name in capitals"
        )


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def changed(met: Any, answer: Any, method: str) -> bool:
    """Whether an answer differs from the model that a request met by more than signs.

    Signs say little: whoever knows that they were changed changes them back.

    Args:
      met, answer: variables; their parameters are compared bit by bit.

    Raises:
      ValueError: all parameters are the same, so that nothing was forgotten.
    """
    leaves = [map(np.asarray, jax.tree.leaves(each["params"])) for each in (met, answer)]
    pairs = list(zip(*leaves, strict=True))
    if all(a.tobytes() == b.tobytes() for a, b in pairs):
        raise ValueError(
            f"what {method} made is the model that the request met, bit for bit: nothing was "
            "forgotten, and no answer was written; give it rounds and a rate to recover with, or "
            "choose another method"
        )
    return not all(np.array_equal(np.abs(a), np.abs(b), equal_nan=True) for a, b in pairs)


# ---------------------------------------------------------------- draws


class Draws(NamedTuple):
    """What one seed's data were made into: digests, and what requests took out as rows.

    Rows are those of the training examples, by the client's name: ``{"alice": [0, 5]}``. A request
    for whole clients draws nothing and is None.
    """

    partition: str  # digest of who holds what
    poison: str | None  # digest of the rows with a trigger
    past: tuple[dict[str, list[int]] | None, ...] = ()  # one for each entry of Config.past
    request: dict[str, list[int]] | None = None

    def digest(self) -> str:
        return _text([self.partition, self.poison, list(self.past), self.request])[:16]


def of_lists(names: Sequence, lists: Sequence[np.ndarray]) -> str:
    """The digest of who holds what: clients' names and their rows, in order."""
    digest = hashlib.sha256(json.dumps([str(name) for name in names]).encode())
    for rows in lists:
        digest.update(_header(np.dtype("<i8"), (len(rows),)))
        digest.update(np.ascontiguousarray(rows, "<i8"))
    return digest.hexdigest()


def of_rows(rows: np.ndarray) -> str:
    """The digest of a set of rows."""
    return hashlib.sha256(np.ascontiguousarray(np.sort(rows), "<i8")).hexdigest()


def as_rows(mask: Any, clients: jfu.ClientData, names: Sequence) -> dict[str, list[int]]:
    """A mask ``[K, N]`` as rows of the pool by client's name; clients without any are left out.

    >>> clients = jfu.stack(np.zeros((3, 1)), np.zeros(3, int), [[2, 0], [1]], host=True)
    >>> rows = as_rows(np.array([[True, True], [False, False]]), clients, ["alice", "bob"])
    >>> rows, as_mask(rows, clients, ["alice", "bob"]).tolist()
    ({'alice': [0, 2]}, [[True, True], [False, False]])
    """
    mask, index = np.asarray(mask), np.asarray(clients.index)
    return {str(names[k]): np.sort(index[k][mask[k]]).tolist() for k in np.flatnonzero(mask.any(1))}


def as_mask(
    rows: Mapping[str, Sequence[int]], clients: jfu.ClientData, names: Sequence
) -> np.ndarray:
    """Rows of the pool by client's name as a mask, bool ``[K, N]``.

    Raises:
      ValueError: a client that there is not, or a row that it does not hold.
    """
    index, held = np.asarray(clients.index), np.asarray(clients.mask)
    place = {str(name): k for k, name in enumerate(names)}
    mask = np.zeros(held.shape, bool)
    for name, some in rows.items():
        if name not in place:
            raise ValueError(f"rows of client {name} were taken out, and there is no such client")
        k = place[name]
        mask[k] = np.isin(index[k], some) & held[k]
        if mask[k].sum() != len(set(some)):
            raise ValueError(
                f"rows that were taken out of client {name} are not all among those it holds"
            )
    return mask


def same_draws(kept: Draws | None, now: Draws) -> None:
    """Refuses a split or poison that came out otherwise than when a model was made.

    Raises:
      ValueError: what differs, in a sentence.
    """
    if kept is None:
        return
    words = dict(partition="who holds what", poison="which examples carry the trigger")
    differing = [words[name] for name in words if getattr(kept, name) != getattr(now, name)]
    if differing:
        raise ValueError(
            f"{_listed(differing)} came out otherwise than when the model was made; restore the "
            "lists of --partition=file:, or the versions that config.json names"
        )


def same_draws_on_hosts(each: Mapping[int, Draws]) -> None:
    """Refuses hosts whose lists or masks say something else than the first's.

    Args:
      each: what every seed's data were made into, here.

    Raises:
      ValueError: on all hosts, if one differs.
    """
    told: dict[str, Any] = {}
    for seed, draws in each.items():
        asked = _text([list(draws.past), draws.request])
        told[f"who holds what (seed {seed})"] = draws.partition
        told[f"which examples carry the trigger (seed {seed})"] = draws.poison
        told[f"which examples are to be forgotten (seed {seed})"] = asked
    hosts.same_content(told)


def read(folder: Any, seeds: Iterable[int], *, needed: bool = False) -> dict[int, Draws]:
    """What a work directory keeps of its seeds' draws; of several hosts the first one reads.

    Args:
      needed: whether the directory is of a kind that must have them.

    Raises:
      ValueError: a file that is not as jfu wrote it, or not there though it is needed.
    """

    def found():
        known = {}
        for seed in seeds:
            path = _place(folder, seed)
            if path.exists():
                known[str(seed)] = _parsed(path)
            elif needed:
                raise ValueError(
                    f"{path} is not there, which says what requests took out; restore it"
                )
        return known

    return {int(seed): _draws(value) for seed, value in hosts.agreed(found).items()}


def write(folder: Any, seed: int, draws: Draws) -> None:
    """Keeps a seed's draws, unless they are there."""
    path = _place(folder, seed)
    if not hosts.first() or path.exists():
        return
    make_folder(path.parent)
    content = dict(seed=seed, draws=draws._asdict(), digest=draws.digest())
    write_bytes(path, (json.dumps(content) + "\n").encode())


def _place(folder: Any, seed: int) -> pathlib.Path:
    return pathlib.Path(folder) / DRAWS / f"{seed}.json"


def _parsed(path: pathlib.Path) -> dict[str, Any]:
    """The draws in a file, as JSON holds them."""
    try:
        kept = read_json(path, most=2**27)  # 10 million rows
        value, digest, seed = kept["draws"], kept["digest"], kept["seed"]
        if _draws(value).digest() != digest or str(seed) != path.stem:
            raise ValueError("its digest is another")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not as it was written ({error!r}); restore it, or choose another --workdir"
        ) from None
    return value


def _draws(value: Mapping[str, Any]) -> Draws:
    return Draws(value["partition"], value["poison"], tuple(value["past"]), value["request"])
