"""What a model is judged on, and the grades: every measure of one round."""

from typing import Any, NamedTuple

import jax
import numpy as np

import jfu
from jfu import pools
from launch.setup import keys
from launch.shell import hosts
from launch.shell.devices import place


class Exam(NamedTuple):
    x: jax.Array  # pool, test images and, with a backdoor, triggered test images
    y: jax.Array
    retain: np.ndarray  # bool [M]
    forget: np.ndarray  # bool [M]: held by who leaves alone
    test_y: np.ndarray  # [T]
    forgotten_classes: tuple[int, ...]  # of a request that names classes
    members: np.ndarray  # positions in x, paired with others: same classes, same poison
    others: np.ndarray
    target: int | None  # the trigger's label
    where: np.ndarray | None = None  # the place of each of them in x and y, where hosts share them
    guess: float | None = None  # percent of retained data that naming one class gets right


def white(dataset: Any) -> float | None:
    """The trigger's value: the brightest of the training images, where they are floats."""
    floating = np.issubdtype(dataset.x_train.dtype, np.floating)
    return float(dataset.x_train.max()) if floating else None


def examine(config, dataset, clients, request, poisoned, seed) -> Exam:
    """What the model is judged on. Poisoned images keep their poisoned labels.

    What a client that stays holds too is retained: no answer to the request forgets it.
    """
    from jfu.data import poison
    from jfu.data.rows import Rows, joined

    held = lambda side: np.bincount(
        np.asarray(side.index)[np.asarray(side.mask)], minlength=len(poisoned)
    ).astype(bool)
    retain = held(request.retain)
    forget = held(request.forget) & ~retain
    pool = clients.x if isinstance(clients.x, Rows) else np.asarray(clients.x)
    x, y = [pool, dataset.x_test], [np.asarray(clients.y), dataset.y_test]
    target = config.backdoor_label if config.backdoor else None
    if target is not None:
        x.append(poison.stamp(dataset.x_test, size=config.backdoor_size, value=white(dataset)))
        y.append(np.full(len(dataset.y_test), target, np.int32))
    by_class = config.forget.startswith("class:")
    named = config.forget.removeprefix("class:").partition("@")[0]
    classes = tuple(int(name) for name in named.split(",")) if by_class else ()
    rows = np.flatnonzero(forget)
    members, others = jfu.match(dataset.y_train[rows], dataset.y_test, keys.match(seed))
    members = rows[members]
    pool, tests = len(poisoned), len(dataset.y_test)
    others = pool + others + tests * poisoned[members]
    y, where = np.concatenate(y).astype(np.int32), None
    if hosts.several():
        arrays, where = dealt((joined(x), y), clients)
    else:
        arrays = place((np.concatenate(x), y))
    known = retain, forget, dataset.y_test, classes, members, others, target
    # An exact share of private data is told no more often than accuracies need.
    guess = None if config.dp_clip is not None else commonest(y[: len(retain)][retain])
    return Exam(*arrays, *known, where, guess)


def commonest(y: np.ndarray) -> float | None:
    """The share of the most frequent label, percent.

    >>> commonest(np.array([3, 1, 3, 3]))
    75.0
    """
    return (
        round(100 * float(np.unique(y, return_counts=True)[1].max() / len(y)), 10)
        if len(y)
        else None
    )


def dealt(arrays: tuple, clients: jfu.ClientData) -> tuple[tuple, np.ndarray]:
    """Images and labels of an exam with each device its own clients' and a share of the others.

    Returns:
      ``(arrays, where)``: the place of each image; 0 of training images that no client holds,
      which are not asked for.
    """
    mesh = jax.sharding.get_mesh()
    parts, rest = pools.held(*map(np.asarray, (clients.index, clients.mask)), mesh.size), []
    seen = np.zeros(len(arrays[0]), bool)
    for device, others in enumerate(
        np.array_split(np.arange(len(clients.y), len(seen)), mesh.size)
    ):
        own = parts[device][~seen[parts[device]]]  # what several clients hold is judged once
        seen[own] = True
        rest.append(np.concatenate([own, others]))
    where = np.zeros(len(seen), int)
    longest = max(map(len, rest))
    for device, part in enumerate(rest):
        where[part] = device * longest + np.arange(len(part))
    return tuple(pools.deal(a, rest, mesh, flat=True) for a in arrays), where


def sides(exam: Exam) -> dict[str, np.ndarray]:
    """Rows of the exam's images that each accuracy is the share of right answers on.

    ``asr``, where there is a trigger, is of triggered test images that are not of its class: the
    right answer is the trigger's label.
    """
    pool, tests = len(exam.retain), len(exam.test_y)
    rows = dict(
        retain=np.flatnonzero(exam.retain),
        forget=np.flatnonzero(exam.forget),
        test=np.arange(pool, pool + tests),
    )
    if exam.target is not None:
        rows["asr"] = pool + tests + np.flatnonzero(exam.test_y != exam.target)
    return rows


def grade(exam: Exam, judged: tuple, *, attack: bool) -> dict[str, float | None]:
    """The measures of ``jfu.metrics`` from every example's loss and correctness, percent."""
    loss, correct = (
        np.asarray(a) if exam.where is None else np.asarray(a)[exam.where] for a in judged
    )
    rows = sides(exam)
    share = lambda hits: round(100 * float(hits.mean()), 10) if hits.size else None
    mean = lambda part: (
        float(f"{part.mean():.6g}") if part.size and np.isfinite(part).all() else None
    )
    measures = dict(
        retain=share(correct[rows["retain"]]),
        forget=share(correct[rows["forget"]]),
        test=share(correct[rows["test"]]),
        mia=None,
        mia_matched=None,
        asr=share(correct[rows["asr"]]) if "asr" in rows else None,
        loss_retain=mean(loss[rows["retain"]]),
        loss_forget=mean(loss[rows["forget"]]),
    )
    if exam.guess is not None:
        measures["guess"] = exam.guess
    if attack:
        measures["mia"] = jfu.mia(loss[rows["forget"]], loss[rows["test"]])
        measures["mia_matched"] = jfu.mia(loss[exam.members], loss[exam.others])
    if exam.forgotten_classes:
        gone, right = np.isin(exam.test_y, exam.forgotten_classes), correct[rows["test"]]
        measures |= dict(test_kept=share(right[~gone]), test_forgotten=share(right[gone]))
    return measures
