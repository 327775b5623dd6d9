"""The story of ``launch.flower``: a federation, a request in the middle, and a table of its rounds.

The launcher plays two parts here. It starts the processes, and it is the operator who drops a
request into ``requests.jsonl`` while the federation runs. The server and the nodes know of it no
more than of any other.
"""

import contextlib
import json
import pathlib
import subprocess
import time
from typing import Any

from absl import flags

import jfu.ledger
from jfu import live
from launch.live import processes
from launch.shell.printing import show
from launch.shell.say import say

FLAGS = flags.FLAGS
REQUEST = "leave-0"  # its id
CONFIG = ("clients", "nodes", "rounds", "lr", "epochs", "negate", "recovery_rounds")


def flower() -> None:
    """Does what the flags of ``launch.flower`` request."""
    processes.installed(FLAGS.clients)
    folder = pathlib.Path(FLAGS.workdir)
    fresh = not (folder / "checkpoint.safetensors").exists()
    secure = FLAGS.secure and not FLAGS.simulation
    if not fresh and not secure:
        raise ValueError(
            f"{folder} has a federation already, and without --secure nodes have no names: one "
            "that left would come back as a stranger; give another --workdir"
        )
    if FLAGS.ask_after >= FLAGS.rounds:
        raise ValueError(
            f"--ask_after={FLAGS.ask_after} is not before the last of --rounds={FLAGS.rounds}; "
            "ask earlier, or give more rounds"
        )
    own = (folder / "flower").absolute()
    (own / "counts").mkdir(parents=True, exist_ok=True)
    config = {name.replace("_", "-"): getattr(FLAGS, name) for name in CONFIG}
    config |= dict(folder=str(folder.absolute()), counts=str(own / "counts"))
    config |= dict(warmup=FLAGS.recovery_warmup_rounds)
    what = f"{FLAGS.nodes} SuperNodes with {FLAGS.clients} clients"
    say(f"starts {'a simulation of ' if FLAGS.simulation else 'a SuperLink and '}{what}")
    with contextlib.ExitStack() as stack:
        if FLAGS.simulation:
            there = stack.enter_context(processes.simulation(own, FLAGS.nodes))
        else:
            there = stack.enter_context(processes.deployment(own, FLAGS.nodes, secure))
        run = processes.submit(there, processes.app(own, config))
        stack.callback(processes.stop, run)
        follow(folder, run, secure, FLAGS.ask_after)
    finish(folder, own)


def follow(folder: pathlib.Path, run: subprocess.Popen, secure: bool, after: int) -> None:
    """Prints rounds as they come, and asks to forget node 0 during round ``after``."""
    told = len(rows_of(folder))
    while True:
        ended = run.poll() is not None
        rows = rows_of(folder)
        for row in rows[told:]:
            say(f"round {row['round']}: accuracy {row['test']:.1f}, backdoor {row['asr']:.1f}")
        told = len(rows)
        if received(folder / "flower" / "counts" / "node-0.txt") > 2 * (after - 1):
            ask(folder, secure)
        if ended:
            return
        time.sleep(0.1)


def received(counts: pathlib.Path) -> int:
    """Messages that a node has received; each round has two, to train and to evaluate."""
    return len(counts.read_text().splitlines()) if counts.exists() else 0


def ask(folder: pathlib.Path, secure: bool) -> None:
    """Asks to forget node 0 by its name or, without names, by the id that it has told its log."""
    path, counts = folder / "requests.jsonl", folder / "flower" / "counts" / "node-0.txt"
    if not path.exists():
        node = "node-0" if secure else counts.read_text().split()[0]
        path.write_text(json.dumps(dict(id=REQUEST, forget=[node])) + "\n")
        say(f"request {REQUEST} comes in: forget {node}")


def finish(folder: pathlib.Path, own: pathlib.Path) -> None:
    """Prints the table and what was asked; an error if the run did not end well."""
    rows, lines = rows_of(folder), jfu.ledger.read(folder / "ledger.jsonl")
    show(f"\n{table(rows, lines)}\n")
    for line in lines:
        show(live.in_words(line))
    counts = sorted((own / "counts").glob("node-*.txt"))
    some = [f"{path.stem} {received(path)}" for path in counts]
    show(f"messages received, counted at the nodes: {', '.join(some)}")
    if not any(line["event"] == "answered" for line in lines):
        raise ValueError(
            f"the run ended before the request was answered; {own / 'run.log'} says why, and the "
            "same command goes on"
        )
    show(f"the ledger: python -m launch.ledger --workdir={folder}")


def rows_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The rounds that are there; a line that is being written is none yet."""
    path = folder / "rounds.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    found = {row["round"]: row for row in map(json.loads, whole.splitlines())}
    return [found[number] for number in sorted(found)]


def table(rows: list[dict[str, Any]], lines: list[dict[str, Any]]) -> str:
    """Accuracy and backdoor success by round, in Markdown.

    >>> asked = dict(event="asked", request="a", round=1)
    >>> rows = [dict(round=1, test=90.0, asr=97.5), dict(round=2, test=85.0, asr=0.0)]
    >>> print(table(rows, [asked]))
    | round | accuracy | backdoor | |
    |---|---|---|---|
    | 1 | 90.0 | 97.5 |  |
    | 2 | 85.0 | 0.0 | asked |
    """
    head = ["| round | accuracy | backdoor | |", "|---|---|---|---|"]
    at: dict[int, list[str]] = {}
    for line in lines:
        first = line["event"] in ("asked", "negated", "refused", "returned")
        number = line.get("round", 0) + first
        if line["event"] == "answered":
            number = at_end(lines, line)
        at.setdefault(number, []).append(line["event"])
    body = [
        f"| {row['round']} | {row['test']:.1f} | {row['asr']:.1f} | "
        f"{', '.join(at.get(row['round'], []))} |"
        for row in rows
    ]
    return "\n".join([*head, *body])


def at_end(lines: list[dict[str, Any]], answer: dict[str, Any]) -> int:
    """The round in which a request was answered."""
    asked = [x for x in lines if x["event"] == "asked" and x["request"] == answer["request"]]
    return asked[0]["round"] + answer["rounds"]
