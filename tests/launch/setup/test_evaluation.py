"""What a seed's models are evaluated on."""

import dataclasses
import json

import numpy as np
import pytest

import jfu
from helpers.workdirs import CONFIG, poisoned
from jfu.evaluation import measures_of
from launch.setup.clients import draw
from launch.setup.evaluation import evaluation_of


@pytest.mark.parametrize(("fraction", "size"), [(1.0, None), (0.5, 4)])
def test_the_matched_attack_pairs_class_and_poison(dataset, fraction, size):
    config = dataclasses.replace(
        CONFIG, forget="client:1", backdoor_fraction=fraction, backdoor_size=size
    )
    config, clients, request, rows = poisoned(config, dataset)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    x, y = np.asarray(made.x), np.asarray(made.y)
    pool, tests = len(rows), len(dataset.y_test)
    assert len(x) == pool + 2 * tests
    members, others = made.members, made.others
    assert len(members) == len(set(members)) == len(set(others)) > 0
    assert made.forget[members].all()
    side = size or 2
    stamped = (x[:, -side:, -side:] == 255).all((1, 2, 3))
    assert stamped[: len(rows)].sum() == rows.sum() and stamped[-tests:].all()
    np.testing.assert_array_equal(stamped[members], stamped[others])
    np.testing.assert_array_equal(y[members], y[others])
    true = np.concatenate([dataset.y_train, dataset.y_test, dataset.y_test])
    np.testing.assert_array_equal(true[members], true[others])
    assert 0 < rows[members].mean() <= 1


def test_measures_by_hand(dataset):
    config = dataclasses.replace(CONFIG, forget="class:1")
    clients, forget, rows, *_ = draw(config, dataset, 0)
    request = jfu.split(clients, forget)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    right = np.zeros(90, bool)
    right[:60] = dataset.y_train != 1  # knows all it retains, nothing of what it forgot
    right[60:] = dataset.y_test == 0
    measures = measures_of(made, np.zeros(90), right, attack=False)
    assert measures["retain"] == 100
    assert measures["forget"] == 0
    assert measures["test"] == pytest.approx(100 / 3)
    assert measures["test_kept"] == 50
    assert measures["test_forgotten"] == 0
    assert measures["asr"] is None
    assert measures["mia"] is None


@pytest.mark.parametrize("shared", [[2], [0, 1, 2]])
def test_what_a_staying_client_holds_too_is_not_forgotten(dataset, tmp_path, shared):
    """Of client 0's images, 0 to 2, client 1 holds some as well, which nobody unlearns."""
    (tmp_path / "lists.json").write_text(json.dumps([[0, 1, 2], [*shared, 3, 4], [5]]))
    config = dataclasses.replace(CONFIG, partition=f"file:{tmp_path / 'lists.json'}")
    clients, forget, rows, *_ = draw(config, dataset, 0)
    request = jfu.split(clients, forget)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    alone = sorted({0, 1, 2} - set(shared))
    assert np.flatnonzero(made.forget).tolist() == alone
    assert np.flatnonzero(made.retain).tolist() == sorted({*shared, 3, 4, 5})
    assert set(made.members) <= set(alone)
    right = np.isin(np.arange(90), shared)
    assert measures_of(made, np.zeros(90), right, attack=False)["forget"] == (0 if alone else None)


def test_attack_success_leaves_out_the_triggers_own_class(dataset):
    config = dataclasses.replace(CONFIG, forget="client:1")
    config, clients, request, rows = poisoned(config, dataset)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    calls_all_zero = np.asarray(made.y) == 0
    assert measures_of(made, np.zeros(120), calls_all_zero, attack=False)["asr"] == 100
    obeys_none = np.concatenate([np.ones(90, bool), dataset.y_test == 0])
    assert measures_of(made, np.zeros(120), obeys_none, attack=False)["asr"] == 0
