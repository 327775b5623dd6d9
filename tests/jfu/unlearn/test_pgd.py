"""PGD against its formula."""

import numpy as np
import pytest

from helpers.rivals import (
    FRESH,
    LAST,
    OTHERS,
    SIZES,
    P,
    W,
    X,
    Y,
    clipped,
    close,
    counts,
    plain_round,
    run,
    slope,
)


@pytest.mark.parametrize(
    ("lr", "most", "stop"), [(3.0, 5.0, 0.0), (0.3, 0.1, 0.0), (3.0, 5.0, 10.0)]
)
def test_pgd(lr, most, stop):
    """At the edge of the ball; free inside it; with a margin that no batch is above, not at all."""
    last = LAST.astype(float)
    before = W - np.tensordot(P, last, 1)
    reference = before + (SIZES[1] * last[1] + SIZES[2] * last[2]) / (SIZES[1] + SIZES[2])
    # The paper's own formula, with the target's last local model.
    mine = before + last[0]
    np.testing.assert_allclose(reference, (W - P[0] * mine) / (1 - P[0]))
    radius = np.sqrt(((reference - FRESH) ** 2).sum() / 3)
    w, speed = reference.copy(), 0.0
    touched = False
    for _ in range(6):
        right = (X[0] @ w).argmax(1) == Y[0]
        if right.mean() <= 1 / 3 + (stop or -1):
            break
        speed = 0.9 * speed - clipped(slope(w, X[0], Y[0]), most)
        w = w - lr * speed
        away = w - reference
        touched |= bool(np.linalg.norm(away) > radius)
        w = reference + away * min(1, radius / np.linalg.norm(away))
    assert touched is (stop == 0 and lr == 3.0)
    options = dict(lr=lr, clip=most, epochs=6, margin=stop or -1.0)
    models, facts = run("pgd", 2, **options)
    close(models, [reference, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 6, 6], OTHERS]


def test_pgd_stops_for_good_where_a_batch_is_near_chance():
    """With momentum: after the first batch that is, nothing moves any more."""
    models, _ = run("pgd", 1, lr=2.0, epochs=40, margin=0.0, clip=5.0)
    right = ((X[0] @ models[1]).argmax(1) == Y[0]).mean()
    assert right <= 1 / 3
    longer, _ = run("pgd", 1, lr=2.0, epochs=60, margin=0.0, clip=5.0)
    close(longer, models)
