"""Differential privacy: epsilon by phases, and noise that is drawn once."""

import json
from types import SimpleNamespace

import jax
import pytest

import jfu
from helpers.federation import bits
from helpers.workdirs import PLAIN, PRIVATE, changed, epsilon_by_hand, trial_of
from launch.setup import private


def test_every_phase_counts_the_clients_that_it_draws_from(data, monkeypatch):
    """Of three clients one goes: two to draw from, whatever --clients says."""
    seen = []
    composed = lambda noise, phases, delta, **how: seen.append((phases, how)) or 1.0
    monkeypatch.setattr(jfu.privacy, "composed", composed)
    config, trial = changed(PRIVATE, clients=10, sample=2), trial_of(data, [5])
    epsilon = lambda config, name, request: private.account(config, trial, name, request)(3)
    assert epsilon(config, "original", trial.everything) == dict(epsilon=1.0)
    assert epsilon(config, "not", trial.request) == dict(epsilon=1.0)
    later = changed(config, init_params="A/model", rounds_before=9)
    trial = trial_of(data, [5], fewest=2)
    epsilon(later, "not", trial.request)
    assert [phases for phases, _ in seen] == [[(3, 3)], [(4, 3), (3, 2)], [(9, 2), (3, 2)]]
    assert all(how == dict(present=1.0, drawn=2) for _, how in seen)
    assert epsilon(PLAIN, "not", trial.request) == {}


def test_the_epsilon_of_a_model_from_elsewhere_is_not_known(data, monkeypatch):
    """Nor is it for models that were made of it."""
    trial = trial_of(data, [5])
    for config in (
        changed(PRIVATE, init_params="other.msgpack"),
        changed(PRIVATE, init_params="B/model.safetensors", rounds_before=None),
    ):
        for name in ("original", "not", "retrain"):
            assert private.account(config, trial, name, trial.request)(0) == dict(epsilon=None)


def test_noise_is_never_drawn_twice():
    """By two methods, two requests or two settings; training does not know the request."""
    key = jax.random.key(7)
    draw = lambda name, **changes: bits(
        jax.random.key_data(private.apart(key, changed(PRIVATE, **changes), name))
    )
    drawn = [
        draw("not"),
        draw("finetune"),
        draw("not", forget="client:1"),
        draw("not", past=("-client:2",)),
        draw("not", past=("-client:1",)),
        draw("not", layers=("last",)),
        draw("original"),
        draw("original", lr=0.2),
        bits(jax.random.key_data(key)),
    ]
    assert len(set(drawn)) == len(drawn)
    assert draw("original") == draw("train") == draw("original", forget="class:1")
    # In two steps as in one comparison.
    assert draw("not", init_params="A/model", rounds_before=4, data_dir="/d") == draw("not")
    assert bits(jax.random.key_data(private.apart(key, PLAIN, "not"))) == drawn[-1]


def test_no_noise_has_no_epsilon_and_says_why(data):
    """Nor has noise that everybody knows; a row stays JSON that any reader takes."""
    trial, row = trial_of(data, [5]), dict(method="not", round=1, retain=50.0, test=40.0)
    for changes, words in (
        (dict(dp_noise=0.0), "none: there is no noise"),
        (dict(dp_noise_from_seed=True), "anyone can compute the noise"),
        (dict(rounds_before=None), "not known"),
        (dict(dp_noise=1e-170), None),
        ({}, None),
    ):
        config = changed(PRIVATE, **changes)
        epsilon = private.account(config, trial, "not", trial.request)(1)
        line = private.published(
            config, row | epsilon | dict(loss_retain=0.5, left_out=1, seconds=2.0)
        )
        assert line["outside_epsilon"] == "retain, seconds"
        assert json.loads(json.dumps(line, allow_nan=False)) == line
        assert "loss_retain" not in line and "left_out" not in line
        assert words in line["epsilon_is"] if words else "epsilon_is" not in line
        assert (line["epsilon"] is None) == (changes != {})
        said = "\n".join(private.outlook(config, trial, {"not": 1}))
        assert (words or "epsilon") in said
    assert private.published(PLAIN, row) == row
    assert private.outlook(PLAIN, trial, {"not": 1}) == [] and private.page_note(PLAIN) == ""


def test_what_epsilon_and_delta_are_worth_is_said_before_the_first_round(data):
    """Training of four rounds and ten more at noise 1: 20.6; three clients, so delta below 1/3."""
    pytest.importorskip("dp_accounting")
    trial = trial_of(data, [5])
    first, note, outside = private.outlook(PRIVATE, trial, {"not": 2, "retrain": 10})
    assert f"epsilon {epsilon_by_hand(14):.3g} at delta 0.001 after the last round" in first
    assert "above 10 promises very little" in note and private.OUTSIDE in outside
    quiet = private.outlook(changed(PRIVATE, dp_noise=10.0), trial, {"not": 2, "retrain": 10})
    assert len(quiet) == 2
    *_, delta, _ = private.outlook(changed(PRIVATE, dp_noise=10.0, dp_delta=0.4), trial, {"not": 2})
    assert "--dp_delta=0.4 is more than 1 / 3, for 3 clients" in delta and "less than 0.33" in delta


def test_what_a_round_costs_does_not_tell_who_came(data):
    """Clients of 7, 3 and 5 examples in batches of 3: 3 + 1 + 2 steps; half of them come."""
    study = SimpleNamespace(per_client=(100, 60), per_step=10.0, per_forward=4.0)
    of = lambda name, **changes: private.planned(
        changed(PRIVATE, batch_size=3, **changes), study, data, name
    )
    assert of("not")(1) == dict(bytes_down=300, bytes_up=180, flops=60.0)
    assert of("not", absent=0.5)(1) == dict(bytes_down=150, bytes_up=90, flops=30.0)
    assert of("not", sample=2)(9) == dict(bytes_down=200, bytes_up=120, flops=40.0)
    assert of("not", sample=5, epochs=2)(9) == dict(bytes_down=300, bytes_up=180, flops=120.0)
    assert of("anchored")(1) == dict(bytes_down=600, bytes_up=180, flops=84.0)
    assert of("anchored")(2) == dict(bytes_down=300, bytes_up=180, flops=84.0)
    assert of("coun")(1) == of("not_coun")(1) == dict(bytes_down=300, bytes_up=180, flops=120.0)
    assert private.planned(PLAIN, study, data, "not") is None


def test_a_sum_of_one_is_told(data):
    """One of three leaves; two stay, of whom one alone comes in 2 * 0.9 * 0.1 of rounds."""
    alone, two = trial_of(data, [5]), trial_of(data, [5, 2])
    plan = dict.fromkeys(("not", "ga", "puf", "fedquit"), 2)
    sums = changed(PLAIN, sum_only=True)
    (line,) = private.lonely(sums, alone, plan)
    assert "a single client leaves" in line and "ga, fedquit: the sum is its update" in line
    assert private.lonely(sums, alone, {"not": 2}) == private.lonely(PLAIN, alone, plan) == []
    (line,) = private.lonely(sums, two, {"not": 2})
    assert "only one client takes part" in line
    (line,) = private.lonely(changed(sums, sample=1), alone, {"not": 2})
    assert "only one client takes part" in line
    (line,) = private.lonely(changed(sums, absent=0.9), alone, {"not": 2})
    assert "--absent=0.9 only one of the 2 clients takes part in 18 % of rounds" in line
