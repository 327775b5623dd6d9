"""Anchored recovery against its formula."""

import pytest

from helpers.rivals import RATE, SIZES, W, X, Y, close, counts, plain_round, run, slope, softmax


def test_anchored():
    """Steps on labels and on the old model's softened answers, which go to the others once."""

    def both(w, k):
        soft = X[k].T @ (softmax(X[k] @ w / 3) - softmax(X[k] @ W / 3)) / SIZES[k]
        # d/dw of T^2 KL: T times the difference of softened answers
        return -RATE * (0.75 * slope(w, X[k], Y[k]) + 0.25 * 3 * soft)

    first = plain_round(-W, {k: both(-W, k) for k in (1, 2)})
    second = plain_round(first, {k: both(first, k) for k in (1, 2)})
    models, facts = run("anchored", 2, temperature=3.0, anchor=0.25)
    close(models, [-W, first, second])
    assert counts(facts) == [[2 + 2, 2, 2, 2], [2, 2, 2, 2]]
    with pytest.raises(ValueError, match=r"anchor is 2.0 and temperature 2.0; .* in \[0, 1\]"):
        run("anchored", 1, anchor=2.0)
