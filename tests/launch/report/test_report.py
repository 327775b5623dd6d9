"""The files of a table."""

import json

import numpy as np
import pytest

from helpers.workdirs import rows
from jfu import tables
from launch.report import report

COSTS = dict(bytes_down=1, bytes_up=1, flops=1.0, storage=0, seconds=1.0)
ROWS = [
    dict(method=name, seed=0, round=1, retain=90.0, forget=80.0, test=85.0, mia=50.0)
    | dict(mia_matched=None, asr=None, left_out=0, **COSTS)
    for name in ("retrain", "not", "retrain_again")
]


def test_making_the_text_changes_nothing_of_the_summary():
    summary = report.summarise(ROWS)
    before = report.to_json(summary)
    files = report.contents(summary, report.markdown(summary))
    assert files["table.json"] == before
    # As the files of earlier versions have it, whose digests stand in ledgers.
    assert json.loads(before)["floor"]["left_out"] is None
    assert json.loads(before)["methods"]["not"]["left_out"] == dict(mean=0.0, std=0.0)


def test_the_table_by_hand():
    every = [
        *rows("retrain", 10.0, 80.0, 90.0, seed=0),
        *rows("retrain", 10.0, 91.6, 92.0, seed=1),
        *rows("not", 10.0, 89.6, 88.0, seed=0),
        *rows("not", 10.0, 80.0, 96.0, seed=1),
        *rows("retrain_again", 10.0, 80.0, 91.0, seed=0)[-1:],
        *rows("retrain_again", 10.0, 80.0, 89.0, seed=1)[-1:],
    ]
    table = report.summarise(every)
    method = table["methods"]["not"]
    assert method["retain"] == dict(mean=92.0, std=pytest.approx(np.sqrt(32)))
    assert method["gap"] == pytest.approx((92 - 91) / 4)  # of the means
    assert method["gap_per_seed"]["mean"] == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert method["rounds_to_recover"]["mean"] == 1.5  # 89.6 >= 89.5, then 96 >= 91.5
    assert method["bytes_to_recover"]["mean"] == 30
    assert table["methods"]["retrain"]["rounds_to_recover"]["mean"] == 1.5
    assert table["floor"]["gap"] == pytest.approx(abs(90 - 91) / 4)
    assert table["floor"]["rounds_to_recover"] is None
    assert "retrain_again" not in table["methods"]
    text = report.markdown(table)
    assert len({len(line) for line in text.splitlines()}) == 1
    assert json.loads(report.to_json(table)) == table


def test_the_worst_client_stands_in_table_and_json():
    """Beside the mean of all; as the mean over seeds of each seed's worst."""
    clients = lambda *both: dict(zip(("worst_client", "client_spread"), both, strict=True))
    every = [
        *(row | clients(60.0, 4.0) for row in rows("not", 90.0, seed=0)),
        *(row | clients(70.0, 6.0) for row in rows("not", 90.0, seed=1)),
    ]
    summary = report.summarise(every, dict(dp_clip=None, sum_only=False))
    assert summary["methods"]["not"]["worst_client"] == dict(mean=65.0, std=pytest.approx(50**0.5))
    heads, _, line = (text.split("|") for text in report.markdown(summary).splitlines())
    shown = {head.strip(): value.strip() for head, value in zip(heads, line, strict=True)}
    assert (shown["worst client %"], shown["spread"]) == ("65.0 ± 7.1", "5.0 ± 1.4")
    assert "worst client: the lowest accuracy of a client that stays" in tables.legend(summary)


@pytest.mark.parametrize("flag", ["dp_clip", "sum_only"])
def test_single_clients_are_not_shown_where_they_are_hidden(flag):
    config = dict(dp_clip=None, sum_only=False, dp_delta=0.1) | {flag: True}
    text = report.markdown(report.summarise(rows("not", 90.0), config))
    assert "Not shown: worst client and spread, since accuracies of single clients" in text
    assert f"--{flag}" in text.splitlines()[-1] and "worst client %" not in text


def test_a_run_that_diverged_is_not_said_to_be_back():
    """Everybody names one class, which is 12.9 % of the retained data."""
    diverged = lambda name, *retains: [r | dict(guess=12.9) for r in rows(name, *retains, asr=0.0)]
    every = [*diverged("retrain", 7.6, 12.9), *diverged("not", 9.0, 12.9)]
    table = report.summarise(every)
    assert table["methods"]["not"]["rounds_to_recover"]["mean"] == 1
    text = tables.legend(table)
    assert "retraining has learnt nothing: it retains 12.9 %, which naming one class gets" in text
    assert " is back after" not in text and "not:        after 1 rounds the backdoor" in text
    # Retraining has learnt, a method has not, one was back and has lost it, and one is back.
    every = [*diverged("retrain", 7.6, 90.0), *diverged("ga", 90.0, 90.0, 12.9)]
    every += [*diverged("not", 9.0, 90.0, 70.0), *diverged("finetune", 9.0, 90.0)]
    lines = {
        x.split(":")[0].strip(): x for x in tables.legend(report.summarise(every)).splitlines()
    }
    assert lines["ga"].endswith(
        "it has learnt nothing: naming one class gets as much of the retained data right"
    )
    assert lines["not"].endswith("was back after 1.0 rounds, and is not at the end")
    assert lines["finetune"].endswith("retained accuracy is back after 1.0 rounds")
    # A loss that is not finite, in rows that do not say what guessing gets.
    every = [r | dict(loss_retain=None) for r in rows("retrain", 1.0, 90.0)]
    assert not report.summarise(every)["methods"]["retrain"]["sound"]
    assert report.summarise(rows("retrain", 1.0, 90.0))["methods"]["retrain"]["sound"]


def test_where_each_rule_stops_by_hand():
    """Two seeds of four rounds; gaps are (|retain - 90| + |mia - 50|) / 4."""
    attacked = lambda lines, mias: [r | dict(mia=m) for r, m in zip(lines, mias, strict=True)]
    every = [
        *rows("original", 85.0, seed=0),
        *rows("original", 88.0, seed=1),
        *rows("retrain", 10.0, 90.0, seed=0),
        *rows("retrain", 10.0, 90.0, seed=1),
        *attacked(rows("not", 90.0, 84.0, 84.5, 89.6, 91.0), [50.0, 50.0, 52.0, 54.0, 58.0]),
        *attacked(rows("not", 9.0, 70.0, 80.0, 87.0, 89.5, seed=1), [50.0, 90.0, 80.0, 70.0, 60.0]),
    ]
    at = report.summarise(every)["methods"]["not"]["stopped"]
    assert at["budget"]["rounds"]["mean"] == 4
    assert at["budget"]["gap_per_seed"]["mean"] == pytest.approx(((1 + 8) + (0.5 + 10)) / 8)
    assert at["recovered"]["rounds"]["mean"] == (3 + 4) / 2  # 89.5 is within half a point of 90
    assert at["regained"]["rounds"]["mean"] == (2 + 4) / 2  # 84.5 of 85; 87.5 of 88; not round 0
    assert at["oracle"]["rounds"]["mean"] == (3 + 4) / 2  # 6, 7.5, 4.4, 9 quarters; round 0 is none
    assert at["oracle"]["gap_per_seed"]["mean"] == pytest.approx(((0.4 + 4) + (0.5 + 10)) / 8)
    assert set(report.summarise(every)["methods"]["retrain"]) & {"stopped"} == set()
    assert "| not " in tables.stopping(report.summarise(every))

    # A method's own rounds do not count.
    marked = [r | dict(own=True) if r["round"] == 3 else r for r in every if r["seed"] == 0]
    at = report.summarise(marked)["methods"]["not"]["stopped"]
    assert at["recovered"]["rounds"]["mean"] == 4

    # Regained never: it goes on to the end. Without attacks at every round: no oracle.
    short = rows("not", 9.0, 20.0, 30.0)
    short[1]["mia"] = None
    at = report.summarise([*every[:1], *every[2:4], *short])["methods"]["not"]["stopped"]
    assert at["regained"]["rounds"]["mean"] == 2
    assert at["recovered"] is None and at["oracle"] is None


def test_the_table_says_what_methods_need():
    every = [*rows("retrain", 10.0, 90.0), *rows("pgd", 10.0, 90.0), *rows("not", 10.0, 90.0)]
    table = report.summarise(every)
    assert table["methods"]["pgd"]["needs"] == ["history:last", "target", "forget_data"]
    assert table["methods"]["not"]["needs"] == []
    lines = report.markdown(table).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["-", "H T D", "-"]
    assert "H stored history, T the leaving client takes part" in tables.legend(table)


def test_never_recovered_is_said():
    every = [*rows("retrain", 10.0, 90.0), *rows("not", 10.0, 80.0)]
    assert report.summarise(every)["methods"]["not"]["rounds_to_recover"] is None
