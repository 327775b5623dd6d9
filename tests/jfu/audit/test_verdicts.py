"""The rules by which an audit judges."""

import numpy as np
import pytest

from helpers.comparisons import entry
from jfu.audit import estimates, fewer, pairs, rules, sides, verdicts
from jfu.audit.measures import TABLE

ALIKE = {
    key: entry(0.0, -0.6 * (width := m.margin or 1.0), 0.6 * width, m.margin, seeds=1 + 4 * here)
    for key, m in TABLE.items()
    if key in rules.NEEDED
    for here in [not m.pooled]
}

CAUGHT = dict(chance=0.004)

KNOWN = verdicts.Controls(("no", ""), ("forget", "lira"), ("yes", ""), ())


def forgotten(asked=False, known=KNOWN, without=(), needed=rules.NEEDED, **more):
    measures = {k: e for k, e in (ALIKE | more).items() if k not in without}
    return verdicts.forgotten(measures, {}, asked, known, needed)


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
    verdict, why = forgotten(rmia=entry(0.03, 0.02, 0.04, 0.05, 0.03))
    assert verdict == "no" and "differs from models that never saw the data in RMIA" in why
    assert forgotten(rmia=entry(0.03, 0.02, 0.04, 0.05, 0.04))[0] == "yes"
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


@pytest.mark.parametrize("key", rules.NEEDED)
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


def test_a_task_without_classes_needs_no_attack_on_them():
    needed = [key for key in rules.NEEDED if key != "rmia"]
    assert forgotten(without=("rmia",))[0] == "inconclusive"
    assert forgotten(without=("rmia",), needed=needed)[0] == "yes"
    assert forgotten(without=("rmia", "ulira"), needed=needed)[0] == "inconclusive"
    assert forgotten(needed=needed, rmia=entry(9, 8, 9.5, 1, 0.001))[0] == "no"  # if it is there


def test_a_backdoor_decides_where_the_request_names_it():
    alive, gone = entry(90, 80, 95, 5.0, 0.004), entry(1, 0, 2, 5.0)
    assert forgotten(asr=alive)[0] == "yes" and forgotten(asked=True, asr=alive)[0] == "no"
    assert forgotten(asked=True, asr=gone)[0] == "yes"
    assert forgotten(asked=True)[0] == "inconclusive"


def test_no_yes_where_the_same_rule_cannot_say_no_to_the_old_model():
    """A request so small that whatever is asked, every interval is wide or nothing is seen."""
    verdict, why = forgotten(known=KNOWN._replace(detecting=(), old=("inconclusive", "")))
    assert verdict == "inconclusive" and rules.TOO_SMALL in why
    # The old model itself, through the rule and its own controls.
    measures = dict(original=ALIKE, retrain_third=ALIKE)
    known = verdicts.controls(measures, {}, False)
    assert known.old[0] == "inconclusive" and known.detecting == ()
    measures["original"] = ALIKE | dict(forget=entry(9, 8, 9.5, 5.0, 0.004))
    known = verdicts.controls(measures, {}, False)
    assert known.old[0] == "no" and known.detecting == ("forget",) and known.third[0] == "yes"


def test_no_yes_for_what_is_not_shown_to_be_nearer_to_retraining_than_to_the_old_model():
    """In the measure that detects the old model most clearly."""
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
    wide = ("inconclusive", f"{rules.WIDE}: RMIA.")
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
    measures, *_ = estimates.estimate(found, TABLE, 100)
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
    others |= {k: entry(0, -1, 1, 5.0, seeds=seeds) for k in ("worst_client", "client_loss")}
    old = verdicts.controls(dict(original=fewer), {}, False)
    known = KNOWN._replace(there=old.there)
    given = verdicts.verdicts("not", fewer | others, costs, {}, True, known)
    assert {verdict for verdict, _ in given.values()} == {"inconclusive"}
    assert all("seeds are too few" in why for _, why in given.values())


def test_what_one_seed_shows_is_no_verdict():
    once = {k: v | dict(seeds=1) for k, v in ALIKE.items()}
    costs = dict(seeds=1, never=0, rounds=dict(low=0.1, high=0.2))
    more = dict(test=entry(0, -1, 1, 1.0, seeds=1), asr=entry(0, -1, 1, 5.0, seeds=1))
    more |= {k: entry(0, -1, 1, 5.0, seeds=1) for k in ("worst_client", "client_loss")}
    known = verdicts.controls(dict(original=once), {}, True)
    given = verdicts.verdicts("not", once | more, costs, {}, True, known)
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("One seed" in why for _, why in given.values())


def test_seeds_are_counted_where_they_were_measured():
    """There are rows of five seeds, the method's model of four, the retrained model of three."""
    share = lambda seeds: {"test": {s: (np.arange(9) < 5 + s,) for s in seeds}}
    found = {"retrain": share((0, 1, 2)), "retrain_again": share((0, 1)), "not": share(range(1, 5))}
    measures, *_ = estimates.estimate(found, TABLE, 100)
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
    alone |= dict(worst_client=bare(90, 80, 95, 5.0))
    known = verdicts.controls(dict(original=alone), {}, True)
    given = verdicts.verdicts("not", alone, {}, {}, True, known)
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("retrained" in why for _, why in given.values())


def test_backdoor_and_use_are_judged_from_one_side_of_a_margin():
    success = lambda low, high: dict(asr=entry(0, low, high, 5.0))
    gone = lambda low, high: sides.backdoor_gone(success(low, high), True)[0]
    assert [gone(-9, 5), gone(4, 6), gone(5.1, 9)] == ["yes", "inconclusive", "no"]
    use = lambda low, high: sides.useful(dict(test=entry(0, low, high, 1.0)))[0]
    assert [use(-1, 9), use(-1.1, 1), use(-9, -1.1)] == ["yes", "inconclusive", "no"]


def test_a_backdoor_that_the_request_does_not_name_is_not_said_to_be_gone():
    """It lives on in retrained models too, so any success is within their margin."""
    alive = dict(asr=entry(0, -1, 1, 5.0))
    verdict, why = sides.backdoor_gone(alive, False)
    assert verdict == "not shown" and "does not name every image with the trigger" in why
    assert sides.backdoor_gone({}, False) == ("not shown", "No backdoor was planted.")


def test_what_the_old_model_never_knew_cannot_be_forgotten():
    """Every attack was run on the old model, and all intervals lie within the margins."""
    known = verdicts.controls(dict(original=ALIKE), {}, False)
    assert known.there[0] == "no" and "accuracy on forgotten data" in known.there[1]
    verdict, why = forgotten(known=known._replace(third=("yes", "")))
    assert verdict == "not shown" and why.startswith(
        "There was nothing to forget beyond the margins. The"
    )
    # Memory in the answer itself is still a no.
    assert forgotten(known=known, rmia=entry(0.2, 0.1, 0.3, 0.05, 0.004))[0] == "no"
    given = verdicts.verdicts("not", ALIKE, {}, {}, False, known)
    assert given["was_it_there"] == known.there


def test_what_the_old_model_knew_is_named():
    old = ALIKE | dict(forget=entry(9, 8, 9.5, 5.0, 0.004))
    there = verdicts.controls(dict(original=old), {}, False).there
    assert there == ("yes", "The old model shows the data in accuracy on forgotten data.")


@pytest.mark.parametrize(
    "old, asked, words",
    [
        (ALIKE | dict(rmia=entry(0.0, -0.1, 0.1, 0.05)), False, "margin: RMIA, matched: AUC."),
        ({k: e for k, e in ALIKE.items() if k != "lira"}, False, "Not shown: LiRA: AUC (no comp"),
        (ALIKE, True, "Not shown: backdoor success (no comparison)."),
        ({k: e | dict(seeds=4) for k, e in ALIKE.items()}, False, "4 seeds are too few"),
    ],
)
def test_an_attack_that_was_not_run_or_a_wide_interval_leaves_it_open(old, asked, words):
    verdict, why = verdicts.controls(dict(original=old), {}, asked).there
    assert verdict == "inconclusive" and words in why
    assert "relearn" not in why  # which the old model cannot be asked


def test_without_an_old_model_nobody_knows_whether_it_was_there():
    given = verdicts.verdicts("not", ALIKE, {}, {}, False, verdicts.controls({}, {}, False))
    assert given["was_it_there"] == ("not shown", "The old model is missing.")


def test_others_are_unharmed_if_no_client_lost_much():
    def said(worst, loss, name="not"):
        pair = dict(worst_client=entry(0, *worst, 5.0), client_loss=entry(0, *loss, 5.0))
        return sides.others_unharmed(name, pair, {})

    assert said((-5, 1), (-1, 5))[0] == "yes"
    assert said((-6, 1), (-1, 5))[0] == said((-5, 1), (-1, 6))[0] == "inconclusive"
    verdict, why = said((-5, 1), (5.5, 9))  # the worst client is not the one that lost
    assert verdict == "no" and why.startswith("One client loses more") and "+5.5 to +9.0" in why
    verdict, why = said((-9, -5.5), (-1, 6))
    assert verdict == "no" and why.startswith("The worst client is less accurate than with")
    assert said((-5, 1), (-1, 5), "retrain_again")[0] == "not shown"


def test_single_clients_that_nobody_may_see_are_not_judged():
    why = "accuracies of single clients would show what --sum_only hides"
    verdict, words = sides.others_unharmed("not", {}, dict(worst_client=why))
    assert (verdict, words) == ("not shown", f"A{why[1:]}.")


def test_how_much_retrained_models_differ_does_not_matter_to_a_coupled_method():
    wide = KNOWN._replace(third=("inconclusive", f"{rules.WIDE}: accuracy on forgotten data."))
    assert forgotten(known=wide)[0] == "inconclusive"
    verdict, why = verdicts.forgotten(ALIKE, {}, False, wide, coupled=True)
    assert verdict == "yes" and why.startswith("Within the margins") and rules.COUPLED in why
    # Its own interval still decides, and so do the controls.
    far = ALIKE | dict(forget=entry(4.0, 2.9, 5.1, 5.0))
    assert verdicts.forgotten(far, {}, False, wide, coupled=True)[0] == "inconclusive"
    blind = wide._replace(detecting=())
    assert verdicts.forgotten(ALIKE, {}, False, blind, coupled=True)[0] == "inconclusive"
    failed = wide._replace(mistaken=("rmia",))
    assert verdicts.forgotten(ALIKE, {}, False, failed, coupled=True)[0] == "inconclusive"


def test_verdicts_with_fewer_seeds():
    """From five seeds on; pairs of shadow federations are the same throughout."""
    right = lambda percent: (np.arange(100) < percent,)
    known = dict(original=[90] * 7, retrain=[10] * 7, retrain_again=[11] * 7, mine=[90] * 7)
    found = {name: {"forget": dict(enumerate(map(right, of)))} for name, of in known.items()}
    pair = {0: (np.array([0.5, 0.5, 0.51, 0.49, 0.5]),)}
    found["mine"]["lira"] = pair
    given = fewer.by_seeds(found)
    assert list(given) == [5, 6, 7] and set(given[5]) == {"original", "mine"}
    assert [one["mine"] for one in given.values()] == ["no"] * 3
    assert fewer.first(found, [0, 2])["mine"] == {
        "forget": {seed: found["mine"]["forget"][seed] for seed in (0, 2)},
        "lira": pair,
    }
    assert fewer.by_seeds(fewer.first(found, range(4))) == {}
