"""What it takes to reach a target, by hand."""

import numpy as np
import pytest

from launch.running import targets as rounds

GIVEN = dict(test=None, forget=None, asr=None)


def run(method, seed, **measures):
    """Rows from lists of measures, 10 bytes either way and 3 operations a round."""
    length = len(next(iter(measures.values())))
    full = {**dict(test=[0] * length, forget=[0] * length, asr=[None] * length), **measures}
    cost = lambda r: dict(bytes_down=10 * r, bytes_up=10 * r, flops=3.0 * r, seconds=r / 2)
    return [
        dict(method=method, seed=seed, round=r, **{m: v[r] for m, v in full.items()}, **cost(r))
        for r in range(length)
    ]


ROWS = [
    *run("original", 0, test=[90]),
    *run("retrain", 0, test=[1, 50, 90], forget=[0, 60, 10], asr=[9, 9, 1]),
    *run("retrain", 1, test=[1, 50, 92], forget=[0, 60, 12], asr=[9, 9, 1]),
    *run("not", 0, test=[99, 89, 91], forget=[5, 14, 12], asr=[90, 5, 7]),
    *run("not", 1, test=[9, 90, 91], forget=[5, 14, 13], asr=[90, 5, 6]),
]


def test_rounds_to_targets_by_hand():
    """Targets: test 90 - 1 and 92 - 1, forget 10 + 2 and 12 + 2, asr 1 + 5."""
    lines = {(x["method"], x["seed"], x["measure"]): x for x in rounds.reach(ROWS, GIVEN)}
    assert len(lines) == 2 * 2 * 3
    assert [lines["not", s, m]["target"] for m in GIVEN for s in (0, 1)] == [89, 91, 12, 14, 6, 6]
    took = lambda method, seed: [lines[method, seed, m]["round"] for m in GIVEN]
    assert took("not", 0) == [1, 2, None]  # not round 0; down at 5 and up again is not there
    assert took("not", 1) == [2, 0, 1]
    assert took("retrain", 0) == [2, 2, 2]
    assert lines["not", 1, "test"] | dict(target=0) == dict(
        method="not", seed=1, measure="test", target=0, round=2, bytes=40, flops=6.0, seconds=1.0
    )


def test_means_over_seeds_are_of_all_seeds():
    table = rounds.table(rounds.reach(ROWS, GIVEN))
    assert table["not"]["test"]["round"] == dict(mean=1.5, std=pytest.approx(np.sqrt(0.5)))
    assert table["not"]["asr"]["round"] is None
    text = rounds.markdown(rounds.reach(ROWS, GIVEN))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "test ≥ retrain -1: rounds" in text and "asr ≤ 6.0: rounds" in text


def test_a_methods_own_rounds_do_not_count():
    own = [
        row | dict(own=True) if row["round"] == 1 else row for row in run("ga", 0, test=[0, 9, 9])
    ]
    assert rounds.first(own, "test", 8)["round"] == 2


def test_targets_may_be_given_and_must_without_retraining():
    rows = [row for row in ROWS if row["method"] == "not"]
    with pytest.raises(
        ValueError, match="no default target for test; add retrain to --methods, or give"
    ):
        rounds.reach(rows, GIVEN)
    lines = rounds.reach(rows, dict(test=90.5, forget=0.0, asr=100.0))
    assert [x["round"] for x in lines] == [2, 2, None, None, 0, 0]


def test_without_a_backdoor_there_is_no_such_target():
    rows = [row | dict(asr=None) for row in ROWS]
    assert {x["measure"] for x in rounds.reach(rows, GIVEN)} == {"test", "forget"}
