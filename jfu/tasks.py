"""Tasks: what a network's output means. One table of losses, measures and words.

===========  =========================  ==================  ====================================
task         targets y                  output              score of an example, percent
===========  =========================  ==================  ====================================
classify     int32 [M], 0 ... C-1       logits [B, C]       100 if the largest logit is the label
regress      float32 [M]                [B, 1]              100 (1 - (f(x) - y)^2 / var(y))
tokens       int32 [M, T], next tokens  logits [B, T, V]    share of tokens that are the largest
===========  =========================  ==================  ====================================

The mean score is the accuracy of a classification, the explained variance (R squared, relative to
the training targets) of a regression, and the token accuracy of a language model. So gaps, stopping
rules and tables are the same for all: more is better, and 100 is perfect. Predicting the mean of
all targets explains 0 %.

A language model's examples are token ids ``[M, T]``, and its targets the tokens that come next, -1
where none does (``jfu.data.tokens``). Its loss is the mean over an example's tokens, then over
examples, in nats. Perplexity is the exponential of the mean loss. A regression's error, ``rmse``,
is the root of the mean loss.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfu.local import classification
from jfu.metrics import Judge, classes, logits_of
from jfu.targets import are_numbers, are_texts
from jfu.types import Batch, LossFn

LEAST = -1e6  # the score of an example whose prediction is not finite, or as wrong as that


def no_more(losses: dict[str, np.ndarray]) -> dict[str, float | None]:
    """A task without further measures."""
    return {}


class Words(NamedTuple):
    """What messages call things; ``words_of`` knows rows of a table, too."""

    examples: str
    targets: str
    score: str  # the mean score
    trivial: str  # what has the score of a model that has learned nothing
    nothing: str  # that it has
    alike: str  # test examples that are like a forgotten one


class Task(NamedTuple):
    """A line of the table. ``data`` is a ``jfu.data.Dataset``."""

    shape: Callable[[Any], tuple[int, ...]]  # data -> the network's output for one example
    loss: Callable[[Callable], LossFn]  # apply -> the training loss
    judge: Callable[[Any], Judge]  # data -> (outputs, y) -> (loss [B], score [B])
    guess: Callable[[Any], float]  # data -> the loss of a model that has learned nothing
    classes: bool  # whether targets are classes
    words: Words
    # (outputs, y) -> [B], what attacks with shadow models compare: about normal over models
    statistic: Callable[[Any, jax.Array], jax.Array]
    texts: bool = False  # whether examples are token ids
    # losses by side, [n] each -> further measures
    more: Callable[[dict[str, np.ndarray]], dict[str, float | None]] = no_more


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


def log_odds(outputs: Any, y: jax.Array) -> jax.Array:
    """Log odds of the labels, ``[B]``: the statistic of LiRA for classifiers.

    Carlini, Chien, Nasr, Song, Terzis, Tramer. Membership Inference Attacks From First Principles.
    IEEE S&P 2022, arXiv 2112.03570.

    >>> log_odds(jnp.log(jnp.array([[0.8, 0.15, 0.05]])), jnp.array([0])).round(4)  # log 4
    Array([1.3863], dtype=float32)
    """
    logits = logits_of(outputs).astype(jnp.float32)
    mine = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
    rest = jnp.where(jax.nn.one_hot(y, logits.shape[1], dtype=bool), -jnp.inf, logits)
    return mine - jax.nn.logsumexp(rest, axis=1)


def residuals(outputs: Any, y: jax.Array) -> jax.Array:
    """Predictions minus targets, ``[B]``: the statistic of LiRA for regressions.

    LiRA wants one that is about normal over models. A prediction can be so, and squared errors,
    which are skewed, are not. No publication on this choice was found.

    >>> residuals(jnp.array([[2.0], [5.0]]), jnp.array([3.0, 3.0])).tolist()
    [-1.0, 2.0]
    """
    return logits_of(outputs)[:, 0].astype(jnp.float32) - y


def likelihoods(outputs: Any, y: jax.Array) -> jax.Array:
    """Mean log-likelihoods of texts' tokens, ``[B]``: the statistic of LiRA for language models.

    It is minus the loss of the whole text, as in Hayes et al., Exploring the Limits of Strong
    Membership Inference Attacks on Large Language Models, 2025, arXiv 2505.18773.

    >>> likelihoods(jnp.zeros((1, 2, 4)), jnp.array([[3, -1]]))  # log 1/4
    Array([-1.3862944], dtype=float32)
    """
    return -next_tokens(outputs, y)[0]


def next_token_loss(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Mean cross-entropy of the next token: over an example's tokens, then over live examples.

    Args:
      outputs: logits ``[B, T, V]``.
      batch: with next tokens ``y`` ``[B, T]``; places with -1 do not count.

    >>> batch = Batch(None, jnp.array([[2, -1], [0, 1]]), jnp.array([1.0, 0.0]))
    >>> next_token_loss(jnp.zeros((2, 2, 4)), batch)  # log 4
    Array(1.3862944, dtype=float32)
    """
    each, _ = _by_token(outputs, batch.y)
    # Rows that are not live may have a token that is none, and NaN times 0 is NaN.
    each = jnp.where(batch.mask > 0, each, 0)
    return each.sum() / jnp.maximum(batch.mask.sum(), 1)


def language(apply: Callable) -> LossFn:
    """The loss of a language ``Model``: that of the next token, and the statistics that changed."""

    def loss(variables, batch: Batch, key):
        outputs, changed = apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        return next_token_loss(outputs, batch), changed

    return loss


def next_tokens(outputs: Any, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss of each example, and the share of its tokens that the model predicts: a ``Judge``.

    >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.9, 0.1]]]))
    >>> loss, score = next_tokens(logits, jnp.array([[1, 0]]))  # (log 2 + log 10/9) / 2
    >>> round(float(loss[0]), 4), float(score[0])
    (0.3993, 0.5)
    """
    logits = logits_of(outputs, ndim=3)
    loss, live = _by_token(logits, y)
    right = (logits.argmax(-1) == y) & (live > 0)
    score = right.sum(-1) / jnp.maximum(live.sum(-1), 1)
    return loss, jnp.where(jnp.isfinite(loss), score, 0)


def _by_token(logits: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean losses ``[B]``, NaN for tokens beyond the vocabulary; and which tokens count."""
    live = (y >= 0).astype(jnp.float32)
    # A sum over the vocabulary, not a lookup; the derivative of a lookup is a scatter.
    each = -jax.nn.log_softmax(logits.astype(jnp.float32))
    beyond = y >= logits.shape[-1]
    token = jax.nn.one_hot(y, logits.shape[-1], dtype=bool) | beyond[..., None]
    each = jnp.where(token, each, 0).sum(-1) * jnp.where(beyond, jnp.nan, 1.0)
    return (each * live).sum(-1) / jnp.maximum(live.sum(-1), 1), live


def root_errors(losses: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Roots of mean squared errors on forgotten and on test data; None without data, or if not
    finite. They are in the targets' units: in deviations where targets are standardised.

    >>> root_errors(dict(forget=np.array([1.0, 7.0]), test=np.zeros(0)))
    {'rmse_forget': 2.0, 'rmse_test': None}
    """
    found: dict[str, float | None] = {}
    for side in ("forget", "test"):
        loss = losses[side].mean(dtype=np.float64) if losses[side].size else math.nan
        found[f"rmse_{side}"] = float(f"{math.sqrt(loss):.6g}") if math.isfinite(loss) else None
    return found


def perplexities(losses: dict[str, np.ndarray]) -> dict[str, float | None]:
    """``exp`` of mean losses on forgotten and on test data; None without data, or if not finite.

    >>> perplexities(dict(forget=np.log([2.0, 8.0]), test=np.zeros(0)))
    {'perplexity_forget': 4.0, 'perplexity_test': None}
    """
    found: dict[str, float | None] = {}
    for side in ("forget", "test"):
        loss = losses[side]
        known = loss.size and np.isfinite(loss).all() and loss.mean() < 700  # the largest exponent
        found[f"perplexity_{side}"] = float(f"{math.exp(loss.mean()):.6g}") if known else None
    return found


TASKS: dict[str, Task] = {
    "classify": Task(
        shape=lambda data: (len(data.labels),),
        loss=classification,
        judge=lambda data: classes,
        guess=lambda data: math.log(len(data.labels)),
        classes=True,
        words=Words(
            "images",
            "classes",
            "accuracy",
            "naming one class",
            "naming one class gets as much of the retained data right",
            "of the same class, trigger and label",
        ),
        statistic=log_odds,
    ),
    "regress": Task(
        shape=lambda data: (1,),
        loss=regression,
        judge=lambda data: explained(spread(data)),
        guess=spread,
        classes=False,
        words=Words(
            "examples",
            "numbers",
            "explained variance",
            "predicting the mean",
            "predicting the mean explains as much of the retained data",
            "drawn at random",
        ),
        statistic=residuals,
        more=root_errors,
    ),
    "tokens": Task(
        shape=lambda data: (data.y_train.shape[1], len(data.labels)),
        loss=language,
        judge=lambda data: next_tokens,
        guess=lambda data: math.log(len(data.labels)),
        classes=False,
        words=Words(
            "texts",
            "tokens",
            "token accuracy",
            "naming one token",
            "naming one token gets as many of the retained tokens right",
            "drawn at random",
        ),
        statistic=likelihoods,
        texts=True,
        more=perplexities,
    ),
}


def words_of(name: str, x: Any) -> Words:
    """The words of a task for examples ``x``: those of a table ``[M, D]`` are rows.

    >>> x = np.zeros((2, 5))
    >>> words_of("classify", x).examples, words_of("tokens", x).examples
    ('rows', 'texts')
    """
    task = TASKS[name]
    table = len(x.shape) == 2 and not task.texts
    return task.words._replace(examples="rows") if table else task.words


def of_targets(y: np.ndarray) -> tuple[str, str]:
    """The task that takes such targets, and what they are.

    >>> of_targets(np.zeros(2)), of_targets(np.zeros((2, 8), int))
    (('regress', 'floats'), ('tokens', 'next tokens'))
    """
    if are_numbers(y):
        return "regress", "floats"
    return ("tokens", "next tokens") if are_texts(y) else ("classify", "integers")


def check(name: str, data: Any) -> None:
    """Refuses targets that are not those of a task.

    Raises:
      ValueError: what they are, and the task that takes them.
    """
    other, kind = of_targets(data.y_train)
    if other != name:
        raise ValueError(
            f"--task={name} does not take targets that are {kind}; leave it out, or add "
            f"--task={other}"
        )
