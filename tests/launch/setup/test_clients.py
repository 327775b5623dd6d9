"""A seed's clients: who they are, who has left, who is poisoned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.workdirs import PRIVATE, changed
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
