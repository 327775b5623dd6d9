"""Rows of results: their fields are named once, and cover what was ever recorded."""

import json
import typing

import pytest

from helpers.scripts import ROOT
from jfu import metrics, results

RECORDED = ROOT / "launch" / "results"
# What files of several configurations say of each row beside.
SETTINGS = {"max_grad_norm", "recovery_warmup_rounds"}
FIELDS = typing.get_type_hints(results.Row)


def recorded_rows():
    """Rows of every recorded table: lines with method, seed, round and retained accuracy."""
    for path in sorted(RECORDED.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if {"method", "seed", "round", "retain"} <= row.keys():
                yield row


def test_a_row_has_the_fields_that_were_recorded():
    rows = list(recorded_rows())
    assert len(rows) > 1000
    assert {name for row in rows for name in row} - SETTINGS <= FIELDS.keys()
    assert results.Row.__required_keys__ <= set.intersection(*(set(row) for row in rows))


def test_names_of_fields_are_fields():
    assert {*results.NUMBERS} <= FIELDS.keys()
    assert {*results.BRIEF, *metrics.GAP_MEASURES} <= {*results.MEASURES}
    assert {*results.SPENT} <= {*results.COSTS}


@pytest.mark.parametrize("name", [*results.MEASURES, "loss_retain", "loss_forget", "guess"])
def test_measures_are_numbers_or_none(name):
    assert FIELDS[name] in (float | None, typing.NotRequired[float | None])


def row(seed, number, retain, mia=50.0):
    return dict(seed=seed, round=number, retain=retain, forget=0.0, test=0.0, mia=mia, asr=None)


def test_stopping_rules_by_hand():
    reference, begin = row(0, 9, 90.0), row(0, 0, 92.0)
    run = [row(0, 0, 95.0), row(0, 1, 70.0), row(0, 2, 89.5), row(0, 3, 93.0)]
    found = results.stops(run[::-1], reference, begin)  # in any order
    # Round 0 is before any communication, so it is nobody's answer.
    expected = dict(budget=3, recovered=2, regained=3, oracle=2)
    assert {rule: at["round"] for rule, at in found.items()} == expected
    found = results.stops(run[:2], reference, begin)
    assert found["recovered"] is None and found["regained"] == run[1]
    # An attack that was not run in every round may have missed the smallest gap.
    assert results.stops([*run, row(0, 4, 93.0, mia=None)], reference, begin)["oracle"] is None


def test_a_summary_needs_no_retraining():
    """Of a run alone measures are known, and nothing that is a comparison."""
    costs = dict(bytes_down=1, bytes_up=1, flops=1.0, storage=0, seconds=1.0)
    rows = [dict(method="mine", **row(seed, 3, 80.0 + seed), **costs) for seed in (0, 2)]
    summary = results.summarise(iter(rows))
    entry = summary["methods"]["mine"]
    assert summary["seeds"] == [0, 2] and summary["floor"] is None and summary["config"] is None
    assert entry["retain"]["mean"] == 81.0 and entry["of"] == 2 and entry["compared"] == 0
    assert entry["asr"] is None and entry["gap"] is None and entry["rounds_to_recover"] is None
    assert "needs" not in entry  # a method that jfu does not know
    assert set(entry["stopped"].values()) == {None}


def test_rows_of_an_earlier_version_lack_measures():
    """A run that was begun before and ended now is summarised; what some rows lack has no mean."""
    costs = dict(bytes_down=1, bytes_up=1, flops=1.0, storage=0, seconds=1.0)
    of = lambda seed: dict(method="not", seed=seed, round=1, retain=9, forget=9, test=9, mia=50)
    rows = [of(0) | costs, of(1) | costs | dict(worst_client=7.0)]
    entry = results.summarise(rows)["methods"]["not"]
    assert entry["worst_client"] is None and entry["retain"]["mean"] == 9
