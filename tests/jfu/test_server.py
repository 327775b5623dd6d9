"""The server's optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import sends

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("keys_unchecked")]


@pytest.fixture
def weighted():
    """Three clients with 1, 2 and 3 examples."""
    return jfu.stack(np.zeros((6, 1)), np.zeros(6, int), [[0], [1, 2], [3, 4, 5]])


U = jnp.array([[1.0, -2.0], [4.0, 0.0], [-2.0, 6.0]])

MEAN = np.array([(1 + 8 - 6) / 6, (-2 + 0 + 18) / 6])


def _two_rounds(fed, data, variables=None):
    state = fed.init({"params": jnp.zeros(2)} if variables is None else variables)
    for r in range(2):
        state, _ = fed.round(state, data, jax.random.key(r))
    return state


def test_fedavgm_by_hand(weighted):
    """m1 = u, m2 = 0.9 u + u; each step moves by half of m."""
    fed = jfu.fedavg(sends(U), server=optax.sgd(0.5, momentum=0.9))
    np.testing.assert_allclose(_two_rounds(fed, weighted).params, 0.5 * 2.9 * MEAN, rtol=1e-6)


@pytest.mark.parametrize("yogi", [False, True])
def test_fedadam_and_fedyogi_by_hand(weighted, yogi):
    """Reddi et al., algorithm 2: no bias correction, and v begins at tau^2."""
    b1, b2, tau, lr = 0.8, 0.97, 0.3, 0.1
    make = jfu.fedyogi if yogi else jfu.fedadam
    fed = jfu.fedavg(sends(U), server=make(lr, b1=b1, b2=b2, tau=tau))
    params, m, v, square = np.zeros(2), np.zeros(2), np.full(2, tau**2), MEAN**2
    for _ in range(2):
        m = b1 * m + (1 - b1) * MEAN
        v = v - (1 - b2) * square * np.sign(v - square) if yogi else b2 * v + (1 - b2) * square
        params += lr * m / (np.sqrt(v) + tau)
    np.testing.assert_allclose(_two_rounds(fed, weighted).params, params, rtol=1e-5)
    with pytest.raises(ValueError, match=r"was given tau=0; it must be a number in \(0, inf\)"):
        make(lr, tau=0)


def test_adam_at_the_server_by_hand(weighted):
    """optax's, with bias correction, the mean update as a negative gradient."""
    b1, b2, eps, lr = 0.9, 0.99, 1e-3, 0.1
    fed = jfu.fedavg(sends(U), server=optax.adam(lr, b1=b1, b2=b2, eps=eps))
    params, m, v = np.zeros(2), np.zeros(2), np.zeros(2)
    for t in (1, 2):
        m, v = b1 * m + (1 - b1) * MEAN, b2 * v + (1 - b2) * MEAN**2
        params += lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    np.testing.assert_allclose(_two_rounds(fed, weighted).params, params, rtol=1e-5)


def test_statistics_are_averaged_without_the_server_optimizer(weighted):
    """A server rate of 0.1 shrinks the parameters' step and not the statistics'."""
    fed = jfu.fedavg(sends(U, stats=U), server=optax.sgd(0.1))
    start = {"params": jnp.zeros(2), "stats": jnp.ones(2)}
    state = _two_rounds(fed, weighted, start)
    np.testing.assert_allclose(state.params, 0.2 * MEAN, rtol=1e-6)
    np.testing.assert_allclose(state.variables["stats"], 1 + 2 * MEAN, rtol=1e-6)
