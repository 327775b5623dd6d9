"""What training remembers, against the updates that a round shows."""

from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jfu
import jfu.io
from jfu.history import needed
from jfu.unlearn.fukd import subtracted
from jfu.unlearn.pgd import without
from launch.running import cells


def one_layer(variables, x, *, train=False, mask=None, key=None):
    layer = variables["params"]["stem"]
    return x @ layer["kernel"] + layer["bias"][None], {}


@pytest.fixture(scope="module")
def local():
    """Its updates have two leaves; histories ask no more of a network."""
    return jfu.local_sgd(jfu.classification(one_layer), optax.sgd(0.1), batch_size=3)


@pytest.fixture(scope="module")
def variables():
    draw = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    return {"params": {"stem": dict(kernel=draw[:2], bias=draw[2])}}


@pytest.fixture(scope="module")
def fed(local):
    return jfu.fedavg(local)


def train(fed, data, variables, rounds=3):
    """The shown updates, weights and ids of each round, and the last state."""
    step, state, shown = jax.jit(fed.round), fed.init(variables), []
    for done in jfu.rounds(step, state, data, jax.random.key(3), stop=rounds):
        shown.append((done.info.ids, done.info.clients, done.info.updates["params"]))
        state = done.state
    return state, jax.tree.map(np.asarray, shown)


WRAPS = [lambda f: f, lambda f: jfu.sampled(f, 2), lambda f: jfu.absent(f, 0.5)]


@pytest.fixture(scope="module")
def kept(local):
    """A federation that shows every update."""
    return jfu.fedavg(local, keep_updates=True)


@pytest.mark.parametrize("wrap", WRAPS)
def test_histories_are_those_of_the_updates(kept, data, variables, wrap):
    fed = wrap(kept)
    kinds = ["start", "norms", "sums", "first", "last", "updates"]
    remembering = jfu.recorded(fed, kinds, clients=data, rounds=3)
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
def test_rows_written_one_by_one_are_those_of_a_stack(fed, kept, data, variables, keep, wrap):
    """With a running sum, and with every update in hand: the same history."""
    histories = []
    for inner in (fed, kept):
        remembering = jfu.recorded(wrap(inner), keep, clients=data, rounds=2)
        state, step = remembering.init(variables), jax.jit(remembering.round)
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
    for keep in ([], ["norms"], ["sums"], ["last"], ["before"]):
        fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), batch_size=1))
        fed = jfu.recorded(fed, keep, clients=data, rounds=50) if keep else fed
        state = jax.eval_shape(fed.init, {"params": jax.ShapeDtypeStruct((wide,), np.float32)})
        step = jax.jit(fed.round, donate_argnums=0).lower(state, data, jax.random.key(0))
        used[tuple(keep)] = step.compile().memory_analysis().temp_size_in_bytes
    model = 4 * wide
    for keep, size in used.items():
        assert size < used[()] + 6 * model, (keep, size / model)


def test_norms_need_no_single_updates(fed, kept, data, variables):
    fed = jfu.recorded(fed, ["norms"], clients=data, rounds=2)
    start = fed.init(variables)
    state, info = jax.jit(fed.round)(start, data, jax.random.key(0))
    assert info.updates is None
    _, info = jax.jit(kept.round)(start.inner, data, jax.random.key(0))
    leaves = [np.asarray(u, float).reshape(3, -1) for u in jax.tree.leaves(info.updates["params"])]
    norms = np.linalg.norm(np.concatenate(leaves, 1), axis=1)
    np.testing.assert_allclose(state.history["norms"][0], norms, rtol=1e-5)


def test_beyond_its_room_nothing_is_recorded(fed, data, variables):
    fed = jfu.recorded(fed, ["norms"], clients=data, rounds=1)
    step = jax.jit(fed.round)
    state, _ = step(fed.init(variables), data, jax.random.key(0))
    after, _ = step(state, data, jax.random.key(1))
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
        state, _ = jax.jit(fed.round)(fed.init(variables), data, jax.random.key(0))
        histories.append(state.history)
    jax.tree.map(np.testing.assert_array_equal, *histories)


# ---------------------------------------------------------------- who came, and who counted

SIZES = np.array([1, 2, 3, 6])
# Round by round, why each client is left out: none, late, no number, too long.
FATES = np.array(
    [[0, 0, 0, 0], [0, 1, 0, 0], [2, 0, 3, 0], [0, 0, 0, 1], [1, 2, 3, 1], [0, 3, 0, 0]]
)
DRAWN = np.random.default_rng(3).normal(size=(len(FATES), 4, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def four():
    lists = np.split(np.arange(12), np.cumsum(SIZES)[:-1])
    return jfu.stack(np.zeros((12, 1), np.float32), np.zeros(12, int), lists)


def fated(shared, client, key):
    """A client's work that fails as the table says: what it says it sent, and what it did send."""
    who, number = jax.numpy.maximum(client.id, 0), shared.round
    fate, sent = jax.numpy.asarray(FATES)[number, who], jax.numpy.asarray(DRAWN)[number, who]
    sent = jax.numpy.where(fate == 2, np.nan, jax.numpy.where(fate == 3, sent * 1e4, sent))
    weight = jax.numpy.where(fate == 1, 0.0, client.mask.sum().astype(np.float32))
    late = jax.numpy.where(fate == 1, jfu.faults.LATE, 0.0)
    one = jax.numpy.ones(())
    return {"params": sent}, jfu.LocalInfo(weight, one, one, one, late)


def by_numpy(there):
    """The histories and the model, in float64, from the tables alone."""
    model, sums, last, rounds = np.zeros(2), np.zeros((4, 2)), np.zeros((4, 2)), len(there)
    norms, came = np.zeros((rounds, 4)), np.zeros(4)
    for number in range(rounds):
        came = SIZES * there[number] * (FATES[number] == 0)
        share = came / max(came.sum(), 1)
        sent = DRAWN[number].astype(np.float64) * (came > 0)[:, None]
        sums += share[:, None] * sent
        model += share @ sent
        last = np.where((came > 0)[:, None], sent, last)
        norms[number] = np.linalg.norm(sent, axis=1)
    return dict(sums=sums, last=last, norms=norms, came=came), model


@pytest.mark.parametrize("how", ["all", "kept", "devices", "sampled", "absent"])
def test_shares_are_of_those_who_came_and_counted(four, how):
    """With late clients, numbers that are none, updates too long, and a round with nobody."""
    fed = jfu.fedavg(fated, max_update_norm=100.0, keep_updates=how == "kept")
    fed = jfu.sampled(fed, 3) if how == "sampled" else fed
    fed = jfu.absent(fed, 0.4) if how == "absent" else fed
    fed = jfu.recorded(fed, ["norms", "sums", "last"], clients=four, rounds=len(FATES))
    there, state = np.zeros((len(FATES), 4)), fed.init({"params": np.zeros(2, np.float32)})
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[: 2 if how == "devices" else 1])):
        step = jax.jit(fed.round)
        for done in jfu.rounds(step, state, four, jax.random.key(5), stop=len(FATES)):
            took = np.asarray(done.info.clients.weight) + np.asarray(done.info.clients.left_out) > 0
            there[done.round - 1, np.asarray(done.info.ids)] = took
            state = done.state
    assert (there.sum() < there.size) == (how in ("sampled", "absent"))
    wanted, model = by_numpy(there)
    for name, value in wanted.items():
        found = state.history[name]
        found = found["params"] if isinstance(found, dict) else found
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(state.params, model, atol=1e-6)
    np.testing.assert_allclose(np.asarray(state.history["sums"]).sum(0), model, atol=1e-6)


@pytest.mark.parametrize("rounds", [2, 3, 4, 6])
def test_what_is_taken_out_is_what_the_client_moved_the_model_by(four, rounds):
    """FUKD's subtraction and PGD's reference after rounds in which clients failed."""
    fed = jfu.recorded(
        jfu.fedavg(fated, max_update_norm=100.0), ["sums", "last"], clients=four, rounds=rounds
    )
    state, step = fed.init({"params": np.zeros(2, np.float32)}), jax.jit(fed.round)
    for done in jfu.rounds(step, state, four, jax.random.key(5), stop=rounds):
        state = done.state
    wanted, model = by_numpy(np.ones((rounds, 4)))
    for leave in range(4):
        request = jfu.split(four, jfu.forget_client(four, [leave]))
        trained = jfu.Trained(state.variables, dict(state.history))
        found = subtracted(trained, request)
        np.testing.assert_allclose(found, model - wanted["sums"][leave], atol=1e-6)
        # The mean of the others' last models: the model before, moved by theirs alone.
        came = wanted["came"]
        others = came * (np.arange(4) != leave)
        before = model - (came / max(came.sum(), 1)) @ wanted["last"]
        reference = before + (others / max(others.sum(), 1)) @ wanted["last"]
        np.testing.assert_allclose(without(trained, request), reference, atol=1e-6)


def test_a_round_that_is_not_applied_moved_nobody(four):
    """The median of what is finite can be too large for the model: the round counts for nobody."""

    def work(shared, client, key):
        sent = jax.numpy.where(shared.round == 1, 3e38, 1.0) * jax.numpy.ones(2)
        weight = client.mask.sum().astype(np.float32)
        return {"params": sent}, jfu.LocalInfo(weight, weight, weight, weight)

    # What the clients send is finite, three times of it is not.
    server = optax.sgd(3.0)
    fed = jfu.fedavg(work, server=server, max_update_norm=None)
    fed = jfu.recorded(fed, ["norms", "sums", "last"], clients=four, rounds=2)
    state, step = fed.init({"params": np.zeros(2, np.float32)}), jax.jit(fed.round)
    for number in range(2):
        state, _ = step(state, four, jax.random.key(number))
    sums = (SIZES / 12)[:, None] * np.ones((4, 2))
    np.testing.assert_allclose(state.history["sums"], sums, rtol=1e-6)
    assert not np.asarray(state.history["norms"])[1].any()
    assert not np.asarray(state.history["came"]).any()


def test_one_that_came_and_sent_zeros_is_told_from_one_that_did_not(four):
    """FedEraser counts who took part by the lengths of their updates."""

    def still(shared, client, key):
        weight = jax.numpy.where(client.id == 2, 0.0, client.mask.sum().astype(np.float32))
        return {"params": jax.numpy.zeros(2)}, jfu.LocalInfo(weight, weight, weight, weight)

    fed = jfu.recorded(jfu.fedavg(still), ["norms"], clients=four, rounds=1)
    state, _ = fed.round(fed.init({"params": np.zeros(2, np.float32)}), four, jax.random.key(0))
    norms = np.asarray(state.history["norms"][0])
    assert (norms > 0).tolist() == [True, True, False, True] and norms.max() < 1e-30


def test_histories_written_before_say_nothing_of_who_came(four):
    """They are read as of rounds with everybody."""
    last = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    request = jfu.split(four, jfu.forget_client(four, [3]))
    trained = jfu.Trained({"params": np.ones(2, np.float32)}, {"last": last})
    reference = 1 - SIZES / 12 @ last + SIZES[:3] / 6 @ last[:3]
    np.testing.assert_allclose(without(trained, request), reference, rtol=1e-5)
    assert set(needed(trained.history, ("last",))) == {"last"}
    assert set(needed({"last": 1, "came": 2, "norms": 3}, ("last",))) == {"last", "came"}


def test_an_earlier_checkpoint_is_one_of_rounds_with_everybody(four, tmp_path, monkeypatch):
    fed = jfu.recorded(jfu.fedavg(fated), ["last"], clients=four, rounds=2)
    state = fed.init({"params": np.zeros(2, np.float32)})
    earlier = state._replace(history={"last": state.history["last"]})
    read = lambda work, seed, name, like: jfu.io.load_state(tmp_path / name, like)
    monkeypatch.setattr(cells, "read_cell", read)
    trial = SimpleNamespace(seed=0, everything=jfu.split(four, np.zeros(four.mask.shape, bool)))
    for name, written in dict(old=earlier, new=state).items():
        jfu.io.save_state(tmp_path / name, written, name)
        found, notes = cells.kept_cell(None, trial, name, jax.eval_shape(lambda: state))
        assert notes == name and jax.tree.structure(found) == jax.tree.structure(state)
        wanted = SIZES if name == "old" else np.zeros(4)
        np.testing.assert_array_equal(found.history["came"], wanted)
    jfu.io.save_state(tmp_path / "other", dict(a=np.zeros(2)), "other")
    with pytest.raises(ValueError, match="other"):
        cells.kept_cell(None, trial, "other", jax.eval_shape(lambda: state))
