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
    kept = ["start", "norms", "sums", "first", "last", "updates"]
    remembering = jfu.recorded(fed, kept, clients=data, rounds=3)
    state, shown = train(remembering, data, variables)
    plain, _ = train(fed, data, variables)
    jax.tree.map(np.testing.assert_array_equal, state.inner, plain)
    jax.tree.map(np.testing.assert_array_equal, state.history["start"], variables)

    leaf = lambda tree: tree["stem"]["kernel"]
    order = {5: 0, 2: 1, 9: 2}  # ids of the fixture, in the order of its clients
    size = leaf(variables["params"]).shape
    norms, updates = np.zeros((3, 3)), np.zeros((3, 3, *size))
    sums, first, last = (np.zeros((3, *size)) for _ in range(3))
    for number, (ids, clients, sent) in enumerate(shown):
        for row, who in enumerate(map(int, ids)):
            k, u = order[who], leaf(sent)[row]
            if clients.weight[row] == 0:
                continue
            flat = np.concatenate([np.ravel(a[row]) for a in jax.tree.leaves(sent)])
            norms[number, k] = np.sqrt((flat.astype(np.float64) ** 2).sum())
            first[k] = u if number == 0 else first[k]
            updates[number, k] = last[k] = u
            sums[k] += clients.weight[row] / clients.weight.sum() * u
    history = state.history
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    close(history["norms"], norms)
    close(leaf(history["updates"]), updates.swapaxes(0, 1))
    close(leaf(history["first"]), first)
    close(leaf(history["last"]), last)
    close(leaf(history["sums"]), sums)
    assert norms.any()


@pytest.mark.parametrize("keep", [["norms"], ["sums"], ["first", "last"]])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jfu.absent(f, 0.5)])
def test_rows_written_one_by_one_are_those_of_a_stack(local, data, variables, keep, wrap):
    """With a running sum, and with every update in hand: the same history."""
    histories = []
    for shows in (False, True):
        fed = wrap(jfu.fedavg(local, keep_updates=shows))
        fed = jfu.recorded(fed, keep, clients=data, rounds=2)
        state, step = fed.init(variables), jax.jit(fed.round)
        for done in jfu.rounds(step, state, data, jax.random.key(3), stop=2):
            state = done.state
        histories.append(state.history)
    # Updates are differences of parameters of size 1, each rounded to 6e-8 in two programs.
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=3e-7)
    jax.tree.map(same, *histories)


def test_a_history_holds_no_second_set_of_models():
    """Temporary memory of a round with 40 clients, against what the history itself holds."""
    wide = 40_000
    data = jfu.stack(np.ones((40, 1), np.float32), np.zeros(40, int), [[i] for i in range(40)])
    loss = lambda variables, batch, key: (variables["params"] * batch.x.sum()).sum()
    used = {}
    for keep in ([], ["norms"], ["sums"], ["last"]):
        fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), batch_size=1))
        fed = jfu.recorded(fed, keep, clients=data, rounds=5) if keep else fed
        state = jax.eval_shape(fed.init, {"params": jax.ShapeDtypeStruct((wide,), np.float32)})
        step = jax.jit(fed.round, donate_argnums=0).lower(state, data, jax.random.key(0))
        used[tuple(keep)] = step.compile().memory_analysis().temp_size_in_bytes
    model = 4 * wide
    for keep, size in used.items():
        assert size < used[()] + 6 * model, (keep, size / model)


def test_norms_need_no_single_updates(local, data, variables):
    fed = jfu.recorded(jfu.fedavg(local), ["norms"], clients=data, rounds=2)
    state, info = fed.round(fed.init(variables), data, jax.random.key(0))
    assert info.updates is None
    _, info = jfu.fedavg(local, keep_updates=True).round(
        fed.init(variables).inner, data, jax.random.key(0)
    )
    leaves = [np.asarray(u, float).reshape(3, -1) for u in jax.tree.leaves(info.updates["params"])]
    norms = np.linalg.norm(np.concatenate(leaves, 1), axis=1)
    np.testing.assert_allclose(state.history["norms"][0], norms, rtol=1e-5)


def test_beyond_its_room_nothing_is_recorded(local, data, variables):
    fed = jfu.recorded(jfu.fedavg(local), ["norms"], clients=data, rounds=1)
    state, _ = fed.round(fed.init(variables), data, jax.random.key(0))
    after, _ = fed.round(state, data, jax.random.key(1))
    np.testing.assert_array_equal(after.history["norms"], state.history["norms"])


def test_what_cannot_be_kept_is_refused(local, data, variables):
    with pytest.raises(ValueError, match="no history momenta; it can keep start, norms"):
        jfu.recorded(jfu.fedavg(local), ["momenta"], clients=data, rounds=1)
    plain = jfu.fedavg(local)._replace(watched=None)
    with pytest.raises(ValueError, match="cannot be watched; give its FederatedAlgorithm"):
        jfu.recorded(plain, ["last"], clients=data, rounds=1)


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
