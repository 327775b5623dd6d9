"""The places of files in a work directory, by name."""

import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

from launch.shell.devices import Layout

MODEL, HISTORY = "model.safetensors", "history.safetensors"
CONFIG, RESULTS, PLAN = "config.json", "results.jsonl", "plan.json"


class WorkDir(NamedTuple):
    path: pathlib.Path
    layout: Layout | None  # the layout of its run; None if the directory is new
    more: dict[str, Any] | None = None  # further settings of its run
    run: str = ""  # the fingerprint of its run
    data: dict[str, Any] | None = None  # digests of its data
    drawn: Mapping[int, str] = MappingProxyType({})  # by seed, the digest of its draws
    lock: BinaryIO | None = None  # while this process may write in it

    def cell(self, seed: int, method: str) -> pathlib.Path:
        return self.path / "cells" / f"{seed}-{method}.safetensors"
