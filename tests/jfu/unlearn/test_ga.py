"""Gradient ascent against its formula."""

import pytest

from helpers.rivals import (
    OTHERS,
    SIZES,
    W,
    X,
    Y,
    clipped,
    close,
    counts,
    plain_round,
    run,
    slope,
    step_of,
)


@pytest.mark.parametrize("most", [0.05, 100.0])
def test_ga(most):
    w = W.copy()
    for _ in range(2):
        w = w + 0.3 * clipped(slope(w, X[0], Y[0]), most)
    models, facts = run("ga", 2, lr=0.3, epochs=2, clip=most)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 2, 0], OTHERS]


def test_ga_for_two_clients_and_two_rounds():
    """Two leave: their climbs are averaged by size, round after round."""
    w, expected = W, [W]
    for _ in range(2):
        w = w + 0.3 * (SIZES[0] * slope(w, X[0], Y[0]) + SIZES[2] * slope(w, X[2], Y[2])) / 7
        expected.append(w)
    models, facts = run("ga", 3, lr=0.3, clip=100.0, rounds=2, forget=(0, 2))
    close(models, [*expected, w + step_of(w, 1)])
    assert counts(facts) == [[2, 2, 2, 0]] * 2 + [[1, 1, 1, 0]]
