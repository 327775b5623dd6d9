"""What one model answers on the examples of an evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu import attacks
from jfu.audit.measures import Arrays
from jfu.audit.probes import gradient_norms
from jfu.collectives import in_batches
from jfu.evaluation import Evaluation, sides
from jfu.metrics import Judge, logits_of, per_example
from jfu.types import Variables


class Tools(NamedTuple):
    """Compiled functions of a model, shared by seeds."""

    logits: Callable  # (variables, x [E, ...]) -> [E, C]
    outputs: Callable | None  # (variables, x [n, ...]) -> {layer: [n, D]}
    layers: tuple[str, ...]  # in call order, which a compiled function does not keep
    undo: Callable | None  # variables -> variables
    loss: Callable  # (variables, x, y) -> mean loss
    gradients: Callable  # (variables, x, y [n]) -> norms of the losses' gradients [n]
    judged: Callable | None = None  # (variables, x, y) -> (loss [E], score [E]); None for classes


class Answers(NamedTuple):
    """One model's predictions for the examples of an evaluation."""

    variables: Variables
    correct: np.ndarray  # [E] bool; scores where targets are no classes
    phi: np.ndarray  # [E], log odds of the label; minus the loss where there are none
    p: np.ndarray | None  # [E, C] probabilities; None where targets are no classes
    loss: np.ndarray  # [E]


def tools(
    apply: Callable,
    *,
    outputs: Callable | None = None,
    layers: tuple[str, ...] = (),
    undo: Callable | None = None,
    judge: Judge | None = None,
) -> Tools:
    """The compiled functions of a model, with the arguments of ``collect``."""
    logits = lambda variables, x: logits_of(apply(variables, x)).astype(jnp.float32)
    if judge is not None:
        return _of_judge(apply, judge, outputs, layers, undo)

    def loss(variables, x, y):
        return per_example(logits)(variables, x, y)[0].mean()

    def alone(variables, x, y):  # of one example, so in no batches
        return optax.softmax_cross_entropy_with_integer_labels(logits(variables, x), y).mean()

    return Tools(
        jax.jit(in_batches(logits)),
        _flat(outputs),
        layers,
        jax.jit(undo) if undo else None,
        jax.jit(loss),
        gradient_norms(alone),
    )


def _flat(outputs: Callable | None) -> Callable | None:
    flat = lambda tree: jax.tree.map(lambda a: a.reshape(len(a), -1), tree)
    return jax.jit(lambda variables, x: flat(outputs(variables, x))) if outputs else None


def _of_judge(apply, judge: Judge, outputs, layers, undo) -> Tools:
    """The same for a task whose targets are no classes."""
    judged = per_example(apply, judge=judge)
    return Tools(
        jax.jit(in_batches(apply)),
        _flat(outputs),
        layers,
        jax.jit(undo) if undo else None,
        jax.jit(lambda variables, x, y: judged(variables, x, y)[0].mean()),
        gradient_norms(lambda variables, x, y: judge(apply(variables, x), y)[0].mean()),
        jax.jit(judged),
    )


def answers(tools: Tools, variables: Variables, evaluation: Evaluation) -> Answers:
    """A model's predictions for an evaluation's examples, in float64."""
    if tools.judged is not None:
        found = tools.judged(variables, evaluation.x, evaluation.y)
        loss, score = (np.asarray(a, np.float64) for a in found)
        return Answers(variables, score, -loss, None, loss)
    logits = np.asarray(tools.logits(variables, evaluation.x), np.float64)
    labels = np.asarray(evaluation.y)
    with np.errstate(invalid="ignore"):  # a model that diverged
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        phi = attacks.confidence(logits, labels)
        return Answers(
            variables,
            right(logits, labels),
            phi,
            shifted / shifted.sum(1, keepdims=True),
            np.logaddexp(0, -phi),
        )


def scores(tools: Tools, variables: Variables, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Right predictions of a model, bool ``[n]``; scores where targets are no classes."""
    if tools.judged is not None:
        return np.asarray(tools.judged(variables, x, y)[1], np.float64)
    return right(np.asarray(tools.logits(variables, x)), y)


def right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which predictions are right, bool ``[n]``; rows that are not finite count as wrong.

    >>> right(np.array([[0.0, 1.0], [np.nan, np.nan]]), np.array([1, 0])).tolist()
    [True, False]
    """
    return (logits.argmax(1) == labels) & np.isfinite(logits).all(1)


def accuracies(evaluation: Evaluation, said: Answers) -> dict[str, Arrays]:
    """Right predictions on retained, forgotten and test data, and the loss gap."""
    rows = sides(evaluation)
    out: dict[str, Arrays] = {
        name: (said.correct[which],) for name, which in rows.items() if len(which)
    }
    if "forget" in out:
        means = [said.loss[rows[name]].mean() for name in ("retain", "forget")]
        out["loss_gap"] = (np.array([abs(means[0] - means[1])]),)
    return out


def staying(evaluation: Evaluation, said: Answers, retrained: Answers | None) -> dict[str, Arrays]:
    """Right predictions for each client that stays, on its own data.

    Args:
      retrained: the answers of the retrained model, to compare with; or None.
    """
    if evaluation.clients is None or not len(evaluation.clients[0]):
        return {}
    rows, owner = evaluation.clients
    right = said.correct[rows]
    out: dict[str, Arrays] = dict.fromkeys(("worst_client", "client_spread"), (right, owner))
    if retrained is not None:
        out["client_loss"] = right, retrained.correct[rows], owner
    return out


def matched(evaluation: Evaluation, score: np.ndarray, *names: str) -> dict[str, Arrays]:
    """A score ``[E]`` of the forgotten examples and of their matched examples, by measure."""
    if len(evaluation.members) < attacks.LEAST:
        return {}
    return dict.fromkeys(names, (score[evaluation.members], score[evaluation.others]))
