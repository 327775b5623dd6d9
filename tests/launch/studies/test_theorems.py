"""The theorems as experiments: verdicts, and what cannot fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfu import theory
from launch.studies import theorems
from launch.studies import theory as script

KEY = jax.random.key(0)


def test_a_verdict_needs_every_row():
    row = lambda good: dict(value=2.0, bound=4.0, consistent=good)
    assert script.verdict([row(True), row(True)]) == "consistent (2, 4)"
    assert script.verdict([row(True), row(False)]) == "not consistent in 1 of 2 (2, 4)"
    assert script.verdict([row(False)]) == "not consistent (2, 4)"
    assert script.verdict([row(None), row(True)]) == "consistent (2, 4)"
    assert script.verdict([row(None), row(None)]) == "not shown: nothing to compare (2, 4)"
    # What did not reach its target took at least so long.
    late = [row(True) | dict(reached=True), row(True) | dict(reached=False)]
    assert script.verdict(late) == "consistent (≥ 2, 4)"


def test_what_cannot_fail_is_not_shown_and_asymmetry_is_of_single_units(monkeypatch):
    """The identity's later Jacobians depend on no input: W1 is 0 whatever the first layer.

    Its two units have opposite skew: together they are symmetric, each of them is not.
    """
    monkeypatch.setattr(theorems, "WIDTHS", (2,))
    x = np.abs(np.random.default_rng(0).normal(size=(60, 3))).astype(np.float32)
    stem = np.array([[1, -1], [0, 0], [0, 0]], np.float32)
    weights = tuple(jnp.asarray(w)[None] for w in (stem, *theory.chain(KEY, (2, 2, 2))))
    task = theorems.Task(jnp.asarray(x)[None], jnp.zeros((1, 60), int), jax.random.split(KEY, 1))
    networks = theorems.Networks({2: weights}, {2: weights}, weights)
    of = lambda f: {row["what"]: row for row in theorems.jacobians(f, task, networks)}
    rows = of(theory.ACTIVATIONS["identity"])
    for what in ("narrow to wide, first", "narrow to wide, trained", "new layer", "noise"):
        assert rows[what]["value"] < 1e-5 and rows[what]["consistent"] is None
    assert script.total([script.judged([row]) for row in rows.values()]).endswith("4 not shown")
    assert rows["asymmetry, first"]["value"] == pytest.approx(1)
    assert theory.total_variation(jnp.asarray(x @ stem)) == 0
    # For tanh negation is nothing, another first layer is something.
    rows = of(jnp.tanh)
    assert rows["narrow to wide, trained"]["consistent"] is None
    assert rows["new layer"]["consistent"] is True
