"""Requests as text: ``client:0,3``, ``class:7@client:0``, ``fraction:0.1``, ``mask:P``.

The past is a sequence of texts: ``-client:0`` was answered, ``+client:0`` takes part again.

The text alone does not always identify a request; then its position in the past does. Each
fraction is drawn anew from what is left. A class may be forgotten while a client is away. That
client still has the class when it returns. A comparison of examples would be exact, but would need
the data that was to be forgotten.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

import jfu
from jfu.files import read_npy, shown
from launch.setup import identity
from launch.shell.devices import near

FORMS = "client:0,3 | class:7 | class:7@client:0 | fraction:0.1@client:0 | mask:FILE.npy"


def parse(text: str, clients: jfu.ClientData, names: Sequence, key: jax.Array) -> jfu.Split:
    """The request as a split of the clients' data.

    Args:
      names: the clients' ids as the user writes them, in the order of ``clients.id``.
      key: draws the fraction.

    Raises:
      ValueError: the request is not understood, names what does not exist, selects nothing, or
        forgets everything.
    """
    kind, _, values = text.partition(":")
    where = ""
    if kind in ("class", "fraction"):  # ids and file names may contain an @ themselves
        values, _, where = values.partition("@client:")
    ids = rows(where.split(","), names) if where else None
    if not values:
        raise ValueError(f"--forget={text} is not understood; write one of {FORMS}")
    if kind == "client":
        forget = jfu.forget_client(clients, rows(values.split(","), names))
    elif kind == "class":
        forget = jfu.forget_class(clients, _numbers(int, values, text), ids=ids)
    elif kind == "fraction":
        fraction, *others = _numbers(float, values, text)
        if others:
            raise ValueError(f"--forget={text} names several fractions; give one")
        forget = jfu.forget_fraction(clients, fraction, key, ids=ids)
    elif kind == "mask":
        forget = jfu.forget_examples(clients, _mask(values, len(clients.y)))
    else:
        raise ValueError(f"--forget={text} is not understood; write one of {FORMS}")
    request = jfu.split(clients, forget)
    if not near(request.forget.mask).any():
        raise ValueError(f"--forget={text} names no example of any client; name some that exist")
    if not near(request.retain.mask).any():
        raise ValueError(
            f"--forget={text} would forget everything and leave nothing to train on; leave some "
            "examples to at least one client"
        )
    return request


def standing(
    past: Sequence[str],
    clients: jfu.ClientData,
    names: Sequence,
    key: jax.Array,
    taken: Sequence[Mapping[str, Sequence[int]] | None] = (),
) -> tuple[jfu.ClientData, tuple[dict[str, list[int]] | None, ...]]:
    """The clients with the examples that are left after all requests in ``past``.

    A client that returns has its examples again, except those that other requests named.

    Args:
      taken: the rows that the requests of ``past`` took out. They are not drawn again.

    Returns:
      ``(clients, taken)``, with the rows of every request; None for requests for whole clients.
    """
    if not past:
        return clients, ()
    gone, mask, rows_taken = set(), clients.mask, []
    out = lambda: jfu.forget_client(clients, sorted(gone))
    for place, text in enumerate(past):
        kind, _, values = text[1:].partition(":")
        known = taken[place] if place < len(taken) else None
        if kind == "client" or not values:
            named = set(rows(values.split(","), names)) if values else set()
            gone = gone - named if text[0] == "+" else gone | named
            rows_taken.append(None)
            continue
        now = clients._replace(mask=mask & ~out())
        if known is None:
            known = identity.as_rows(parse(text[1:], now, names, key).forget.mask, now, names)
        mask = mask & ~identity.as_mask(known, now, names)
        rows_taken.append(dict(known))
    return clients._replace(mask=mask & ~out()), tuple(rows_taken)


def forgotten(past: Sequence[str]) -> set[str]:
    """The requests that still apply after all of ``past``, one for each client."""
    left: set[str] = set()
    for text in past:
        kind, _, values = text[1:].partition(":")
        each = {f"client:{name}" for name in values.split(",")} if kind == "client" else {text[1:]}
        left = left - each if text[0] == "+" else left | each
    return left


def in_force(past: Sequence[str]) -> set[tuple[str, int | None]]:
    """The requests that still apply to a model after all of ``past``, as ``identify`` names them.

    A class or a mask may be forgotten while a client is away. Then that client's examples stay in
    its data, so the request applies no more once the client is back.

    >>> sorted(in_force(["-client:0,3", "-class:1", "+client:3"]), key=str)
    [('client:0', None)]
    """
    out: set[str] = set()
    applied: dict[tuple[str, int | None], set[str]] = {}  # with the clients that were away
    for place, text in enumerate(past):
        kind, _, values = text[1:].partition(":")
        named = set(values.split(",")) if kind == "client" else set()
        if text[0] == "+":
            out -= named
            applied = {request: away for request, away in applied.items() if not away & named}
        elif kind == "client":
            out |= named
        else:
            applied[_one(text[1:], place)] = set() if kind == "fraction" else set(out)
    return {(f"client:{name}", None) for name in out} | set(applied)


def identify(wanted: str, requests: Sequence[str]) -> frozenset[tuple[str, int | None]]:
    """The requests of a sequence that a text names: a client's name, or a request and its position.

    A fraction is drawn anew for each request, from what is left by then. So the same text twice
    names different examples, and here stands for both requests. A fraction that was never requested
    never applies.

    >>> half = "-fraction:0.5"
    >>> sorted(identify("fraction:0.5", [half, "-client:0", half]))
    [('fraction:0.5', 0), ('fraction:0.5', 2)]
    >>> identify("fraction:0.5", [half, half]) <= in_force([half])
    False
    """
    kind, _, values = wanted.partition(":")
    if kind == "client":
        return frozenset((f"client:{name}", None) for name in values.split(","))
    places = [place for place, text in enumerate(requests) if text == f"-{wanted}"]
    return frozenset(_one(wanted, place) for place in places) or NEVER


NEVER = frozenset({("", -1)})  # a request that applies nowhere


def _one(text: str, place: int) -> tuple[str, int | None]:
    return text, place if text.startswith("fraction:") else None


def rows(wanted: Sequence[str], names: Sequence) -> list[int]:
    """The positions of clients, by the ids that users write; refuses ids that no client has."""
    known = {str(name): k for k, name in enumerate(names)}
    if unknown := [w for w in wanted if w not in known]:
        some = list(known)
        shown = some if len(some) <= 12 else [*some[:10], "...", some[-1]]
        raise ValueError(
            f"there is no client {', '.join(unknown)}; the clients are {', '.join(shown)}"
        )
    return [known[w] for w in wanted]


def _numbers(kind, values: str, text: str) -> list:
    try:
        return [kind(v) for v in values.split(",")]
    except ValueError:
        raise ValueError(
            f"--forget={text} is not understood: {values!r} is not {kind.__name__}; write one of "
            f"{FORMS}"
        ) from None


def _mask(path: str, examples: int) -> np.ndarray:
    """The mask in a file, which may have one byte for each image and a little more."""
    try:
        mask = read_npy(path, most=2**20 + 2 * examples)
    except ValueError as error:
        raise ValueError(f"{shown(path)} is not a .npy file of bools: {error}") from None
    if mask.dtype != bool:
        raise ValueError(f"{shown(path)} is not a .npy file of bools: it has {mask.dtype}")
    return mask
