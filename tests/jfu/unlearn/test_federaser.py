"""FedEraser against its formula."""

import numpy as np
import pytest

from helpers.rivals import (
    FIRST,
    NORMS,
    OTHERS,
    SIZES,
    START,
    close,
    counts,
    plain_round,
    run,
    step_of,
)


def test_federaser():
    """Five stored rounds, every second one replayed: 0 as it is, 2 and 4 calibrated."""
    stay = SIZES[1] + SIZES[2]
    w = START + (SIZES[1] * FIRST[1] + SIZES[2] * FIRST[2]) / stay
    expected = [w]
    for t in (2, 4):
        steps = {}
        for k in (1, 2):
            new = step_of(w, k)
            steps[k] = NORMS[t, k] * new / np.linalg.norm(new)
        w = plain_round(w, steps)
        expected.append(w)
    models, facts = run("federaser", 3)
    close(models, [*expected, plain_round(w)])
    assert counts(facts) == [OTHERS] * 3


@pytest.mark.parametrize(("within", "replayed"), [(1, 1), (2, 2), (3, 2), (9, 2)])
def test_federasers_replay_fits_the_rounds_there_are(within, replayed):
    """Of the five rounds: one and one more, or every second."""
    models, _ = run("federaser", 3, within=within)
    lengths = []
    for before, after in zip(models[:-1], models[1:], strict=True):
        share = (SIZES[1] * step_of(before, 1) + SIZES[2] * step_of(before, 2)) / 6
        lengths.append(np.allclose(after - before, share, atol=1e-5))
    assert lengths == [False] * replayed + [True] * (3 - replayed)


def test_federaser_counts_those_who_took_part():
    """Client 1 missed the first round: its update is zeros and its weight does not count."""
    missed = NORMS.copy()
    missed[0, 1] = 0
    models, _ = run("federaser", 0, norms=missed)
    close(models, [START + FIRST[2]])
