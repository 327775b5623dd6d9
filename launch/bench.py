"""Times federated rounds: jfu's ways to run clients, and other libraries beside them.

Every candidate is a process of its own, with the same data, first weights and optimizer. They
take turns, one round each in an order drawn anew, so that all meet the same load; then each
runs alone from a fresh start to 20 finished rounds, which gives memory and cold time.

  python -m launch.bench --workload=mlp
  python -m launch.bench --workload=cnn --rounds=8 --json=cnn.jsonl
  python -m launch.bench --workload=resnet18 --precision=bf16 --strategies=1x0,1x5,1x1 --nocold

A strategy is DxC: D devices, C clients at once on each, 0 being all of them; the default is what
jfu chooses by rule. DxC:product has convolutions as matrix products, DxC:stock as XLA has them.
PyTorch, FedJAX, DrJAX and Flower are measured where they are installed, for the jobs mlp and cnn
(DrJAX for mlp alone); --python=torch=PATH,flower=PATH names the interpreters that have them.
"""

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from absl import flags

from launch import main, workloads
from launch.main import say
from launch.printing import show

FLAGS = flags.FLAGS
# The module that a peer is found by.
PEERS = dict(torch="torch", fedjax="fedjax", drjax="drjax", flower="flwr")
ROUNDS_COLD = 20
# Not candidates: what the machine can do.
YARDSTICKS = ("matmul", "update")


class Worker:
    """A process of ``launch.workers``: it is told to go and says when it is done."""

    def __init__(self, asked: dict, python: str):
        self.asked, self.began, self.peak = asked, time.perf_counter(), 0
        # Unfiltered, an error's last line is the error.
        settings = dict(XLA_PYTHON_CLIENT_PREALLOCATE="false", JAX_TRACEBACK_FILTERING="off")
        env = os.environ | settings
        command = [python, "-W", "ignore", "-m", "launch.workers", json.dumps(asked)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env
        )
        # Both are read all the time: a full pipe would stop the worker.
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stderr:
            self.said.append(line.rstrip())

    def wait(self, event: str) -> dict | None:
        """What it said with this event; None if it ended before."""
        for line in self.process.stdout:
            told = json.loads(line)
            if told["event"] == event:
                return told
        return None

    def go(self) -> float | None:
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        told = self.wait("round")
        return told and told["seconds"]

    def why(self) -> str:
        """The last line of an error."""
        self.process.wait()
        return next((line for line in reversed(self.said) if line.strip()), "it ended")

    def close(self):
        self.process.stdin.close()
        told = self.wait("end")
        self.process.wait()
        return told or {}

    def watch(self):
        """Follows the process's memory until it ends, in a thread."""

        def follow():
            while self.process.poll() is None:
                began = time.perf_counter()
                self.peak = max(self.peak, _resident(self.process.pid))
                # Not so often that looking slows down what is timed.
                time.sleep(max(0.05, 50 * (time.perf_counter() - began)))

        threading.Thread(target=follow, daemon=True).start()


def _resident(pid: int) -> int:
    """Bytes of a process and all that it started, of common memory its share; 0 if not told."""
    own, started = 0, []
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            own = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as text:
                started += map(int, text.read().split())
    except OSError:  # it ended meanwhile, or the system does not tell
        pass
    return own + sum(map(_resident, started))


def bench() -> None:
    free(FLAGS.json)
    pythons = dict(pair.split("=", 1) for pair in FLAGS.python)
    for peer in [*FLAGS.peers, *pythons]:
        if peer not in PEERS:
            raise ValueError(f"{peer!r} is no peer; these are measured: {', '.join(PEERS)}")
    job = workloads.WORKLOADS[FLAGS.workload]
    given = dict(clients=FLAGS.clients, examples=FLAGS.examples, batch_size=FLAGS.batch_size)
    job = job._replace(**{name: value for name, value in given.items() if value})
    common = dict(workload=FLAGS.workload, precision=FLAGS.precision, job=job._asdict())
    facts = told_by("launch.bench.describe", common)
    strategies = FLAGS.strategies or [facts["strategy"]]
    for strategy in strategies:
        workloads.strategy(strategy)
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


def judge(rows: list[dict], whole: bool) -> None:
    """Adds how near rounds come to centralised training, and to what the machine can do.

    ``efficiency`` is central's time over that of a candidate on one device too; ``bound`` the time
    of the round's products at the rate of ``matmul`` and of ``update``, over a candidate's.

    Args:
      whole: whether products are measured on all that a round may use.
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


def free(path: str | None) -> None:
    """Refuses a file that holds something already, before anything is measured."""
    if not path:
        return
    if os.path.lexists(path) and (not os.path.isfile(path) or os.path.getsize(path)):
        raise FileExistsError(f"{path} exists already; choose another name or remove it first")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(f"there is no folder to write {path} into")
    from jfu.io import check_writable

    check_writable(os.path.dirname(path) or ".")


def publish(path: str | None, rows: list[dict], text: str) -> None:
    """Writes what was measured, if a file was named, and prints its table in any case."""
    from jfu.io import write_bytes

    try:
        if path:
            write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    finally:
        show(text)


def told_by(function: str, given: dict) -> dict:
    """What a function of these scripts prints, as JSON, in a fresh process of its own."""
    module, _, name = function.rpartition(".")
    code = f"import json, sys; from {module} import {name}; {name}(json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps(given)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        why = (told.stderr.strip() or "it ended").splitlines()[-1]
        raise ValueError(f"{function} failed on {given}: {why}")
    return json.loads(told.stdout.splitlines()[-1])


def describe(common: dict) -> None:
    """Prints the default strategy, the devices, and the operations of a round, as JSON."""
    import jax
    import jax.numpy as jnp

    import jfu
    from jfu.costs import entries
    from jfu.devices import cores

    job = workloads.Workload(**common["job"])
    jfu.cpu_devices(max(1, min(cores(), job.clients)), ahead=False)
    devices = jax.device_count()
    model = workloads.model(common["workload"], job, "stock")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    share = -(-job.clients // devices)
    at_once = jfu.clients_at_once(jax.default_backend(), share, entries(variables))
    kind = jnp.float32 if common["workload"] in workloads.PORTABLE else jnp.uint8
    shaped = jax.ShapeDtypeStruct
    batch = jfu.Batch(
        shaped((job.batch_size, *job.shape), kind),
        shaped((job.batch_size,), jnp.int32),
        shaped((job.batch_size,), jnp.float32),
    )
    flops = jfu.step_flops(jfu.classification(model.apply), variables, batch) / job.batch_size
    gflop = flops * job.clients * job.examples / 1e9
    facts = dict(strategy=f"{devices}x{at_once}", devices=devices, gflop=gflop)
    print(json.dumps(facts | dict(backend=jax.default_backend())))


def steady(asked: list[dict], python: Any, rounds: int) -> list[dict]:
    """Rounds in turns: minimum, median and maximum of each, and its ratio to the first."""
    workers, rows = [], []
    for one in asked:
        worker = Worker(one, python(one))
        told = worker.wait("ready")
        warm = [worker.go() for _ in range(2)] if told else [None]
        if None in warm and one is asked[0]:  # which all are compared with
            raise ValueError(f"{one['name']} {one['strategy']} failed: {worker.why()}")
        if None in warm:
            say(f"{one['name']} {one['strategy']} is not measured: {worker.why()}")
            continue
        say(f"{one['name']} {one['strategy']}: {warm[1]:.3f} s in its second round")
        workers.append(worker)
        told.pop("event")
        rows.append({"compile_seconds": None} | told)
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
        end.pop("loss", None)  # after as many rounds as were timed; the cold run tells it after 20
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
    """Fresh processes to 20 finished rounds: seconds, memory, and the loss there."""
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
    from launch import report

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
    return report.aligned(lines)


def define() -> None:
    flags.DEFINE_enum("workload", "mlp", list(workloads.WORKLOADS), "The job.")
    flags.DEFINE_integer("rounds", 10, "Timed rounds of each candidate.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_list(
        "strategies", [], "DxC[:stock|:product], ...: devices x clients at once. Default: by rule."
    )
    flags.DEFINE_enum(
        "precision", "tf32", ["float32", "tf32", "bf16"], "Of products; on CPU tf32 is float32."
    )
    flags.DEFINE_list("peers", list(PEERS), "Other libraries to measure, where installed.")
    flags.DEFINE_list("python", [], "NAME=PATH, ...: the interpreters that have them.")
    flags.DEFINE_bool("central", False, "Centralised training too, where there are many devices.")
    flags.DEFINE_bool("cold", True, "Fresh starts too: memory, cold time and loss.")
    flags.DEFINE_integer("cold_runs", 3, "Fresh starts of each; medians count.", lower_bound=1)
    flags.DEFINE_integer("clients", None, "In place of the job's.", lower_bound=1)
    flags.DEFINE_integer("examples", None, "Of each client, in place of the job's.", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "In place of the job's.", lower_bound=1)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


if __name__ == "__main__":
    define()
    main.run(bench, private=False)
