"""The rows of a method's run: which rounds have one, and what is evaluated for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from jfu import evaluation
from launch.running import cells, comparison
from launch.running.rows import at_once

X, Y = np.zeros((400, 28, 28, 1), np.uint8), np.zeros(400, np.int32)
TESTS = np.zeros((1000, 28, 28, 1), np.uint8), np.zeros(1000, np.int32)
LARGE = evaluation.of_arrays((X, Y), (X[:40], Y[:40]), TESTS)


@pytest.fixture
def run(monkeypatch):
    """Runs made-up rounds with these retained accuracies; ``(round, tests, attack)`` of each row.

    A row that replaces an earlier one of its round counts.
    """

    def row(meter, number, state, costs, *, attack, own=False, tests=True, submit=at_once):
        line = dict(round=number, retain=state, tests=tests, attack=attack)
        return submit(lambda: line | (dict(own=True) if own else {}))

    monkeypatch.setattr(cells, "row", row)

    def made(retains, *, every=0, attack_every=0, pool=LARGE, own=0, **options):
        config = SimpleNamespace(eval_every=every, attack_every=attack_every)
        trial = SimpleNamespace(evaluation=LARGE, pool=pool)
        meter = SimpleNamespace(study=SimpleNamespace(config=config), trial=trial)
        method = SimpleNamespace(own=own)
        cell = cells.Cell("not", method, None, None, len(retains), **options)
        rows = []
        for number, retain in enumerate(retains, 1):
            new, final = cells.evaluate(cell, meter, number, retain, {}, at_once, rows)
            rows += new
            if final:
                break
        return [tuple(one.result()[k] for k in ("round", "tests", "attack")) for one in rows]

    return made


def test_rounds_at_which_rules_stop_are_evaluated_on_everything(run):
    retains = [50.0, 80.0, 89.6, 85.0, 92.0, 95.0, 95.0]
    looks = run(retains, goals=(90.0, 95.4))
    assert [number for number, tests, _ in looks if tests] == [3, 6, 7]
    assert [number for number, *_ in looks] == [1, 2, 3, 4, 6, 7]
    assert [number for number, _, attack in looks if attack] == [7]


def test_own_rounds_stop_no_rule(run):
    looks = run([95.0, 95.0, 80.0, 95.0, 95.0], goals=(90.0,), own=2)
    assert [number for number, tests, _ in looks if tests] == [4, 5]


def test_goals_that_are_not_known_need_everything(run):
    assert all(tests for _, tests, _ in run([50.0] * 4))
    assert all(tests for _, tests, _ in run([50.0] * 4, goals=(90.0,), pool=None))


def test_attacks_need_tests(run):
    looks = run([50.0] * 5, goals=(), attack_every=2)
    assert looks == [(number, number in (2, 4, 5), number in (2, 4, 5)) for number in range(1, 6)]


def test_a_run_that_stops_by_itself_is_evaluated_after_every_round(run):
    retains = [10.0] * 18 + [90.0, 95.0]
    looks = run(retains, enough=89.0, goals=())
    assert [number for number, *_ in looks] == list(range(1, 20))
    assert looks[-1] == (19, True, True)
    seldom = run(retains, goals=())
    assert [number for number, *_ in seldom] == [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20]


def test_the_rules_of_a_comparison_need_retraining():
    rows = [dict(method="original", retain=90.0), dict(method="retrain", retain=10.0)]
    rows.append(dict(method="retrain", retain=88.0))
    assert comparison.stops("retrain", rows[:1], True) == ()
    assert comparison.stops("not", rows, True) == (90.0, 88.0)
    assert comparison.stops("not", rows[:1], True) is None  # retraining comes later
    assert comparison.stops("not", rows[:1], False) is None
