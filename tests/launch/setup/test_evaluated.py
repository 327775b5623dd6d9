"""Which rounds are evaluated, and on what: against what the sizes say."""

import numpy as np
import pytest

from jfu import evaluation
from launch.setup import evaluated


def made(train, test, side, trigger=False):
    """An evaluation of so many images, all alike; half of the training images are forgotten."""
    x, y = np.zeros((train, side, side, 1), np.uint8), np.zeros(train, np.int32)
    more = np.zeros((test, side, side, 1), np.uint8), np.zeros(test, np.int32)
    poison = evaluation.Backdoor(more[0], 0, np.zeros(train, bool), y) if trigger else None
    kept, gone = (x[: train // 2], y[: train // 2]), (x[train // 2 :], y[train // 2 :])
    return evaluation.of_arrays(kept, gone, more, backdoor=poison)


def test_rounds_of_a_large_evaluation_lie_a_quarter_apart_at_most():
    due = [n for n in range(1, 2000) if evaluated.due(n, evaluated.BY_RULE, small=False)]
    assert due[:4] == [1, 2, 3, 4]
    for before, after in zip(due, due[1:], strict=False):
        assert after - before - 1 <= before / 4
        if before >= 4:
            assert after - before == max(2, 2 ** (int(np.log2(before)) - 2))
    assert len(due) < 6 + 8 * 4  # four evaluations while the number of rounds doubles


@pytest.mark.parametrize("every", [1, 3, 20])
def test_a_number_of_rounds_that_is_given_holds_for_every_size(every):
    for small in (False, True):
        due = [n for n in range(1, 100) if evaluated.due(n, every, small)]
        assert due == list(range(every, 100, every))


def test_small_data_are_evaluated_after_every_round_on_everything():
    digits = made(1437, 360, 8, trigger=True)
    assert evaluated.is_small(digits) and not evaluated.without_tests(0, digits)
    assert all(evaluated.due(n, 0, evaluated.is_small(digits)) for n in range(1, 300))


def test_the_trigger_counts_its_images():
    one = 2**20 // 64
    assert evaluated.is_small(made(one - 10, 10, 8))
    assert not evaluated.is_small(made(one - 10, 11, 8))
    assert not evaluated.is_small(made(one - 10, 10, 8, trigger=True))


def test_tests_are_left_out_where_they_are_most_of_the_work():
    assert evaluated.without_tests(0, made(400, 1000, 28))
    assert not evaluated.without_tests(0, made(1000, 400, 28))
    assert evaluated.without_tests(0, made(700, 400, 28, trigger=True))
    assert not evaluated.without_tests(1, made(400, 1000, 28))
    spread = made(400, 1000, 28)._replace(where=np.arange(1400))
    assert not evaluated.without_tests(0, spread)
