"""A seed's clients: who they are, who has left, who is poisoned."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.workdirs import CONFIG, PRIVATE, changed, poisoned
from jfu.data import Dataset
from launch.setup import federation
from launch.setup.clients import draw
from launch.setup.study import prepare_study
from launch.shell.devices import Layout


@pytest.fixture
def people():
    """Three clients by name, of a data set that says who holds what; --clients stays at ten."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 200, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 3
    client = np.array(["ann", "bob", "eve"])[np.arange(30) // 10]
    return Dataset(x[:30], y[:30], x[30:], y[30:], ("a", "b", "c"), client)


def test_the_fewest_clients_that_ever_were(people):
    past = ("-client:ann", "-client:bob", "+client:ann,bob")
    for some, fewest in ((past, 1), (past[:1], 2), ((), 3)):
        config = changed(PRIVATE, past=some, forget="")
        assert draw(config, people, 0).fewest == fewest


def test_noisy_sums_are_divided_by_those_who_are_there(people, monkeypatch):
    """Three before the request and two after it; --clients says ten and --sample five."""
    made = lambda **changes: federation.aggregator(changed(PRIVATE, dp_noise=0.0, **changes), 3)
    ones = {"a": jnp.ones(2)}
    for changes, cohort in ((dict(sample=5), 3), (dict(sample=2), 2), (dict(absent=0.5), 1.5)):
        found, _ = made(clients=10, **changes).decode(ones, (), jax.random.key(0))
        np.testing.assert_allclose(found["a"], 1 / cohort, rtol=1e-6)

    monkeypatch.setattr("jfu.data.load", lambda *args, **options: people)
    monkeypatch.setattr(jfu, "step_flops", lambda *args, **options: 0.0)
    divided, usual = [], federation.aggregator
    record = lambda config, clients: divided.append(clients) or usual(config, clients)
    monkeypatch.setattr(federation, "aggregator", record)
    config = changed(PRIVATE, dataset="own.npz", clients=10, sample=5, forget="client:eve")
    study = prepare_study(config, Layout("cpu", 1, 1), [0])
    assert set(divided) == {2, 3}
    assert study.train is not study.fresh and study.further is study.fed is not study.setting.fed
    study = prepare_study(changed(config, dp_clip=None), Layout("cpu", 1, 1), [0])
    assert study.train is study.fresh and study.further is study.fed is study.setting.fed


@pytest.mark.parametrize("forget", ["client:1", "fraction:0.3@client:1", "class:2@client:1"])
def test_poison_lies_in_what_will_be_forgotten(dataset, forget):
    """Poison that stayed would be learnt by the retrained model too."""
    config = dataclasses.replace(CONFIG, forget=forget)
    _, clients, _, rows = poisoned(config, dataset)
    clean, forgotten, *_ = draw(config, dataset, 0)
    request = jfu.split(clean, forgotten)
    gone = np.asarray(request.forget.index)[np.asarray(request.forget.mask)]
    assert sorted(gone) == np.flatnonzero(rows).tolist()
    assert (np.asarray(clients.x)[rows, -2:, -2:] == 255).all()
    assert (np.asarray(clients.y)[rows] == 0).all()
    untouched = ~rows
    np.testing.assert_array_equal(np.asarray(clients.x)[untouched], dataset.x_train[untouched])


def test_poison_elsewhere_than_the_request_is_all_of_the_client(dataset):
    config = dataclasses.replace(CONFIG, forget="client:0")
    _, clients, _, rows = poisoned(config, dataset)
    assert rows.sum() == int(clients.mask[1].sum())
    assert rows[np.asarray(clients.index[1])].all()


def test_shared_images_cannot_be_poisoned(dataset, tmp_path):
    (tmp_path / "lists.json").write_text(json.dumps([[0, 1, 2], [2, 3, 4], [5]]))
    config = dataclasses.replace(
        CONFIG, partition=f"file:{tmp_path / 'lists.json'}", forget="client:1"
    )
    with pytest.raises(ValueError, match="shares images with other clients"):
        poisoned(config, dataset)


def test_ids_may_hold_an_at(dataset):
    ids = np.repeat(["ann@x.org", "bob@x.org", "cy"], 20)
    own = dataset._replace(client=ids)
    for text, who in (
        ("client:bob@x.org", [False, True, False]),
        ("class:2@client:ann@x.org,cy", [True, False, True]),
    ):
        config = dataclasses.replace(CONFIG, forget=text)
        forget = draw(config, own, 0).forget
        assert forget.any(1).tolist() == who
