"""PUF against its formula."""

import pytest

from helpers.rivals import OTHERS, P, W, close, counts, plain_round, run, step_of


@pytest.mark.parametrize("alone", [False, True])
def test_puf(alone):
    target = step_of(W, 0)
    if alone:
        w = W - 2.0 * target
    else:
        w = W + P[1] * step_of(W, 1) + P[2] * step_of(W, 2) - 20.0 * P[0] * target
    models, facts = run("puf", 2, alone=alone)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 1, 0] if alone else [3, 3, 3, 0], OTHERS]
