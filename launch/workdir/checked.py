"""Checks that a configuration that was read is unchanged, and has the types that jfu writes."""

import hashlib
import json
import types
import typing
from typing import Any

from launch.shell.config import Config
from launch.shell.devices import Layout

KINDS = typing.get_type_hints(Config) | typing.get_type_hints(Layout)


def with_digest(content: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json, with a digest of all of it.

    The ledger names config.json too, but its first line is written when a run ends.

    >>> sorted(with_digest(dict(script="train")))
    ['script', 'sha256']
    """
    return content | dict(sha256=_digest(content))


def _digest(kept: dict[str, Any]) -> str:
    content = {name: value for name, value in kept.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check(kept: dict[str, Any]) -> None:
    """Refuses a configuration that was changed, and values that jfu does not write.

    Older configurations have no digest.

    Raises:
      ValueError: the digest differs.
      TypeError: the first value whose type differs from what jfu writes.
    """
    if kept.get("sha256", _digest(kept)) != _digest(kept):
        raise ValueError("it was changed since it was written")
    must = ("config", "more", "layout", "files", "versions")
    parts = {name: kept[name] for name in must} | {n: kept.get(n) or {} for n in PARTS}
    odd = [name for name, part in parts.items() if not isinstance(part, dict)]
    if odd or not isinstance(kept["script"], str):
        raise TypeError(f"{(odd or ['script'])[0]} has another type")
    named = [*kept["config"].items(), *kept["layout"].items(), *kept["more"].items()]
    for name, value in named:
        kind = MORE.get(name) or KINDS[name]
        wanted = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        if value is not None and not any(_is_a(value, one) for one in wanted):
            raise TypeError(f"{name} is {value!r:.50}")
    maps = [kept["versions"], kept["files"], *(kept.get("places") or {}).values()]
    maps += [kept[name] for name in ("source", "data") if kept.get(name)]
    for one in maps:
        if one is not None and not all(isinstance(v, str | None) for v in dict(one).values()):
            raise TypeError("a digest, a version or a place is not a text")


# Parts that older runs lack.
PARTS = ("source", "places", "data", "numerics")


# Further settings of a run.
MORE = dict(seed=int, method=str, stop=str, further=int, keep_history=tuple[str, ...])


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type. JSON has lists for tuples; a float may be a whole number."""
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
