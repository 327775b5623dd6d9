"""The numbers of an audit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jfu import attacks, inference
from jfu.audit import estimates, evidence, pairs, verdicts
from jfu.audit.measures import SEEDS, TABLE
from launch.report import terminal

KNOWN = verdicts.Controls(("no", ""), ("forget", "lira"), ("yes", ""), ())


def test_a_difference_is_of_one_seeds_models():
    """The method's share less the mean of the retrained ones', seed by seed, on 400 examples."""
    shares = dict(retrain=(0.80, 0.84, 0.82), retrain_again=(0.86, 0.78, 0.81))
    shares |= {"original": (0.99, 0.95, 0.94), "not": (0.84, 0.83, 0.83)}
    hits = lambda p: (np.arange(400) < 400 * p,)
    found = {n: {"forget": {s: hits(p) for s, p in enumerate(ps)}} for n, ps in shares.items()}
    measures, missing, broken, *_ = estimates.estimate(found, TABLE, 400)
    assert not missing and not any(broken.values())
    mine = measures["not"]["forget"]
    apart = 100 * np.array([0.84 - 0.83, 0.83 - 0.81, 0.83 - 0.815])
    student = inference.t_interval(apart, level=0.9)
    assert [mine["difference"][k] for k in ("value", "low", "high")] == pytest.approx(student)
    assert mine["value"] == pytest.approx(100 * np.mean(shares["not"]))
    assert mine["seeds"] == 3 and mine["resampled"] == "seeds" and mine["margin"] == 5
    # One more retrained model, by the differences of those there are: -6, 6 and 1 points.
    sd = np.sqrt((36 + 36 + 1) / 3 / 2 * 1.5)
    assert mine["floor"]["high"] == pytest.approx(2.353 * sd, rel=1e-3)
    old = 100 * np.array([0.99 - 0.83, 0.95 - 0.81, 0.94 - 0.815])
    halfway = inference.t_interval(apart - old / 2, level=0.9)
    assert mine["halfway"]["high"] == pytest.approx(halfway.high) and mine["halfway"]["high"] < 0
    # Of 27 ways to name a model of each seed the true one shows most for the old model.
    assert measures["original"]["forget"]["chance"] == pytest.approx(1 / 27)
    assert measures["original"]["forget"]["halfway"] is None
    assert measures["retrain"]["forget"]["chance"] is None
    other = measures["retrain"]["forget"]["difference"]["value"]
    assert other == pytest.approx(100 * np.mean([-0.06, 0.06, 0.01]))


def test_paired_differences_see_what_the_examples_noise_hides():
    """Examples of very different difficulty, an excess of eight points, 144 examples, five seeds.

    Judged unpaired, against where single retrained models fall, it was inside.
    """
    rng = np.random.default_rng(0)

    def audit_once():
        found = {name: {"forget": {}} for name in ("retrain", "retrain_again", "none")}
        for seed in range(5):
            hard = np.clip(rng.normal(0.5, 0.5, 144), 0, 1)
            for name in found:
                p = np.clip(hard + 0.16 * (name == "none") * (hard < 1), 0, 1)
                found[name]["forget"][seed] = (rng.random(144) < p,)
        return estimates.estimate(found, TABLE, 100)[0]["none"]["forget"]

    seen = [audit_once() for _ in range(60)]
    assert np.mean([e["chance"] <= SEEDS for e in seen]) > 0.8


def test_one_seeds_examples_are_drawn_for_all_models_together():
    hits = lambda p: {"forget": {0: (np.arange(400) < 400 * p,)}}
    found = {"retrain": hits(0.5), "retrain_again": hits(0.5), "not": hits(0.55)}
    (mine,) = estimates.estimate(found, TABLE, 400)[0]["not"].values()
    assert mine["seeds"] == 1 and mine["resampled"] == "examples" and mine["chance"] is None
    # The same examples are right for all three, but for a twentieth: sd 100 sqrt(.05 .95 / 400).
    wide = mine["difference"]["high"] - mine["difference"]["low"]
    assert wide == pytest.approx(2 * 1.645 * 1.09, rel=0.15)


def test_a_distance_is_compared_with_that_of_a_second_retraining():
    found = {
        "retrain_again": {"js_test": {0: (np.full(9, 0.1),), 1: (np.full(9, 0.3),)}},
        "not": {"js_test": {0: (np.full(9, 0.2),), 1: (np.full(9, 0.2),)}},
    }
    measures, *_ = estimates.estimate(found, TABLE, 200)
    apart = measures["not"]["js_test"]["difference"]
    student = inference.t_interval([0.1, -0.1], level=0.9)
    assert [apart[k] for k in ("value", "low", "high")] == pytest.approx(student)
    assert measures["retrain_again"]["js_test"]["difference"] is None


def test_an_attack_with_shadows_is_compared_with_a_coin():
    """And by its own deviation over pairs, with what it learns from the others."""
    draw = np.random.default_rng(1)
    inside, outside = draw.normal(0.5, 1, (12, 40)), draw.normal(0, 1, (12, 40))
    old = draw.normal(2, 1, (12, 40))
    found = {
        "not": pairs.areas("lira", inside, outside),
        "original": pairs.areas("lira", old, outside),
    }
    measures, *_ = estimates.estimate(found, TABLE, 400)
    mine, theirs = measures["not"]["lira"], measures["original"]["lira"]
    area = attacks.auc(*map(np.ravel, attacks.lira(inside, outside)))
    assert mine["value"] == pytest.approx(area)
    left = [
        attacks.auc(*map(np.ravel, attacks.lira(*(np.delete(a, r, 0) for a in (inside, outside)))))
        for r in range(12)
    ]
    student = inference.jackknife([area - 0.5, *(np.array(left) - 0.5)], level=0.9)
    spans = [mine["difference"][k] for k in ("value", "low", "high")]
    assert spans == pytest.approx(student)
    assert mine["chance"] == pytest.approx(inference.above(student, 0, 11, level=0.9))
    assert mine["halfway"]["value"] == pytest.approx(area - 0.5 - (theirs["value"] - 0.5) / 2)
    assert measures["not"].keys() == {"lira"}  # 480 others show no rate of 1 %


def test_a_rate_that_cannot_be_shown_is_not():
    few = {0: (np.zeros(50), np.zeros(999))}
    measures, missing, *_ = estimates.estimate({"not": {"tpr_1": few}}, TABLE, 100)
    assert measures == {"not": {}} and "999 scores" in missing["tpr_1"]


def test_every_attack_has_its_true_positive_rates():
    for name in ("tpr_{}_unmatched", "tpr_{}", "rmia_tpr_{}", "ulira_tpr_{}", "lira_tpr_{}"):
        one, tenth = (TABLE[name.format(key)] for key in ("1", "01"))
        assert "at 1 % false" in one.title and "at 0.1 % false" in tenth.title
        assert (one.null, tenth.null) == (0.01, 0.001)
        if one.pooled:
            continue
        sure = np.full(5, 20_000), np.arange(10_000)
        assert one.statistic(*sure) == tenth.statistic(*sure) == 1
        assert one.statistic(np.array([9905]), np.arange(10_000)) == 1
        assert tenth.statistic(np.array([9905]), np.arange(10_000)) == 0
    draw = np.random.default_rng(0)
    found = pairs.areas("lira", *draw.normal(size=(2, 4, 400)))
    assert found.keys() == {"lira", "lira_tpr_1"} and found["lira_tpr_1"][0][0].shape == (5,)


def test_what_was_cut_off_is_marked():
    """Of four models two had not relearnt in 20 rounds."""
    needed = lambda *many: {s: (np.array([m]), np.array([20])) for s, m in enumerate(many)}
    found = {"retrain_again": {"relearn": needed(21, 21)}, "not": {"relearn": needed(21, 5, 9, 21)}}
    measures, *_ = estimates.estimate(found, TABLE, 100)
    mine = measures["not"]["relearn"]
    assert (mine["value"], mine["censored"], mine["limit"]) == (14, 0.5, 20)
    assert terminal.in_words(mine, 1).startswith("≥ 14.0 [")
    assert terminal.in_words(measures["retrain_again"]["relearn"], 1) == "> 20"
    assert mine["resampled"] == "seeds"


def test_the_forgetting_quality_says_how_many_models_it_rests_on():
    scores = {0: (np.array([0.2, 0.7, 9.0]), np.array([[32, 31]]))}
    found = {name: dict(forgetting_score=scores) for name in ("not", "retrain_third")}
    measures, *_ = estimates.estimate(found, TABLE, 200)
    mine = measures["not"]["forgetting_score"]
    assert mine["models"] == [32, 31] and mine["resampled"] == "examples"
    assert mine["low"] < mine["value"] < mine["high"]


def test_a_model_that_diverged_knows_nothing_and_leaves_no_nan(tmp_path):
    """Logits of NaN, whose largest is said to be class 0, on data that is all of class 0."""
    made = SimpleNamespace(
        x=np.zeros((60, 2)),
        y=np.zeros(60, int),
        retain=np.arange(40) < 20,
        forget=np.arange(40) >= 20,
        test_y=np.zeros(20, int),
        target=None,
        members=np.arange(20, 40),
        others=np.arange(40, 60),
    )
    given = lambda variables, x: np.full((len(x), 3), variables)
    tools = SimpleNamespace(logits=given, judged=None)
    seen = {
        name: evidence.answers(tools, value, made)
        for name, value in dict(retrain=0.0, retrain_again=0.0, ga=np.nan).items()
    }
    found: dict = {}
    for name, one in seen.items():
        put = evidence.accuracies(made, one) | evidence.memberships(made, one, seen, name)
        put |= evidence.distances(made, one, seen["retrain"], put)
        found[name] = {key: {0: arrays, 1: arrays} for key, arrays in put.items()}
    measures, _, broken, *_ = estimates.estimate(found, TABLE, 100)
    json.dumps(measures, allow_nan=False)
    assert [measures["ga"][key]["value"] for key in ("retain", "forget", "test")] == [0, 0, 0]
    assert {"auc", "auc_matched", "loss_gap", "js_forget"} <= set(broken["ga"])
    assert "rmia" not in measures["ga"] and "rmia" in measures["retrain"]
    assert verdicts.forgotten(measures["ga"], {}, False, KNOWN)[0] != "yes"
    # The same of the true logits is right.
    assert measures["retrain"]["forget"]["value"] == 100


def shares(**known):
    """Right answers on forgotten data, in percent of 100 examples, one number a seed."""
    right = lambda percent: (np.arange(100) < percent,)
    return {name: {"forget": dict(enumerate(map(right, values)))} for name, values in known.items()}


def test_a_coupled_method_is_compared_with_the_model_that_shares_its_chance():
    """Retrained models differ much; the method has what one of them has, and one percent more."""
    chance, other = [10, 30, 20, 5, 45], [25, 5, 30, 40, 15]
    mine = [value + 1 for value in chance]
    found = shares(retrain=chance, retrain_again=other, mine=mine, original=[90] * 5)
    plain = estimates.estimate(found, draws=100).measures
    made = estimates.estimate(found, draws=100, coupled=["mine"])
    assert made.coupled == {"mine"} and estimates.estimate(found).coupled == frozenset()
    entry = made.measures["mine"]["forget"]
    # All five differences are 1. What was not seen in 500 examples may have a rate of 0.6 %.
    assert entry["difference"] == pytest.approx(dict(value=1.0, low=0.4, high=1.6))
    halves = [(a - b) / 2 + 1 for a, b in zip(chance, other, strict=True)]
    student = inference.t_interval(halves, level=0.9)
    before = plain["mine"]["forget"]["difference"]
    assert [before[k] for k in ("value", "low", "high")] == pytest.approx(student)
    # The test for a no exchanges all three models either way, and other methods stay as they are.
    assert entry["chance"] == plain["mine"]["forget"]["chance"]
    assert made.measures["original"] == plain["original"]
    assert made.measures["retrain"] == plain["retrain"]


def test_a_method_that_is_wrongly_called_coupled_gets_a_wider_interval():
    """It has the distribution of retraining, and shares nothing with it."""
    draw = np.random.default_rng(0)
    models = ("retrain", "retrain_again", "mine")
    wider, inside = [], []
    for _ in range(300):
        found = shares(**{name: draw.integers(10, 31, 5) for name in models})
        one, both = (
            estimates.estimate(found, draws=100, coupled=named).measures["mine"]["forget"]
            for named in (["mine"], [])
        )
        width = lambda entry: entry["difference"]["high"] - entry["difference"]["low"]
        wider.append(width(one) / width(both))
        inside.append(one["difference"]["low"] <= 0 <= one["difference"]["high"])
    assert np.mean(wider) > 1.1  # sqrt(2 / 1.5) = 1.15 for normal numbers
    assert 0.86 < np.mean(inside) < 0.94  # as often as its level says
