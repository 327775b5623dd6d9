"""Deletion from a ridge federation is retraining: to the bit, or to the digits that it promises."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jfu
from helpers.federation import bits
from jfu import ridge
from jfu.unlearn import UNLEARNERS, Setting

PENALTY = 0.1
SLOTS = 7  # of the largest client; the others have 3 and 5
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def run(model, variables):
    """``run(chunk)``: training, and methods, compiled once: (name, trained, request) -> state."""
    made = {}

    def programs(chunk):
        fed = ridge.federation(model, penalty=PENALTY, clients=3, chunk=chunk)
        setting = Setting(fed, model, None, penalty=PENALTY, chunk=chunk)
        methods = {name: UNLEARNERS[name](setting) for name in ("ridge", "ridge_subtract")}
        compiled = {n: (jax.jit(m.perturb), jax.jit(m.recover)) for n, m in methods.items()}
        round = jax.jit(fed.round)
        return lambda clients: round(fed.init(variables), clients, KEY)[0], compiled

    def get(chunk=None):
        if chunk not in made:
            made[chunk] = programs(chunk)
        return made[chunk]

    return get


def forgotten(programs, name, state, clients, requests):
    """The state, and the clients' data, after requests one after the other."""
    perturb, recover = programs[name]
    for gone in requests:
        request = jfu.split(clients, gone)
        clients = request.retain
        held = {kind: state.history[kind] for kind in jfu.unlearn.needs_of(name).history}
        state = perturb(jfu.Trained(state.variables, held), request, KEY)
        state, _ = recover(state, request, KEY)
    return state, clients


@pytest.fixture(scope="module")
def exact(model, variables, data):
    """The head in float64, from the features of clients' live examples."""
    hidden = np.asarray(model.features(variables, data.x), float)
    phi = np.concatenate([hidden, np.ones((len(hidden), 1))], 1)

    def head(clients):
        rows = np.asarray(clients.index)[np.asarray(clients.mask)]
        mine, targets = phi[rows], np.eye(3)[np.asarray(clients.y)[rows]]
        return np.linalg.solve(mine.T @ mine + PENALTY * np.eye(phi.shape[1]), mine.T @ targets)

    return head


def distance(variables, head):
    last = variables["params"]["head"]
    found = np.concatenate([last["kernel"], np.asarray(last["bias"])[None]])
    return np.linalg.norm(found - head)


# Slots to forget, by request; what does not exist, or has gone, changes nothing.
masks = st.lists(st.lists(st.booleans(), min_size=21, max_size=21), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(masks=masks, chunk=st.sampled_from([None, 0, 2]), order=st.randoms(use_true_random=False))
def test_requests_in_any_order_are_retraining(run, data, exact, masks, chunk, order):
    """Of clients, classes or single examples alike."""
    train, programs = run(chunk)
    requests = [np.array(mask).reshape(3, SLOTS) for mask in masks]
    begun = train(data)
    once, left = forgotten(programs, "ridge", begun, data, requests)
    order.shuffle(requests)
    again, _ = forgotten(programs, "ridge", begun, data, requests)
    expected = train(left)
    assert bits(once.variables) == bits(again.variables) == bits(expected.variables)
    assert bits(once.history) == bits(again.history) == bits(expected.history)
    old, new = exact(data), exact(left)
    limit = float(ridge.error_bound(begun.history["total"], PENALTY))
    assert limit < 1e-3
    assert distance(expected.variables, new) <= limit * np.linalg.norm(new)
    less, _ = forgotten(programs, "ridge_subtract", begun, data, requests)
    longer = max(map(np.linalg.norm, (old, new)))
    assert distance(less.variables, new) <= limit * longer


@pytest.mark.parametrize("name", ["ridge", "ridge_subtract"])
def test_a_client_leaves(run, data, name):
    """``ridge`` needs no round; the other gets one message, of those who leave."""
    train, programs = run()
    begun, request = train(data), jfu.split(data, jfu.forget_client(data, [2]))
    expected = train(request.retain)
    held = {kind: begun.history[kind] for kind in jfu.unlearn.needs_of(name).history}
    perturb, recover = programs[name]
    before = perturb(jfu.Trained(begun.variables, held), request, KEY)
    after, info = recover(before, request, KEY)
    if name == "ridge":
        assert bits(before.variables) == bits(after.variables) == bits(expected.variables)
        assert info.metrics["down"] == info.metrics["up"] == 0
        assert not np.any(after.history["statistics"].gram[1])
    else:
        assert bits(before.variables) == bits(begun.variables)
        assert info.metrics["down"] == info.metrics["up"] == 1
        assert info.clients.weight.tolist() == [0, 3, 0]
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        jax.tree.map(close, after.variables, expected.variables)
        later, info = recover(after, request, KEY)
        assert bits(later.variables) == bits(after.variables)
        assert info.metrics["up"] == 0 and later.round == 2


def test_nothing_of_those_who_lose_anything_is_left_before_the_round(run, data):
    """The server waits for nobody: at once the head is that without these clients."""
    train, programs = run()
    begun = train(data)
    request = jfu.split(data, jfu.forget_class(data, [1], ids=[5]))
    perturb, recover = programs["ridge"]
    before = perturb(jfu.Trained(begun.variables, dict(begun.history)), request, KEY)
    alone = train(jfu.split(data, jfu.forget_client(data, [5])).retain)
    assert bits(before.variables) == bits(alone.variables)
    after, info = recover(before, request, KEY)
    assert bits(after.variables) == bits(train(request.retain).variables)
    assert info.clients.weight.tolist() == [5, 0, 0]


def test_clients_that_are_not_those_of_training_are_refused(run, pool):
    train, programs = run()
    begun = train(jfu.stack(*pool, [[0, 1], [2, 3], [4, 5]]))
    fewer = jfu.stack(*pool, [[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="keeps statistics of 3 clients, and there are 2"):
        forgotten(programs, "ridge", begun, fewer, [jfu.forget_client(fewer, [0])])


def test_the_bits_are_the_same_on_a_mesh(data, model, variables):
    """Eight devices add in their own order, in training and after it."""
    with jax.set_mesh(jfu.clients_mesh()):
        fed = ridge.federation(model, penalty=PENALTY, clients=3)
        start = fed.init(variables)
        train = lambda clients: jax.jit(fed.round)(start, clients, KEY)[0]
        method = UNLEARNERS["ridge"](Setting(fed, model, None, penalty=PENALTY))
        programs = dict(ridge=(jax.jit(method.perturb), jax.jit(method.recover)))
        requests = [jfu.forget_client(data, [9]), jfu.forget_class(data, [1], ids=[5])]
        found, left = forgotten(programs, "ridge", train(data), data, requests)
        assert bits(found.variables) == bits(train(left).variables)
