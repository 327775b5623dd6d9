"""FUKD against its formula."""

import jfu
from helpers.rivals import (
    MODEL,
    OTHERS,
    PROXY,
    SUMS,
    W,
    close,
    counts,
    plain_round,
    run,
    softmax,
    trainer,
)
from jfu.unlearn import UNLEARNERS, Setting


def test_fukd():
    """The target's sum taken out, then five steps of distillation with momentum."""
    w, speed = W - SUMS[0].astype(float), 0.0
    x = PROXY.astype(float)
    teacher = softmax(x @ W / 3.0)
    for _ in range(5):
        # d/dw of 9 KL(teacher || softmax(z / 3)): the 9 and one 3 leave a factor 3
        speed = 0.9 * speed + 3.0 * x.T @ (softmax(x @ w / 3.0) - teacher) / len(x)
        w = w - 0.1 * speed
    models, facts = run("fukd", 1, lr=0.1, epochs=5, batch_size=6)
    close(models, [w, plain_round(w)])
    assert counts(facts) == [OTHERS]
    setting = Setting(jfu.fedavg(trainer(MODEL)()), MODEL, None, proxy=PROXY, batch_size=3)
    assert UNLEARNERS["fukd"](setting).server == (10 * 2, 10 * 2)
