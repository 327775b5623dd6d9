"""FedQUIT against its formula."""

import numpy as np

from helpers.rivals import OTHERS, W, X, Y, close, counts, plain_round, run, softmax


def test_fedquit():
    """Two steps of Adam towards a teacher whose true class has the least logit."""
    z = X[0] @ W
    wise = z.copy()
    wise[np.arange(3), Y[0]] = z.min(1)
    w, m, v = W.copy(), 0.0, 0.0
    for t in (1, 2):
        g = X[0].T @ (softmax(X[0] @ w) - softmax(wise)) / 3
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    models, facts = run("fedquit", 2, lr=0.01, epochs=2)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 2, 2], OTHERS]
