"""How far a model is from the retrained one: in what it says, in what it sees, in its weights.

A distance means something only beside the distance between two retrained models that differ
in chance alone.
"""

import math
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jfu.types import Variables


def activation_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Euclidean distance of the probabilities of each example, in [0, sqrt 2], ``[n]``.

    Golatkar, Achille, Ravichandran, Polito, Soatto. Mixed-Privacy Forgetting in Deep Networks.
    CVPR 2021, arXiv 2012.13431.

    Args:
      p, q: probabilities ``[n, C]``.

    >>> activation_distance(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])).round(4)
    array([1.4142])
    """
    return np.sqrt(((np.asarray(p, np.float64) - q) ** 2).sum(-1))


def js_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of the probabilities of each example, bits in [0, 1], ``[n]``.

        JS = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2

    1 - JS to an untrained model is the zero-retrain forgetting score (Chundawat, Tarun, Mandal,
    Kankanhalli. Can Bad Teaching Induce Forgetting? AAAI 2023, arXiv 2205.08096).

    >>> js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    array([1.])
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    mean = (p + q) / 2

    def kl(a):
        logs = np.log2(np.where(a > 0, a, 1) / np.where(mean > 0, mean, 1))
        return (a * logs).sum(-1)

    return (kl(p) + kl(q)) / 2


def agreement(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Whether the most likely class of each example is the same, bool ``[n]``.

    >>> agreement(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.6, 0.4], [0.7, 0.3]]))
    array([ True, False])
    """
    return np.argmax(p, -1) == np.argmax(q, -1)


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear centred kernel alignment of two layers' outputs on the same examples, in [0, 1].

        |A^T B|_F^2 / (|A^T A|_F |B^T B|_F),  columns centred

    1 where one is the other rotated, scaled or shifted; negation is such a change.
    Kornblith, Norouzi, Lee, Hinton. Similarity of Neural Network Representations Revisited.
    ICML 2019, arXiv 1905.00414.

    Args:
      a, b: outputs ``[n, ...]``; the rest may differ.

    Returns:
      NaN where a layer gives every example the same.

    >>> a = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> round(cka(a, -3 * a), 12)
    1.0
    """
    grams = []
    for x in (a, b):
        x = np.asarray(x, np.float64).reshape(len(x), -1)
        x = x - x.mean(0)[None]
        grams.append(x @ x.T)
    norms = [np.linalg.norm(g) for g in grams]
    # Outputs that are constant but for rounding have no direction to compare.
    if min(norms) < 1e-12:
        return math.nan
    return float((grams[0] * grams[1]).sum() / (norms[0] * norms[1]))


def tug_of_war(model: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """``prod_m (1 - |model[m] - retrained[m]| / 100)`` over retain, forget, test; 1 is best.

    Zhao, Kurmanji, Barbulescu, Triantafillou, Triantafillou. What makes unlearning hard and what
    to do about it. NeurIPS 2024, arXiv 2406.01257.

    Args:
      model, retrained: accuracies in percent.

    >>> tug_of_war(dict(retain=90, forget=50, test=80), dict(retain=100, forget=50, test=80))
    0.9
    """
    each = [1 - abs(model[m] - retrained[m]) / 100 for m in ("retain", "forget", "test")]
    return float(np.prod(each))


def barrier(
    loss: Callable[[Variables], float], a: Variables, b: Variables, *, points: int = 21
) -> float:
    """The hill between two models: 0 where the straight line between them is as good as they.

        max over t of  L((1 - t) a + t b) - ((1 - t) L(a) + t L(b))

    at ``points`` even places. Two models that grew from one another are linearly connected, two
    that were trained from different beginnings are not (Frankle, Dziugaite, Roy, Carbin. Linear
    Mode Connectivity and the Lottery Ticket Hypothesis. ICML 2020, arXiv 1912.05671).

    Args:
      loss: of variables, a number, on data of the caller's choice.

    Returns:
      Infinite or NaN where a loss on the way is.

    >>> round(barrier(lambda w: (w**2 - 1) ** 2, -1.0, 1.0), 12)
    1.0
    """
    ends = float(loss(a)), float(loss(b))
    mix = lambda t: jax.tree.map(lambda p, q: (1 - t) * p + t * q, a, b)
    over = [
        float(loss(mix(t))) - ((1 - t) * ends[0] + t * ends[1])
        for t in np.linspace(0, 1, points)[1:-1]
    ]
    return float(np.max([0.0, *over]))  # which keeps NaN


def relative(a: Variables, b: Variables) -> float:
    """``|a - b| / |b|`` over all parameters.

    >>> relative({"w": np.array([3.0])}, {"w": np.array([2.0])})
    0.5
    """
    square = lambda tree: sum(
        float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(tree)
    )
    off = jax.tree.map(lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), a, b)
    return math.sqrt(square(off) / square(b))
