"""Secret noise: a key for each method and seed that is in no shared file.

Noise, and the choice of clients, come from a secret that is drawn for each method and seed. While
the run is not finished, the secret is the file ``secret/SEED-METHOD`` in the work directory, which
only its owner may read. So a stopped run can continue and end with the same bits. The secret is
removed with the last checkpoint. If it is lost, the remaining rounds get a new one, which is as
private.

The key is a hash of the secret and of its purpose. The purpose is the run (its settings and data),
the method, the seed, the first model, and the clients' examples. So a secret that is copied to
other data makes other noise. The same noise on two sums would show their difference.

JAX's own keys have 64 bits, which can be searched. These keys have 256 bits, and noise comes from a
cipher (``jfu.chacha``). It takes about as long as JAX's own generator: 11 ms against 23 for
1.7 million numbers on one core. First weights and the split of the data still come from the seed.

Machines that share the methods and seeds of a comparison would each train their own original model.
Copy ``cells/SEED-original.safetensors`` to all of them first. There is no protection against
someone who reads the process's memory or the folder ``secret``, or who measures the time of a
round.
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
WRITTEN = rf"[0-9a-f]{{{2 * jfu.chacha.BYTES}}}\n"  # the content of such a file


def key(
    work: Any, seed: int, name: str, model: Any, request: jfu.Split, *, begun: bool
) -> jax.Array:
    """The key of a run's rounds; of several hosts only the first one keeps the secret.

    Args:
      model: the variables that the run begins with.
      begun: whether there is a checkpoint to continue from.
    """
    path = where(work.path, seed, name)

    def kept() -> str:
        text = read(path)
        if text is None and begun:
            say(
                f"note: {path}, the secret of this run's noise, is missing; the remaining rounds "
                "get new noise from a new secret"
            )
        locks.check(work.path, work.lock)
        return write(path) if text is None else text

    secret = bytes.fromhex(hosts.agreed(kept))
    purpose = hashlib.sha256(json.dumps([work.run, seed, name]).encode())
    for leaf in jax.tree.leaves((model, request.retain.mask, request.forget.mask)):
        purpose.update(_whole(leaf).tobytes())
    mixed = hashlib.blake2b(purpose.digest(), key=secret, digest_size=jfu.chacha.BYTES)
    made = jfu.privacy.secret_key(mixed.digest())
    words = place(jax.random.key_data(made))  # a typed key would go to this host's devices only
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(made))


def _whole(leaf: Any) -> np.ndarray:
    """The value of an array that is whole on every host."""
    alone = getattr(leaf, "is_fully_addressable", True)
    return np.asarray(leaf if alone else leaf.addressable_data(0))


def where(folder: pathlib.Path, seed: int, name: str) -> pathlib.Path:
    return folder / FOLDER / f"{seed}-{name}"


def read(path: pathlib.Path) -> str | None:
    """A secret as text; None if there is none, or only a part, which no round has used.

    Raises:
      ValueError: the file is something else; nothing is changed.
    """
    try:
        text = files.read_bytes(path, most=1000).decode(errors="replace")
    except FileNotFoundError:
        return None
    if not re.fullmatch(r"[0-9a-f]*\n?", text):
        raise ValueError(f"{path} is not a secret that jfu wrote; move it elsewhere")
    return text if re.fullmatch(WRITTEN, text) else None


def write(path: pathlib.Path) -> str:
    """Draws a secret and writes it to the disk, before any noise is made from it."""
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
        say(f"note: other users may read {path}: this file system has no permissions")
    return text


def forget(folder: pathlib.Path, seed: int, name: str) -> None:
    """Removes the secret of a finished run, if there is one."""
    path = where(folder, seed, name)
    if not hosts.first() or not os.path.lexists(path):
        return
    path.unlink()
    with contextlib.suppress(OSError):  # it contains secrets of other runs
        path.parent.rmdir()


def is_one(path: pathlib.Path) -> bool:
    """Whether a file has the content of a secret, and not only its name."""
    with contextlib.suppress(ValueError, OSError):
        return read(path) is not None
    return False
