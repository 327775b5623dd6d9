"""Ascent by first updates against its formula."""

import jax
import jax.numpy as jnp
import pytest

import jfu
from helpers.rivals import FIRST, OTHERS, P, W, close, counts, plain_round, run
from jfu.unlearn.ga_first import ga_first


@pytest.mark.parametrize("scale", [7.5, pytest.param(0.0, marks=pytest.mark.slow)])
def test_ga_first(scale):
    """The server alone takes client 0's first update back; then plain rounds."""
    w = W - scale * P[0] * FIRST[0]
    models, facts = run("ga_first", 2, scale=scale)
    close(models, [w, plain_round(w), plain_round(plain_round(w))])
    assert counts(facts) == [OTHERS, OTHERS]


@pytest.mark.slow
def test_two_that_leave_by_their_sizes():
    models, _ = run("ga_first", 0, scale=2.0, forget=(0, 2))
    close(models, [W - 2 * (P[0] * FIRST[0] + P[2] * FIRST[2])])


@pytest.mark.parametrize("layers", [["stem"], ["body", "head"]])
def test_only_chosen_layers_climb(layers, fed, data):
    """Client 5 has 7 of 15 examples: ones less 2 * 7 / 15 * 3."""
    params = {name: jnp.ones(2) for name in ("stem", "body", "head")}
    first = jax.tree.map(lambda p: jnp.stack([3 * p, 5 * p, 7 * p]), params)
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = ga_first(fed, jfu.by_path(*layers), scale=2.0)
    trained = jfu.Trained({"params": params}, dict(first=first))
    after = method.perturb(trained, request, None).params
    for name in params:
        expected = 1 - 2 * 7 / 15 * 3 if name in layers else 1
        assert after[name].tolist() == pytest.approx([expected] * 2, rel=1e-6)
