"""Intervals that cover, and a test by exchange: against scipy, brute force and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from jfu import attacks, inference


def test_an_interval_is_students():
    values = np.random.default_rng(0).normal(3, 2, 7)
    found = inference.t_interval(values)
    wanted = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert found[1:] == pytest.approx(wanted) and found.value == pytest.approx(values.mean())
    with pytest.raises(ValueError, match="1 value has no spread"):
        inference.t_interval([1.0])


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_an_interval_of_few_seeds_covers_as_it_says(seeds):
    """Percentile bootstraps of 2, 3 and 5 contain the mean in 50, 72 and 81 of 100."""
    draws = np.random.default_rng(seeds).normal(size=(4000, seeds))
    found = [inference.t_interval(values) for values in draws]
    assert abs(np.mean([one.low < 0 < one.high for one in found]) - 0.95) < 0.011


def test_what_was_never_seen_may_have_a_rate_of_three_in_all_that_was_looked_at():
    """Of 70 examples at a true rate of 3 %, none is seen in 12 of 100 audits."""
    rng = np.random.default_rng(0)
    shares = 100 * rng.binomial(14, 0.03, (2000, 5)) / 14
    plain = [inference.t_interval(values) for values in shares]
    wide = [inference.t_interval(values, least=300 / 70) for values in shares]
    covers = lambda found: np.mean([one.low <= 3 <= one.high for one in found])
    assert covers(plain) < 0.9 and covers(wide) > 0.95


def test_the_jackknife_of_a_mean_is_students():
    rows = np.random.default_rng(1).normal(size=9)
    found = inference.jackknife(inference.left_out(np.mean, rows))
    assert found == pytest.approx(inference.t_interval(rows))
    both = inference.left_out(lambda a, b: [a.mean(), b.sum()], rows, rows)
    assert both.shape == (10, 2) and both[4, 1] == pytest.approx(rows.sum() - rows[3])
    with pytest.raises(ValueError, match="2 rows were left out"):
        inference.jackknife([1.0, 2.0, 3.0])


def shadow_area(inside, outside):
    return attacks.auc(*map(np.ravel, attacks.lira(inside, outside, pooled=True)))


@pytest.mark.parametrize("model", [0.3, 1.8])
def test_the_jackknife_of_an_attack_knows_what_learning_anew_would_change(model):
    """Two sets of retrained models: the attack's deviation over sets, and what is said of it."""
    rng = np.random.default_rng(2)

    def draw():
        level = rng.normal(8, 3, 20)
        one = lambda: level + rng.normal(0, model, (8, 1)) + 1.5 * rng.normal(size=(8, 20))
        return one(), one()

    found = [inference.left_out(shadow_area, *draw()) for _ in range(400)]
    away = np.array([values[0] for values in found]) - 0.5
    intervals = [inference.jackknife(values) for values in found]
    assert np.mean([one.low <= 0.5 <= one.high for one in intervals]) > 0.93
    assert np.mean([one.low > 0.5 for one in intervals]) < 0.05
    # Drawing the pairs' scores anew says too little, by a third and more.
    scores = [attacks.lira(*draw(), pooled=True) for _ in range(30)]
    drawn = [
        np.subtract(
            *attacks.interval(attacks.auc, [*zip(*one, strict=True)], pooled=True, draws=200)[::-1]
        )
        for one in scores
    ]
    assert np.mean(drawn) / 3.92 < 0.8 * away.std()


def by_hand(scores):
    """Every way to name one model of each seed, measure by measure."""
    many, models, measures = scores.shape
    rows = []
    for named in itertools.product(range(models), repeat=many):
        means = []
        for k in range(measures):
            each = [
                scores[s, m, k] - np.mean(np.delete(scores[s, :, k], m))
                for s, m in enumerate(named)
            ]
            means.append(np.mean(each))
        rows.append(means)
    rows = np.array(rows)
    found = rows / rows.std(0)
    return [(found.max(1) >= found[0, k] - 1e-9).mean() for k in range(measures)]


@pytest.mark.parametrize("models", [2, 3])
def test_exchanges_by_hand(models):
    scores = np.random.default_rng(3).normal(size=(4, models, 3))
    scores[:, 0, 1] += 1.5
    assert inference.exchanges(scores) == pytest.approx(by_hand(scores))


def test_exchanges_that_are_drawn_are_near_to_all_of_them():
    scores = np.random.default_rng(4).normal(size=(8, 3, 2))
    scores[:, 0, 0] += 0.5
    every, some = inference.exchanges(scores), inference.exchanges(scores, draws=4000)
    assert abs(every - some).max() < 0.03 and some.min() >= 1 / 4000


def test_a_measure_in_which_nothing_differs_shows_nothing():
    scores = np.zeros((5, 3, 2))
    scores[:, 0, 1] = 1.0
    assert inference.exchanges(scores).tolist() == [1.0, 1 / 3**5]
    assert inference.exchanges(scores[:, :, :0]).shape == (0,)


@pytest.mark.parametrize("law", ["normal", "cauchy", "rare"])
def test_one_law_is_told_apart_in_no_more_audits_than_it_says(law):
    """Eight measures that hang together, five seeds, whatever their law."""
    rng = np.random.default_rng(5)
    draw = dict(
        normal=lambda: rng.normal(size=(5, 3, 8)),
        cauchy=lambda: rng.standard_cauchy((5, 3, 8)),
        rare=lambda: (rng.random((5, 3, 8)) < 0.1).astype(float),
    )[law]
    chances = [inference.exchanges(draw() + draw()[:, :, :1]).min() for _ in range(1500)]
    assert np.mean(np.array(chances) <= 0.04) < 0.055
