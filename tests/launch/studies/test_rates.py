"""How often the audit's verdicts are wrong, on simulated models of which the answer is known."""

import json

import numpy as np
import pytest

from helpers.scripts import ROOT
from jfu.audit import rules
from jfu.audit.measures import TABLE
from launch.studies import rates

RECORDED = ROOT / "launch" / "results" / "audit-rates.json"


def bounded(line, chance=0.0):
    """The bounds that the rules are made for, and what chance adds in so many audits."""
    said = lambda model, verdict: line["shares"][model].get(verdict, 0)
    assert said("none", "yes") < 0.01 and said("old anew", "yes") < 0.01 + chance / 2
    assert said("half", "yes") < 0.05 + chance
    assert said("exact", "no") < 0.05 + chance
    # The third retraining is an exact one too, and its own no is checked by no other control.
    assert said("retrain_third", "no") < 0.05 + chance


def test_what_was_recorded_is_within_bounds_and_complete():
    lines = json.loads(RECORDED.read_text())
    about = {(line["request"], line["examples"], line["seeds"]): line for line in lines}
    kinds = [(r, n, s) for r in rates.REQUESTS for n in rates.EXAMPLES for s in rates.MANY]
    assert [*about] == kinds and len(lines) == len(kinds)
    for line in lines:
        assert line["runs"] >= (200 if line["examples"] == 1000 else 500)
        bounded(line)
    for kind, nominal in (("value", 0.95), ("difference", 0.90)):
        shares = [share[kind] for line in lines for share in line["held"].values()]
        # Of shares near 100 %, which are far from normal, the fewest.
        assert np.mean(shares) > nominal - 0.01 and min(shares) > nominal - 0.08
    # A large enough request is decided, and small ones are said to be too small.
    assert about["heart", 1000, 10]["shares"]["exact"]["yes"] > 0.5
    assert about["heart", 14, 5]["shares"]["exact"]["too small"] > 0.9


@pytest.mark.parametrize("request_", [*rates.REQUESTS])
def test_the_old_model_of_a_small_request_gets_no_yes(request_):
    """Fourteen examples: it was a yes in 23 to 37 of 100 audits."""
    rng = np.random.default_rng(0)
    pool = [rates.of_pairs(rates.REQUESTS[request_], 14, rng, pairs=8) for _ in range(3)]
    said = rates.rates(request_, 14, 5, 12, pool)["shares"]
    for model in ("none", "old anew"):
        assert "yes" not in said[model]
    assert said["exact"].get("no", 0) <= 2 / 12


def test_the_same_models_twice_get_the_same_verdict():
    """The old model passed off as an answer is the control itself."""
    request, rng = rates.REQUESTS["heart"], np.random.default_rng(1)
    pairs = rates.of_pairs(request, 20, rng, pairs=4)
    seeds = [rates.of_seed(request, 20, rng) for _ in range(5)]
    found, measures = rates.audit(request, seeds, pairs)
    assert measures["none"]["forget"]["chance"] == measures["original"]["forget"]["chance"]
    assert found["none"][0] != rules.YES


def test_simulated_models_have_every_sign_of_memory_but_those_that_are_named():
    request, rng = rates.REQUESTS["poison"], np.random.default_rng(0)
    models = rates.of_seed(request, 20, rng)
    signs = {key for key, measure in TABLE.items() if measure.sign}
    assert signs - set(models["exact"]) == set(rates.UNSEEN)
    assert not set(models["exact"]) - set(TABLE)
    # Newer signs take no random number from the others.
    other = np.random.default_rng(0)
    other.normal(size=(2, 20))
    level = request.mean + request.example * np.random.default_rng(0).normal(size=(2, 20))
    members, _ = rates.scored(request, level, 1.0, True, other)
    assert (models["original"]["auc_matched"][0] == members).all()
    # The old model is surer of its members than retrained ones are, in each of them.
    old, anew = models["original"], models["exact"]
    assert old["memorised.loss_20"][0].mean() < anew["memorised.loss_20"][0].mean() - 1
    assert old["resurfacing.forget"][0].mean() > anew["resurfacing.forget"][0].mean() + 0.3
    assert old["gradient_auc_matched"][0].mean() > anew["gradient_auc_matched"][0].mean() + 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "examples", "seeds"),
    [
        (request, examples, rates.MANY[(i + j) % 2])  # the other number is in what was recorded
        for i, request in enumerate(rates.REQUESTS)
        for j, examples in enumerate(rates.EXAMPLES)
    ],
)
def test_the_rates_of_the_whole_verdict_are_within_bounds(request_, examples, seeds):
    rng = np.random.default_rng(7)
    many = 12 if examples == 1000 else 40  # one of twelve with a no by chance would add 8 %
    pool = [rates.of_pairs(rates.REQUESTS[request_], examples, rng) for _ in range(many)]
    # Two deviations of 5 % in 200 audits.
    bounded(rates.rates(request_, examples, seeds, 200, pool), chance=0.03)
