"""Several hosts: what they tell one another, and what must be the same on all.

The first host (0) alone reads and writes work directories and models, and tells the others what it
read; data sets, lists of clients and masks are files that every host has. What the hosts compute
together is the same on each, so they take the same decisions and need not ask.

What only one host can know (files, errors before the first round) is sent to all, so that they end
with the same sentence and nobody waits for a host that has gone. ``launch.shell.joining`` joins
the hosts.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from launch.shell.printing import listed
from launch.shell.say import sentence

WORDS = 2000  # bytes of an error that other hosts are told


def several() -> bool:
    """Whether this is one of several hosts."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the host that reads, writes and prints."""
    return not several() or jax.process_index() == 0


def agreed(fn: Callable[[], Any]) -> Any:
    """What ``fn()``, anything that JSON holds, is on the first host; its error reaches all."""
    if not several():
        return fn()
    told = b""
    if first():
        try:
            told = json.dumps(["value", fn()]).encode()
        except (ValueError, OSError) as error:
            told = json.dumps(["error", sentence(error)]).encode()
    kind, value = json.loads(_from_first(told))
    if kind == "error":
        raise ValueError(value)
    return value


def together(fn: Callable[[], Any]) -> Any:
    """``fn()`` of each host's own; where it fails on some, all of them raise."""
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
    """A file for ``jfu.io``: its path, or on several hosts what the first one reads from it.

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
    """``fn(0, many)``, ``width`` bytes for each of many things, of which each host makes two parts.

    Its own and the next one's: whatever two hosts make otherwise is noticed.

    Args:
      many: the same on all hosts.
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
    """Refuses hosts that have read something else than the first.

    Args:
      digests: of what each has read, by what that is in words.

    Raises:
      ValueError: on all hosts, if one differs.
    """
    told = lambda other, _: (
        f"it differs from host 0 in {listed(other)}; give all hosts the same data, lists and masks"
    )
    as_first(digests, told)


def as_first(values: dict[str, Any], told: Callable[[list[str], dict[str, Any]], str]) -> None:
    """Refuses hosts whose values are others than the first's.

    Args:
      told: ``(names that differ, the first host's values) ->`` what is wrong with this host.

    Raises:
      ValueError: on all hosts, if one differs.
    """
    wanted = agreed(lambda: values)

    def compare():
        # What JSON makes of a value is what the first host's has become.
        mine = json.loads(json.dumps(values))
        if other := [n for n in mine if mine[n] != wanted.get(n, ...)]:
            raise ValueError(told(other, wanted))

    together(compare)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """For work that a host does by itself, on its processor: on one host nothing changes."""
    if not several():
        yield
        return
    alone = jax.sharding.Mesh(np.empty((), object), ())
    with jax.set_mesh(alone), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
