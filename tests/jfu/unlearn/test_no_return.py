"""Recovery without a way back: against its formula, in which rounds, and for any method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from helpers.rivals import OTHERS, W, close, counts, plain_round, run
from jfu.unlearn import finetune, ga, negation, no_return
from jfu.unlearn.no_return import onward

pytestmark = pytest.mark.conformance


WRONG = -0.1 * plain_round(0 * W)  # the negative of a first round, so that training moves away


@pytest.mark.parametrize(("trained", "leads_back"), [(W, True), (WRONG, False)])
def test_rounds_of_not_without_their_way_back(trained, leads_back):
    """From a trained model all rounds lead back, and from one that was wrong they lead away."""
    w, expected = -trained, [-trained]
    for _ in range(3):
        away, step = (w - trained).ravel(), (plain_round(w) - w).ravel()
        along = step @ away / (away @ away)
        assert (along < 0) == leads_back and abs(along) > 1e-3
        w = w + (step - min(0.0, along) * away).reshape(2, 3)
        expected.append(w)
    models, facts = run("not_no_return", 3, trained=trained)
    close(models, expected)
    assert counts(facts) == [OTHERS] * 3
    lengths = [np.linalg.norm(model - trained) for model in models]
    assert (np.diff(lengths) > 0).all()
    plain = [np.linalg.norm(model - trained) for model in run("not", 3, trained=trained)[0]]
    assert (np.diff(plain) < 0).all() == leads_back


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([2.0, 1.0], [2.0, 1.0], [2.0, 1.0]),
        ([0.0, 0.0], [3.0, 4.0], [3.0, 4.0]),  # at the old model no way leads back
        ([3.0, 4.0], [3.0, 9.0], [3.0, 9.0]),
        ([3.0, 4.0], [-3.0, 4.0], [-0.84, 6.88]),  # -6 * 3 / 25 = -0.72 of (3, 4) is removed
        ([3.0, 4.0], [-3.0, -4.0], [3.0, 4.0]),
        ([3e30, 4e30], [3e30, 0.0], [3e30, 0.0]),  # squares overflow: what the round says
    ],
)
def test_the_part_that_leads_back(before, after, expected):
    turned = onward(jnp.array(before), jnp.array(after), jnp.zeros(2))
    np.testing.assert_allclose(turned, expected, rtol=1e-6)


def test_types_are_kept_and_sums_are_wide():
    """|a|^2 is 90,000, beyond float16; the step of -200 along it is removed."""
    before = {"a": jnp.array([300.0, 0.0], jnp.float16), "n": jnp.array([0])}
    after = {"a": jnp.array([100.0, 7.0], jnp.float16), "n": jnp.array([2])}
    turned = onward(before, after, jax.tree.map(jnp.zeros_like, before))
    assert turned["a"].dtype == jnp.float16 and turned["n"].dtype == before["n"].dtype
    assert (turned["a"].tolist(), turned["n"].tolist()) == ([300.0, 7.0], [2])


def recovered(method, variables, request, rounds):
    state = method.perturb(jfu.Trained(variables), request, jax.random.key(5))
    states, step = [state], jax.jit(method.recover)
    for number in range(rounds):
        state, _ = step(state, request, jax.random.key(number))
        states.append(state)
    return states


@pytest.fixture(scope="module")
def request_(data):
    return jfu.split(data, jfu.forget_client(data, [2]))


@pytest.fixture(scope="module")
def trained(fed, variables, data):
    """After thirty rounds, so that there is something to return to."""
    state, step = fed.init(variables), jax.jit(fed.round)
    for number in range(30):
        state, _ = step(state, data, jax.random.key(number))
    return state.variables


def test_with_a_servers_momentum_no_round_leads_back(local, model, trained, request_):
    """What is projected is what the server does, not what clients sent."""
    fed = jfu.fedavg(local, server=optax.sgd(1.0, momentum=0.9))
    distance = lambda state: float(optax.tree.norm(optax.tree.sub(state.params, trained["params"])))
    plain = negation(fed, jfu.by_layer(model, -1))
    free, kept = (
        np.diff([distance(state) for state in recovered(method, trained, request_, 6)])
        for method in (plain, no_return(plain))
    )
    assert free.min() < -0.01 and kept.min() > -1e-5


def test_where_all_rounds_lead_away_no_bit_changes(fed, variables, request_):
    """From the old model the first round leads away in any case."""
    plain = finetune(fed)
    first, second = (
        recovered(method, variables, request_, 1)[-1] for method in (plain, no_return(plain))
    )
    assert bits(first) == bits(second.inner)


def test_a_methods_own_rounds_are_its_own(fed, model, variables, request_):
    """Ascent for two rounds, then recovery; only there does anything differ."""
    method = ga(fed, model, lr=0.5, rounds=2, batch_size=3)
    assert no_return(method).own == 2 and no_return(method).needs == method.needs
    plain = recovered(method, variables, request_, 3)
    turned = recovered(no_return(method), variables, request_, 3)
    same = [bits(a.params) == bits(b.params) for a, b in zip(plain, turned, strict=True)]
    assert same == [True, True, True, False]


def test_rounds_that_a_method_names_as_its_own(fed, model, trained, request_):
    """``own_now`` sees the method's own state; here it says that all rounds are."""
    negated = negation(fed, jfu.by_layer(model, -1))
    method = negated._replace(own_now=lambda state: state.server is not None)
    wrapped = no_return(method)
    plain = recovered(method, trained, request_, 2)
    turned = recovered(wrapped, trained, request_, 2)
    assert wrapped.own_now(turned[0])
    assert [bits(s) for s in plain] == [bits(s.inner) for s in turned]
    free = recovered(no_return(negated), trained, request_, 2)
    assert bits(free[-1].params) != bits(turned[-1].params)


def test_going_on_from_a_stored_state_is_going_on(fed, model, variables, request_):
    method = no_return(negation(fed, jfu.by_layer(model, 0)))
    states = recovered(method, variables, request_, 4)
    for start in range(4):
        stored = jax.tree.map(np.asarray, states[start])
        new, _ = jax.jit(method.recover)(stored, request_, jax.random.key(start))
        assert bits(new) == bits(states[start + 1])
