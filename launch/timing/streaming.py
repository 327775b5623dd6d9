"""What streaming costs: clients on the devices and streamed clients, in turns."""

import os
import statistics
import sys
import tempfile
from typing import Any

from absl import flags

from launch.shell.say import say
from launch.timing.memory import IMAGES
from launch.timing.process import Worker, free, publish

FLAGS = flags.FLAGS

REFERENCE = ("resident", "equal", 1000)
# The candidates: how, sizes, clients.
ROWS = (
    REFERENCE,
    ("resident", "equal", 100),
    ("streamed", "equal", 100),
    ("streamed", "equal", 1000),
    ("streamed", "equal", 10_000),
    ("resident", "dirichlet", 1000),
    ("streamed", "dirichlet", 100),
    ("streamed", "dirichlet", 1000),
)


def streaming() -> None:
    free(FLAGS.json)
    rows = [row for row in ROWS if row[2] <= FLAGS.most]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "images.npy")
        write(path, max(count for _, _, count in rows) * IMAGES)
        found = taking_turns(rows, path)
    publish(FLAGS.json, found, markdown(found))


def write(path: str, count: int) -> None:
    """Random images in a file, written in blocks."""
    import numpy as np

    x = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28, 1))
    rng = np.random.default_rng(0)
    for i in range(0, count, 10_000):
        x[i : i + 10_000] = rng.integers(0, 256, x[i : i + 10_000].shape, dtype=np.uint8)
    x.flush()


def taking_turns(rows: list[tuple[str, str, int]], path: str) -> list[dict[str, Any]]:
    workers, ready = [], []
    for how, sizes, count in rows:
        asked = dict(name="streaming", how=how, sizes=sizes, clients=count, pool=path)
        worker = Worker(asked | dict(devices=FLAGS.devices, piece=FLAGS.piece), sys.executable)
        ready.append(worker.wait("ready"))
        warm = worker.go() if ready[-1] else None
        if warm is None:
            raise ValueError(f"{how} {sizes} {count} cannot be measured: {worker.why()}")
        say(f"{how} {sizes} {count}: {warm:.2f} s in its first round")
        workers.append(worker)
    taken: list[list[float]] = [[] for _ in rows]
    ratios: list[list[float]] = [[] for _ in rows]
    for number in range(FLAGS.rounds):
        before = workers[0].go()
        taken[0].append(before)
        for i in range(1, len(rows)):
            mine, after = workers[i].go(), workers[0].go()
            taken[i].append(mine)
            taken[0].append(after)
            each = (before + after) / 2 / REFERENCE[2]
            ratios[i].append(mine / rows[i][2] / each)
            before = after
        say(f"turn {number + 1}/{FLAGS.rounds}: " + ", ".join(f"{t[-1]:.2f}" for t in taken) + " s")
    found = []
    for row, facts, seconds, ratio, worker in zip(rows, ready, taken, ratios, workers, strict=True):
        end = worker.close()
        found.append(
            dict(zip(("how", "sizes", "clients"), row, strict=True))
            | {name: value for name, value in facts.items() if name != "event"}
            | dict(seconds=statistics.median(seconds), all_seconds=seconds)
            | dict(ratio=statistics.median(ratio or [1.0]), all_ratios=ratio)
            | dict(peak_mb=end["peak_mb"], rounds=len(seconds), piece=FLAGS.piece)
        )
    return found


def markdown(rows: list[dict]) -> str:
    """The rows as a table; ``x`` is time a client over that of the resident 1,000 equal ones."""
    from jfu import tables

    columns = ["", "sizes", "clients", "images of one", "data MB", "s/round", "ms/client", "x"]
    lines = [[*columns, "peak MB"]]
    for row in rows:
        sizes = dict(equal="equal", dirichlet="Dirichlet 0.1")[row["sizes"]]
        lines.append([row["how"], sizes, f"{row['clients']:,}"])
        small, large = row["smallest"], row["largest"]
        lines[-1].append(f"{small:,}" if small == large else f"{small:,} to {large:,}")
        each = 1000 * row["seconds"] / row["clients"]
        lines[-1] += [f"{row['data_mb']:.0f}", f"{row['seconds']:.2f}", f"{each:.2f}"]
        lines[-1] += [f"{row['ratio']:.2f}", f"{row['peak_mb']:.0f}"]
    return tables.aligned(lines)
