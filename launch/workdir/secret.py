"""Secret noise: a key for each cell that is in no file that others need.

Noise, and who takes part, come from a secret that is drawn for each cell. It lies in the work
directory as ``secret/SEED-METHOD``, which its owner alone may read, while the cell is not finished:
so a run that was stopped goes on and ends with the same bits. It is removed with the last
checkpoint. Where it is gone the rounds that are left get a new one, as private as the old.

The key is made of the secret and of what it is for: the run (its settings and data), the cell, the
model that it begins with, and who holds what. So a secret that comes to lie beside other data
draws other noise; the same noise on two sums would show their difference.

Keys of JAX have 64 bits, which can be searched; these have 256 and draw from a cipher
(``jfu.chacha``). A round of noise takes about as long as with JAX's own generator: for 1.7 million
numbers 11 ms against 23 on one core. First weights and the split of the data stay the seed's.

Machines that share out the methods and seeds of a comparison train models of their own then; copy
``cells/SEED-original.safetensors`` to all of them first. Not defended against is who reads the
process's memory or the folder ``secret``, and the timing of a round.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
from typing import Any

import jax
import numpy as np

import jfu
from jfu import files
from launch.shell import hosts
from launch.shell.devices import place
from launch.shell.folders import make_folder
from launch.shell.say import say
from launch.workdir import locks

FOLDER = "secret"
WRITTEN = rf"[0-9a-f]{{{2 * jfu.chacha.BYTES}}}\n"  # what such a file holds


def key(
    work: Any, seed: int, name: str, model: Any, request: jfu.Split, *, begun: bool
) -> jax.Array:
    """The key of a cell's rounds; on several hosts the first one's, which alone keeps the secret.

    Args:
      model: the variables that the cell begins with.
      begun: whether there is a checkpoint to go on from.
    """
    path = where(work.path, seed, name)

    def kept() -> str:
        text = read(path)
        if text is None and begun:
            say(
                f"note: {path}, the secret of this run's noise, is not there; the rounds that are "
                "left get other noise than they would have had"
            )
        locks.check(work.path, work.lock)
        return write(path) if text is None else text

    secret = bytes.fromhex(hosts.agreed(kept))
    purpose = hashlib.sha256(json.dumps([work.run, seed, name]).encode())
    for leaf in jax.tree.leaves((model, request.retain.mask, request.forget.mask)):
        purpose.update(_whole(leaf).tobytes())
    mixed = hashlib.blake2b(purpose.digest(), key=secret, digest_size=jfu.chacha.BYTES)
    made = jfu.privacy.secret_key(mixed.digest())
    words = place(jax.random.key_data(made))  # a key as such goes to this host's devices alone
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(made))


def _whole(leaf: Any) -> np.ndarray:
    """An array that every host holds whole."""
    alone = getattr(leaf, "is_fully_addressable", True)
    return np.asarray(leaf if alone else leaf.addressable_data(0))


def where(folder: pathlib.Path, seed: int, name: str) -> pathlib.Path:
    return folder / FOLDER / f"{seed}-{name}"


def read(path: pathlib.Path) -> str | None:
    """A secret as text; None where there is none, or half of one, which no round has used.

    Raises:
      ValueError: the file is something else; nothing is changed.
    """
    try:
        text = files.read_bytes(path, most=1000).decode(errors="replace")
    except FileNotFoundError:
        return None
    if not re.fullmatch(r"[0-9a-f]*\n?", text):
        raise ValueError(f"{path} is no secret that jfu wrote; move it elsewhere")
    return text if re.fullmatch(WRITTEN, text) else None


def write(path: pathlib.Path) -> str:
    """Draws a secret and keeps it, through to the disk, before any noise is made of it."""
    make_folder(path.parent)
    path.parent.chmod(0o700)
    text = secrets.token_hex(jfu.chacha.BYTES) + "\n"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if path.stat().st_mode & 0o077:
        say(f"note: others than its owner may read {path}: this file system keeps no rights")
    return text


def forget(folder: pathlib.Path, seed: int, name: str) -> None:
    """Removes the secret of a cell that is finished, if there is one."""
    path = where(folder, seed, name)
    if not hosts.first() or not os.path.lexists(path):
        return
    path.unlink()
    with contextlib.suppress(OSError):  # others' are in it
        path.parent.rmdir()


def is_one(path: pathlib.Path) -> bool:
    """Whether a file is a secret: a model that was given its name is none."""
    with contextlib.suppress(ValueError, OSError):
        return read(path) is not None
    return False
