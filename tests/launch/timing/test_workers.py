"""Rounds in a process of their own."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from launch.timing import workers, workloads


def test_updates_by_hand():
    """9 steps of SGD with momentum from a slope of 0.001."""
    optimizer = optax.sgd(0.5, 0.9)
    params = {"w": jnp.ones((2, 3))}
    run = jax.jit(workers.updates(optimizer, 9))
    found, memory = run(params, optimizer.init(params), {"w": jnp.full((2, 3), 1e-3)})
    p, m = 1.0, 0.0
    for _ in range(9):
        m = 0.9 * m + 1e-3
        p -= 0.5 * m
    np.testing.assert_allclose(found["w"], p, rtol=1e-6)
    np.testing.assert_allclose(jax.tree.leaves(memory)[0], m, rtol=1e-6)


def test_a_failing_round_still_closes_what_the_job_holds():
    events, closed = [], []
    job = workloads.Job(lambda: 1 / 0, close=lambda: closed.append(True))
    known = mock.patch.dict(workers.WORKERS, {"jfu": lambda asked: job})
    with known, pytest.raises(ZeroDivisionError):
        workers.work(dict(name="jfu", rounds=1), lambda event, **facts: events.append(event))
    assert events == ["ready"] and closed == [True]
