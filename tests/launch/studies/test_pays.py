"""The map of when negation pays: the same rounds as launch.compare, and what its table says."""

import json

import numpy as np
import pytest

from helpers.forks import launch
from helpers.scripts import ROOT, SMALL, rows_of
from launch.report import advice
from launch.studies import pays, pays_report

RESULTS = ROOT / "launch" / "results"  # of the checkout: not installed


@pytest.mark.slow
def test_its_rounds_are_those_of_a_comparison(tmp_path):
    common = [*SMALL, "--devices=1", "--warmup_rounds=2"]
    flags = [*common, "--recovery_rounds=4", "--attack_every=2"]
    launch("pays", *common, "--settings=base", "--seeds=2", f"--workdir={tmp_path / 'P'}")
    methods = "--methods=retrain,finetune,reinit,not"
    launch("compare", *flags, methods, "--seeds=2", f"--workdir={tmp_path / 'W'}")
    mine = [json.loads(text) for text in (tmp_path / "P" / "pays.jsonl").read_text().splitlines()]
    rows = {(r["method"], r["seed"], r["round"]): r for r in rows_of(tmp_path / "W")}
    assert [line["seed"] for line in mine] == [0, 1]

    def same(ours, theirs):
        for name in ("retain", "forget", "test", "mia", "mia_matched", "asr"):
            assert ours[name] == pytest.approx(theirs[name], abs=2.1), name  # an example of fifty
        for name in ("loss_retain", "loss_forget"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name

    for line in mine:
        seed = line["seed"]
        same(line["original"], rows["original", seed, 0])
        same(line["last"], rows["retrain", seed, 4])
        same(line["negated"], rows["not", seed, 0])
        for name in ("finetune", "reinit", "not"):
            same(line["methods"][name]["half"], rows[name, seed, 2])
        assert line["methods"]["retrain"]["gap"] == 0
        assert line["methods"]["retrain_again"]["gap"] > 0
    before = (tmp_path / "P" / "pays.jsonl").read_bytes()
    launch("pays", *common, "--settings=base", "--seeds=2", f"--workdir={tmp_path / 'P'}")
    assert (tmp_path / "P" / "pays.jsonl").read_bytes() == before
    assert (tmp_path / "P" / "pays.png").stat().st_size > 10_000


def row(setting, seed, recover, gap=1.0):
    methods = {name: dict(recover=r, gap=gap, half=dict(asr=50.0)) for name, r in recover.items()}
    return dict(setting=setting, seed=seed, rounds=40, methods=methods)


def test_what_never_recovers_counts_with_all_its_rounds():
    needs = dict(retrain=20, retrain_again=10, finetune=1, reinit=None)
    rows = [row("base", 0, needs | {"not": 15}), row("base", 1, needs | {"not": None})]
    assert pays_report.ratios(rows, "not") == [0.75, 2.0]
    assert pays_report.ratios(rows, "reinit") == [2.0, 2.0]
    text = pays_report.markdown(rows).splitlines()[-1]
    assert text.startswith("| base")
    assert "1.38 ± 0.88" in text  # of 0.75 and 2


def test_a_setting_that_is_not_known_is_named(tmp_path):
    _, error = launch("pays", "--settings=bases", f"--workdir={tmp_path / 'P'}", expect=2)
    assert "there is no setting 'bases'; the settings are base; rate / 3" in error
    assert not (tmp_path / "P").exists()


def test_what_has_no_part_is_refused(tmp_path):
    where = f"--workdir={tmp_path / 'P'}"
    _, error = launch("pays", "--recovery_rounds=5", where, expect=2)
    assert "--recovery_rounds has no use here: every setting trains from scratch" in error


def test_a_gap_that_no_attack_could_measure_is_a_dash():
    needs = dict(retrain=20, retrain_again=20, finetune=1, reinit=20) | {"not": 10}
    before = dict(took=20, excess=None)
    rows = [row("base", s, needs, gap) | before for s, gap in ((0, None), (1, 2.0))]
    assert [c.strip() for c in pays_report.markdown(rows).splitlines()[-1].split("|")][7:11] == [
        "-"
    ] * 4
    known, *kinds = [line.split("|") for line in pays_report.groups(rows).splitlines()[2:]]
    assert known[1].strip() == "training was flat" and kinds[0][1].strip() == "all"
    assert [cell.strip() for cell in known[-5:-1]] == ["-"] * 4


# ---------------------------------------------------------------- what is said beforehand


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
