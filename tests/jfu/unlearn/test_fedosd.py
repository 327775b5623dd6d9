"""FedOSD against its formula."""

import numpy as np
import optax

import jfu
from helpers.rivals import (
    OTHERS,
    SIZES,
    W,
    X,
    Y,
    close,
    counts,
    plain_round,
    run,
    slope,
    softmax,
    step_of,
)


def test_fedosd():
    """Two orthogonal steps; then steps that do not lead back to the trained model."""

    def bounded(w):
        p = softmax(X[0] @ w)
        right = p[np.arange(3), Y[0]]
        # d/dz of -log(1 - p_y / 2): (p_y / 2) / (1 - p_y / 2) * (onehot - p)
        factor = right / 2 / (1 - right / 2)
        return X[0].T @ (factor[:, None] * (np.eye(3)[Y[0]] - p)) / 3

    w, expected = W.copy(), [W]
    for _ in range(2):
        g = bounded(w).ravel()
        rows = np.stack([slope(w, X[k], Y[k]).ravel() for k in (1, 2)])
        d = g - rows.T @ np.linalg.pinv(rows @ rows.T) @ rows @ g
        assert np.abs(rows @ d).max() < 1e-12
        assert np.linalg.norm(d) < 0.99 * np.linalg.norm(g)
        w = w - 0.3 * (d * np.linalg.norm(g) / np.linalg.norm(d)).reshape(2, 3)
        expected.append(w)
    for _ in range(2):
        away, steps = (w - W).ravel(), {}
        for k in (1, 2):
            u = step_of(w, k).ravel()
            turned = u - (u @ away) / (away @ away) * away
            steps[k] = (turned * np.linalg.norm(u) / np.linalg.norm(turned)).reshape(2, 3)
        w = plain_round(w, steps)
        expected.append(w)
    models, facts = run("fedosd", 4, lr=0.3, rounds=2)
    close(models, expected, rtol=1e-4)
    assert counts(facts) == [[3, 3, 3, 0]] * 2 + [OTHERS] * 2


def test_fedosd_of_two_that_leave_takes_the_plain_mean():
    """As the authors' code does, whatever the sizes: 3 and 4 examples here."""
    assert SIZES[0] != SIZES[2]

    def bounded(k):
        p = softmax(X[k] @ W)
        right = p[np.arange(SIZES[k]), Y[k]]
        factor = right / 2 / (1 - right / 2)
        return X[k].T @ (factor[:, None] * (np.eye(3)[Y[k]] - p)) / SIZES[k]

    g = (bounded(0) + bounded(2)).ravel() / 2
    row = slope(W, X[1], Y[1]).ravel()
    d = g - (row @ g) / (row @ row) * row
    w = W - 0.3 * (d * np.linalg.norm(g) / np.linalg.norm(d)).reshape(2, 3)
    models, _ = run("fedosd", 1, lr=0.3, rounds=1, forget=(0, 2))
    close(models, [W, w], rtol=1e-4)


def test_fedosd_recovers_in_the_federation_that_is_given():
    """Its server and its sampling; and a client that keeps some sends two steps."""
    made = []

    def around(work):
        fed = jfu.fedavg(work, server=optax.sgd(0.5))
        made.append(fed)
        return fed

    models, _ = run("fedosd", 2, lr=0.3, rounds=1, around=around)
    plain, _ = run("fedosd", 2, lr=0.3, rounds=1)
    close([models[2] - models[1]], [(plain[2] - plain[1]) / 2], rtol=1e-4)
    assert made
