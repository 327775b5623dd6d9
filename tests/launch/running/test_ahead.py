"""Work done ahead: compiled once, with the same results. Errors come where it is needed."""

import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from jfu.evaluation import of_arrays, of_pool
from launch.running import ahead
from launch.setup.trial import Trial
from launch.shell.devices import compiled


class Mine(NamedTuple):
    """What ``judging`` reads of a study."""

    model: Any
    judge: Any


@pytest.fixture
def trial():
    x, y = np.eye(4, dtype=np.float32), np.arange(4)
    made = of_arrays((x, y), (x[:2], y[:2]), (x[1:], y[1:]))
    made = made._replace(x=jnp.asarray(made.x), y=jnp.asarray(made.y))
    return Trial(0, jax.random.key(0), None, None, made, pool=of_pool(made))


def study(apply):
    model = jfu.Model(lambda key: {"params": jnp.ones(())}, apply)
    return Mine(model, compiled(jfu.per_example(apply)))


def test_an_evaluation_is_traced_ahead_and_not_again(trial):
    threads = []

    def apply(variables, x):
        threads.append(threading.current_thread())
        return variables["params"] * x

    given = study(apply)
    made = ahead.judging(given, trial)
    variables = {"params": jnp.ones(())}
    for side, right in (trial.evaluation, 9), (trial.pool, 6):
        loss, correct = made.judge(variables, side.x, side.y)
        assert int(correct.sum()) == right == len(loss)
    assert threads and threading.main_thread() not in threads


def test_an_error_comes_where_the_work_is_needed(trial, capfd):
    def apply(variables, x):
        raise ValueError("no such network")

    made = ahead.judging(study(apply), trial)
    side = trial.evaluation
    with pytest.raises(ValueError, match="no such network"):
        made.judge({"params": jnp.ones(())}, side.x, side.y)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("forgotten", "many"), [(9, 0), (10, 1)])
def test_attacks_are_imported_where_there_are_examples_to_attack(
    trial, forgotten, many, monkeypatch
):
    asked = []
    monkeypatch.setattr(ahead, "imported", asked.append)
    few = trial.evaluation._replace(forget=np.arange(40) < forgotten)
    ahead.attacking(trial._replace(evaluation=few))
    assert asked == [ahead.ATTACKS] * many


def test_modules_are_imported_unless_a_backend_may_be_missing(monkeypatch):
    asked = []
    monkeypatch.setattr(ahead.importlib, "import_module", asked.append)
    monkeypatch.setattr(ahead, "_begun", lambda work: work())
    monkeypatch.delenv("MPLBACKEND", raising=False)
    ahead.imported([*ahead.ATTACKS, *ahead.FIGURES])
    assert asked == [*ahead.ATTACKS, *ahead.FIGURES]
    asked.clear()
    monkeypatch.setenv("MPLBACKEND", "module://not_here")
    ahead.imported([*ahead.ATTACKS, *ahead.FIGURES])
    assert asked == [*ahead.ATTACKS]
