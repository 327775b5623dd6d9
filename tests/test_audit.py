"""The audit: verdicts by their rules, planted cases end to end, and the page in a browser."""

import json
import re
import shlex

import numpy as np
import pytest
from browser import chromium, look
from test_launch import launch

from jfu import attacks
from launch import estimates, page, verdicts

# ---------------------------------------------------------------- the rules


def entry(value, low, high, floor=(0.4, 0.6)):
    floor = floor and dict(value=sum(floor) / 2, low=floor[0], high=floor[1])
    return dict(value=value, low=low, high=high, floor=floor)


MATCHED = dict(auc_matched=entry(0.5, 0.45, 0.55), rmia=entry(0.5, 0.41, 0.59))


def forgotten(seeds=5, **more):
    return verdicts.forgotten(MATCHED | more, seeds)[0]


def test_forgotten_is_inside_the_floor_in_everything_that_decides():
    assert forgotten() == "yes"
    assert forgotten(auc_matched=entry(0.58, 0.55, 0.61)) == "inconclusive"
    assert forgotten(rmia=entry(0.7, 0.61, 0.8)) == "no"
    # Below the floor there is no memory, but it is not like retraining either.
    assert forgotten(rmia=entry(0.3, 0.2, 0.39)) == "inconclusive"
    # The unmatched attack and distances are shown and do not decide.
    assert forgotten(auc=entry(0.9, 0.8, 1.0), mia=entry(90, 80, 95, (40, 60))) == "yes"
    assert forgotten(js_forget=entry(0.9, 0.8, 1.0, (0, 0.1))) == "yes"


def test_few_seeds_are_never_enough_for_a_yes():
    for seeds in (2, 3, 4):
        assert forgotten(seeds) == "inconclusive"
        assert forgotten(seeds, rmia=entry(0.7, 0.61, 0.8)) == "no"
    given = verdicts.verdicts("not", MATCHED, {}, [3])
    assert {verdict for verdict, _ in given.values()} == {"not shown"}


def test_nothing_is_said_without_a_retrained_model():
    alone = dict(
        auc_matched=entry(0.9, 0.8, 1.0, None),
        asr=entry(90, 80, 95, None),
        test=entry(90, 80, 95, None),
    )
    given = verdicts.verdicts("not", alone, {}, range(5))
    assert {verdict for verdict, _ in given.values()} == {"not shown"}
    assert all("retrained" in why for _, why in given.values())


def test_backdoor_and_use_are_judged_from_one_side():
    gone = lambda low, high: verdicts.below(dict(asr=entry(0, low, high, (0, 5))), "asr", "")[0]
    assert [gone(0, 5), gone(4, 6), gone(5.1, 9)] == ["yes", "inconclusive", "no"]
    use = lambda low, high: verdicts.above(dict(test=entry(0, low, high, (90, 95))), "test", "")[0]
    assert [use(90, 99), use(89, 91), use(80, 89.9)] == ["yes", "inconclusive", "no"]


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
    less = dict(never=0, rounds=dict(low=0.2, high=0.9), bytes=dict(low=0.2, high=0.99))
    assert verdicts.cheaper("not", less)[0] == "yes"
    assert verdicts.cheaper("not", less | dict(bytes=dict(low=1.1, high=1.2)))[0] == "no"
    rows += rows_of("ga", 0, [100, 20, 20], 10, 7)
    found = verdicts.ratios(rows, "ga", one)
    assert found == dict(never=1)
    assert verdicts.cheaper("ga", found) == (
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
    measures, missing = estimates.estimate(found, estimates.TABLE, 400)
    assert not missing
    floors = {name: measures[name]["test"]["floor"] for name in found}
    floor = floors["not"]
    assert floors["retrain"] == floor
    values = [100 * a[0].mean() for n in shares for a in found[n]["test"].values()]
    assert floor["low"] < min(values) and max(values) < floor["high"]
    assert floor["value"] == pytest.approx(np.mean(values))
    mine = measures["not"]["test"]
    assert mine["low"] < mine["value"] < mine["high"] < floor["low"]
    assert mine["value"] == pytest.approx(
        np.mean([100 * a[0].mean() for a in found["not"]["test"].values()])
    )
    # The mean of three seeds is surer than one of them.
    assert measures["retrain"]["test"]["high"] < floor["high"]


def test_a_distance_has_the_second_retraining_for_a_floor():
    found = {
        "retrain_again": {"js_test": {0: (np.full(9, 0.1),), 1: (np.full(9, 0.3),)}},
        "not": {"js_test": {0: (np.full(9, 0.2),), 1: (np.full(9, 0.2),)}},
    }
    measures, _ = estimates.estimate(found, estimates.TABLE, 200)
    floor = measures["not"]["js_test"]["floor"]
    assert (floor["low"], floor["high"]) == pytest.approx((0.1, 0.3))


def test_the_floor_of_shadows_is_twice_as_wide_as_its_mean_is_sure():
    draw = np.random.default_rng(1)
    scores = {s: (draw.normal(size=40), draw.normal(size=40)) for s in range(12)}
    found = {"retrain_again": {"lira": scores}}
    measures, _ = estimates.estimate(found, estimates.TABLE, 400)
    own = measures["retrain_again"]["lira"]
    together = [np.concatenate(side) for side in zip(*scores.values(), strict=True)]
    assert own["value"] == pytest.approx(attacks.auc(*together))
    for end in ("low", "high"):
        assert own["floor"][end] - own["value"] == pytest.approx(2 * (own[end] - own["value"]))
    assert verdicts.inside(own)


def test_a_rate_that_cannot_be_shown_is_not():
    few = {0: (np.zeros(50), np.zeros(999))}
    measures, missing = estimates.estimate({"not": {"tpr_1": few}}, estimates.TABLE, 100)
    assert measures == {"not": {}} and "999 examples" in missing["tpr_1"]


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
            measures={k: measure() for k in keys},
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
        ),
        seeds=[0, 1, 2, 3, 4],
        notes=["A note."],
        questions=verdicts.RULES,
        methods=methods,
        not_shown=dict(tpr_01="144 examples are too few"),
        curves=dict.fromkeys(("retain", "forget", "test", "asr", "loss_gap"), curve),
        reproduce=dict(
            command="python -m launch.compare " + "--methods=" + "x" * 300,
            audit="python -m launch.audit",
            layout={},
            versions=dict(jax="1"),
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
    foreign = {**found, "notes": ["<script>alert(1)</script>"]}
    assert "<script>" not in page.html(foreign)


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
    _, module, *words = (
        shlex.split(found["reproduce"]["command"])[0:1]
        + shlex.split(found["reproduce"]["command"])[1:]
    )
    assert module == "-m"
    script, *given = words
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
