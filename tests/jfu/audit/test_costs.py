"""Costs as ratios to retraining."""

import numpy as np
import pytest

from jfu.audit import verdicts
from jfu.audit.costs import ratios


def rows_of(method, seed, retains, bytes_each, flops_each):
    """A method's rows, one a round from 0 on."""
    return [
        dict(
            method=method,
            seed=seed,
            round=r,
            retain=retain,
            bytes_down=r * bytes_each,
            bytes_up=0,
            flops=r * flops_each,
        )
        for r, retain in enumerate(retains)
    ]


def test_costs_are_ratios_to_retraining_on_the_same_seed():
    rows = rows_of("retrain", 0, [0, 50, 99, 100, 99.8], 10, 7)  # back at round 3: 99.3 at least
    rows += rows_of("retrain", 1, [0, 100, 100], 10, 7)  # at round 1
    rows += rows_of("not", 0, [9, 99.4], 20, 7)
    rows += rows_of("not", 1, [9, 80, 90, 99.5], 10, 7)
    found = ratios(rows, "not")
    assert found["never"] == 0 and found["seeds"] == 2
    # 1/3 and 3: their geometric mean is one, and no arithmetic of ratios says otherwise.
    half = 12.706 * np.log(3)  # Student's of one degree of freedom, times sd / sqrt(2)
    assert found["rounds"]["value"] == pytest.approx(1)
    assert found["rounds"]["high"] == pytest.approx(np.exp(half), rel=1e-3)
    assert found["bytes"]["value"] == pytest.approx(np.sqrt(2))
    assert verdicts.cheaper("not", found | dict(seeds=5))[0] == "inconclusive"
    less = dict(seeds=5, never=0, rounds=dict(low=0.2, high=0.9), bytes=dict(low=0.2, high=0.99))
    assert verdicts.cheaper("not", less)[0] == "yes"
    assert verdicts.cheaper("not", less | dict(bytes=dict(low=1.1, high=1.2)))[0] == "no"
    # One round like retraining, and nothing sent: less of something and more of nothing.
    even = dict(rounds=dict(low=1.0, high=1.0), bytes=dict(low=0.0, high=0.0))
    assert verdicts.cheaper("ridge", less | even) == (
        "yes",
        "It needs less, and nothing more, of retraining's: rounds 1.00 to 1.00, bytes 0.00 to "
        "0.00.",
    )
    same = even | dict(bytes=even["rounds"])
    assert verdicts.cheaper("again", less | same)[0] == "inconclusive"
    rows += rows_of("ga", 0, [100, 20, 20], 10, 7)
    found = ratios(rows, "ga")
    assert found == dict(seeds=1, never=1)
    assert verdicts.cheaper("ga", found | dict(seeds=5)) == (
        "no",
        "Retained accuracy never came back on 1 of the seeds.",
    )


@pytest.mark.parametrize("seeds", [5, 10])
def test_what_costs_as_much_as_retraining_is_seldom_called_cheaper(seeds):
    """Rounds drawn alike for both: it was 8 in 100 with percentiles of five seeds."""
    rng = np.random.default_rng(seeds)

    def audit_once():
        rows = []
        for seed in range(seeds):
            for name in ("retrain", "not"):
                back = int(rng.integers(20, 50))
                rows += rows_of(name, seed, [0] * back + [100], 10, 7)
        return verdicts.cheaper("not", ratios(rows, "not"))[0]

    said = [audit_once() for _ in range(300)]
    assert said.count("yes") <= 17 and said.count("no") <= 17  # 2.5 % are 7.5
