"""What runs of scripts left: after a kill, or without room or rights; and small ones to try."""

import json
import os
import time
from pathlib import Path

from helpers.federation import bits
from jfu.io import load_arrays, load_notes

FEW = ["--dataset=synthetic", "--train_size=60", "--clients=2", "--model=mlp", "--devices=1"]
FEW += ["--nobackdoor", "--checkpoint_every=1"]
TRAIN = ["train", *FEW, "--rounds=3", "--keep_history=start,norms"]
CHECKPOINT = "0-train.safetensors"

# Of every file that jfu.io.write_bytes writes: before its temporary file is made, when half of
# that is written, when it is whole and not yet in its place, and when it is there.
POINTS = ("before", "half", "written", "replaced")


def files(folder: Path) -> dict[str, bytes | str | None]:
    """What lies in a folder: bytes of files, targets of links, None for folders."""
    content = lambda p: os.readlink(p) if p.is_symlink() else None if p.is_dir() else p.read_bytes()
    return {str(p.relative_to(folder)): content(p) for p in sorted(folder.rglob("*"))}


def kept(folder: Path) -> dict[str, bytes | str | None]:
    """``files`` but for the name of the process that took the folder last."""
    return {name: content for name, content in files(folder).items() if name != "lock"}


def results(folder: Path) -> dict[str, object]:
    """What a run has found, without the seconds that it took and the time of day."""
    found: dict[str, object] = kept(folder)
    found.pop("outputs.json", None)  # digests of what says how long it took
    # Of a ledger's lines; checkpoints and tables say how long they took, folders have names.
    timed = ("time", "previous", "hash", "results", "cells", "wrote", "since", "path", "beside")
    for name in found:
        path = folder / name
        if path.parent.name == "cells":
            arrays = {name: bits(a) for name, a in load_arrays(path).items()}
            found[name] = untimed(load_notes(path)), arrays
        elif path.suffix == ".jsonl":
            lines = [untimed(json.loads(line)) for line in found[name].splitlines()]
            plain = lambda line: {k: v for k, v in line.items() if k not in timed}
            found[name] = list(map(plain, lines)) if name == "ledger.jsonl" else lines
        elif path.suffix == ".json":
            found[name] = untimed(json.loads(found[name]))
        elif path.suffix == ".md":
            found[name] = without_column(found[name].decode(), "seconds")
    return found


def untimed(tree):
    """JSON without what was measured with a clock."""
    if isinstance(tree, dict):
        return {k: untimed(v) for k, v in tree.items() if not k.startswith("seconds")}
    return [untimed(value) for value in tree] if isinstance(tree, list) else tree


def without_column(table: str, name: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    lines = [[cell.strip(" -:") for cell in line.split("|")] for line in table.splitlines()]
    gone = next((line.index(name) for line in lines if name in line), None)
    return [[cell for i, cell in enumerate(line) if i != gone] for line in lines]


def until(happened, timeout: float = 120) -> None:
    """Waits for something to happen."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < timeout
        time.sleep(0.002)


def refused(ended, *words):
    """A run ended with one sentence; what went before it are notes and lines of progress."""
    assert ended.status == 2, ended.said
    last = ended.said.splitlines()[-1]
    assert last.startswith("error: ") and ended.said.count("error: ") == 1
    assert "Traceback" not in ended.said and "[Errno" not in ended.said
    for word in words:
        assert str(word) in last
    return True
