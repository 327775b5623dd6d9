"""The map of when negation pays: the same rounds as launch.compare, and what its table says."""

import json

import pytest

from helpers.forks import launch
from helpers.scripts import SMALL, rows_of


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


def test_a_setting_that_is_not_known_is_named(tmp_path):
    _, error = launch("pays", "--settings=bases", f"--workdir={tmp_path / 'P'}", expect=2)
    assert "there is no setting 'bases'; the settings are base; rate / 3" in error
    assert not (tmp_path / "P").exists()


def test_what_has_no_part_is_refused(tmp_path):
    where = f"--workdir={tmp_path / 'P'}"
    _, error = launch("pays", "--recovery_rounds=5", where, expect=2)
    assert "--recovery_rounds has no use here: every setting trains from scratch" in error
