"""The map of when negation pays: the same rounds as launch.compare, and what its table says."""

import json

import pytest
from test_launch import SMALL, launch, rows_of

from launch import pays


@pytest.mark.slow
def test_its_rounds_are_those_of_a_comparison(tmp_path):
    flags = [*SMALL, "--devices=1", "--recovery_rounds=4", "--attack_every=2"]
    launch("pays", *flags, "--settings=base", "--seeds=2", f"--workdir={tmp_path / 'P'}")
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
    launch("pays", *flags, "--settings=base", "--seeds=2", f"--workdir={tmp_path / 'P'}")
    assert (tmp_path / "P" / "pays.jsonl").read_bytes() == before
    assert (tmp_path / "P" / "pays.png").stat().st_size > 10_000


def row(setting, seed, recover, gap=1.0):
    methods = {name: dict(recover=r, gap=gap, half=dict(asr=50.0)) for name, r in recover.items()}
    return dict(setting=setting, seed=seed, rounds=40, methods=methods)


def test_what_never_recovers_counts_with_all_its_rounds():
    needs = dict(retrain=20, retrain_again=10, finetune=1, reinit=None)
    rows = [row("base", 0, needs | {"not": 15}), row("base", 1, needs | {"not": None})]
    assert pays.ratios(rows, "not") == [0.75, 2.0]
    assert pays.ratios(rows, "reinit") == [2.0, 2.0]
    text = pays.markdown(rows).splitlines()[-1]
    assert text.startswith("| base")
    assert "1.38 ± 0.88" in text  # of 0.75 and 2


def test_a_setting_that_is_not_known_is_named(tmp_path):
    _, error = launch("pays", "--settings=bases", f"--workdir={tmp_path / 'P'}", expect=2)
    assert "there is no setting 'bases'; the settings are base; rate / 3" in error
    assert not (tmp_path / "P").exists()
