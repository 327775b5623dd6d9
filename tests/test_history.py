"""What training remembers, against the updates that a round shows."""

import jax
import numpy as np
import optax
import pytest

import jfu


def train(fed, data, variables, rounds=3):
    """The shown updates, weights and ids of each round, and the last state."""
    step, state, shown = jax.jit(fed.round), fed.init(variables), []
    for done in jfu.rounds(step, state, data, jax.random.key(3), stop=rounds):
        shown.append((done.info.ids, done.info.clients, done.info.updates["params"]))
        state = done.state
    return state, jax.tree.map(np.asarray, shown)


WRAPS = [lambda f: f, lambda f: jfu.sampled(f, 2), lambda f: jfu.absent(f, 0.5)]


@pytest.mark.parametrize("wrap", WRAPS)
def test_histories_are_those_of_the_updates(local, data, variables, wrap):
    fed = wrap(jfu.fedavg(local, keep_updates=True))
    remembering = jfu.recorded(fed, ["norms", "sums", "last", "updates"], clients=data, rounds=3)
    state, shown = train(remembering, data, variables)
    plain, _ = train(fed, data, variables)
    jax.tree.map(np.testing.assert_array_equal, state.inner, plain)

    leaf = lambda tree: tree["stem"]["kernel"]
    order = {5: 0, 2: 1, 9: 2}  # ids of the fixture, in the order of its clients
    size = leaf(variables["params"]).shape
    norms, updates = np.zeros((3, 3)), np.zeros((3, 3, *size))
    sums, last = np.zeros((3, *size)), np.zeros((3, *size))
    for number, (ids, clients, sent) in enumerate(shown):
        for row, who in enumerate(map(int, ids)):
            k, u = order[who], leaf(sent)[row]
            if clients.weight[row] == 0:
                continue
            flat = np.concatenate([np.ravel(a[row]) for a in jax.tree.leaves(sent)])
            norms[number, k] = np.sqrt((flat.astype(np.float64) ** 2).sum())
            updates[number, k] = last[k] = u
            sums[k] += clients.weight[row] / clients.weight.sum() * u
    history = state.history
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    close(history["norms"], norms)
    close(leaf(history["updates"]), updates)
    close(leaf(history["last"]), last)
    close(leaf(history["sums"]), sums)
    assert norms.any()


def test_norms_need_no_single_updates(local, data, variables):
    fed = jfu.recorded(jfu.fedavg(local), ["norms"], clients=data, rounds=2)
    state, info = fed.round(fed.init(variables), data, jax.random.key(0))
    assert info.updates is None
    np.testing.assert_array_equal(state.history["norms"][0], info.clients.norm)


def test_beyond_its_room_nothing_is_recorded(local, data, variables):
    fed = jfu.recorded(jfu.fedavg(local), ["norms"], clients=data, rounds=1)
    state, _ = fed.round(fed.init(variables), data, jax.random.key(0))
    after, _ = fed.round(state, data, jax.random.key(1))
    np.testing.assert_array_equal(after.history["norms"], state.history["norms"])


def test_what_cannot_be_kept_is_refused(local, data, variables):
    with pytest.raises(ValueError, match="no history momenta; it can keep norms, sums"):
        jfu.recorded(jfu.fedavg(local), ["momenta"], clients=data, rounds=1)
    fed = jfu.recorded(jfu.fedavg(local), ["last"], clients=data, rounds=1)
    with pytest.raises(ValueError, match="keep_updates=True"):
        fed.round(fed.init(variables), data, jax.random.key(0))


def test_server_momentum_does_not_enter_the_history(local, data, variables):
    """The history is of what clients sent, whatever the server made of it."""
    keep = lambda server: jfu.recorded(
        jfu.fedavg(local, server=server, keep_updates=True), ["last"], clients=data, rounds=1
    )
    histories = []
    for server in (optax.sgd(1.0), optax.adam(0.1)):
        fed = keep(server)
        histories.append(fed.round(fed.init(variables), data, jax.random.key(0))[0].history)
    jax.tree.map(np.testing.assert_array_equal, *histories)
