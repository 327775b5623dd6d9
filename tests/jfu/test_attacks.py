"""Attacks and intervals against numbers worked out by hand or by plain loops in float64."""

import math

import numpy as np
import pytest
from scipy import stats

from jfu import attacks


def test_confidence_is_the_logit_of_the_labels_probability():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 7)) * 3, rng.integers(0, 7, 40)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = p[np.arange(40), labels]
    np.testing.assert_allclose(attacks.confidence(logits, labels), np.log(p / (1 - p)), rtol=1e-9)
    # Where the probability rounds to one its logit is still known: 200 - log 2.
    sure = attacks.confidence(np.array([[200.0, 0.0, 0.0]]), np.array([0]))
    np.testing.assert_allclose(sure, 200 - math.log(2))


def test_auc_counts_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, 30).astype(float), rng.integers(0, 9, 50).astype(float)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
    assert attacks.auc(a, b) == pytest.approx(np.mean(pairs))
    assert attacks.auc(b, a) == pytest.approx(1 - np.mean(pairs))
    assert attacks.auc(np.array([np.inf, np.nan]), np.array([0.0])) == 0.5
    with pytest.raises(ValueError, match="no scores on one side"):
        attacks.auc(np.zeros(0), np.zeros(3))


def test_true_positives_are_those_above_a_hundredth_of_the_others():
    others = np.arange(2000.0)
    # Twenty others may lie above: the threshold is 1979, which is not exceeded by itself.
    members = np.array([1979.0, 1979.5, 1980.0, 5000.0])
    assert attacks.tpr_at(members, others) == 0.75
    assert (others > 1979).sum() == 20
    assert attacks.tpr_at(members, others, 0.001) is None  # two others are too few
    assert attacks.tpr_at(members, np.arange(10_000.0), 0.001) is not None
    # Ties count as others: nothing is above a score that all share.
    assert attacks.tpr_at(np.ones(5), np.ones(1000)) == 0.0


def test_rmia_by_loops():
    rng = np.random.default_rng(2)
    x, z = rng.uniform(size=6), rng.uniform(size=9)
    xs, zs = rng.uniform(size=(3, 6)), rng.uniform(size=(3, 9))
    q = lambda p: (1.3 * p.mean() + 0.7) / 2
    wins = lambda a, qa, skip=None: [
        (a / qa) / (z[j] / q(zs[:, j])) > 1 for j in range(9) if j != skip
    ]
    members, others = attacks.rmia(x, xs, z, zs)
    np.testing.assert_allclose(members, [np.mean(wins(x[i], q(xs[:, i]))) for i in range(6)])
    np.testing.assert_allclose(others, [np.mean(wins(z[i], q(zs[:, i]), i)) for i in range(9)])


@pytest.mark.parametrize("pooled", [False, True])
def test_lira_by_loops(pooled):
    rng = np.random.default_rng(3)
    member = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    inside = np.where(member, rng.normal(3, 1, (5, 3)), np.nan)
    outside = rng.normal(0, 2, (5, 3))

    def law(phi, example, but):
        kept = [v for s, v in enumerate(phi[:, example]) if s != but and not np.isnan(v)]
        return np.mean(kept), np.var(kept, ddof=1)

    def score(value, example, but):
        total = 0.0
        for phi, sign in ((inside, 1), (outside, -1)):
            mean, variance = law(phi, example, but)
            if pooled:
                variance = np.mean([law(phi, e, but)[1] for e in range(3)])
            total += sign * stats.norm.logpdf(value, mean, np.sqrt(variance))
        return total

    members, others = attacks.lira(inside, outside, pooled=pooled)
    for s in range(5):
        for e in range(3):
            assert others[s, e] == pytest.approx(score(outside[s, e], e, s), abs=1e-9)
            if member[s, e]:
                assert members[s, e] == pytest.approx(score(inside[s, e], e, s), abs=1e-9)
            else:
                assert np.isnan(members[s, e])


def test_lira_sees_what_single_examples_hide():
    """Examples of very different difficulty, each a little easier for models that trained on it."""
    rng = np.random.default_rng(4)
    level = rng.normal(0, 20, 60)[None]
    inside = level + 2 + rng.normal(size=(40, 60))
    outside = level + rng.normal(size=(40, 60))
    assert 0.5 < attacks.auc(inside.ravel(), outside.ravel()) < 0.54
    assert attacks.auc(*map(np.ravel, attacks.lira(inside, outside))) > 0.9
    same = attacks.lira(level + rng.normal(size=(40, 60)), outside)
    assert abs(attacks.auc(*map(np.ravel, same)) - 0.5) < 0.03


def test_lira_refuses_too_few_models():
    with pytest.raises(ValueError, match="2 shadow models on one side; at least 3"):
        attacks.lira(np.ones((2, 4)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"members are \[3, 4\] and others \[4, 4\]"):
        attacks.lira(np.ones((3, 4)), np.ones((4, 4)))


def brute_epsilon(u, r, delta=1e-5):
    cuts = [-np.inf, *sorted({*u, *r}), np.inf]
    best = 0.0
    for a in cuts:
        for b in cuts:
            if a >= b:
                continue
            for flip in (False, True):
                called = lambda v: ((v > a) & (v <= b)) != flip
                fpr, fnr = called(r).mean(), 1 - called(u).mean()
                if fpr == 0 and fnr == 0:
                    return 50.0
                if fpr == 0 or fnr == 0:
                    continue
                for x, y in ((fpr, fnr), (fnr, fpr)):
                    if 1 - delta - x > 0:
                        best = max(best, math.log((1 - delta - x) / y))
    return min(best, 50.0)


def test_epsilon_tries_every_attack():
    rng = np.random.default_rng(5)
    for shift in (0.0, 1.0, 3.0):
        u, r = rng.normal(shift, 1, (11, 4)), rng.normal(0, 1, (13, 4))
        found = attacks.epsilon(u, r)
        wanted = [brute_epsilon(u[:, i], r[:, i]) for i in range(4)]
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
    # One in four on either side is wrong: log((1 - 1e-5 - 1/4) / (1/4)) = log 2.99996.
    u, r = np.array([[0.0, 1, 2, 9]]).T, np.array([[7.0, 8, 10, 1.5]]).T
    assert attacks.epsilon(u, r)[0] == pytest.approx(math.log((0.75 - 1e-5) / 0.25))


def test_epsilon_leaves_out_models_that_never_held_the_example():
    u, r = np.array([[0.0], [np.nan], [1.0]]), np.array([[5.0], [6.0], [np.nan]])
    assert attacks.epsilon(u, r).tolist() == [50.0]


def test_interval_is_that_of_a_mean():
    rng = np.random.default_rng(6)
    groups = [[rng.normal(0, 1, 400)] for _ in range(25)]
    low, high = attacks.interval(np.mean, groups)
    mean = np.mean([g[0].mean() for g in groups])
    # Seeds and examples vary: var(mean) = (var between, which holds var/n once, + var/n) / 25.
    sd = np.sqrt((np.var([g[0].mean() for g in groups]) + 1 / 400) / 25)
    assert (low, high) == pytest.approx((mean - 1.96 * sd, mean + 1.96 * sd), abs=0.25 * sd)
    lower, higher = attacks.interval(np.mean, groups, singly=True)
    assert higher - lower > 4 * (high - low)
    assert attacks.interval(np.mean, groups) == (low, high)


def test_interval_of_all_rows_together_draws_whole_groups():
    """Two groups that are constant within: only whole groups are drawn."""
    groups = [[np.zeros(10)], [np.ones(30)]]
    low, high = attacks.interval(np.mean, groups, pooled=True)
    assert (low, high) == (0.0, 1.0)
    seen = set()
    attacks.interval(lambda rows: seen.add(len(rows)) or 0.0, groups, pooled=True)
    assert seen == {20, 40, 60}
