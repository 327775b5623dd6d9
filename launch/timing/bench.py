"""Timed rounds: all candidates in turns, then each alone."""

import importlib.util
import pathlib
import random
import statistics
import sys
import time
from typing import Any

from absl import flags

from launch.shell.printing import show
from launch.shell.say import say
from launch.timing import points, workloads
from launch.timing.process import PEERS, Worker, free, publish, told_by

FLAGS = flags.FLAGS
ROUNDS_COLD = 20
# Not candidates: the limits of the machine.
YARDSTICKS = ("matmul", "update")


def bench() -> None:
    free(FLAGS.json)
    pythons = dict(pair.split("=", 1) for pair in FLAGS.python)
    for peer in [*FLAGS.peers, *pythons]:
        if peer not in PEERS:
            raise ValueError(
                f"{peer!r} is not among the libraries that can be measured: {', '.join(PEERS)}"
            )
    job = workloads.WORKLOADS[FLAGS.workload]
    given = dict(clients=FLAGS.clients, examples=FLAGS.examples, batch_size=FLAGS.batch_size)
    job = job._replace(**{name: value for name, value in given.items() if value})
    common = dict(workload=FLAGS.workload, precision=FLAGS.precision, job=job._asdict())
    facts = told_by(points.describe, common)
    strategies = FLAGS.strategies or [facts["strategy"]]
    for strategy in strategies:
        workloads.strategy(strategy)
    if FLAGS.profile:
        profile(common | dict(name="jfu", strategy=strategies[0]))
        return
    asked = [common | dict(name="jfu", strategy=strategy) for strategy in strategies]
    if facts["devices"] == 1 or FLAGS.central:
        asked.append(common | dict(name="central", strategy="1x1"))
    if FLAGS.workload in workloads.PORTABLE:
        for peer in FLAGS.peers:
            if peer == "drjax" and (FLAGS.workload, facts["backend"]) == ("cnn", "cpu"):
                say("drjax is not measured: its vmap of convolutions takes minutes a round on CPU")
            elif peer in pythons or importlib.util.find_spec(PEERS[peer]):
                asked.append(common | dict(name=peer, strategy=""))
            else:
                say(f"{peer} is not installed and not measured")
    asked.append(common | dict(name="matmul", strategy=""))
    asked.append(common | dict(name="update", strategy=strategies[0]))
    python = lambda one: pythons.get(one["name"], sys.executable)
    rows = steady(asked, python, FLAGS.rounds)
    for row in rows if FLAGS.cold else ():
        if row["name"] not in YARDSTICKS:
            say(f"fresh start: {row['name']} {row['strategy']}")
            row |= cold(row.pop("asked"), python)
    for row in rows:
        row.pop("asked", None)
        if row["name"] not in YARDSTICKS:
            row["gflop"] = facts["gflop"]
        row["gflop_per_second"] = row["gflop"] and row["gflop"] / row["seconds_median"]
    judge(rows, facts["backend"] == "cpu" or facts["devices"] == 1)
    publish(FLAGS.json, rows, markdown(rows))


def profile(asked: dict) -> None:
    """Traces rounds of one candidate in this process, and shows where their time goes."""
    from launch.shell.folders import make_folder
    from launch.timing import workers
    from launch.timing.accelerator import profile

    folder = pathlib.Path(FLAGS.profile)
    make_folder(folder)
    path = profile.record(workers.jfu_rounds(asked).run, folder)
    show(f"{profile.markdown(list(profile.events(path)))}The trace is in {path.parent}.")


def judge(rows: list[dict], whole: bool) -> None:
    """Adds how close rounds are to centralised training, and to the limits of the machine.

    ``efficiency`` is central's time divided by that of a candidate on one device too. ``bound`` is
    the time of the round's products at the rates of ``matmul`` and ``update``, divided by a
    candidate's.

    Args:
      whole: whether products are measured on all devices that a round may use.
    """
    last = {row["name"]: row for row in rows}
    for row in rows:
        if row["name"] in YARDSTICKS or row["name"] == "central":
            continue
        if "central" in last and row["name"] == "jfu" and row["strategy"].startswith("1x"):
            row["efficiency"] = last["central"]["seconds_median"] / row["seconds_median"]
        if whole and all(name in last for name in YARDSTICKS):
            products = row["gflop"] / last["matmul"]["gflop_per_second"]
            row["bound"] = (products + last["update"]["seconds_median"]) / row["seconds_median"]


def steady(asked: list[dict], python: Any, rounds: int) -> list[dict]:
    """Rounds in turns: minimum, median, maximum of each, and its ratio to the first candidate."""
    workers, rows = [], []
    for one in asked:
        worker = Worker(one, python(one))
        facts = worker.wait("ready")
        warm = [worker.go() for _ in range(2)] if facts else [None]
        if None in warm and one is asked[0]:  # all are compared with the first
            raise ValueError(f"{one['name']} {one['strategy']} failed: {worker.why()}")
        if None in warm:
            say(f"{one['name']} {one['strategy']} is not measured: {worker.why()}")
            continue
        say(f"{one['name']} {one['strategy']}: {warm[1]:.3f} s in its second round")
        workers.append(worker)
        facts.pop("event")
        rows.append({"compile_seconds": None} | facts)
    taken: list[list[float]] = [[] for _ in workers]
    order = random.Random(0)
    for number in range(rounds):
        for i in order.sample(range(len(workers)), len(workers)):
            seconds = workers[i].go()
            if seconds is None:
                raise ValueError(f"{workers[i].asked['name']} ended: {workers[i].why()}")
            taken[i].append(seconds)
        last = ", ".join(
            f"{w.asked['name']} {t[-1]:.3f}" for w, t in zip(workers, taken, strict=True)
        )
        say(f"round {number + 1}/{rounds}: {last} s")
    done = []
    for worker, row, seconds in zip(workers, rows, taken, strict=True):
        one, end = worker.asked, worker.close()
        end.pop("event", None)
        end.pop("loss", None)  # after the timed rounds; the cold run gives it after 20
        ratios = [mine / first for mine, first in zip(seconds, taken[0], strict=True)]
        done.append(
            dict(name=one["name"], workload=one["workload"], strategy=one["strategy"])
            | dict(clients=one["job"]["clients"], examples=one["job"]["examples"])
            | dict(batch_size=one["job"]["batch_size"])
            | dict(precision=None if one["name"] in PEERS else one["precision"])
            | dict(seconds_min=min(seconds), seconds_median=statistics.median(seconds))
            | dict(seconds_max=max(seconds), ratio=statistics.median(ratios), rounds=rounds)
            | dict(cold_seconds=None, peak_mb=None, loss=None, asked=one)
            | dict(jax=None)
            | row
            | end
        )
    return done


def cold(asked: dict, python: Any) -> dict:
    """Fresh processes up to 20 finished rounds: seconds, memory, and the loss there."""
    seconds, peaks, loss = [], [], None
    for _ in range(FLAGS.cold_runs):
        worker = Worker(asked | dict(rounds=ROUNDS_COLD), python(asked))
        worker.watch()
        if worker.wait("done") is None:
            say(f"{asked['name']} {asked['strategy']} failed: {worker.why()}")
            return {}
        seconds.append(time.perf_counter() - worker.began)
        peaks.append(worker.peak)
        loss = worker.close().get("loss")
    peak = statistics.median(peaks) / 2**20
    return dict(cold_seconds=statistics.median(seconds), peak_mb=round(peak, 1) or None, loss=loss)


def markdown(rows: list[dict]) -> str:
    """The rows as a table; ``x`` is the median over turns of a round's time over the first's."""
    from jfu import tables

    columns = ["", "strategy", "s/round min", "median", "max", "x", "compile s", "20 rounds cold s"]
    columns += ["MB", "device MB", "GFLOP/s", "efficiency", "bound", "loss"]
    put = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
    lines = [columns]
    for row in rows:
        times = [put(row[f"seconds_{which}"], 3) for which in ("min", "median", "max")]
        lines.append(
            [row["name"], row["strategy"] or "-", *times, put(row["ratio"], 2)]
            + [put(row["compile_seconds"], 1), put(row["cold_seconds"], 2), put(row["peak_mb"], 0)]
            + [put(row.get("device_mb"), 0), put(row["gflop_per_second"], 0)]
            + [put(row.get("efficiency"), 2), put(row.get("bound"), 2), put(row["loss"], 4)]
        )
    return tables.aligned(lines)
