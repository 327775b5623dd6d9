"""Whole commands, from start to table: jfu's, and the same job in PyTorch and in Flower.

The job is a comparison with retraining: a federation, trained; trained again without one client;
and once more with other random numbers. jfu runs ``launch.compare``, which also attacks models,
draws plots and writes checkpoints and a ledger. The others evaluate in the same rounds, on the same
examples, and print a table. Each run is a process of its own. They take turns.
"""

import importlib.metadata
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jfu.files import read_lines
from jfu.io import load_notes
from launch.shell.say import say
from launch.timing import workloads
from launch.timing.process import PEERS, free, publish

FLAGS = flags.FLAGS
KNOWN = ("torch", "flower")  # the libraries in which the job is written
CLIENTS, EXAMPLES, TESTS, ROUNDS, BATCH = 10, 300, 10_000, 12, 32  # by default
RUNS = 3  # federations that are trained: the original, and two retrained ones
ROOT = pathlib.Path(__file__).parents[2]


def whole() -> None:
    """``launch.bench --whole``."""
    free(FLAGS.json)
    pythons = dict(pair.split("=", 1) for pair in FLAGS.python)
    with tempfile.TemporaryDirectory() as place:
        asked = job(pathlib.Path(place))
        names, rows = ["jfu", *(name for name in KNOWN if name in FLAGS.peers)], {}
        for turn in range(FLAGS.cold_runs):
            for name in names:
                if turn and "error" in rows[name][0]:
                    continue
                found = once(name, asked, pythons.get(name, sys.executable), turn)
                error = found.get("error")
                rows[name] = [found] if error else [*rows.get(name, ()), found]
                say(f"{name}: {error or format(found['seconds'], '.1f')}")
                if error and name == "jfu":
                    raise ValueError(f"launch.compare failed: {error}")
    done = [row(name, rows[name], rows["jfu"], asked) for name in names]
    publish(FLAGS.json, done, markdown(done))


def job(place: pathlib.Path) -> dict[str, Any]:
    """The job's settings; its data is made, and is in a file."""
    rounds = FLAGS.rounds if FLAGS["rounds"].present else ROUNDS
    asked = dict(clients=FLAGS.clients or CLIENTS, examples=FLAGS.examples or EXAMPLES)
    asked |= dict(rounds=rounds, batch_size=FLAGS.batch_size or BATCH, lr=0.05, momentum=0.9)
    asked |= dict(place=str(place), data=str(place / "whole.npz"), tests=TESTS)
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(workloads.CLASSES, 28, 28, 1))

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, workloads.CLASSES, count)
        x = 128 + 40 * (rng.normal(size=(count, 28, 28, 1)) + 0.3 * patterns[y])
        return np.clip(x, 0, 255).astype(np.uint8), y

    x, y = images(asked["clients"] * asked["examples"])
    x_test, y_test = images(TESTS)
    np.savez(asked["data"], x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return asked


def command(asked: Mapping[str, Any], work: str) -> list[str]:
    """jfu's command for the job."""
    given = ("clients", "rounds", "batch_size", "lr", "momentum")
    flags_ = [f"--{name}={asked[name]}" for name in given]
    flags_ += ["--model=cnn", "--methods=retrain", "--seeds=1", f"--workdir={work}"]
    return ["-m", "launch.compare", f"--dataset={asked['data']}", *flags_]


def once(name: str, asked: dict[str, Any], python: str, turn: int) -> dict[str, Any]:
    """One run: its seconds, those of its rounds, CPU seconds of its processes, last accuracies."""
    work = os.path.join(asked["place"], f"w{turn}")
    words = command(asked, work)
    if name != "jfu":
        if why := missing(name, python):
            return dict(error=why)
        words = ["-m", "launch.timing.whole_peers", json.dumps(asked | dict(name=name))]
    before, began = _cpu(), time.perf_counter()
    done = subprocess.run(
        [python, "-W", "ignore", *words],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, cpu = time.perf_counter() - began, _cpu() - before
    if done.returncode:
        return dict(error=why_of(done.stderr))
    found: dict[str, Any] = dict(seconds=seconds, cpu=cpu)
    if name != "jfu":
        return found | json.loads(done.stdout.splitlines()[-1])
    rows = [dict(line) for line in read_lines(pathlib.Path(work) / "results.jsonl")]
    asked["looks"] = looks(rows, asked["rounds"])
    last = {line["method"]: line for line in rows}
    cells = pathlib.Path(work, "cells").glob("*.safetensors")
    training = sum(load_notes(cell)["spent"]["seconds"] for cell in cells)
    return found | dict(last=last, training=training)


def why_of(text: str) -> str:
    """The last line about an error in what a process has said, or its last line.

    >>> why_of("ValueError: no\\nend of the log")
    'ValueError: no'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it ended"]
    errors = [line for line in lines if "Error: " in line]
    return (errors or lines)[-1][:300]


def missing(name: str, python: str) -> str | None:
    """A sentence if an interpreter lacks what a library's job needs."""
    modules = {"torch", PEERS[name]} | ({"ray"} if name == "flower" else set())
    code = "import importlib.util, sys; print([m for m in sys.argv[1:] if "
    code += "importlib.util.find_spec(m) is None])"
    done = subprocess.run(
        [python, "-c", code, *sorted(modules)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"{python} does not start"
    lacks = done.stdout.strip().strip("[]").replace("'", "")
    return f"{lacks} not installed" if lacks else None


def looks(rows: Sequence[Mapping[str, Any]], rounds: int) -> list[tuple[str, int, bool]]:
    """The evaluations of jfu's run: method, round, and whether test examples were evaluated.

    >>> looks([dict(method="original", round=0, test=9.0)], 12)
    [('original', 12, True)]
    """
    last = {"original": rounds}
    return [
        (row["method"], last.get(row["method"], row["round"]), row["test"] is not None)
        for row in rows
    ]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(
    name: str,
    found: Sequence[Mapping[str, Any]],
    first: Sequence[Mapping[str, Any]],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """A library's row, from its runs and those of jfu in the same turns."""
    sizes = ("clients", "examples", "tests", "rounds", "batch_size")
    made = dict(name=name, workload="whole") | {size: asked[size] for size in sizes}
    made |= dict(evaluations=len(asked["looks"]), cores=len(os.sched_getaffinity(0)))
    if "error" in found[0]:
        return made | dict(error=found[0]["error"])
    seconds = [one["seconds"] for one in found]
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(found, first, strict=True)]
    cpu = [one["cpu"] for one in found]
    more = [one["cpu"] / other["cpu"] for one, other in zip(found, first, strict=True)]
    last = {run: line["test"] for run, line in found[-1]["last"].items()}
    made |= dict(seconds_min=min(seconds), seconds_median=statistics.median(seconds))
    made |= dict(seconds_max=max(seconds), ratio=statistics.median(ratios), runs=len(found))
    # Flower's workers are not its children, so what they use cannot be read.
    alone = name != "flower"
    made |= dict(cpu_median=statistics.median(cpu) if alone else None)
    made |= dict(cpu_ratio=statistics.median(more) if alone else None, test=last)
    shares = [1 - one["training"] / one["seconds"] for one in found]
    made |= dict(not_training=statistics.median(shares))
    rounds = [one["training"] / (RUNS * asked["rounds"]) for one in found]
    made |= dict(round_median=statistics.median(rounds))
    return made | dict(jax=importlib.metadata.version("jax") if name == "jfu" else None)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table; a library that was not measured has an empty row."""
    from jfu import tables

    put = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
    lines = [["", "s min", "median", "max", "x", "CPU s", "x", "s/round", "not training"]]
    lines[0].append("test %: retrained")
    for one in rows:
        if "error" in one:
            lines.append([one["name"], *[""] * 9])
            continue
        times = [put(one[f"seconds_{which}"], 1) for which in ("min", "median", "max")]
        costs = [put(one["ratio"], 2), put(one["cpu_median"], 1), put(one["cpu_ratio"], 2)]
        share = "-" if one.get("not_training") is None else f"{one['not_training']:.0%}"
        each = put(one.get("round_median"), 3)
        lines.append([one["name"], *times, *costs, each, share, put(one["test"]["retrain"], 1)])
    said = [f"{one['name']} was not measured: {one['error']}." for one in rows if "error" in one]
    return tables.aligned(lines) + "".join(f"{line}\n" for line in said)
