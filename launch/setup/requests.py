"""Requests as text: ``client:0,3``, ``class:7@client:0``, ``fraction:0.1``, ``mask:P``.

What came before is a sequence of them: ``-client:0`` was answered, ``+client:0`` is back.

A request is known by its place where its words are not enough. A fraction is drawn anew from what
is left each time, and a class that was asked for while a client was away is held by that client
when it returns. Comparing examples would be exact, and would need the data that was to be
forgotten.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

import jfu
from jfu.files import read_npy, shown
from launch.setup import identity

FORMS = "client:0,3 | class:7 | class:7@client:0 | fraction:0.1@client:0 | mask:FILE.npy"


def parse(text: str, clients: jfu.ClientData, names: Sequence, key: jax.Array) -> jfu.Split:
    """The request as a split of the clients' data.

    Args:
      names: the clients' ids as the user writes them, in the order of ``clients.id``.
      key: draws the fraction.

    Raises:
      ValueError: a request that is not understood, names what does not exist, selects
        nothing, or forgets everything.
    """
    kind, _, values = text.partition(":")
    where = ""
    if kind in ("class", "fraction"):  # ids and file names may hold an @ of their own
        values, _, where = values.partition("@client:")
    ids = rows(where.split(","), names) if where else None
    if not values:
        raise ValueError(f"--forget={text} is not understood; it must be one of {FORMS}")
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
        raise ValueError(f"--forget={text} is not understood; it must be one of {FORMS}")
    request = jfu.split(clients, forget)
    if not bool(request.forget.mask.any()):
        raise ValueError(f"--forget={text} names no example that a client holds")
    if not bool(request.retain.mask.any()):
        raise ValueError(
            f"--forget={text} would forget everything, and nothing would be left to train on; "
            "leave at least one client some examples"
        )
    return request


def standing(
    past: Sequence[str],
    clients: jfu.ClientData,
    names: Sequence,
    key: jax.Array,
    taken: Sequence[Mapping[str, Sequence[int]] | None] = (),
) -> tuple[jfu.ClientData, tuple[dict[str, list[int]] | None, ...]]:
    """The clients with what is left of their examples after everything in ``past``.

    A client that returns brings back what it took along, and not what other requests named.

    Args:
      taken: what the requests of ``past`` took out, as rows; those that it has are not drawn again.

    Returns:
      ``(clients, taken)``, with the rows of every request; None for those of whole clients.
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
    """The requests in force after everything in ``past``, one for each client."""
    left: set[str] = set()
    for text in past:
        kind, _, values = text[1:].partition(":")
        each = {f"client:{name}" for name in values.split(",")} if kind == "client" else {text[1:]}
        left = left - each if text[0] == "+" else left | each
    return left


def in_force(past: Sequence[str]) -> set[tuple[str, int | None]]:
    """What is out of a model after everything in ``past``, as ``meant`` names it.

    A class or a mask that was asked for while a client was away did not take that client's
    examples out, so it is in force no more once the client is back.

    >>> sorted(in_force(["-client:0,3", "-class:1", "+client:3"]), key=str)
    [('client:0', None)]
    """
    out: set[str] = set()
    held: dict[tuple[str, int | None], set[str]] = {}  # with the clients who were away
    for place, text in enumerate(past):
        kind, _, values = text[1:].partition(":")
        named = set(values.split(",")) if kind == "client" else set()
        if text[0] == "+":
            out -= named
            held = {request: away for request, away in held.items() if not away & named}
        elif kind == "client":
            out |= named
        else:
            held[_one(text[1:], place)] = set() if kind == "fraction" else set(out)
    return {(f"client:{name}", None) for name in out} | set(held)


def meant(wanted: str, asked: Sequence[str]) -> frozenset[tuple[str, int | None]]:
    """Which requests of a sequence a text means: a client's name, or a request and its place.

    A fraction is drawn anew each time that it is asked for, from what is left by then, so that the
    same text twice names other examples, and means both. One that nobody asked for is never in
    force.

    >>> half = "-fraction:0.5"
    >>> sorted(meant("fraction:0.5", [half, "-client:0", half]))
    [('fraction:0.5', 0), ('fraction:0.5', 2)]
    >>> meant("fraction:0.5", [half, half]) <= in_force([half])
    False
    """
    kind, _, values = wanted.partition(":")
    if kind == "client":
        return frozenset((f"client:{name}", None) for name in values.split(","))
    places = [place for place, text in enumerate(asked) if text == f"-{wanted}"]
    return frozenset(_one(wanted, place) for place in places) or NEVER


NEVER = frozenset({("", -1)})  # a request that is in force nowhere


def _one(text: str, place: int) -> tuple[str, int | None]:
    return text, place if text.startswith("fraction:") else None


def rows(wanted: Sequence[str], names: Sequence) -> list[int]:
    """Users' client ids -> positions; refuses ids that no client has."""
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
            f"--forget={text} is not understood: {values!r} is not {kind.__name__}; it must be "
            f"one of {FORMS}"
        ) from None


def _mask(path: str, examples: int) -> np.ndarray:
    """The mask of a file, which has a byte an image and a little more."""
    try:
        mask = read_npy(path, most=2**20 + 2 * examples)
    except ValueError as error:
        raise ValueError(f"{shown(path)} is no .npy file of bools: {error}") from None
    if mask.dtype != bool:
        raise ValueError(f"{shown(path)} is no .npy file of bools: it holds {mask.dtype}")
    return mask
