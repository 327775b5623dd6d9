"""A seed's trial: poison, and images that are brought to the devices once."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from helpers.workdirs import CONFIG
from launch.setup.clients import draw, images
from launch.setup.trial import names_the_poison, prepare_trial


@pytest.mark.parametrize("backdoor", [False, True])
def test_a_trials_images_are_brought_to_the_devices_once(dataset, backdoor):
    """Reading a request places nothing, and all four sides of a trial share one pool."""
    changes = dict(backdoor=backdoor, backdoor_clients=("1",), backdoor_forget="client:1")
    config = dataclasses.replace(CONFIG, forget="client:1", **changes)
    drawn = draw(config, dataset, 0)
    assert drawn.clients.x is dataset.x_train  # reading a request copies none
    clients = images(config, dataset, drawn)
    assert isinstance(clients.x, np.ndarray) and isinstance(clients.y, np.ndarray)
    assert clients.y.dtype == np.int32
    trial = prepare_trial(SimpleNamespace(config=config, dataset=dataset, drawn={0: drawn}), 0)
    sides = [*trial.everything, *trial.request]
    assert len({id(side.x) for side in sides}) == len({id(side.y) for side in sides}) == 1
    assert isinstance(sides[0].x, jax.Array)


def test_the_poison_is_named_where_all_of_it_is():
    def named(rows, forget):
        rows, forget = np.array(rows, bool), np.array(forget, bool)
        return names_the_poison(rows, forget, ~forget & ~gone)

    gone = np.zeros(4, bool)
    assert named([1, 0, 1, 0], [1, 1, 1, 0])
    assert not named([1, 0, 1, 0], [1, 1, 0, 0])  # one image stays
    assert not named([1, 0, 1, 0], [0, 1, 0, 1])  # another client's
    assert not named([0, 0, 0, 0], [1, 1, 0, 0])  # none was planted
    gone = np.array([1, 0, 0, 0], bool)
    assert named([1, 0, 1, 0], [0, 0, 1, 1])  # the rest of it had left before
    assert not named([1, 0, 0, 0], [0, 0, 1, 1])  # all of it had
