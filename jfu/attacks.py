"""Attacks on a model that should have forgotten, and how sure their results are.

All of them work in NumPy on numbers that a model gives to examples, so any model can be attacked.
The main one is ``phi``, the logit of the probability of the example's label:

    phi = log(p_y / (1 - p_y)) = z_y - log sum_{c != y} exp(z_c)

Over models that differ in chance alone, ``phi`` of one example is close to normal. Scores are
larger if the attacker believes that the example was trained on. A forgotten example is a member. An
example that was never trained on is one of the others.

Carlini et al., Membership Inference Attacks From First Principles, IEEE S&P 2022, arXiv 2112.03570.
"""

from collections.abc import Callable, Sequence

import numpy as np

LEAST = 10  # others that must lie beyond a threshold before a rate is shown


def confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``phi`` of every example, float64 ``[n]``, exact also where ``p_y`` rounds to 1.

    Args:
      logits: ``[n, C]``.
      labels: integers ``[n]``.

    >>> confidence(np.log([[0.8, 0.1, 0.1]]), np.array([0])).round(6)  # log(0.8 / 0.2)
    array([1.386294])
    """
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    mine, rest = logits[rows, labels], logits.copy()
    rest[rows, labels] = -np.inf
    top = rest.max(1)
    return mine - top - np.log(np.exp(rest - top[:, None]).sum(1))


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve: ``P(member > other) + P(member = other) / 2``; 0.5 is a coin.

    Args:
      members, others: scores, ``[n]`` and ``[m]``, both at least one; infinities are in order,
        NaN counts as the smallest.

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))  # of four pairs 3 are won, 1 is even
    0.875
    """
    # Sorted members too: places of neighbours are near in memory: four times as fast at 32,000.
    members, others = np.sort(_ordered(members)), np.sort(_ordered(others))
    below = np.searchsorted(others, members, "left")
    upto = np.searchsorted(others, members, "right")
    return float((below + upto).mean() / (2 * len(others)))


def tpr_at(members: np.ndarray, others: np.ndarray, rate: float = 0.01) -> float | None:
    """True-positive rate at a false-positive rate: members above all but ``rate`` of the others.

    Returns:
      A share in [0, 1]; None where fewer than ten others may lie above the threshold. With ``m``
      others no rate below ``10 / m`` can be shown, so 0.1 % takes 10,000 of them.

    >>> tpr_at(np.full(5, 2000), np.arange(1000)), tpr_at(np.full(5, 2000), np.arange(999))
    (1.0, None)
    """
    allowed = int(rate * len(others) + 1e-9)
    if allowed < LEAST:
        return None
    threshold = np.sort(_ordered(others))[len(others) - allowed - 1]
    return float((_ordered(members) > threshold).mean())


def rmia(
    members: np.ndarray,
    member_references: np.ndarray,
    others: np.ndarray,
    other_references: np.ndarray,
    *,
    a: float = 0.3,
    gamma: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Robust membership inference with a few reference models, offline.

        score(x) = share of others z with  [p(x) / q(x)] / [p(z) / q(z)] > gamma,
        q = ((1 + a) mean_references(p) + 1 - a) / 2

    ``p`` is the attacked model's probability of the label. ``q`` is what models give it on average
    if half of them have seen the example. References have not, which ``a`` corrects.

    Zarifzadeh, Liu, Shokri. Low-Cost High-Power Membership Inference Attacks. ICML 2024, arXiv
    2312.03262.

    Args:
      members, others: probabilities of the labels under the attacked model, ``[n]``, ``[m]``.
      member_references, other_references: under reference models that saw none of these
        examples, ``[R, n]`` and ``[R, m]``.

    Returns:
      Scores of the members ``[n]`` and of the others ``[m]``, each other without itself.

    >>> rmia(np.array([0.9]), np.array([[0.3]]), np.array([0.3, 0.4]), np.array([[0.3, 0.3]]))
    (array([1.]), array([0., 1.]))
    """
    mean = lambda references: ((1 + a) * np.mean(references, 0) + 1 - a) / 2
    x = np.asarray(members, np.float64) / mean(member_references)
    z = np.asarray(others, np.float64) / mean(other_references)
    if len(z) < 2:
        raise ValueError(f"rmia was given {len(z)} others; it needs at least 2 to compare with")
    ladder = np.sort(gamma * z)  # NaN, which nothing is above, goes last
    above = lambda rows: np.where(np.isnan(rows), 0, np.searchsorted(ladder, rows))
    itself = z > gamma * z
    return above(x) / len(z), (above(z) - itself) / (len(z) - 1)


def lira(
    members: np.ndarray, others: np.ndarray, *, pooled: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood ratios of every example in every shadow model, with the model itself left out.

        score = log N(phi; mu_in, sigma_in) - log N(phi; mu_out, sigma_out)

    with means and variances of each example over the other models. If ``members`` are from models
    that unlearned the example and ``others`` from models retrained without it, this is U-LiRA
    (Hayes, Shumailov, Triantafillou, Khalifa, Papernot. Inexact Unlearning Needs More Careful
    Evaluations to Avoid a False Sense of Privacy. SaTML 2025, arXiv 2403.01218). If both are from
    one kind of model, it is LiRA (Carlini et al., IEEE S&P 2022, arXiv 2112.03570).

    Args:
      members, others: ``phi``, ``[S, n]`` each; NaN if a model is not used for the example. Row
        ``s`` of both is left out together, so that under chance alone the two kinds of scores
        have the same distribution.
      pooled: whether all examples share one variance. By default they do if an example has fewer
        than 32 models on a side, too few for its own variance.

    Returns:
      Scores in the shapes of ``members`` and ``others``; NaN in the same places.

    Raises:
      ValueError: the shapes differ, or an example has fewer than three models on a side.
    """
    members, others = (_finite(np.array(a, np.float64)) for a in (members, others))
    if members.shape != others.shape or members.ndim != 2:
        raise ValueError(
            f"members are {list(members.shape)} and others {list(others.shape)}; pass one row for "
            "each shadow model, [S, n] each"
        )
    fewest = min(int((~np.isnan(side)).sum(0).min()) for side in (members, others))
    if fewest < 3:
        raise ValueError(
            f"an example has {fewest} shadow models on one side; at least 3 are needed, use more"
        )
    pooled = fewest < 32 if pooled is None else pooled
    inside, outside = _left_out(members, pooled), _left_out(others, pooled)

    def ratio(phi):
        return _log_normal(phi, *inside) - _log_normal(phi, *outside)

    return ratio(members), ratio(others)


def _left_out(phi: np.ndarray, pooled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each example over all rows but one, ``[S, n]`` each."""
    there = ~np.isnan(phi)
    centre = np.nanmean(phi, 0)
    off = np.where(there, phi - centre[None], 0.0)
    count = there.sum(0)[None] - there
    mean = (off.sum(0)[None] - off) / count
    square = ((off**2).sum(0)[None] - off**2) / count
    variance = (square - mean**2) * count / (count - 1)
    if pooled:
        variance = np.broadcast_to(variance.mean(1, keepdims=True), variance.shape)
    return mean + centre[None], np.maximum(variance, 1e-6)


def _log_normal(phi, mean, variance):
    return -((phi - mean) ** 2) / (2 * variance) - np.log(variance) / 2


def probe(
    members: np.ndarray, others: np.ndarray, *, penalty: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a linear probe on frozen features, each pair scored by the probe of all others.

        y = +1 for members, -1 for others;  H = K (K + penalty I)^-1,  K = X X^T / mean |x|^2
        score_B = y_B - (I - H_BB)^-1 (y - H y)_B        for a pair B, exactly as if left out

    ``X`` has the features, centred over both sides. A member and its matched example are left out
    together. If one alone were left out, the other side would be in the majority, and scores of
    models that memorised nothing would be below a coin. Alain, Bengio. Understanding Intermediate
    Layers Using Linear Classifier Probes. 2016, arXiv 1610.01644.

    Args:
      members, others: features, ``[k, D]`` each; rows of the same number are a pair.
      penalty: of the ridge, relative to the mean squared norm of the features.

    Returns:
      Scores of the members and of the others, ``[k]`` each; zeros if all features are alike.

    >>> rng = np.random.default_rng(0)
    >>> apart = rng.normal(size=(50, 3)) + [2, 0, 0], rng.normal(size=(50, 3))
    >>> auc(*probe(*apart)) > 0.85
    True
    """
    many = len(members)
    x = np.concatenate([members, others]).astype(np.float64)
    x = x - x.mean(0)
    gram = x @ x.T
    size = np.trace(gram) / len(x)
    if size < 1e-12:
        return np.zeros(many), np.zeros(many)
    y = np.repeat([1.0, -1.0], many)
    hat = np.linalg.solve(gram / size + penalty * np.eye(len(x)), gram / size)
    off = (y - hat @ y).reshape(2, many)
    a, b, c = 1 - np.diag(hat)[:many], 1 - np.diag(hat)[many:], -np.diag(hat[:many, many:])
    determinant = a * b - c**2
    mine = (b * off[0] - c * off[1]) / determinant
    other = (a * off[1] - c * off[0]) / determinant
    return 1.0 - mine, -1.0 - other


def read(
    features: np.ndarray, labels: np.ndarray, others: np.ndarray, *, penalty: float = 0.01
) -> np.ndarray:
    """The labels that a ridge head on frozen features gives to other examples, int ``[m]``.

        scores(x) = mean(Y) + k(x) (K + penalty I)^-1 (Y - mean(Y)),   K = X X^T / mean |x|^2

    ``X`` has the features, centred over ``features``, and ``Y`` the labels, one-hot. Alain, Bengio.
    Understanding Intermediate Layers Using Linear Classifier Probes. 2016, arXiv 1610.01644.

    Args:
      features, labels: of the examples that the head is fitted to, ``[n, D]`` and ``[n]``.
      others: features of the examples to read, ``[m, D]``.
      penalty: of the ridge, relative to the mean squared norm of the features.

    >>> x = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
    >>> read(x, np.array([7, 7, 4, 4]), np.array([[0.0, 0.8], [0.7, 0.0]])).tolist()
    [7, 4]
    """
    names, place = np.unique(labels, return_inverse=True)
    x, z = features.astype(np.float64), others.astype(np.float64)
    centre = x.mean(0)
    x, z = x - centre, z - centre
    size = max(float((x**2).sum(1).mean()), 1e-12)
    y = np.eye(len(names))[place]
    weights = np.linalg.solve(x @ x.T / size + penalty * np.eye(len(x)), y - y.mean(0))
    return names[(z @ x.T / size @ weights + y.mean(0)).argmax(1)]


def epsilon(unlearned: np.ndarray, retrained: np.ndarray, *, delta: float = 1e-5) -> np.ndarray:
    """Each example's epsilon of differential privacy between unlearning and retraining.

        epsilon = max over attacks of
            max{ log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR) }

    over every attack that cuts the line of outputs once or twice. FPR is the share of retrained
    models that the attack takes for unlearned ones. Attacks with exactly one rate of zero are
    dropped. An attack without any error gives 50. With few models, values are large by chance
    alone, so compare with the same measure between two sets of retrained models.

    Triantafillou et al. Are we making progress in unlearning? Findings from the first NeurIPS
    unlearning competition. 2024, arXiv 2406.09073.

    Args:
      unlearned, retrained: an output of every model, ``[S, n]`` and ``[T, n]``; NaN if a model
        is not used for the example.

    Returns:
      ``[n]``, at least 0.

    >>> epsilon(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]]))
    array([50.])
    """
    return np.array([_epsilon(u, r, delta) for u, r in zip(unlearned.T, retrained.T, strict=True)])


def _epsilon(unlearned, retrained, delta):
    unlearned, retrained = (_finite(a[~np.isnan(a)]) for a in (unlearned, retrained))
    cuts = np.concatenate([[-np.inf], np.unique(np.concatenate([unlearned, retrained]))])
    below = lambda a: np.searchsorted(np.sort(a), cuts, "right") / len(a)
    between = lambda a: below(a)[None] - below(a)[:, None]  # from one cut to a later one
    upper = np.triu_indices(len(cuts), 1)
    inside_u, inside_r = between(unlearned)[upper], between(retrained)[upper]
    largest = 0.0
    for fpr, fnr in ((inside_r, 1 - inside_u), (1 - inside_r, inside_u)):
        fpr, fnr = np.clip(fpr, 0, 1), np.clip(fnr, 0, 1)
        none = (fpr < 1e-12) & (fnr < 1e-12)
        if none.any():
            return 50.0
        both = (fpr > 1e-12) & (fnr > 1e-12)
        for one, other in ((fpr[both], fnr[both]), (fnr[both], fpr[both])):
            odds = np.maximum(1 - delta - one, 1e-300) / other
            largest = max(largest, float(np.log(odds).max(initial=0.0)))
    return min(largest, 50.0)


def forgetting_score(epsilons: np.ndarray) -> float:
    """Mean of ``2^-floor(epsilon / 0.5)``: 1 where every example is within 0.5 of retraining.

    The forgetting quality of the NeurIPS 2023 competition (Triantafillou et al., 2024, arXiv
    2406.09073).

    >>> forgetting_score(np.array([0.2, 0.7]))
    0.75
    """
    return float(np.mean(2.0 ** -np.floor(np.asarray(epsilons) / 0.5)))


def interval(
    statistic: Callable,
    groups: Sequence[Sequence[np.ndarray]],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    singly: bool = False,
    pooled: bool = False,
) -> tuple[float, float]:
    """Bootstrap interval of the mean over groups of ``statistic(*arrays)``.

    Each draw takes groups (such as seeds) with replacement, as many as there are. In each group it
    takes rows (examples) of every array in the same way. An interval says how sure the mean is, not
    where it should be.

    Args:
      statistic: a function of a group's arrays; arrays of one row are not resampled.
      groups: for each group its arrays, rows along the first axis.
      singly: gives the interval of one group's statistic, where one more group may fall, in place
        of the mean's.
      pooled: gives the interval of the statistic of all groups' rows together, and draws groups
        alone. It is for rows that share one threshold, such as those of many shadow models.

    Returns:
      The percentiles ``(1 -+ level) / 2`` of ``draws`` draws.

    >>> interval(np.mean, [[np.zeros(9)], [np.zeros(9)]])
    (0.0, 0.0)
    """
    rng = np.random.default_rng(seed)

    def one(arrays):
        rows = [a[rng.integers(0, len(a), len(a))] if len(a) > 1 else a for a in arrays]
        return statistic(*rows)

    def together(chosen):
        return statistic(*(np.concatenate(side) for side in zip(*chosen, strict=True)))

    many = 1 if singly else len(groups)
    values = []
    for _ in range(draws):
        chosen = [groups[g] for g in rng.integers(0, len(groups), many)]
        values.append(together(chosen) if pooled else np.mean([one(arrays) for arrays in chosen]))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _ordered(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if not scores.size:
        raise ValueError("an attack was given no scores on one side; pass at least one")
    return np.where(np.isnan(scores), -np.inf, scores)


def _finite(phi: np.ndarray) -> np.ndarray:
    """Infinities as the largest that matter; NaN stays."""
    return np.clip(phi, -1e4, 1e4)
