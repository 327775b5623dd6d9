"""Requests as text: ``client:0,3``, ``class:7@client:0``, ``fraction:0.1``, ``mask:P``.

What came before is a sequence of them: ``-client:0`` was answered, ``+client:0`` is back.
"""

import zipfile
from collections.abc import Sequence

import jax
import numpy as np

import jfu

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
        forget = jfu.forget_examples(clients, _mask(values))
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
    past: Sequence[str], clients: jfu.ClientData, names: Sequence, key: jax.Array
) -> jfu.ClientData:
    """The clients with what is left of their examples after everything in ``past``.

    A client that returns brings back what it took along, and not what other requests named.
    """
    gone, mask = set(), clients.mask
    out = lambda: jfu.forget_client(clients, sorted(gone))
    for text in past:
        kind, _, values = text[1:].partition(":")
        if kind == "client":
            named = set(rows(values.split(","), names))
            gone = gone - named if text[0] == "+" else gone | named
        elif values:
            now = clients._replace(mask=mask & ~out())
            mask = mask & ~parse(text[1:], now, names, key).forget.mask
    return clients._replace(mask=mask & ~out())


def forgotten(past: Sequence[str]) -> set[str]:
    """The requests in force after everything in ``past``, one for each client."""
    left: set[str] = set()
    for text in past:
        kind, _, values = text[1:].partition(":")
        each = {f"client:{name}" for name in values.split(",")} if kind == "client" else {text[1:]}
        left = left - each if text[0] == "+" else left | each
    return left


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


def _mask(path: str) -> np.ndarray:
    try:
        mask = np.load(path, allow_pickle=False)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            raise ValueError("it holds something else")
        return mask
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path} with a mask to forget") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npy file of bools ({error})") from None
