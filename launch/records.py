"""What the scripts write into a work directory's ledger, and what its files must agree with.

trained   a model, by so many clients, or further from an earlier one
asked     a request, of a model
answered  by a method: from one model to another, with the measures before and after
compared  methods on a request, over seeds
erased    files that held what was to be forgotten
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

import jfu.ledger
from jfu.io import write_bytes
from launch import hosts
from launch.flags import Config
from launch.workdir import MODEL, RESULTS, WorkDir

LEDGER = "ledger.jsonl"

# What of a row of results.jsonl stands in the ledger.
EVIDENCE = ("retain", "forget", "test", "mia_matched", "asr", "epsilon")
COSTS = ("bytes_down", "bytes_up", "flops")


def key() -> bytes | None:
    """The secret of --key_file."""
    path = flags.FLAGS.key_file
    if path is None:
        return None
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} with a key")
    secret = pathlib.Path(path).read_bytes().strip()
    if len(secret) < 16:
        raise ValueError(f"the key in {path} has {len(secret)} bytes; it must have at least 16")
    return secret


def by_first(write: Callable[..., None]) -> Callable[..., None]:
    """What the first of several hosts does alone."""

    @functools.wraps(write)
    def alone(*args, **kwargs):
        if hosts.first():
            write(*args, **kwargs)

    return alone


def read(path: pathlib.Path, head: str | None = None) -> list[dict[str, Any]]:
    """The ledger of a work directory, if its chain holds and its files are those it names.

    Raises:
      ValueError: a line that is not what it should be, or a file that is not what a line says.
    """
    lines = jfu.ledger.read(path / LEDGER, head=head, key=key())
    named = [line for line in lines if "model" in line]
    model, results = path / MODEL, path / RESULTS
    if model.exists():
        if not named or jfu.ledger.digest(model) != named[-1]["model"]:
            raise ValueError(
                f"{model} is not the model that {path / LEDGER} names last: it was changed, lines "
                "were removed, or the run that writes it has not finished"
            )
        wanted = named[-1].get("results")
        if wanted and (not results.exists() or jfu.ledger.digest(results) != wanted):
            raise ValueError(f"{results} is not what line {named[-1]['number']} of its ledger says")
    elif lines and lines[-1] in named:
        raise ValueError(f"{model}, which line {len(lines)} of its ledger names, is not there")
    return lines


def check(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines, if the chain holds and more can be written: before any work is done."""
    secret = key()
    lines = jfu.ledger.read(path / LEDGER, key=secret)
    if secret is None and lines and "mac" in lines[-1]:
        raise ValueError(f"{path / LEDGER} is kept with a key; give --key_file")
    return lines


@by_first
def follow(work: WorkDir, source: str | None) -> None:
    """Begins the ledger of a new work directory where that of the model's own one ends."""
    before = source and pathlib.Path(source) / LEDGER
    if before and before.exists() and not (work.path / LEDGER).exists():
        write_bytes(work.path / LEDGER, before.read_bytes())


def write(work: WorkDir, event: str, **content: Any) -> None:
    jfu.ledger.append(work.path / LEDGER, dict(event=event, **content), key=key())


@by_first
def trained(work: WorkDir, config: Config, seed: int, clients: int, rounds: int) -> None:
    more = {"from": jfu.ledger.digest(config.init_params)} if config.init_params else {}
    write(
        work,
        "trained",
        **more,
        dataset=config.dataset,
        clients=clients,
        past=list(config.past),
        rounds=rounds,
        seed=seed,
        model=jfu.ledger.digest(work.path / MODEL),
    )


@by_first
def asked(work: WorkDir, config: Config, method: str) -> None:
    met = jfu.ledger.digest(config.init_params)
    write(work, "asked", request=config.forget, method=method, **{"from": met})


@by_first
def answered(work: WorkDir, config: Config, method: str, rows: list[dict[str, Any]]) -> None:
    """The first row is of the model that the request met, the last of its answer."""
    pick = lambda row, names: {n: row[n] for n in names if row.get(n) is not None}
    write(
        work,
        "answered",
        request=config.forget,
        method=method,
        **{"from": jfu.ledger.digest(config.init_params)},
        model=jfu.ledger.digest(work.path / MODEL),
        rounds=rows[-1]["round"],
        before=pick(rows[0], EVIDENCE),
        after=pick(rows[-1], EVIDENCE),
        costs=pick(rows[-1], COSTS),
        results=jfu.ledger.digest(work.path / RESULTS),
    )


def is_answered(path: pathlib.Path) -> bool:
    """Whether this work directory's request has been answered."""
    events = [line["event"] for line in check(path) if line["event"] in ("asked", "answered")]
    return bool(events) and events[-1] == "answered"


@by_first
def compared(work: WorkDir, config: Config, rows: list[dict[str, Any]]) -> None:
    write(
        work,
        "compared",
        request=config.forget,
        methods=sorted({row["method"] for row in rows}),
        seeds=sorted({row["seed"] for row in rows}),
        results=jfu.ledger.digest(work.path / RESULTS),
    )
