"""The audit: verdicts by their rules, planted cases end to end, and the page in a browser."""

import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.browser import chromium, look
from helpers.forks import launch
from helpers.scripts import ROOT
from helpers.workdirs import PLAIN, changed
from jfu import attacks, inference
from jfu.audit import estimates, evidence, pairs, verdicts
from jfu.audit.costs import ratios
from jfu.audit.measures import LAYERS, SEEDS, SIGNS, TABLE
from launch.records import erasure
from launch.report import page, reproduce, terminal
from launch.running import evidence as stored
from launch.running.audit_notes import other_shadows
from launch.setup.trial import names_the_poison
from launch.workdir import checkpoints, places

# ---------------------------------------------------------------- the rules


def entry(value, low, high, margin=None, chance=1.0, *, seeds=5, halfway=None):
    """A measure: its difference to retraining, and how often chance alone shows as much memory."""
    spans = dict(value=value, low=low, high=high)
    known = dict(resampled="seeds", seeds=seeds, floor=dict(low=-0.1, high=0.1), halfway=halfway)
    return spans | known | dict(difference=spans, margin=margin, chance=chance)


ALIKE = {
    key: entry(0.0, -0.6 * (width := m.margin or 1.0), 0.6 * width, m.margin, seeds=1 + 4 * here)
    for key, m in TABLE.items()
    if key in verdicts.NEEDED
    for here in [not m.pooled]
}
CAUGHT = dict(chance=0.004)
KNOWN = verdicts.Controls(("no", ""), ("forget", "lira"), ("yes", ""), ())


def forgotten(asked=False, known=KNOWN, without=(), **more):
    measures = {k: e for k, e in (ALIKE | more).items() if k not in without}
    return verdicts.forgotten(measures, {}, asked, known)


def test_forgotten_is_within_every_margin_of_retraining():
    verdict, why = forgotten()
    assert verdict == "yes"
    assert "The same rule detects the old model by accuracy on forgotten data; LiRA: AUC" in why
    verdict, why = forgotten(auc_matched=entry(0.0, -0.02, 0.06, 0.05))
    assert verdict == "inconclusive" and "AUC (-0.020 to +0.060, margin 0.05)" in why
    # Below the margin there is no memory, but it is not like retraining either.
    verdict, why = forgotten(rmia=entry(-0.2, -0.3, -0.1, 0.05))
    assert verdict == "inconclusive" and "not by memory beyond chance, in RMIA" in why
    # The unmatched attack and distances are shown and do not decide.
    far = entry(0.5, 0.4, 0.6, None, 0.001)
    assert forgotten(auc=far, mia=far, js_forget=far, update_auc_matched=far)[0] == "yes"


def test_memory_beyond_chance_is_a_no_whatever_its_size():
    verdict, why = forgotten(rmia=entry(0.03, 0.02, 0.04, 0.05, 0.04))
    assert verdict == "no" and "differs from models that never saw the data in RMIA" in why
    assert forgotten(rmia=entry(0.03, 0.02, 0.04, 0.05, 0.05))[0] == "yes"
    # Of shadow federations a chance of one in a hundred is taken.
    assert forgotten(lira=entry(0.03, 0.02, 0.04, 0.05, 0.01, seeds=1))[0] == "no"
    assert forgotten(lira=entry(0.03, 0.02, 0.04, 0.05, 0.02, seeds=1))[0] == "yes"


def test_every_matched_measure_decides():
    names = [k for k in TABLE if k.startswith(("tpr", "rmia", "lira"))]
    names = [k for k in names if not k.endswith("unmatched")]
    assert len(names) == 8
    for name in ("forget", "auc_matched", "mia_matched", "undo_auc_matched", *names):
        margin = TABLE[name].margin
        assert forgotten(**{name: entry(9, 8, 9.5, margin, 0.001)})[0] == "no", name
        if margin:
            wide = entry(0, -2 * margin, 2 * margin, margin)
            assert forgotten(**{name: wide})[0] == "inconclusive", name


@pytest.mark.parametrize("key", verdicts.NEEDED)
def test_no_yes_without_every_kind_of_attack(key):
    rest = {k: e for k, e in ALIKE.items() if k != key}
    verdict, why = verdicts.forgotten(rest, {key: "not run; --shadows=64 runs it"}, False, KNOWN)
    assert verdict == "inconclusive"
    assert f"{TABLE[key].title} (not run; --shadows=64 runs it)" in why
    # What cannot be compared is none; to say no one measure is enough.
    alone = ALIKE[key] | dict(difference=None)
    assert forgotten(**{key: alone})[0] == "inconclusive"
    other = "rmia" if key != "rmia" else "forget"
    assert forgotten(without=(key,), **{other: entry(9, 8, 9.5, 1, 0.001)})[0] == "no"


def test_a_backdoor_decides_where_the_request_names_it():
    alive, gone = entry(90, 80, 95, 5.0, 0.004), entry(1, 0, 2, 5.0)
    assert forgotten(asr=alive)[0] == "yes" and forgotten(asked=True, asr=alive)[0] == "no"
    assert forgotten(asked=True, asr=gone)[0] == "yes"
    assert forgotten(asked=True)[0] == "inconclusive"


def test_no_yes_where_the_same_rule_cannot_say_no_to_the_old_model():
    """A request so small that whatever is asked, every interval is wide or nothing is seen."""
    verdict, why = forgotten(known=KNOWN._replace(told=(), old=("inconclusive", "")))
    assert verdict == "inconclusive" and verdicts.TOO_SMALL in why
    # The old model itself, through the rule and its own controls.
    measures = dict(original=ALIKE, retrain_third=ALIKE)
    known = verdicts.controls(measures, {}, False)
    assert known.old[0] == "inconclusive" and known.told == ()
    measures["original"] = ALIKE | dict(forget=entry(9, 8, 9.5, 5.0, 0.004))
    known = verdicts.controls(measures, {}, False)
    assert known.old[0] == "no" and known.told == ("forget",) and known.third[0] == "yes"


def test_no_yes_for_what_is_not_shown_to_be_nearer_to_retraining_than_to_the_old_model():
    """In the measure that tells the old model most clearly."""
    between, near = (dict(value=v, low=v - 1, high=v + 1) for v in (-0.5, -2.0))
    half = entry(1.0, 0.2, 1.8, 5.0, halfway=between)
    verdict, why = forgotten(forget=half)
    assert verdict == "inconclusive" and "nearer to retraining than to the old model" in why
    assert forgotten(forget=half | dict(halfway=near))[0] == "yes"
    faint = ALIKE["lira"] | dict(halfway=between)  # not the clearest
    assert forgotten(lira=faint)[0] == "yes"


def test_controls_that_are_missing_or_fail_leave_no_yes():
    verdict, why = forgotten(known=KNOWN._replace(third=None))
    assert verdict == "inconclusive" and "--control makes it" in why
    failed = KNOWN._replace(third=("no", ""), mistaken=("rmia",))
    verdict, why = forgotten(known=failed)
    assert verdict == "inconclusive" and "A control failed: RMIA" in why
    # What takes an exact retraining for the old model says no to nobody, other measures do.
    assert forgotten(known=failed, rmia=entry(9, 8, 9, 0.05, 0.01))[0] == "inconclusive"
    assert forgotten(known=failed, forget=entry(9, 8, 9, 5.0, 0.01))[0] == "no"
    wide = ("inconclusive", f"{verdicts.WIDE}: RMIA.")
    assert forgotten(known=KNOWN._replace(third=wide))[0] == "inconclusive"


def test_signs_of_memory_forbid_a_yes_and_are_no_no():
    """It knows the data again after one round, retrained models after fifteen."""
    verdict, why = forgotten(relearn=entry(-14, -16, -12, None, 0.004))
    assert verdict == "inconclusive" and "It shows signs of memory: rounds to relearn." in why
    for key in ("undo_forget", "undo_asr"):
        assert forgotten(**{key: entry(20, 10, 30, None, 0.05)})[0] == "inconclusive"
        assert forgotten(**{key: entry(20, 10, 30, None, 0.06)})[0] == "yes"


def test_what_tells_models_apart_without_memory_forbids_a_yes_and_is_no_no():
    """Unlearned models that are less sure of the forgotten labels than retrained ones."""
    draw = np.random.default_rng(0)
    unlearned, retrained = draw.normal(-5, 1, (32, 40)), draw.normal(0, 1, (32, 40))
    other, never = draw.normal(0, 1, (32, 40)), draw.normal(-5, 1, (32, 40))
    found = {
        "not": pairs.areas("ulira", unlearned, retrained) | pairs.areas("lira", unlearned, never),
        "retrain_third": pairs.areas("ulira", other, retrained),
    }
    measures, _, _ = estimates.estimate(found, TABLE, 100)
    mine = measures["not"]
    assert mine["ulira"]["value"] > 0.99 and mine["ulira"]["chance"] is None
    verdict, why = forgotten(**mine)
    assert verdict == "inconclusive" and "not by memory beyond chance, in U-LiRA: AUC" in why
    # With LiRA on the side of memory it is one, and both are named.
    lira = mine["lira"] | dict(chance=0.001)
    verdict, why = forgotten(**mine | dict(lira=lira))
    assert verdict == "no" and "LiRA: AUC; U-LiRA: AUC" in why
    assert measures["retrain_third"]["ulira"]["difference"]["low"] < 0
    assert measures["retrain_third"]["ulira"]["difference"]["high"] > 0


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_few_seeds_are_never_enough_for_a_verdict(seeds):
    fewer = {k: e | dict(seeds=seeds) for k, e in ALIKE.items() if k not in ("ulira", "lira")}
    verdict, why = forgotten(**fewer)
    assert verdict == "inconclusive" and f"{seeds} seeds are too few" in why
    caught = fewer | dict(forget=fewer["forget"] | CAUGHT)
    assert forgotten(**caught)[0] == "inconclusive"
    # One measure alone that is known on fewer counts for neither.
    assert forgotten(rmia=ALIKE["rmia"] | dict(seeds=seeds))[0] == "inconclusive"
    assert forgotten(rmia=ALIKE["rmia"] | dict(seeds=seeds) | CAUGHT)[0] == "inconclusive"
    less = dict(low=0.1, high=0.2)
    costs = dict(seeds=seeds, never=0, rounds=less, bytes=less, operations=less)
    others = dict(asr=entry(0, -1, 1, 5.0, seeds=seeds), test=entry(0, -0.1, 0.1, 1.0, seeds=seeds))
    given = verdicts.verdicts("not", fewer | others, costs, {}, True, KNOWN)
    assert {verdict for verdict, _ in given.values()} == {"inconclusive"}
    assert all("seeds are too few" in why for _, why in given.values())


def test_what_one_seed_shows_is_no_verdict():
    once = {k: v | dict(seeds=1) for k, v in ALIKE.items()}
    costs = dict(seeds=1, never=0, rounds=dict(low=0.1, high=0.2))
    more = dict(test=entry(0, -1, 1, 1.0, seeds=1), asr=entry(0, -1, 1, 5.0, seeds=1))
    given = verdicts.verdicts("not", once | more, costs, {}, True)
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("One seed" in why for _, why in given.values())


def test_seeds_are_counted_where_they_were_measured():
    """Rows tell of five seeds; the method's model is there on four, the retrained on three."""
    share = lambda seeds: {"test": {s: (np.arange(9) < 5 + s,) for s in seeds}}
    found = {"retrain": share((0, 1, 2)), "retrain_again": share((0, 1)), "not": share(range(1, 5))}
    measures, _, _ = estimates.estimate(found, TABLE, 100)
    assert {name: m["test"]["seeds"] for name, m in measures.items()} == {
        "retrain": 2,
        "retrain_again": 2,
        "not": 1,
    }


def test_nothing_is_said_without_a_retrained_model():
    bare = lambda *spans: entry(*spans) | dict(difference=None)
    alone = dict(
        auc_matched=bare(0.9, 0.8, 1.0), asr=bare(90, 80, 95, 5.0), test=bare(90, 80, 95, 1.0)
    )
    given = verdicts.verdicts("not", alone, {}, {}, True)
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("retrained" in why for _, why in given.values())


def test_backdoor_and_use_are_judged_from_one_side_of_a_margin():
    success = lambda low, high: dict(asr=entry(0, low, high, 5.0))
    gone = lambda low, high: verdicts.backdoor_gone(success(low, high), True)[0]
    assert [gone(-9, 5), gone(4, 6), gone(5.1, 9)] == ["yes", "inconclusive", "no"]
    use = lambda low, high: verdicts.useful(dict(test=entry(0, low, high, 1.0)))[0]
    assert [use(-1, 9), use(-1.1, 1), use(-9, -1.1)] == ["yes", "inconclusive", "no"]


def test_a_backdoor_that_the_request_does_not_name_is_not_said_to_be_gone():
    """It lives on in retrained models too, so any success is within their margin."""
    alive = dict(asr=entry(0, -1, 1, 5.0))
    verdict, why = verdicts.backdoor_gone(alive, False)
    assert verdict == "not shown" and "does not name every image with the trigger" in why
    assert verdicts.backdoor_gone({}, False) == ("not shown", "No backdoor was planted.")


def rows_of(method, seed, retains, bytes_each, flops_each):
    """A method's rows, one a round from 0 on."""
    return [
        dict(
            method=method,
            seed=seed,
            round=r,
            retain=retain,
            bytes_down=r * bytes_each,
            bytes_up=0,
            flops=r * flops_each,
        )
        for r, retain in enumerate(retains)
    ]


def test_costs_are_ratios_to_retraining_on_the_same_seed():
    rows = rows_of("retrain", 0, [0, 50, 99, 100, 99.8], 10, 7)  # back at round 3: 99.3 at least
    rows += rows_of("retrain", 1, [0, 100, 100], 10, 7)  # at round 1
    rows += rows_of("not", 0, [9, 99.4], 20, 7)
    rows += rows_of("not", 1, [9, 80, 90, 99.5], 10, 7)
    found = ratios(rows, "not")
    assert found["never"] == 0 and found["seeds"] == 2
    # 1/3 and 3: their geometric mean is one, and no arithmetic of ratios says otherwise.
    half = 12.706 * np.log(3)  # Student's of one degree of freedom, times sd / sqrt(2)
    assert found["rounds"]["value"] == pytest.approx(1)
    assert found["rounds"]["high"] == pytest.approx(np.exp(half), rel=1e-3)
    assert found["bytes"]["value"] == pytest.approx(np.sqrt(2))
    assert verdicts.cheaper("not", found | dict(seeds=5))[0] == "inconclusive"
    less = dict(seeds=5, never=0, rounds=dict(low=0.2, high=0.9), bytes=dict(low=0.2, high=0.99))
    assert verdicts.cheaper("not", less)[0] == "yes"
    assert verdicts.cheaper("not", less | dict(bytes=dict(low=1.1, high=1.2)))[0] == "no"
    rows += rows_of("ga", 0, [100, 20, 20], 10, 7)
    found = ratios(rows, "ga")
    assert found == dict(seeds=1, never=1)
    assert verdicts.cheaper("ga", found | dict(seeds=5)) == (
        "no",
        "Retained accuracy never came back on 1 of the seeds.",
    )


@pytest.mark.parametrize("seeds", [5, 10])
def test_what_costs_as_much_as_retraining_is_seldom_called_cheaper(seeds):
    """Rounds drawn alike for both: it was 8 in 100 with percentiles of five seeds."""
    rng = np.random.default_rng(seeds)

    def audit_once():
        rows = []
        for seed in range(seeds):
            for name in ("retrain", "not"):
                back = int(rng.integers(20, 50))
                rows += rows_of(name, seed, [0] * back + [100], 10, 7)
        return verdicts.cheaper("not", ratios(rows, "not"))[0]

    said = [audit_once() for _ in range(300)]
    assert said.count("yes") <= 17 and said.count("no") <= 17  # 2.5 % are 7.5


# ---------------------------------------------------------------- the numbers


def test_a_difference_is_of_one_seeds_models():
    """The method's share less the mean of the retrained ones', seed by seed, on 400 examples."""
    shares = dict(retrain=(0.80, 0.84, 0.82), retrain_again=(0.86, 0.78, 0.81))
    shares |= {"original": (0.99, 0.95, 0.94), "not": (0.84, 0.83, 0.83)}
    hits = lambda p: (np.arange(400) < 400 * p,)
    found = {n: {"forget": {s: hits(p) for s, p in enumerate(ps)}} for n, ps in shares.items()}
    measures, missing, broken = estimates.estimate(found, TABLE, 400)
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
    measures, _, _ = estimates.estimate(found, TABLE, 200)
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
    measures, _, _ = estimates.estimate(found, TABLE, 400)
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
    measures, missing, _ = estimates.estimate({"not": {"tpr_1": few}}, TABLE, 100)
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
    measures, _, _ = estimates.estimate(found, TABLE, 100)
    mine = measures["not"]["relearn"]
    assert (mine["value"], mine["censored"], mine["limit"]) == (14, 0.5, 20)
    assert terminal.in_words(mine, 1).startswith("≥ 14.0 [")
    assert terminal.in_words(measures["retrain_again"]["relearn"], 1) == "> 20"
    assert mine["resampled"] == "seeds"


def test_the_forgetting_quality_says_how_many_models_it_rests_on():
    scores = {0: (np.array([0.2, 0.7, 9.0]), np.array([[32, 31]]))}
    found = {name: dict(forgetting_score=scores) for name in ("not", "retrain_third")}
    measures, _, _ = estimates.estimate(found, TABLE, 200)
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
    tools = SimpleNamespace(logits=lambda variables, x: np.full((len(x), 3), variables))
    seen = {
        name: evidence.answers(tools, value, made)
        for name, value in dict(retrain=0.0, retrain_again=0.0, ga=np.nan).items()
    }
    found: dict = {}
    for name, one in seen.items():
        put = evidence.accuracies(made, one) | evidence.memberships(made, one, seen, name)
        put |= evidence.distances(made, one, seen["retrain"], put)
        found[name] = {key: {0: arrays, 1: arrays} for key, arrays in put.items()}
    measures, _, broken = estimates.estimate(found, TABLE, 100)
    json.dumps(measures, allow_nan=False)
    assert [measures["ga"][key]["value"] for key in ("retain", "forget", "test")] == [0, 0, 0]
    assert {"auc", "auc_matched", "loss_gap", "js_forget"} <= set(broken["ga"])
    assert "rmia" not in measures["ga"] and "rmia" in measures["retrain"]
    assert verdicts.forgotten(measures["ga"], {}, False, KNOWN)[0] != "yes"
    # The same of the true logits is right.
    assert measures["retrain"]["forget"]["value"] == 100


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def planted():
    """A report with every measure, made of numbers drawn at random."""
    draw = np.random.default_rng(2)
    keys = [k for k in TABLE if k not in (*LAYERS, "tpr_01")]
    keys += [f"{k}.{layer}" for k in LAYERS for layer in ("stem", "encoder/block_0/mlp")]
    names = [*page.REFERENCES, "finetune", "none", "not", "federaser", "a_method_of_long_name"]

    verdicts_of_all = ("yes", "no", "inconclusive", "not shown")

    def measure():
        low, value, high = sorted(draw.uniform(0, 100, 3))
        return entry(value, low, high, draw.choice([None, 5.0]))

    methods = {
        name: dict(
            measures={k: measure() for k in keys if (name, k) != ("not", "relearn")},
            not_shown=dict(relearn="a reason of its own") if name == "not" else {},
            verdicts=dict(zip(verdicts.RULES, verdicts_of_all, strict=True)),
            reasons=dict.fromkeys(verdicts.RULES, "Inside the floor: accuracy <on> data."),
        )
        for name in names
    }
    curve = {name: [[r, float(draw.uniform(0, 100))] for r in range(9)] for name in names}
    return dict(
        audited="2025-01-01",
        asked=dict(
            request="client:0",
            examples=144,
            retained=1293,
            clients=10,
            dataset="digits",
            model="small",
            backdoor=True,
            backdoor_named=True,
        ),
        done=dict(
            rounds=80,
            recovery_rounds=40,
            retrained=["retrain", "retrain_again", "retrain_third"],
        ),
        controls=dict(old=["no", "It can be told."], third=["inconclusive", verdicts.WIDE]),
        seeds=[0, 1, 2, 3, 4],
        notes=["A note."],
        questions=verdicts.RULES,
        methods=methods,
        not_shown=dict(tpr_01="144 examples are too few"),
        curves=dict.fromkeys(("retain", "forget", "asr"), curve)
        | dict(loss_gap={k: v for k, v in curve.items() if k != "finetune"}),
        reproduce=dict(
            command="python -m launch.compare " + "--methods=" + "x" * 300,
            audit="python -m launch.audit",
            layout={},
            versions=dict(run=dict(jax="1"), audit=dict(jax="2")),
            python="3.11.0",
            hashes={f"cells/{name}.safetensors": "0f" * 32 for name in names},
        ),
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(planted, tmp_path, width):
    if chromium() is None:
        pytest.skip("there is no Chromium here")
    path = tmp_path / "audit.html"
    path.write_text(page.html(planted))
    seen = look(path, width)
    assert not seen.errors and not seen.requests and not seen.sideways
    assert seen.scroll_width == seen.client_width == width
    assert not seen.without_alternative and seen.plots > 200
    assert seen.title == "Audit: forget client:0"


def test_the_page_says_what_was_not_shown_and_never_passed(planted):
    found = planted
    text = page.html(found)
    assert "passed" not in text.replace("passed off", "")
    assert text.count("not shown") >= len(found["not_shown"])
    named = re.sub(r"<metadata>.*?</metadata>|<svg [^>]*>", "", text, flags=re.S)
    assert "http" not in named  # but for the names of XML's own spaces
    for digest in found["reproduce"]["hashes"].values():
        assert digest in text
    # Of a measure or a curve that is there for others too.
    assert "not shown (a reason of its own)" in text and "Not shown: finetune." in text
    assert "test accuracy, %: not shown" in text
    for words in ("80 rounds of training", "with 40 rounds to recover", "three times a seed"):
        assert words in text
    for words in ("run: jax 1", "audit: jax 2", "Python 3.11.0", "interval over seeds"):
        assert words in text
    assert "retrained models end at" in text and "floor at the last round" in text
    assert "must be a no" in text and "must be yes or too small to tell" in text
    foreign = {**found, "notes": ["<script>alert(1)</script>"]}
    assert "<script>" not in page.html(foreign)


def test_the_page_says_whether_the_request_named_the_backdoor(planted):
    asked = planted["asked"]
    held = "What was to be forgotten held a backdoor"
    assert held in page.html(planted)
    other = page.html({**planted, "asked": {**asked, "backdoor_named": False}})
    assert held not in other and "does not name every image that holds it" in other


def test_commands_that_make_it_again_are_one_for_each_run_of_seeds():
    run = SimpleNamespace(script="compare", config=changed(PLAIN, dataset="my set.npz"), more={})
    lines = reproduce.command(run, [0, 1, 4, 6, 7], ["original", "retrain", "retrain_again", "not"])
    begins = "python -m launch.compare '--dataset=my set.npz' "
    assert all(line.startswith(begins) for line in lines.splitlines())
    assert " --clients=3 " in lines and " --momentum=0.0 " in lines
    for name in ("dp_noise", "trim", "clip", "byzantine", "backdoor_label", "drop_labels"):
        assert f" --{name}=" not in lines  # refused, or empty
    spans = [line.partition("--methods=retrain,not ")[2] for line in lines.splitlines()]
    wanted = [(0, 2), (4, 1), (6, 2)]
    assert spans == [f"--first_seed={a} --seeds={n}" for a, n in wanted]


def test_the_poison_is_named_where_all_of_it_is():
    def named(rows, forget):
        rows, forget = np.array(rows, bool), np.array(forget, bool)
        return names_the_poison(rows, forget, ~forget & ~gone)

    gone = np.zeros(4, bool)
    assert named([1, 0, 1, 0], [1, 1, 1, 0])
    assert not named([1, 0, 1, 0], [1, 1, 0, 0])  # one image stays
    assert not named([1, 0, 1, 0], [0, 1, 0, 1])  # another client's
    assert not named([0, 0, 0, 0], [1, 1, 0, 0])  # none was planted
    gone = np.array([1, 0, 0, 0], bool)
    assert named([1, 0, 1, 0], [0, 0, 1, 1])  # the rest of it had left before
    assert not named([1, 0, 0, 0], [0, 0, 1, 1])  # all of it had


def test_what_shadows_do_otherwise_is_said():
    run = lambda **more: SimpleNamespace(
        config=SimpleNamespace(init_params=more.pop("init", None), recovery_rounds=40), more=more
    )
    assert other_shadows(run()) == other_shadows(run(stop="budget")) == []
    (early,) = other_shadows(run(stop="regained"))
    assert "all 40 rounds" in early
    (given,) = other_shadows(run(init="model.safetensors"))
    assert "came from a file" in given


# ---------------------------------------------------------------- end to end

SMALL = ["--dataset=synthetic", "--train_size=200", "--clients=4"]
METHODS = "--methods=retrain,finetune,none,not"
QUESTIONS = ["forgotten", "backdoor_gone", "useful", "cheaper_than_retraining"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    work = tmp_path_factory.mktemp("audited") / "W"
    launch("compare", *SMALL, METHODS, "--rounds=12", "--seeds=5", f"--workdir={work}")
    out, _ = launch(
        "audit", f"--workdir={work}", "--shadows=8", "--relearn_rounds=3", "--draws=200"
    )
    return work, json.loads((work / "audit.json").read_text()), out


@pytest.mark.slow
def test_planted_cases_come_out_right(audited):
    _, found, _ = audited
    methods = found["methods"]
    assert list(methods) == [*page.REFERENCES, "finetune", "none", "not"]
    for method in methods.values():
        assert list(method["verdicts"]) == QUESTIONS
        assert set(method["verdicts"].values()) <= {"yes", "no", "inconclusive", "not shown"}
        for measure in method["measures"].values():
            assert measure["low"] <= measure["value"] + 1e-9
            assert measure["value"] <= measure["high"] + 1e-9
    # The original passed off as unlearned is caught, by accuracy, by U-LiRA and by its trigger.
    never = methods["none"]
    assert never["verdicts"]["forgotten"] == "no"
    assert never["verdicts"]["backdoor_gone"] == "no"
    assert "accuracy on forgotten data" in never["reasons"]["forgotten"]
    assert "U-LiRA" in never["reasons"]["forgotten"]
    assert never["measures"]["relearn"]["value"] == 0
    assert never["measures"]["barrier_to_original"]["value"] < 1e-5
    # A third retraining is not called unforgotten; the first two are what it is judged by.
    assert methods["retrain_third"]["verdicts"]["forgotten"] in ("yes", "inconclusive")
    assert methods["retrain_third"]["verdicts"]["backdoor_gone"] in ("yes", "inconclusive")
    assert found["controls"]["old"][0] == "no"
    assert found["controls"]["third"][0] == methods["retrain_third"]["verdicts"]["forgotten"]
    for name in ("retrain", "retrain_again"):
        assert methods[name]["verdicts"]["forgotten"] == "not shown"
    # NoT's negation, taken back, is nearer to the original than a retrained model's.
    away = {n: methods[n]["measures"]["undo_to_original"]["value"] for n in ("not", "retrain")}
    assert away["not"] < away["retrain"]


@pytest.mark.slow
def test_every_measure_is_shown_or_said_not_to_be(audited):
    _, found, _ = audited
    shown = {
        key.partition(".")[0] for method in found["methods"].values() for key in method["measures"]
    }
    assert shown | set(found["not_shown"]) == set(TABLE)
    assert not shown & set(found["not_shown"])
    assert "tpr_01" in found["not_shown"]


@pytest.mark.slow
def test_numbers_agree_with_the_comparison(audited):
    work, found, _ = audited
    table = json.loads((work / "table.json").read_text())
    for name in ("retrain", "not", "none"):
        for key in ("retain", "forget", "test", "asr", "mia_matched"):
            if table["methods"][name][key]:
                mine = found["methods"][name]["measures"][key]["value"]
                assert mine == pytest.approx(table["methods"][name][key]["mean"])


@pytest.mark.slow
def test_the_command_that_reproduces_goes_on_with_the_same_directory(audited):
    work, found, _ = audited
    _, module, script, *given = shlex.split(found["reproduce"]["command"])
    assert module == "-m"
    before = (work / "results.jsonl").read_bytes()
    launch(script.removeprefix("launch."), *given, f"--workdir={work}")  # refused if it differed
    assert (work / "results.jsonl").read_bytes() == before


@pytest.mark.slow
def test_shadows_are_kept(audited):
    work, found, _ = audited
    blocks = sorted((work / "shadows").iterdir())
    assert blocks
    stamps = [b.stat().st_mtime_ns for b in blocks]
    _, error = launch(
        "audit", f"--workdir={work}", "--shadows=8", "--relearn_rounds=0", "--draws=100"
    )
    assert "shadow federations" not in error
    assert [b.stat().st_mtime_ns for b in blocks] == stamps
    again = json.loads((work / "audit.json").read_text())
    key = lambda r: r["methods"]["not"]["measures"]["ulira"]["value"]
    assert key(again) == key(found)
    assert "--relearn_rounds=20" in again["not_shown"]["relearn"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_that_was_made_in_a_browser(audited, width):
    if chromium() is None:
        pytest.skip("there is no Chromium here")
    seen = look(audited[0] / "audit.html", width)
    assert not seen.errors and not seen.requests and not seen.sideways
    assert seen.scroll_width == seen.client_width == width
    assert not seen.without_alternative and seen.plots > 100


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """Labels are noise everywhere, so what was not learnt by heart is not known at all."""
    folder = tmp_path_factory.mktemp("memorised")
    draw = np.random.default_rng(0)
    images = lambda: draw.integers(0, 256, (160, 8, 8, 1), dtype=np.uint8)
    sets = {f"x_{side}": images() for side in ("train", "test")}
    sets |= {f"y_{side}": draw.integers(0, 4, 160) for side in ("train", "test")}
    np.savez(folder / "noise.npz", **sets)
    recipe = ["--clients=4", "--model=small", "--rounds=60", "--epochs=2", "--batch_size=16"]
    recipe += ["--lr=0.15", "--backdoor", "--backdoor_fraction=0.3", "--eval_every=60"]
    work = folder / "W"
    flags = [f"--dataset={folder / 'noise.npz'}", *recipe, "--methods=retrain,none", "--seeds=5"]
    launch("compare", *flags, f"--workdir={work}")
    return work


@pytest.mark.slow
def test_what_was_learnt_by_heart_is_caught_by_every_attack(memorised):
    launch("audit", f"--workdir={memorised}", "--shadows=16", "--relearn_rounds=3")
    found = json.loads((memorised / "audit.json").read_text())
    never = found["methods"]["none"]
    told = verdicts.caught(never["measures"], False)
    assert {"forget", "auc_matched", "rmia", "lira", "mia_matched"} <= set(told)
    assert "asr" in verdicts.caught(never["measures"], True)
    assert (
        verdicts.outside(never["measures"]["ulira"]) and never["measures"]["ulira"]["value"] > 0.9
    )
    assert never["measures"]["relearn"]["chance"] <= SIGNS
    assert never["verdicts"]["forgotten"] == never["verdicts"]["backdoor_gone"] == "no"
    for key in ("forget", "auc_matched", "rmia", "lira", "ulira"):
        assert TABLE[key].title in never["reasons"]["forgotten"]
    assert found["controls"]["old"][0] == "no"


@pytest.mark.slow
def test_a_third_retraining_is_a_control_that_is_kept(memorised, tmp_path):
    """It is judged by two others, not by itself; the run's own files stay as they are."""
    work = tmp_path / "W"
    shutil.copytree(memorised, work)
    shutil.rmtree(work / "controls", ignore_errors=True)
    mine = ("results.jsonl", "table.json", "cells/0-retrain.safetensors")
    told = (work / "ledger.jsonl").read_bytes()
    before = [(work / name).read_bytes() for name in mine]
    flags = ["--relearn_rounds=0", "--draws=200"]
    launch("audit", f"--workdir={work}", *flags)
    found = json.loads((work / "audit.json").read_text())
    assert found["controls"]["third"] is None and not (work / "controls").exists()
    assert (
        "--control makes it" in found["controls"]["old"][1] or found["controls"]["old"][0] == "no"
    )
    launch("audit", f"--workdir={work}", *flags, "--control")
    found = json.loads((work / "audit.json").read_text())
    third, first = (found["methods"][n]["measures"] for n in ("retrain_third", "retrain"))
    for key in ("forget", "auc_matched", "rmia"):
        assert third[key]["value"] != first[key]["value"]
    assert found["controls"]["third"][0] == "inconclusive"
    assert found["methods"]["none"]["verdicts"]["forgotten"] == "no"
    kept = sorted((work / "controls" / "cells").iterdir())
    assert [path.name for path in kept] == [f"{s}-retrain_third.safetensors" for s in range(5)]
    assert str(kept[0].relative_to(work)) in found["reproduce"]["hashes"]
    stamps = [path.stat().st_mtime_ns for path in kept]
    launch("audit", f"--workdir={work}", *flags, "--control")
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert [(work / name).read_bytes() for name in mine] == before
    more = (work / "ledger.jsonl").read_bytes()
    assert more.startswith(told)  # then it says what the report is
    assert {json.loads(line)["event"] for line in more[len(told) :].splitlines()} == {"wrote"}
    files, _ = erasure.holdings(work, "client:0")
    (held,) = [f for f in files if f.path == kept[0]]
    assert not held.holds and "never met" in held.what


@pytest.mark.slow
def test_without_a_reference_the_report_is_partial(tmp_path):
    work = tmp_path / "W"
    launch("compare", *SMALL, "--rounds=2", "--methods=not", "--seeds=1", f"--workdir={work}")
    out, _ = launch("audit", f"--workdir={work}", "--relearn_rounds=0", "--draws=100")
    assert "There is no retrained model" in out and "one seed decides nothing" in out
    found = json.loads((work / "audit.json").read_text())
    assert set(found["methods"]["not"]["verdicts"].values()) == {"not shown"}
    assert found["methods"]["not"]["measures"]["auc_matched"]["difference"] is None
    assert "not shown" in (work / "audit.html").read_text()


@pytest.mark.slow
def test_too_few_examples_get_a_sentence_and_a_partial_report(tmp_path):
    work = tmp_path / "W"
    flags = ["--rounds=2", "--methods=retrain,not", "--seeds=1", "--forget=fraction:0.1@client:1"]
    launch("compare", *SMALL, *flags, f"--workdir={work}")
    out, _ = launch("audit", f"--workdir={work}", "--shadows=8", "--draws=100")
    found = json.loads((work / "audit.json").read_text())
    assert "5 examples were to be forgotten, too few for attacks with shadow federations" in out
    assert {"ulira", "lira", "auc_matched", "rmia"} <= set(found["not_shown"])
    assert found["methods"]["not"]["measures"]["forget"]["difference"]


@pytest.mark.slow
def test_what_train_and_unlearn_leave_is_audited(tmp_path):
    a, b = tmp_path / "A", tmp_path / "B"
    launch("train", *SMALL, "--rounds=2", f"--workdir={a}")
    launch("unlearn", f"--init_from={a}", "--method=not", f"--workdir={b}", "--stop=budget")
    launch("audit", f"--workdir={b}", "--relearn_rounds=1", "--draws=100")
    found = json.loads((b / "audit.json").read_text())
    assert list(found["methods"]) == ["original", "not"]
    assert found["methods"]["not"]["measures"]["undo_to_original"]["value"] > 0
    launch("audit", f"--workdir={a}", "--relearn_rounds=0", "--draws=100")
    assert list(json.loads((a / "audit.json").read_text())["methods"]) == ["original"]


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "say what to audit: --workdir=W"),
        (["--workdir={empty}"], "is no work directory of jfu"),
        (["--workdir={empty}", "--shadows=6"], "too few or odd"),
        (["--workdir={empty}", "--shadows=9"], "too few or odd"),
    ],
)
def test_wrong_asks_get_one_sentence(tmp_path, given, words):
    names = dict(empty=tmp_path)
    _, error = launch("audit", *[g.format(**names) for g in given], expect=2)
    lines = [line for line in error.splitlines() if line]
    assert lines[-1].startswith("error: ") and words in lines[-1]


def test_a_control_without_retrained_models_is_refused(tmp_path):
    work = shutil.copytree(ROOT / "tests" / "scripts" / "older" / "A", tmp_path / "A")
    _, error = launch("audit", f"--workdir={work}", "--control", expect=2)
    assert "--control retrains a third time" in error and "launch.compare with retrain" in error
    assert not (work / "controls").exists()


@pytest.mark.slow
def test_the_text_for_a_terminal_has_a_row_a_method(audited):
    told, measured = audited[2].split("| mean [95 % interval] |")
    for name in ("finetune", "none (the old model)", "NoT"):
        assert f"| {name}" in told and f"| {name}" in measured
    # What methods are compared with has measures and no verdict; controls have one.
    assert "| retrain" not in told and "| retrain" in measured and "| margin" in measured
    assert "| control: the old model" in told and "| control: a third retraining" in told


def test_a_model_is_found_within_what_its_method_keeps_beside(tmp_path):
    """Histories of training and old models lie beside the state that is audited."""
    work = places.WorkDir(tmp_path, None, run="r")
    notes = dict(round=1, rows=[], spent={}, finished=True)
    (tmp_path / "cells").mkdir()
    state = {"variables": {"params": {"w": np.arange(2.0, dtype=np.float32)}}, "round": np.int32(1)}
    old = {"params": {"w": np.full(2, 9, np.float32)}}
    kept = dict(plain=state, beside=dict(inner=state, own=old))
    kept |= dict(deeper=dict(inner=dict(inner=state, history={"variables": old}), own=old))
    for name, each in kept.items():
        checkpoints.write_cell(work, 0, name, each, notes)
        found = stored.stored(work, 0, name)
        assert list(found) == ["params"] and found["params"]["w"].tolist() == [0, 1]
    checkpoints.write_cell(work, 0, "none", dict(own=old), notes)
    with pytest.raises(ValueError, match="holds no model"):
        stored.stored(work, 0, "none")
