"""What is said of a run's outlook."""

import json

import numpy as np
import pytest

from helpers.scripts import ROOT
from launch.report import advice
from launch.studies import pays, pays_report


def test_advice_knows_a_model_that_has_learnt_nothing():
    config, row = (
        dict(recovery_rounds=4, forget="client:0", recovery_warmup_rounds=0),
        dict(retain=12.9, guess=12.9, forget=0.0, test=10.0, asr=None),
    )
    (line,) = advice.outlook(config, row, [row | dict(round=1)], False)
    assert "retains 12.9 % and has learnt nothing: naming one class gets as much right" in line
    (line,) = advice.behind(config, row, row | dict(round=4))
    assert line.startswith("not back: the model retains 12.9 % and has learnt nothing")


RESULTS = ROOT / "launch" / "results"  # of the checkout: not installed


@pytest.fixture(scope="module")
def recorded():
    return [json.loads(x) for x in (RESULTS / "pays-digits-cpu.jsonl").read_text().splitlines()]


def test_the_outlooks_numbers_are_those_of_the_map(recorded):
    assert {row["setting"] for row in recorded} == {n for g in pays.SETTINGS.values() for n in g}
    needed = lambda row: row["methods"]["not"]["recover"] or row["rounds"]
    shares = [needed(row) / (row["took"] or row["rounds"]) for row in recorded]
    found = np.quantile(shares, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(found, [advice.FEWEST, advice.USUAL, advice.MOST], atol=0.05)

    gaps = lambda rows, name: np.array([row["methods"][name]["gap"] for row in rows])
    assert 0.7 < np.median(pays_report.ratios(recorded, "not")) < 0.75
    little = [row for row in recorded if row["excess"] <= advice.LITTLE]
    much = [row for row in recorded if row["excess"] > advice.MUCH]
    assert min(len(little), len(much)) >= 10
    assert gaps(little, "finetune").mean() < gaps(little, "not").mean() + 0.25
    assert (gaps(much, "finetune") > gaps(much, "not")).all()


def test_the_outlook_by_hand():
    training = [dict(round=r, retain=retain) for r, retain in ((5, 60.0), (10, 89.6), (15, 90.0))]
    row = dict(retain=90.0, forget=70.0, test=80.0, asr=95.0)
    config = dict(forget="client:1", recovery_rounds=7)
    back, much = advice.outlook(config, row, training, True)
    assert back == "outlook: back after about 7 rounds (5 to 10): training took 10"
    assert "95.0 points more" in much and much.endswith("would leave much of it")
    (back,) = advice.outlook(config | dict(recovery_rounds=6), row | dict(asr=30.0), training, True)
    assert ", more than the 6 there are: training took 10" in back
    # Another's poison is no part of this request: 70 on its data against 80 on test images.
    (little,) = advice.outlook(config, row, [], False)
    assert "shows no more on data to forget" in little and "--method=finetune" in little
    assert advice.outlook(config | dict(forget="class:3"), row, [], False) == []
    much = row | dict(forget=140.0)  # sixty points are not more than sixty
    assert advice.outlook(config, much, [], False) == []
    assert len(advice.outlook(config, much | dict(forget=140.1), [], False)) == 1


def test_what_may_bring_accuracy_back_by_hand():
    config, before = dict(recovery_rounds=9, recovery_warmup_rounds=0), dict(retain=90.0)
    assert advice.behind(config, before, dict(retain=89.5, round=9)) == []
    (line,) = advice.behind(config, before, dict(retain=89.4, round=9))
    assert "89.4 % after 9 rounds, and was 90.0 %" in line
    assert "--recovery_warmup_rounds=3" in line and line.endswith("more than --recovery_rounds=9")
    warm = config | dict(recovery_warmup_rounds=2)
    (line,) = advice.behind(warm, before, dict(retain=10.0, round=9))
    assert "warmup" not in line and line.endswith("try more than --recovery_rounds=9")
    (line,) = advice.behind(config, before, dict(method="not_blend", retain=10.0, round=9))
    assert "warmup" not in line  # it always warms up
