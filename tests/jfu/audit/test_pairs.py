"""Samples of pairs of shadow federations."""

import numpy as np

from jfu.audit import pairs


def test_pairs_have_a_model_of_either_kind():
    phi = np.arange(12.0).reshape(4, 3)
    held = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]], bool)
    inside, outside = pairs.by_pair(phi, held)
    assert inside.tolist() == [[0, 4, 2], [9, 10, 8]]
    assert outside.tolist() == [[3, 1, 5], [6, 7, 11]]


def test_a_federation_that_diverged_is_not_attacked():
    draw = np.random.default_rng(0).normal(size=(8, 3))
    held = np.arange(24).reshape(8, 3) // 3 % 2 == 0
    phi = dict(held=held, retrain=draw, original=draw + 1, ga=np.where(draw > 1, np.nan, draw))
    found = pairs.of_shadows(phi)
    assert found["ga"] == {}
    assert {"ulira", "lira", "forgetting_score"} == set(found["original"])
    assert found["original"]["forgetting_score"][0][1].tolist() == [[4, 4]]
