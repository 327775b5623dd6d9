"""The audit: verdicts by their rules, planted cases end to end, and the page in a browser."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from browser import chromium, look
from test_launch import ROOT, environment, launch
from test_limits import PLAIN, changed

from jfu import attacks
from launch import audit, estimates, evidence, experiment, page, reproduce, verdicts

# ---------------------------------------------------------------- the rules


def entry(value, low, high, floor=(0.4, 0.6), seeds=5):
    floor = floor and dict(value=sum(floor) / 2, low=floor[0], high=floor[1])
    spans = dict(value=value, low=low, high=high)
    return spans | dict(resampled="seeds", seeds=seeds, floor=floor)


SHADOWS = dict(ulira=entry(0.5, 0.49, 0.51, seeds=1), lira=entry(0.5, 0.49, 0.51, seeds=1))
MATCHED = SHADOWS | dict(
    forget=entry(50, 45, 55, (40, 60)),
    auc_matched=entry(0.5, 0.45, 0.55),
    rmia=entry(0.5, 0.41, 0.59),
)
ABOVE, BELOW = entry(0.7, 0.61, 0.8), entry(0.3, 0.2, 0.39)


def forgotten(asked=False, **more):
    return verdicts.forgotten(MATCHED | more, {}, asked)[0]


def test_forgotten_is_inside_the_floor_in_everything_that_decides():
    assert forgotten() == "yes"
    assert forgotten(auc_matched=entry(0.58, 0.55, 0.61)) == "inconclusive"
    assert forgotten(rmia=ABOVE) == "no"
    # Below the floor there is no memory, but it is not like retraining either.
    assert forgotten(rmia=BELOW) == "inconclusive"
    # The unmatched attack and distances are shown and do not decide.
    assert forgotten(auc=ABOVE, mia=entry(90, 80, 95, (40, 60)), tpr_1_unmatched=ABOVE) == "yes"
    assert forgotten(js_forget=entry(0.9, 0.8, 1.0, (0, 0.1)), update_auc_matched=ABOVE) == "yes"


def test_every_matched_measure_decides():
    names = [k for k in estimates.TABLE if k.startswith(("tpr", "rmia", "lira"))]
    names = [k for k in names if not k.endswith("unmatched")]
    assert len(names) == 8
    for name in ("auc_matched", "mia_matched", "undo_auc_matched", *names):
        assert forgotten(**{name: ABOVE}) == "no", name


@pytest.mark.parametrize("key", verdicts.NEEDED)
def test_no_yes_without_every_kind_of_attack(key):
    rest = {k: e for k, e in MATCHED.items() if k != key}
    verdict, why = verdicts.forgotten(rest, {key: "not run; --shadows=64 runs it"}, False)
    assert verdict == "inconclusive"
    assert f"{estimates.TABLE[key].title} (not run; --shadows=64 runs it)" in why
    # A measure without a floor is none; to say no one of them is enough.
    assert forgotten(**{key: entry(0.5, 0.45, 0.55, None)}) == "inconclusive"
    other = "rmia" if key != "rmia" else "lira"
    assert verdicts.forgotten(rest | {other: ABOVE}, {}, False)[0] == "no"


def test_a_backdoor_decides_where_the_request_names_it():
    alive, gone = entry(90, 80, 95, (0, 5)), entry(1, 0, 2, (0, 5))
    assert forgotten(asr=alive) == "yes" and forgotten(asked=True, asr=alive) == "no"
    assert forgotten(asked=True, asr=gone) == "yes"
    assert forgotten(asked=True) == "inconclusive"


def test_what_tells_models_apart_without_memory_forbids_a_yes_and_is_no_no():
    """Unlearned models that are less sure of the forgotten labels than retrained ones."""
    draw = np.random.default_rng(0)
    unlearned, retrained = draw.normal(-5, 1, (32, 40)), draw.normal(0, 1, (32, 40))
    other = draw.normal(0, 1, (32, 40))
    scores = lambda a, b: dict(enumerate(zip(*attacks.lira(a, b), strict=True)))
    never = scores(unlearned, draw.normal(-5, 1, (32, 40)))
    found = {
        "not": dict(ulira=scores(unlearned, retrained), lira=never),
        "retrain_again": dict.fromkeys(("ulira", "lira"), scores(other, retrained)),
    }
    measures, _, _ = estimates.estimate(found, estimates.TABLE, 100)
    mine = measures["not"]
    assert mine["ulira"]["value"] > 0.99
    verdict, why = verdicts.forgotten(MATCHED | mine, {}, False)
    assert verdict == "inconclusive" and "not by memory, by U-LiRA: AUC." in why
    assert forgotten(ulira=BELOW) == forgotten(ulira_tpr_1=ABOVE) == "inconclusive"
    # With LiRA on the side of memory it is one, and both are named.
    verdict, why = verdicts.forgotten(MATCHED | mine | dict(lira=ABOVE), {}, False)
    assert verdict == "no" and "LiRA: AUC; U-LiRA: AUC" in why


def test_few_seeds_are_never_enough_for_a_yes():
    for seeds in (2, 3, 4):
        fewer = entry(0.5, 0.45, 0.55, seeds=seeds)
        assert forgotten(auc_matched=fewer) == "inconclusive"
        assert forgotten(auc_matched=fewer, rmia=ABOVE) == "no"
    # What one seed shows is no verdict, whatever others there are.
    once = {k: v | dict(seeds=1) for k, v in MATCHED.items()}
    costs = dict(seeds=1, never=0, rounds=dict(low=0.1, high=0.2))
    more = dict(test=entry(90, 80, 95, seeds=1), asr=entry(90, 80, 95, seeds=1))
    given = verdicts.verdicts("not", once | more, costs, {}, True)
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("One seed" in why for _, why in given.values())
    assert forgotten(rmia=ABOVE | dict(seeds=1)) == "inconclusive"


def test_seeds_are_counted_where_they_were_measured():
    """Rows tell of five seeds; the method's model is there on four, the retrained on three."""
    share = lambda seeds: {"test": {s: (np.arange(9) < 5 + s,) for s in seeds}}
    found = {"retrain": share((0, 1, 2)), "retrain_again": share((0,)), "not": share(range(1, 5))}
    measures, _, _ = estimates.estimate(found, estimates.TABLE, 100)
    assert {name: m["test"]["seeds"] for name, m in measures.items()} == {
        "retrain": 3,
        "retrain_again": 1,
        "not": 2,
    }


def test_nothing_is_said_without_a_retrained_model():
    alone = dict(
        auc_matched=entry(0.9, 0.8, 1.0, None),
        asr=entry(90, 80, 95, None),
        test=entry(90, 80, 95, None),
    )
    given = verdicts.verdicts("not", alone, {}, {}, True)
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("retrained" in why for _, why in given.values())


def test_backdoor_and_use_are_judged_from_one_side():
    success = lambda low, high: dict(asr=entry(0, low, high, (0, 5)))
    gone = lambda low, high: verdicts.backdoor_gone(success(low, high), True)[0]
    assert [gone(0, 5), gone(4, 6), gone(5.1, 9)] == ["yes", "inconclusive", "no"]
    use = lambda low, high: verdicts.useful(dict(test=entry(0, low, high, (90, 95))))[0]
    assert [use(90, 99), use(89, 91), use(80, 89.9)] == ["yes", "inconclusive", "no"]


def test_a_backdoor_that_the_request_does_not_name_is_not_said_to_be_gone():
    """It lives on in retrained models too, so any success is inside their floor."""
    alive = dict(asr=entry(95, 90, 99, (90, 100)))
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
    one = lambda values: dict(zip(("low", "high"), sorted(values), strict=True))
    found = verdicts.ratios(rows, "not", one)
    assert found["never"] == 0
    assert found["rounds"] == dict(low=1 / 3, high=3.0)
    assert found["bytes"] == dict(low=pytest.approx(2 / 3), high=3.0)
    assert verdicts.cheaper("not", found)[0] == "inconclusive"
    assert found["seeds"] == 2
    less = dict(seeds=2, never=0, rounds=dict(low=0.2, high=0.9), bytes=dict(low=0.2, high=0.99))
    assert verdicts.cheaper("not", less)[0] == "yes"
    assert verdicts.cheaper("not", less | dict(bytes=dict(low=1.1, high=1.2)))[0] == "no"
    rows += rows_of("ga", 0, [100, 20, 20], 10, 7)
    found = verdicts.ratios(rows, "ga", one)
    assert found == dict(seeds=1, never=1)
    assert verdicts.cheaper("ga", found | dict(seeds=2)) == (
        "no",
        "Retained accuracy never came back on 1 of the seeds.",
    )


# ---------------------------------------------------------------- the numbers


def test_the_floor_is_where_single_retrained_models_fall():
    draw = np.random.default_rng(0)
    coins = lambda p, n=400: (draw.random(n) < p,)
    shares = {"retrain": (0.80, 0.84, 0.82), "retrain_again": (0.86, 0.78, 0.81)}
    found = {name: {"test": {s: coins(p) for s, p in enumerate(ps)}} for name, ps in shares.items()}
    found["not"] = {"test": {s: coins(0.5) for s in range(3)}}
    measures, missing, broken = estimates.estimate(found, estimates.TABLE, 400)
    assert not missing and not any(broken.values())
    floors = {name: measures[name]["test"]["floor"] for name in found}
    floor = floors["not"]
    assert floors["retrain"] == floor
    values = [100 * a[0].mean() for n in shares for a in found[n]["test"].values()]
    assert floor["value"] == pytest.approx(np.mean(values))
    # Of one model of 400 examples: they are drawn, and so is the model among six.
    sd = 100 * np.sqrt(0.82 * 0.18 / 400 + np.var([v / 100 for v in values]))
    assert floor["high"] - floor["low"] == pytest.approx(2 * 1.96 * sd, rel=0.1)
    assert floor["low"] < min(values) and max(values) < floor["high"]
    mine = measures["not"]["test"]
    assert mine["low"] < mine["value"] < mine["high"] < floor["low"]
    assert mine["value"] == pytest.approx(
        np.mean([100 * a[0].mean() for a in found["not"]["test"].values()])
    )
    assert mine["resampled"] == "seeds and examples"


def test_a_distance_has_the_second_retraining_for_a_floor():
    found = {
        "retrain_again": {"js_test": {0: (np.full(9, 0.1),), 1: (np.full(9, 0.3),)}},
        "not": {"js_test": {0: (np.full(9, 0.2),), 1: (np.full(9, 0.2),)}},
    }
    measures, _, _ = estimates.estimate(found, estimates.TABLE, 200)
    floor = measures["not"]["js_test"]["floor"]
    assert (floor["low"], floor["high"]) == pytest.approx((0.1, 0.3))


def test_the_floor_of_shadows_is_twice_as_wide_as_its_mean_is_sure():
    draw = np.random.default_rng(1)
    scores = {s: (draw.normal(size=40), draw.normal(size=40)) for s in range(12)}
    found = {"retrain_again": {"lira": scores}}
    measures, _, _ = estimates.estimate(found, estimates.TABLE, 400)
    own = measures["retrain_again"]["lira"]
    together = [np.concatenate(side) for side in zip(*scores.values(), strict=True)]
    assert own["value"] == pytest.approx(attacks.auc(*together))
    for end in ("low", "high"):
        assert own["floor"][end] - own["value"] == pytest.approx(2 * (own[end] - own["value"]))
    assert verdicts.inside(own)


def test_a_rate_that_cannot_be_shown_is_not():
    few = {0: (np.zeros(50), np.zeros(999))}
    measures, missing, _ = estimates.estimate({"not": {"tpr_1": few}}, estimates.TABLE, 100)
    assert measures == {"not": {}} and "999 scores" in missing["tpr_1"]


def test_every_attack_has_its_true_positive_rates():
    for name in ("tpr_{}_unmatched", "tpr_{}", "rmia_tpr_{}", "ulira_tpr_{}", "lira_tpr_{}"):
        one, tenth = (estimates.TABLE[name.format(key)] for key in ("1", "01"))
        sure = np.full(5, 20_000), np.arange(10_000)
        assert one.statistic(*sure) == tenth.statistic(*sure) == 1
        assert one.statistic(np.array([9905]), np.arange(10_000)) == 1
        assert tenth.statistic(np.array([9905]), np.arange(10_000)) == 0
        assert "at 1 % false" in one.title and "at 0.1 % false" in tenth.title


def test_what_was_cut_off_is_marked():
    """Of four models two had not relearnt in 20 rounds."""
    needed = lambda *many: {s: (np.array([m]), np.array([20])) for s, m in enumerate(many)}
    found = {"retrain_again": {"relearn": needed(21, 21)}, "not": {"relearn": needed(21, 5, 9, 21)}}
    measures, _, _ = estimates.estimate(found, estimates.TABLE, 100)
    mine = measures["not"]["relearn"]
    assert (mine["value"], mine["censored"], mine["limit"]) == (14, 0.5, 20)
    assert mine["floor"]["censored"] == 1
    assert page.in_words(mine, 1).startswith("≥ 14.0 [")
    assert page.in_words(mine["floor"], 1) == "> 20"
    assert mine["resampled"] == "seeds"


def test_the_forgetting_quality_says_how_many_models_it_rests_on():
    scores = {0: (np.array([0.2, 0.7, 9.0]), np.array([[32, 31]]))}
    found = {name: dict(forgetting_score=scores) for name in ("not", "retrain_again")}
    measures, _, _ = estimates.estimate(found, estimates.TABLE, 200)
    mine = measures["not"]["forgetting_score"]
    assert mine["models"] == [32, 31] and mine["resampled"] == "examples"
    assert mine["floor"]["low"] < mine["value"] < mine["floor"]["high"]


def test_a_model_that_diverged_knows_nothing_and_leaves_no_nan(tmp_path):
    """Logits of NaN, whose largest is said to be class 0, on data that is all of class 0."""
    exam = SimpleNamespace(
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
        name: evidence.look(tools, value, SimpleNamespace(exam=exam))
        for name, value in dict(retrain=0.0, retrain_again=0.0, ga=np.nan).items()
    }
    found: dict = {}
    for name, one in seen.items():
        put = evidence.accuracies(exam, one) | evidence.memberships(exam, one, seen, name)
        put |= evidence.distances(exam, one, seen["retrain"], put)
        found[name] = {key: {0: arrays, 1: arrays} for key, arrays in put.items()}
    measures, _, broken = estimates.estimate(found, estimates.TABLE, 100)
    json.dumps(measures, allow_nan=False)
    assert [measures["ga"][key]["value"] for key in ("retain", "forget", "test")] == [0, 0, 0]
    assert {"auc", "auc_matched", "loss_gap", "js_forget"} <= set(broken["ga"])
    assert "rmia" not in measures["ga"] and "rmia" in measures["retrain"]
    assert verdicts.forgotten(measures["ga"], {}, False)[0] != "yes"
    # The same of the true logits is right.
    assert measures["retrain"]["forget"]["value"] == 100


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def planted():
    """A report with every measure, made of numbers drawn at random."""
    draw = np.random.default_rng(2)
    keys = [k for k in estimates.TABLE if k not in (*estimates.LAYERS, "tpr_01")]
    keys += [f"{k}.{layer}" for k in estimates.LAYERS for layer in ("stem", "encoder/block_0/mlp")]
    names = [*page.REFERENCES, "finetune", "none", "not", "federaser", "a_method_of_long_name"]

    verdicts_of_all = ("yes", "no", "inconclusive", "not shown")

    def measure():
        low, value, high = sorted(draw.uniform(0, 100, 3))
        return entry(value, low, high, (20.0, 30.0))

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
        done=dict(rounds=80, recovery_rounds=40, retrained=["retrain", "retrain_again"]),
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
    for words in ("80 rounds of training", "with 40 rounds to recover", "twice a seed"):
        assert words in text
    for words in ("run: jax 1", "audit: jax 2", "Python 3.11.0", "interval over seeds"):
        assert words in text
    assert "retrained models end at 20 to 30" in text and "floor at the last round" in text
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


def test_the_poison_is_named_where_all_of_it_is(monkeypatch):
    poisoned = lambda config: SimpleNamespace(poisoned=np.array(config.rows, bool))
    monkeypatch.setattr(experiment, "clients_of", lambda config, *_, **__: poisoned(config))
    named = lambda rows, forget: experiment.names_the_poison(
        SimpleNamespace(config=SimpleNamespace(rows=rows, backdoor=True), dataset=None, taken={}),
        SimpleNamespace(seed=0, exam=exam(np.array(forget, bool))),
    )
    exam = lambda forget: SimpleNamespace(forget=forget, retain=~forget & ~gone)
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
    assert audit.other_shadows(run()) == audit.other_shadows(run(stop="budget")) == []
    (early,) = audit.other_shadows(run(stop="regained"))
    assert "all 40 rounds" in early
    (given,) = audit.other_shadows(run(init="model.safetensors"))
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
    assert list(methods) == ["original", "retrain", "retrain_again", "finetune", "none", "not"]
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
    # Retrained models, first or second, are not called unforgotten.
    for name in ("retrain", "retrain_again"):
        assert methods[name]["verdicts"]["forgotten"] in ("yes", "inconclusive")
        assert methods[name]["verdicts"]["backdoor_gone"] == "yes"
    # NoT's negation, taken back, is nearer to the original than a retrained model's.
    away = {n: methods[n]["measures"]["undo_to_original"]["value"] for n in ("not", "retrain")}
    assert away["not"] < away["retrain"]


@pytest.mark.slow
def test_every_measure_is_shown_or_said_not_to_be(audited):
    _, found, _ = audited
    shown = {
        key.partition(".")[0] for method in found["methods"].values() for key in method["measures"]
    }
    assert shown | set(found["not_shown"]) == set(estimates.TABLE)
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
    flags = [f"--dataset={folder / 'noise.npz'}", *recipe, "--methods=retrain,none", "--seeds=3"]
    launch("compare", *flags, f"--workdir={work}")
    return work


@pytest.mark.slow
def test_what_was_learnt_by_heart_is_caught_by_every_attack(memorised):
    flags = ["--shadows=16", "--relearn_rounds=0", "--draws=200"]
    launch("audit", f"--workdir={memorised}", *flags)
    never = json.loads((memorised / "audit.json").read_text())["methods"]["none"]
    for key in (*verdicts.NEEDED, "mia_matched", "asr"):
        assert verdicts.side(never["measures"][key]) == 1, key
    assert never["measures"]["ulira"]["value"] > 0.9
    assert never["verdicts"]["forgotten"] == never["verdicts"]["backdoor_gone"] == "no"
    for key in verdicts.NEEDED:
        assert estimates.TABLE[key].title in never["reasons"]["forgotten"]


# Retrains once more, from another stream of randomness, under the name of a method.
PLANT = """
import pathlib, sys
import jfu
from launch import cells, devices, experiment, runs, workdir

run = runs.read_run(sys.argv[1])
work = workdir.WorkDir(pathlib.Path(sys.argv[1]), run.layout, run.more, run.fingerprint)
layout = devices.start(None, None, run.config.clients, run.layout, None)
with devices.on_devices(layout):
    seeds = sorted({row["seed"] for row in workdir.read_results(work)})
    study = experiment.study(run.config, layout, seeds)
    programs = cells.Programs()
    for seed in seeds:
        trial = experiment.trial(study, seed)
        cell = cells.runner(work, study, trial, programs, 1000)
        nothing = jfu.Trained(())
        _, rows = cell("finetune", study.fresh, nothing, trial.request, run.config.rounds)
        workdir.write_results(work, rows)
"""


@pytest.mark.slow
def test_a_third_retraining_is_not_called_unforgotten(memorised, tmp_path):
    """It is judged by two others, not by itself."""
    work = tmp_path / "W"
    shutil.copytree(memorised, work)
    command = [sys.executable, "-c", PLANT, str(work)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)
    launch("audit", f"--workdir={work}", "--relearn_rounds=0", "--draws=200")
    found = json.loads((work / "audit.json").read_text())["methods"]
    third, floor = (found[name]["measures"] for name in ("finetune", "retrain"))
    for key in ("forget", "auc_matched", "rmia"):
        assert third[key]["value"] != floor[key]["value"]
        assert third[key]["floor"] == floor[key]["floor"]
    assert found["finetune"]["verdicts"]["forgotten"] == "inconclusive"
    assert found["finetune"]["verdicts"]["backdoor_gone"] != "no"
    assert found["none"]["verdicts"]["forgotten"] == "no"


@pytest.mark.slow
def test_without_a_reference_the_report_is_partial(tmp_path):
    work = tmp_path / "W"
    launch("compare", *SMALL, "--rounds=2", "--methods=not", "--seeds=1", f"--workdir={work}")
    out, _ = launch("audit", f"--workdir={work}", "--relearn_rounds=0", "--draws=100")
    assert "There is no retrained model" in out and "one seed decides nothing" in out
    found = json.loads((work / "audit.json").read_text())
    assert set(found["methods"]["not"]["verdicts"].values()) == {"not shown"}
    assert found["methods"]["not"]["measures"]["auc_matched"]["floor"] is None
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
    assert found["methods"]["not"]["measures"]["forget"]["floor"]


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


@pytest.mark.slow
def test_the_text_for_a_terminal_has_a_row_a_method(audited):
    told, measured = audited[2].split("| mean [95 % interval] |")
    for name in ("finetune", "none (the old model)", "NoT"):
        assert f"| {name}" in told and f"| {name}" in measured
    # What methods are compared with has measures and no verdict.
    assert "| retrain" not in told and "| retrain" in measured and "| noise floor" in measured
