"""Measures: accuracy, membership inference, backdoor success, gap to the retrained model.

``retain``, ``forget`` and ``test`` are accuracies on the retained, the forgotten and the test
images, never augmented. ``mia`` is the accuracy of an attacker who separates forgotten examples
from test images by the model's loss; 50 % is a coin toss. ``asr`` is the share of test images with
the trigger that get the trigger's label; images of that class are left out. All are in percent.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu.collectives import in_batches
from jfu.local import unknown
from jfu.targets import are_numbers, are_texts
from jfu.types import PyTree, Variables

GAP_MEASURES = ("retain", "forget", "test", "mia")


# (outputs of a model, y [B]) -> (loss [B], score [B]); see jfu.tasks
Judge: TypeAlias = Callable[[PyTree, jax.Array], tuple[jax.Array, jax.Array]]


def classes(out: PyTree, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cross-entropy of each example, and whether the predicted class is the label."""
    logits = logits_of(out).astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    loss = jnp.where(unknown(y, logits.shape[-1]), jnp.nan, loss)
    # The argmax of a model that has diverged is not a prediction.
    return loss, (logits.argmax(-1) == y) & jnp.isfinite(loss)


def per_example(
    apply: Callable, *, batch_size: int | None = None, judge: Judge = classes
) -> Callable:
    """A function of ``(variables, x [M, ...], y [M])`` that evaluates every example.

    Args:
      apply: ``(variables, x) -> logits [B, C]``, or ``-> (logits, changed)``. For a model with
        several outputs, pick one: ``lambda variables, x: apply(variables, x)["a"]``.
      batch_size: examples at a time on every device of the mesh. The default is 500, and 16 for
        images of more than 100 values on a CPU, whose cache then holds what is computed.
      judge: the task's loss and score of each example (``jfu.tasks``); classes if not given.

    Returns:
      ``(loss [M] float32, correct [M] bool)``: cross-entropy, and whether the predicted class is
      the label. They are NaN and False if the label is not in 0 to C - 1.

    Raises:
      ValueError: when called, if the model has several outputs or its output is not ``[B, C]``.

    >>> judge = per_example(lambda variables, x: variables["params"] * x)
    >>> loss, correct = judge({"params": 2.0}, jnp.eye(3), jnp.array([0, 1, 0]))
    >>> correct.tolist()
    [True, True, False]
    """

    def judged(variables: Variables, x: jax.Array, y: jax.Array):
        def batch(variables, rows):
            return judge(apply(variables, rows[0]), rows[1])

        return in_batches(batch, batch_size)(variables, (x, y))

    return judged


def logits_of(out: PyTree, *, ndim: int | None = 2) -> jax.Array:
    """The logits ``[B, C]`` in a model's result, which may also have changed collections.

    Args:
      ndim: 3 for the logits of every token, ``[B, T, V]``; None for either.

    >>> logits_of((jnp.zeros((2, 3)), {"batch_stats": jnp.zeros(4)})).shape
    (2, 3)
    """
    if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Mapping):
        out = out[0]
    named = jax.tree_util.tree_leaves_with_path(out)
    if len(named) != 1:
        names = ", ".join(jax.tree_util.keystr(path) for path, _ in named)
        raise ValueError(
            f"the model gives {len(named)} outputs ({names}), and one can be evaluated; pass a "
            f"function that picks it, such as lambda variables, x: apply(variables, x)"
            f"{jax.tree_util.keystr(named[-1][0]) if named else ''}"
        )
    ((_, logits),) = named
    if ndim is not None and logits.ndim != ndim:
        wanted = "[B, C]: a row of classes for each example"
        wanted = wanted if ndim == 2 else "[B, T, V]: a row of the vocabulary for each token"
        raise ValueError(
            f"the model gives {list(logits.shape)} for a batch, and logits are {wanted}"
        )
    return logits


def mia(members: np.ndarray, others: np.ndarray) -> float | None:
    """Accuracy of the loss-threshold membership attack, percent; 50 means nothing was learnt.

    Logistic regression on one feature, the cross-entropy loss, separates examples that were
    forgotten (1) from examples never trained on (0). The larger side is cut to the size of the
    smaller by a fixed draw. Settings are scikit-learn's defaults. The result is the mean accuracy
    over ten stratified splits with a tenth as test part. This is the attack of the starting kit of
    the NeurIPS 2023 machine unlearning challenge (Triantafillou et al., 2024, arXiv 2406.09073).

    A test part of odd size has one more example of one side, and the training part one more of the
    other. A classifier that has learned nothing predicts that other side, so it is worse than a
    coin. With fewer than 100 examples a side, an odd test part therefore gets one more example.
    With more, the kit's size is kept. The accuracy of a coin then falls by at most 2.4 points.

    Args:
      members: losses of the forgotten examples, ``[n]``; infinite ones count as very large.
      others: losses of examples that the model never saw, ``[m]``.

    Returns:
      None if a side has fewer than ten examples.

    >>> mia(np.zeros(50), np.ones(80))
    100.0
    """
    size = min(len(members), len(others))
    if size < 10:
        return None
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    sides = [a[np.sort(rng.permutation(len(a))[:size])] for a in map(np.asarray, (members, others))]
    # A model that has diverged may have losses of any size; all are cut alike.
    losses = np.minimum(np.nan_to_num(np.concatenate(sides), nan=1e4), 1e4).reshape(-1, 1)
    labels = np.repeat([1, 0], size)
    scores = [
        LogisticRegression().fit(losses[train], labels[train]).score(losses[test], labels[test])
        for train, test in _attack_splits(size)
    ]
    return float(100 * np.mean(scores))


def efficacy_mia(
    retained: np.ndarray, unseen: np.ndarray, forgotten: np.ndarray, *, most: int = 2000
) -> float | None:
    """The share of forgotten examples that an attacker takes for unseen, percent; high is good.

    A support vector machine (radial kernel, C = 3, gamma = 1) learns on one number, the
    probability of the label, to separate retained examples from unseen ones. It never sees the
    forgotten ones. Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu. Model Sparsity Can Simplify Machine
    Unlearning. NeurIPS 2023, arXiv 2304.04934 (appendix C.3); also used by Fan, Liu, Zhang, Wong,
    Wei, Liu. SalUn. ICLR 2024, arXiv 2310.12508. It is another attack than ``mia``.

    Args:
      retained, unseen, forgotten: probabilities of the labels, ``[n]``, ``[m]`` and ``[f]``.
      most: both sides that it learns from are cut to the size of the smaller, and to ``most``, by
        a fixed draw. The papers have no such limit; they take the first ``m`` retained examples.

    Returns:
      None if a side has fewer than ten examples, or a probability is not finite.

    >>> seen, unseen = np.full(20, 0.99), np.full(20, 0.4)
    >>> efficacy_mia(seen, unseen, np.array([0.4, 0.4, 0.99, 0.4] * 3))
    75.0
    """
    size = min(len(retained), len(unseen), most)
    if min(size, len(forgotten)) < 10:
        return None
    if not all(np.isfinite(side).all() for side in (retained, unseen, forgotten)):
        return None
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    sides = [a[np.sort(rng.permutation(len(a))[:size])] for a in (retained, unseen)]
    if np.ptp(np.concatenate(sides)) == 0:  # nothing to learn from: a coin
        return 50.0
    attack = SVC(C=3, gamma=1.0).fit(np.concatenate(sides)[:, None], np.repeat([1, 0], size))
    return float(100 * (1 - attack.predict(np.asarray(forgotten)[:, None]).mean()))


@functools.lru_cache(maxsize=8)
def _attack_splits(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedShuffleSplit

    labels, test_size = np.repeat([1, 0], size), -(-2 * size // 10)
    test_size += test_size % 2 if size < 100 else 0
    splits = StratifiedShuffleSplit(n_splits=10, test_size=test_size, random_state=0)
    return list(splits.split(labels, labels))


def match(classes: np.ndarray, test_classes: np.ndarray, seed: int = 0) -> tuple:
    """Pairs of positions that give the forgotten and the test side the same mix of classes.

    The plain attack compares the forgotten data with all test images. The forgotten data may have
    another mix of labels, one class only, or poison. The attack then separates distributions, not
    members. Here each forgotten example gets a test image of its true class, as long as there are
    any. The caller gives it the same trigger and label.

    Args:
      classes: true classes of the forgotten examples, ``[n]``. Targets that are floats have no
        classes; all of them match. So do next tokens ``[n, T]``.
      test_classes: classes of the test images, ``[m]``.

    Returns:
      ``(members [k], others [k])``, ``k <= n``: positions in either array, paired.

    >>> members, others = match(np.array([0, 0, 1]), np.array([1, 1, 0]))
    >>> np.array([0, 0, 1])[members].tolist(), np.array([1, 1, 0])[others].tolist()
    ([0, 1], [0, 1])
    """
    if are_numbers(classes) or are_texts(classes):
        classes, test_classes = np.zeros(len(classes), int), np.zeros(len(test_classes), int)
    rng = np.random.default_rng(seed)
    members, others = [np.zeros(0, int)], [np.zeros(0, int)]
    for label in np.unique(classes):
        forgotten = rng.permutation(np.flatnonzero(classes == label))
        unseen = rng.permutation(np.flatnonzero(test_classes == label))
        many = min(len(forgotten), len(unseen))
        members.append(forgotten[:many])
        others.append(unseen[:many])
    return np.concatenate(members), np.concatenate(others)


def by_client(correct: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The accuracy of each client's examples, in the order of their ids, percent.

    Args:
      correct: which predictions are right, or any scores in which 1 is right, ``[n]``.
      owner: the id of each example's client, ``[n]``.

    >>> by_client(np.array([True, False, True]), np.array([7, 7, 2])).tolist()
    [100.0, 50.0]
    """
    _, place = np.unique(owner, return_inverse=True)
    return 100 * np.bincount(place, correct) / np.bincount(place)


def worst(correct: np.ndarray, owner: np.ndarray) -> float:
    """The lowest accuracy of a client, percent."""
    return float(by_client(correct, owner).min())


def spread(correct: np.ndarray, owner: np.ndarray) -> float:
    """The standard deviation of accuracy over clients, points."""
    return float(by_client(correct, owner).std())


def largest_loss(correct: np.ndarray, reference: np.ndarray, owner: np.ndarray) -> float:
    """The accuracy that one client has lost against another model, at most, points."""
    return float((by_client(reference, owner) - by_client(correct, owner)).max())


def gap(method: Sequence[Mapping], reference: Sequence[Mapping]) -> float | None:
    """The paper's average gap: ``mean_m |mean_s method[s][m] - mean_s reference[s][m]|``.

    Absolute differences of the means over seeds, averaged over retained, forgotten and test
    accuracy and membership inference; percentage points.

    Args:
      method, reference: one mapping of measures for each seed.

    Returns:
      None where a measure was not taken.

    >>> rows = lambda *retain: [dict(retain=r, forget=0.0, test=0.0, mia=0.0) for r in retain]
    >>> gap(rows(90.0, 98.0), rows(92.0, 92.0))  # (|94 - 92| + 0 + 0 + 0) / 4
    0.5
    """
    if any(row[m] is None for row in (*method, *reference) for m in GAP_MEASURES):
        return None
    mean = lambda rows, m: np.mean([row[m] for row in rows])
    return float(np.mean([abs(mean(method, m) - mean(reference, m)) for m in GAP_MEASURES]))


def gap_per_seed(method: Sequence[Mapping], reference: Sequence[Mapping]) -> list[float] | None:
    """The gap of each seed to the reference of the same seed; no signs cancel between seeds.

    >>> rows = lambda *retain: [dict(retain=r, forget=0.0, test=0.0, mia=0.0) for r in retain]
    >>> gap_per_seed(rows(90.0, 98.0), rows(92.0, 92.0))
    [0.5, 1.5]
    """
    gaps = [gap([m], [r]) for m, r in zip(method, reference, strict=True)]
    known = [gap for gap in gaps if gap is not None]
    return known if len(known) == len(gaps) else None


def first_round_within(rows: Sequence[Mapping], target: float, points: float = 0.5) -> int | None:
    """The first evaluated round whose retained accuracy is at least ``target - points``.

    Args:
      rows: mappings with ``round`` and ``retain``. Two kinds do not count: round 0, before any
        communication, and rows marked ``own``, in which the method's own work still goes on.

    >>> first_round_within([dict(round=1, retain=90.0), dict(round=2, retain=97.6)], 98.0)
    2
    """
    counted = [row for row in rows if row["round"] and not row.get("own")]
    reached = [row["round"] for row in counted if row["retain"] >= target - points]
    return min(reached, default=None)
