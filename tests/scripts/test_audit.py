"""An audit end to end, on planted cases."""

import json
import shlex
import shutil

import numpy as np
import pytest

import jfu.io
from helpers.browser import chromium, look
from helpers.forks import launch
from helpers.scripts import ROOT
from jfu.audit import verdicts
from jfu.audit.measures import SIGNS, TABLE, kind_of
from launch.records import erasure
from launch.report import page

SMALL = ["--dataset=synthetic", "--train_size=200", "--clients=4"]

METHODS = "--methods=retrain,finetune,none,not"

QUESTIONS = ["was_it_there", "forgotten", "backdoor_gone", "useful", "others_unharmed"]
QUESTIONS += ["cheaper_than_retraining"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    work = tmp_path_factory.mktemp("audited") / "W"
    launch("compare", *SMALL, METHODS, "--rounds=12", "--seeds=5", f"--workdir={work}")
    few = ["--relearn_rounds=3", "--resurfacing_rounds=2", "--draws=200"]
    out, _ = launch("audit", f"--workdir={work}", "--shadows=8", *few)
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
    assert never["verdicts"]["was_it_there"] == "yes"
    # Nobody else loses by keeping the old model.
    assert never["verdicts"]["others_unharmed"] in ("yes", "inconclusive")
    assert list(found["clients"]["none"]) == ["1", "2", "3"]
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
    shown = {kind_of(key) for method in found["methods"].values() for key in method["measures"]}
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
    detected = verdicts.caught(never["measures"], False)
    assert {"forget", "auc_matched", "rmia", "lira", "mia_matched"} <= set(detected)
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
    ledger = (work / "ledger.jsonl").read_bytes()
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
    assert more.startswith(ledger)  # then it says what the report is
    added = [json.loads(line) for line in more[len(ledger) :].splitlines()]
    assert {line["event"] for line in added} == {"audited"}
    assert all("audit.json" in line["wrote"] for line in added)
    files, _ = erasure.holdings(work, "client:0")
    (file,) = [f for f in files if f.path == kept[0]]
    assert not file.depends and "never trained on" in file.what


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


@pytest.mark.slow
def test_parts_of_shadows_on_several_machines_are_those_of_one_run(tmp_path):
    """One machine has the work directory, one a copy, and one made it anew from the same flags."""
    work, copy, anew, alone = (tmp_path / name for name in ("W", "copy", "anew", "alone"))
    tiny = ["--model=mlp1", "--rounds=2", "--seeds=1", "--devices=1", "--methods=retrain,not"]
    for each in (work, anew):
        launch("compare", *SMALL, *tiny, f"--workdir={each}")
    for each in (copy, alone):
        shutil.copytree(work, each)
    few = ["--shadows=12", "--shadows_chunk=2", "--relearn_rounds=0", "--resurfacing_rounds=0"]
    few += ["--nocontrol", "--draws=100"]
    names = ["0-12-0-3.safetensors", "0-12-4-7.safetensors", "0-12-8-11.safetensors"]
    for number, each in enumerate((work, copy, anew)):
        out, _ = launch("audit", f"--workdir={each}", *few, f"--shadows_part={number + 1}/3")
        assert f"part {number + 1} of 3 is done: 1 files in {each}/shadows/" in out
        assert [path.name for path in (each / "shadows").iterdir()] == [names[number]]
        assert not (each / "audit.json").exists()
    for each in (copy, anew):
        shutil.copytree(each / "shadows", work / "shadows", dirs_exist_ok=True)
    _, error = launch("audit", f"--workdir={work}", *few)
    assert "shadow federations" not in error  # none is left to run
    launch("audit", f"--workdir={alone}", *few)
    for name in names:
        one, other = (jfu.io.load_arrays(each / "shadows" / name) for each in (work, alone))
        assert one.keys() == other.keys() == {"original", "retrain", "not"}
        assert all(np.array_equal(one[key], other[key]) for key in one)
    found = [json.loads((each / "audit.json").read_text()) for each in (work, alone)]
    for key in ("measures", "verdicts", "reasons"):
        assert found[0]["methods"]["not"][key] == found[1]["methods"]["not"][key]


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "--workdir is missing; give a work directory"),
        (["--workdir={empty}"], "is not a work directory of jfu"),
        (["--workdir={empty}", "--shadows=6"], "too small or odd"),
        (["--workdir={empty}", "--shadows=9"], "too small or odd"),
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
    assert (
        "--control compares a third retraining with two others" in error
        and "launch.compare with retrain" in error
    )
    assert not (work / "controls").exists()


@pytest.mark.slow
def test_the_text_for_a_terminal_has_a_row_a_method(audited):
    verdict, measured = audited[2].split("| mean [95 % interval] |")
    for name in ("finetune", "none (the old model)", "NoT"):
        assert f"| {name}" in verdict and f"| {name}" in measured
    # What methods are compared with has measures and no verdict; controls have one.
    assert "| retrain" not in verdict and "| retrain" in measured and "| margin" in measured
    assert "| control: the old model" in verdict and "| control: a third retraining" in verdict
