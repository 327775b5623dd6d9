"""Keeps what ``launch.power`` has measured, so that a study which was stopped goes on."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import jfu.io

Samples = Mapping[str, Mapping[str, tuple]]  # by name of a model, then by measure


def once(
    where: pathlib.Path | None, own: Mapping[str, Any], make: Callable[[], Samples]
) -> Samples:
    """Samples that are made once, and read from a file after that.

    Args:
      where: the folder of the files; None keeps nothing.
      own: what they are samples of: the request, the seed, the number of planted answers.
      make: makes them.

    Raises:
      ValueError: the file is damaged, or has samples of something else.
    """
    if where is None:
        return make()
    path = where / ("-".join(f"{name}-{value}" for name, value in own.items()) + ".safetensors")
    if os.path.lexists(path):
        return read(path, own)
    samples = make()
    where.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{name}/{key}/{number}": np.asarray(array)
        for name, measured in samples.items()
        for key, of in measured.items()
        for number, array in enumerate(of)
    }
    jfu.io.save_state(path, arrays, dict(of=dict(own)))
    return samples


def read(path: pathlib.Path, own: Mapping[str, Any]) -> Samples:
    """The samples in a file."""
    arrays, notes = jfu.io.load_checkpoint(path)
    named = {tuple(place.rsplit("/", 2)): array for place, array in arrays.items()}
    of = notes.get("of") if isinstance(notes, dict) else None
    if of != dict(own) or not all(len(n) == 3 and n[2].isdecimal() for n in named):
        raise ValueError(f"{path} has no samples of {dict(own)}; remove it")
    out: dict[str, dict[str, tuple]] = {}
    for name, key, number in sorted(named, key=lambda place: int(place[2])):
        measured = out.setdefault(name, {})
        measured[key] = (*measured.get(key, ()), named[name, key, number])
    return out
