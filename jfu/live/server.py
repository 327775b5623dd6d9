"""A server's rounds: requests read, models negated, checkpoints written, the ledger kept.

The folder has

    requests.jsonl          what operators ask (``jfu.live.requests``)
    checkpoint.safetensors  the model and the standing after the last step; replaced each time
    ledger.jsonl            a chained line for each request: asked, negated, answered
    model.safetensors       the model after the last answer, with the names that it came with

A step first writes the checkpoint, with the lines that it adds to the ledger inside, then the
model, then the lines. ``resume`` does the last two again, and a line that is there is not added
again. So a server that is killed at any moment goes on with the same command, answers no request
twice and loses no line.
"""

import contextlib
import os
import pathlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import jfu.io
import jfu.ledger
from jfu.atomic import write_bytes
from jfu.live import requests as asked
from jfu.live.negate import Arrays, Choice, chosen, negated
from jfu.live.standing import Node, Standing, compared, decided, met

CHECKPOINT, LEDGER, MODEL = "checkpoint.safetensors", "ledger.jsonl", "model.safetensors"


class Server(NamedTuple):
    """How a live federation answers requests.

    Attributes:
      folder: the server's folder; only its owner can read it.
      select: which arrays are negated (``jfu.live.chosen``); None only fine-tunes, a control.
      requests: a file or folder of requests; by default ``requests.jsonl`` in the folder.
      within: points of accuracy that may be missing when recovery ends.
      most: the most rounds of recovery, if the accuracy is not regained before.
      warmup: rounds of recovery in which the learning rate rises.
      key: the ledger's secret (``jfu.ledger``).
    """

    folder: str | os.PathLike[str]
    select: Choice
    requests: str | os.PathLike[str] | None = None
    within: float = 0.5
    most: int = 30
    warmup: int = 0
    key: bytes | None = None

    def path(self, name: str) -> pathlib.Path:
        return pathlib.Path(self.folder) / name


@contextlib.contextmanager
def locked(server: Server) -> Generator[None]:
    """Makes the folder, and keeps a second server out of it for as long as this one works.

    Raises:
      RuntimeError: another process works there.
    """
    import fcntl

    os.makedirs(server.folder, mode=0o700, exist_ok=True)
    with open(server.path("lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise RuntimeError(
                f"another server works in {server.folder} (process {file.read(20)}); end it, or "
                "give another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def resume(server: Server, model: Arrays) -> tuple[dict[str, np.ndarray], Standing]:
    """The model and the standing of the last checkpoint; those given where there is none.

    Raises:
      ValueError: the checkpoint was changed, or is of a model of other names or shapes; or the
        selector picks nothing.
    """
    model = {name: np.asarray(a) for name, a in model.items()}
    chosen(model, server.select)
    path = server.path(CHECKPOINT)
    if not os.path.lexists(path):
        return model, Standing()
    flat, notes = jfu.io.load_checkpoint(path)
    kept = _part(flat, "model/")
    shapes = lambda some: {name: a.shape for name, a in some.items()}
    if shapes(kept) != shapes(model):
        raise ValueError(
            f"{path} has a model of other names or shapes than the one that was given; give that "
            "model, or another folder"
        )
    try:
        standing = Standing(**notes)
    except TypeError:
        raise ValueError(f"{path} is not one that jfu.live wrote; give another folder") from None
    _write(server, kept := {name: kept[name] for name in model}, standing)
    return kept, standing


def beside(server: Server) -> dict[str, np.ndarray]:
    """What the last checkpoint has beside the model, such as the moments of a server's optimizer.

    A negated model begins with a fresh optimizer, so there is nothing then.
    """
    path = server.path(CHECKPOINT)
    return _part(jfu.io.load_checkpoint(path)[0], "beside/") if os.path.lexists(path) else {}


def _part(flat: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in flat.items() if n.startswith(prefix)}


def begin(
    server: Server,
    model: Arrays,
    standing: Standing,
    nodes: Iterable[Node],
    more: Arrays | None = None,
) -> tuple[dict[str, np.ndarray], Standing]:
    """The start of a round: reads requests, and negates the model once for those that are new.

    Args:
      nodes: who is there. Those for whom ``stays`` is False must get no message.
      more: arrays that the checkpoint keeps ``beside`` the model, unless it is negated.

    Returns:
      The model to send, and the standing. Its ``lines`` say what was decided.
    """
    model, before = dict(model), standing
    standing = met(standing, nodes)._replace(lines=[])
    standing = decided(standing, asked.read(server.requests or server.path("requests.jsonl")))
    if not standing.lines:
        return model, standing
    now = jfu.io.digest(model)
    lines = [dict(x, **{"from": now}) if x["event"] == "asked" else x for x in standing.lines]
    if new := [name for name in standing.open if name not in before.open]:
        names = chosen(model, server.select)
        model = negated(model, names)
        line = dict(event="negated", requests=new, arrays=names, round=standing.round)
        lines.append(line | {"from": now, "made": jfu.io.digest(model)})
        more = None
        opened = {name: {"from": now, **one} for name, one in standing.open.items()}
        standing = standing._replace(open=opened, negated=standing.round)
        if not before.open:
            standing = standing._replace(before=standing.last)
    standing = standing._replace(lines=lines)
    save(server, model, standing, more)
    return model, standing


def end(
    server: Server,
    model: Arrays,
    standing: Standing,
    accuracies: Mapping[str, Sequence[float]],
    more: Arrays | None = None,
) -> Standing:
    """The end of a round: answers open requests once the accuracy is regained.

    Args:
      model: the model after the round.
      accuracies: node -> (accuracy in [0, 1], number of examples), of this model on the nodes'
        own data. It may be empty; then recovery ends after ``most`` rounds.
    """
    last = {node: [float(a), float(n)] for node, (a, n) in accuracies.items()}
    standing = standing._replace(round=standing.round + 1, last=last or standing.last, lines=[])
    if standing.open:
        spent = standing.round - standing.negated
        before, now = compared(standing)
        fresh = bool(last) and before is not None and now is not None
        regained = fresh and 100 * now >= 100 * before - server.within
        if regained or spent >= server.most:
            standing = _answered(server, standing, regained)
    save(server, model, standing, more)
    return standing


def _answered(server: Server, standing: Standing, regained: bool) -> Standing:
    points = lambda value: {} if value is None else dict(retain=round(100 * value, 4))
    before, after = map(points, compared(standing))
    method = "finetune" if server.select is None else "not"
    content = dict(event="answered", method=method, regained=regained, before=before, after=after)
    lines = []
    for name, one in standing.open.items():
        rounds = standing.round - one["round"]
        lines.append(dict(content, request=name, rounds=rounds, **{"from": one["from"]}))
    return standing._replace(open={}, before={}, lines=lines)


def goes_on(standing: Standing, rounds: int) -> bool:
    """Whether another round is due: of training, or of a recovery that has not ended."""
    return standing.round < rounds or bool(standing.open)


def save(server: Server, model: Arrays, standing: Standing, more: Arrays | None = None) -> None:
    """Writes the checkpoint, then what its lines are about, then the lines."""
    state = {"model": dict(model), "beside": dict(more or {})}
    jfu.io.save_state(server.path(CHECKPOINT), state, standing._asdict())
    _write(server, model, standing)


def _write(server: Server, model: Arrays, standing: Standing) -> None:
    from safetensors.numpy import save as packed

    more = {}
    if any(line["event"] == "answered" for line in standing.lines):
        write_bytes(
            server.path(MODEL), packed({n: np.ascontiguousarray(a) for n, a in model.items()})
        )
        more = dict(model=jfu.ledger.digest(server.path(MODEL)))
    for line in standing.lines:
        line = line | more if line["event"] == "answered" else line
        jfu.ledger.append(server.path(LEDGER), line, key=server.key)
