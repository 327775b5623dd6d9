"""Negative preference optimization against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.rivals import MODEL, OTHERS, W, X, Y, close, counts, plain_round, run, softmax
from jfu.tasks import explained
from jfu.unlearn.npo import preference


def losses(w):
    return -np.log(softmax(X[0] @ w))[np.arange(3), Y[0]]


def slope(w, beta):
    """Of -(2 / beta) mean log sigmoid(beta (L - L_old)): each slope times -2 sigmoid(-beta ...)."""
    risen = losses(w) - losses(W)
    weight = -2 / (1 + np.exp(beta * risen))
    return X[0].T @ (weight[:, None] * (softmax(X[0] @ w) - np.eye(3)[Y[0]])) / 3


@pytest.mark.parametrize("beta", [0.1, pytest.param(2.0, marks=pytest.mark.slow)])
def test_npo(beta):
    w = W.copy()
    for _ in range(3):
        w = w - 0.5 * slope(w, beta)
    models, facts = run("npo", 2, lr=0.5, beta=beta, epochs=3)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 3, 3], OTHERS]
    assert (losses(w) > losses(W)).all()


def test_the_calibrated_form_asks_no_old_model():
    """Three steps of -(2 / beta) mean log sigmoid(beta (L - margin)), each slope by hand."""
    w, beta, margin = W.copy(), 2.5, 0.4
    for _ in range(3):
        weight = -2 / (1 + np.exp(beta * (losses(w) - margin)))
        pull = weight[:, None] * (softmax(X[0] @ w) - np.eye(3)[Y[0]])
        w = w - 0.5 * X[0].T @ pull / 3
    how = dict(lr=0.5, beta=beta, epochs=3, calibrated=True, margin=margin)
    models, facts = run("npo", 2, **how)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 3, 0], OTHERS]
    with pytest.raises(ValueError, match="margin=0.4, which has an effect with calibrated only"):
        run("npo", 1, margin=0.4)


def test_the_calibrated_form_pushes_what_is_known_well_harder():
    """Of two examples with losses 0.1 and 3, whatever the old model knew of them."""
    slope = jax.grad(lambda now: -jax.nn.log_sigmoid(2.5 * now).sum())(jnp.array([0.1, 3.0]))
    apply = lambda variables, x, **how: (x * variables["params"], {})
    model = jfu.Model(lambda key: {"params": jnp.zeros(())}, apply)
    judge = lambda outputs, y: (outputs[:, 0], outputs[:, 0])
    loss = preference(model, None, 2.5, judge)
    each = []
    for x in (0.1, 3.0):
        batch = jfu.Batch(jnp.full((1, 1), x), jnp.zeros(1), jnp.ones(1))
        grad = jax.grad(lambda p, b: loss({"params": p}, b, jax.random.key(0))[0])(1.0, batch)
        each.append(float(grad) / x)  # by the loss, not by the parameter
    assert each == pytest.approx(2 / 2.5 * np.asarray(slope), rel=1e-5)
    assert each[0] < 10 * each[1] < 0


@pytest.mark.slow
def test_padding_with_a_label_that_is_none_changes_nothing():
    old = {"params": {"head": {"kernel": jnp.float32(W)}}}
    new = {"params": {"head": {"kernel": jnp.float32(1.5 * W)}}}
    loss = preference(MODEL, old, 0.5)
    x, y = jnp.float32(X[0]), jnp.array([Y[0][0], Y[0][1], -1])
    value = lambda x, y, mask: loss(new, jfu.Batch(x, y, mask), jax.random.key(0))[0]
    both = value(x, y, jnp.array([1.0, 1, 0])), value(x[:2], y[:2], jnp.ones(2))
    assert float(both[0]) == pytest.approx(float(both[1]), rel=1e-6)


def test_a_regression_takes_its_own_loss():
    """One example: the squared error rises from 1 to 4."""
    apply = lambda variables, x, **how: (x * variables["params"], {})
    model = jfu.Model(lambda key: {"params": jnp.zeros(())}, apply)
    loss = preference(model, {"params": 1.0}, 0.5, explained(1.0))
    batch = jfu.Batch(jnp.ones((1, 1)), jnp.array([2.0]), jnp.ones(1))
    value, _ = loss({"params": 4.0}, batch, jax.random.key(0))
    assert float(value) == pytest.approx(-4 * np.log(1 / (1 + np.exp(-0.5 * 3))), rel=1e-6)
