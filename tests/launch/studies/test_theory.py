"""The theory's experiments: verdicts, work directories, and a run on a small scale."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfu import theory
from launch.studies import theorems
from launch.studies import theory as script

KEY = jax.random.key(0)
ACTIVATIONS = theory.ACTIVATIONS.items()


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


def test_a_work_directory_is_taken_over_only_from_the_same_run(tmp_path):
    mine = script.claim(tmp_path / "mine", 3)
    (mine / "theory.jsonl").write_text("old")
    assert script.claim(mine, 3) == mine
    with pytest.raises(ValueError, match="a run with seeds=3, and the flags say seeds=2"):
        script.claim(mine, 2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "theory.jsonl").write_text("theirs")
    with pytest.raises(ValueError, match="was not made by launch.theory"):
        script.claim(other, 3)
    (other / "config.json").write_text('{"script": "tune", "seeds": 3}')
    with pytest.raises(ValueError, match=r"has a run of launch\.tune"):
        script.claim(other, 3)
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match="unreadable"):
        script.claim(other, 3)
    with pytest.raises(ValueError, match="was not made by"):
        script.claim(other / "theory.jsonl", 3)
    assert (other / "theory.jsonl").read_text() == "theirs"


@pytest.mark.slow
def test_the_script_on_a_small_scale(tmp_path, monkeypatch):
    """One activation, one seed, two widths: every check has a row, a cell and a place."""
    monkeypatch.setattr(theory, "ACTIVATIONS", {"identity": lambda y: y})
    for name, value in dict(
        RETAIN=20,
        FORGET=10,
        WIDTH=4,
        WIDTHS=(4, 6),
        DRAWS=2,
        KEPT=np.repeat(np.float32([1, 0]), [20, 10]),
        TRAINING=dict(steps=20, rate=0.01),
        FLOW=dict(rate=0.005, steps=40, every=20, iterations=5),
        REPAIR=dict(steps=10, rate=0.01),
    ).items():
        monkeypatch.setattr(theorems, name, value)
    text, _ = script.run(tmp_path / "run", seeds=1)
    rows = [json.loads(line) for line in (tmp_path / "run/theory.jsonl").read_text().splitlines()]
    assert {row["what"] for row in rows} == set(theorems.CHECKS)
    for row in rows:
        assert row["activation"] == "identity" and row["theorem"] == theorems.CHECKS[row["what"]][0]
        assert row["consistent"] in (True, False, None)
        assert np.isfinite([row["value"], row["bound"]]).all()
    of = lambda what: [row for row in rows if row["what"] == what]
    # What holds for odd activations whatever the weights.
    for what in ("time, trained", "time, negated", "first", "halves"):
        assert all(row["consistent"] for row in of(what)), what
    assert all(row["consistent"] is None for row in of("narrow to wide, trained"))
    assert of("pair")[0]["value"] < 1e-5
    assert [row["width"] for row in of("noise")] == [4, 6]
    assert (tmp_path / "run/theory.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run/theory.md").read_text() == text
    assert "Theorem 4" in text and text.count("\n") == len(theorems.CHECKS) + 2 + 1 + 4 + 2
