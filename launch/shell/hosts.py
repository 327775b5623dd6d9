"""Several hosts: how they exchange values, and what must be the same on all of them.

Only the first host (0) reads and writes work directories and models. It sends the others what it
read. Data sets, lists of clients and masks are files on every host. Joint computations have the
same results on each host. So all hosts take the same decisions, without a message.

Some things only one host can know: files, and errors before the first round. These are sent to
all. So all hosts end with the same sentence, and none waits for a host that has gone.
``launch.shell.joining`` joins the hosts.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from launch.shell.printing import listed
from launch.shell.say import sentence

WORDS = 2000  # most bytes of an error message that is sent to other hosts


def several() -> bool:
    """Whether this is one of several hosts."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the host that reads, writes and prints."""
    return not several() or jax.process_index() == 0


def agreed(fn: Callable[[], Any]) -> Any:
    """The first host's value of ``fn()``, on all hosts. Its error is raised on all hosts, too.

    The value must be one that JSON can hold.
    """
    if not several():
        return fn()
    message = b""
    if first():
        try:
            message = json.dumps(["value", fn()]).encode()
        except (ValueError, OSError) as error:
            message = json.dumps(["error", sentence(error)]).encode()
    kind, value = json.loads(_from_first(message))
    if kind == "error":
        raise ValueError(value)
    return value


def together(fn: Callable[[], Any]) -> Any:
    """Each host's own value of ``fn()``. If it fails on some hosts, all of them raise an error."""
    if not several():
        return fn()
    from jax.experimental import multihost_utils

    result, said = None, ""
    try:
        result = fn()
    except (ValueError, OSError) as error:
        said = sentence(error) or repr(error)
    words = np.frombuffer(said.encode()[:WORDS].ljust(WORDS, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(words))
    everyones = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]
    if not any(everyones):
        return result
    if len(set(everyones)) == 1:
        raise ValueError(said)
    alike = {text: [k for k, other in enumerate(everyones) if other == text] for text in everyones}
    named = lambda some: f"host {some[0]}" if len(some) == 1 else f"hosts {listed(map(str, some))}"
    raise ValueError("; ".join(f"{named(some)}: {text}" for text, some in alike.items() if text))


def opened(path: Any) -> Any:
    """A file for ``jfu.io``: its path, or on several hosts the content that the first one reads.

    Raises:
      ValueError: the first host cannot read it.
    """
    if not several():
        return path

    def size():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
        return os.path.getsize(path)

    agreed(size)
    content = b""
    if first():
        with open(path, "rb") as file:
            content = file.read()
    file = io.BytesIO(_from_first(content))
    file.name = str(path)
    return file


def shared(fn: Callable[[int, int], bytes], many: int, width: int, what: str) -> bytes:
    """The bytes ``fn(0, many)``; several hosts share the work, and two of them make each part.

    ``fn(start, stop)`` makes ``width`` bytes for each of the things from ``start`` to ``stop``.
    Each host makes its own part and that of the next host. So a difference between two hosts is
    found.

    Args:
      many: the number of things, the same on all hosts.
      width: bytes for each thing.
      what: the things, in words.

    Raises:
      ValueError: on all hosts, if two of them differ in a part.
    """
    if not several():
        return fn(0, many)
    from jax.experimental import multihost_utils

    hosts, size = jax.process_count(), -(-many // jax.process_count())

    def part(host):
        start = min(many, size * (host % hosts))
        return fn(start, min(many, start + size)).ljust(size * width, b"\0")

    mine = together(lambda: part(jax.process_index()) + part(jax.process_index() + 1))
    found = np.asarray(multihost_utils.process_allgather(np.frombuffer(mine, np.uint8)))
    own, next_ones = np.split(found.reshape(hosts, -1), 2, axis=1)
    for host in range(hosts):
        after = (host + 1) % hosts
        if not np.array_equal(own[after], next_ones[host]):
            first, second = sorted((host, after))
            raise ValueError(
                f"host {second} differs from host {first} in {what}; give all hosts the same data"
            )
    return own.tobytes()[: many * width]


def _from_first(content: bytes) -> bytes:
    """The first host's bytes, on all hosts."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    buffer = np.zeros(size, np.uint8)
    if first():
        buffer[:] = np.frombuffer(content, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8))


def same_content(digests: dict[str, Any]) -> None:
    """Refuses hosts that have read something different from the first host.

    Args:
      digests: the digests of what a host has read, by its description in words.

    Raises:
      ValueError: on all hosts, if one differs.
    """
    wrong = lambda other, _: (
        f"it differs from host 0 in {listed(other)}; give all hosts the same data, lists and masks"
    )
    as_first(digests, wrong)


def as_first(values: dict[str, Any], wrong: Callable[[list[str], dict[str, Any]], str]) -> None:
    """Refuses hosts whose values differ from the first host's.

    Args:
      wrong: ``(names that differ, the first host's values) ->`` the error message of this host.

    Raises:
      ValueError: on all hosts, if one differs.
    """
    wanted = agreed(lambda: values)

    def compare():
        # The first host's values went through JSON, so this host's must too.
        mine = json.loads(json.dumps(values))
        if other := [n for n in mine if mine[n] != wanted.get(n, ...)]:
            raise ValueError(wrong(other, wanted))

    together(compare)


@contextlib.contextmanager
def aside() -> Generator[None]:
    """For work that each host does alone, on its processor; on one host nothing changes."""
    if not several():
        yield
        return
    alone = jax.sharding.Mesh(np.empty((), object), ())
    with jax.set_mesh(alone), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
