"""Tasks: what a network's output means. One table of losses, measures and words.

===========  =========================  ==================  ====================================
task         targets y                  output              score of an example, percent
===========  =========================  ==================  ====================================
classify     int32 [M], 0 ... C-1       logits [B, C]       100 if the largest logit is the label
regress      float32 [M]                [B, 1]              100 (1 - (f(x) - y)^2 / var(y))
===========  =========================  ==================  ====================================

The mean score is the accuracy of a classification, and the explained variance (R squared, relative
to the training targets) of a regression. So gaps, stopping rules and tables are the same for both:
more is better, and 100 is perfect. Predicting the mean of all targets explains 0 %.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfu.local import classification
from jfu.metrics import Judge, classes, logits_of
from jfu.types import Batch, LossFn

LEAST = -1e6  # the score of an example whose prediction is not finite, or as wrong as that


class Words(NamedTuple):
    """What messages call things."""

    examples: str
    score: str  # the mean score
    trivial: str  # what has the score of a model that has learned nothing
    nothing: str  # that it has


class Task(NamedTuple):
    """A line of the table. ``data`` is a ``jfu.data.Dataset``."""

    outputs: Callable[[Any], int]  # data -> size of the last axis of the network's output
    loss: Callable[[Callable], LossFn]  # apply -> the training loss
    judge: Callable[[Any], Judge]  # data -> (outputs, y) -> (loss [B], score [B])
    guess: Callable[[Any], float]  # data -> the loss of a model that has learned nothing
    classes: bool  # whether targets are classes
    words: Words


def squared_error(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Mean squared error over the live examples of a batch, scalar.

    Args:
      outputs: ``[B, 1]``.
      batch: with targets ``y`` ``[B]``, in float32.

    >>> batch = Batch(jnp.zeros((2, 1)), jnp.array([3.0, 9.0]), jnp.array([1.0, 0.0]))
    >>> squared_error(jnp.ones((2, 1)), batch)
    Array(4., dtype=float32)
    """
    each = (outputs[:, 0].astype(jnp.float32) - batch.y) ** 2
    return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1)


def regression(apply: Callable) -> LossFn:
    """The loss of a ``Model`` with one output: squared error, and the statistics that changed."""

    def loss(variables, batch: Batch, key):
        outputs, changed = apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        return squared_error(outputs, batch), changed

    return loss


def explained(variance: float) -> Judge:
    """The squared error of each example, and ``1 - error / variance``, at least ``LEAST``.

    Args:
      variance: of the training targets.

    >>> loss, score = explained(8.0)(jnp.array([[1.0], [3.0]]), jnp.array([3.0, 3.0]))
    >>> loss.tolist(), score.tolist()
    ([4.0, 0.0], [0.5, 1.0])
    """

    def judge(outputs, y):
        error = (logits_of(outputs)[:, 0].astype(jnp.float32) - y) ** 2
        score = 1 - error / variance
        return error, jnp.where(score > LEAST, score, LEAST)  # also of NaN

    return judge


def spread(data: Any) -> float:
    """The variance of the training targets.

    Raises:
      ValueError: all are equal.
    """
    variance = float(np.var(np.asarray(data.y_train, np.float64)))
    if not variance:
        raise ValueError(
            f"all {len(data.y_train)} training targets are {data.y_train[0]:g}; a regression has "
            "nothing to explain"
        )
    return variance


TASKS: dict[str, Task] = {
    "classify": Task(
        outputs=lambda data: len(data.labels),
        loss=classification,
        judge=lambda data: classes,
        guess=lambda data: math.log(len(data.labels)),
        classes=True,
        words=Words(
            "images",
            "accuracy",
            "naming one class",
            "naming one class gets as much of the retained data right",
        ),
    ),
    "regress": Task(
        outputs=lambda data: 1,
        loss=regression,
        judge=lambda data: explained(spread(data)),
        guess=spread,
        classes=False,
        words=Words(
            "examples",
            "explained variance",
            "predicting the mean",
            "predicting the mean explains as much of the retained data",
        ),
    ),
}


def check(name: str, data: Any) -> None:
    """Refuses targets that are not those of a task.

    Raises:
      ValueError: what they are, and the task that takes them.
    """
    floats = np.issubdtype(data.y_train.dtype, np.floating)
    if floats != (name == "regress"):
        kind = "floats" if floats else "integers"
        other = "regress" if floats else "classify"
        raise ValueError(
            f"--task={name} does not take targets that are {kind}; leave it out, or add "
            f"--task={other}"
        )
