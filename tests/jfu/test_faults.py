"""Clients that fail: the round goes on as if they were not there, and says why they were not."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from jfu import faults

U = np.array([[3.0, 4.0], [1.0, 1.0], [0.0, 2.0]], np.float32)  # updates of ids 0, 1, 2


@pytest.fixture
def clients():
    return jfu.stack(np.zeros((6, 1)), np.zeros(6, int), [[0, 1, 2], [3], [4, 5]])


def sends(updates, said=None):
    """A client's work that sends a row of ``updates``, whatever it receives.

    Its weight is its number of examples, or what it claims.
    """

    def work(shared, client, key):
        weight = client.mask.sum().astype(jnp.float32)
        who = jnp.maximum(client.id, 0)
        update = jnp.asarray(updates)[who]
        weight = weight if said is None else jnp.asarray(said, jnp.float32)[who]
        info = jfu.LocalInfo(weight, update.sum() * 0 + 7, weight, weight * 0)
        return {"params": update}, info

    return work


@functools.cache
def program(**options):
    """One round, compiled once: clients, what they send, what they claim -> (params, info)."""

    def run(clients, updates, said):
        fed = jfu.fedavg(sends(updates, said), **options)
        state, info = fed.round(fed.init({"params": jnp.zeros(2)}), clients, jax.random.key(0))
        return state.params, info

    return jax.jit(run)


def one_round(clients, updates, said=None, **options):
    said = None if said is None else np.asarray(said, np.float32)
    return program(**options)(clients, np.asarray(updates, np.float32), said)


def only(clients, *ids):
    return clients._replace(mask=clients.mask & np.isin(clients.id, ids)[:, None])


AGGREGATORS = {
    "mean": jfu.weighted_mean(),
    "clipped": jfu.clipped_mean(2.0),
    "median": jfu.coordinate_median(),
    "trimmed": jfu.trimmed_mean(0.34),
    "krum": jfu.krum(0),
}


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_is_as_if_it_were_not_there(clients, name, bad):
    """Nobody has to ask for it."""
    planted = U.copy()
    planted[1, 0] = bad  # the squares of 1e30 add up to infinity
    found, info = one_round(clients, planted, aggregator=AGGREGATORS[name])
    wanted, _ = one_round(only(clients, 0, 2), U, aggregator=AGGREGATORS[name])
    assert bits(found) == bits(wanted)
    metrics = {k: float(v) for k, v in info.metrics.items()}
    assert metrics["not_finite"] == 1 and metrics["too_long"] == metrics["late"] == 0
    assert metrics["clients"] == metrics["up"] == 2 and metrics["down"] == 3
    assert metrics["examples"] == 5 and metrics["loss"] == 7
    assert info.clients.left_out.tolist() == [0, faults.NOT_FINITE, 0]


def test_plain_mean_by_hand(clients):
    """(3 * (3, 4) + 2 * (0, 2)) / 5 once the second client is left out."""
    planted = U.copy()
    planted[1] = np.nan
    np.testing.assert_allclose(one_round(clients, planted)[0], [1.8, 3.2], rtol=1e-6)


@pytest.mark.parametrize("how", ["streamed", "kept", "watched", "all at once", "two devices"])
def test_one_nan_stops_no_round_whichever_way_clients_run(how):
    """Two leaves, one of them NaN at one client of four; the float64 mean of the three others."""
    rng = np.random.default_rng(0)
    updates = {"a": rng.normal(size=(4, 2)), "b": rng.normal(size=(4, 3))}
    weights, sends_nan = np.array([1.0, 2, 3, 4]), 2
    kept = np.arange(4) != sends_nan
    wanted = {k: weights[kept] @ u[kept] / weights[kept].sum() for k, u in updates.items()}
    updates["b"][sends_nan, 1] = np.nan
    updates = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), updates)

    def work(shared, client, key):
        n = client.mask.sum().astype(jnp.float32)
        mine = jax.tree.map(lambda a: a[jnp.maximum(client.id, 0)], updates)
        return {"params": mine}, jfu.LocalInfo(n, n * 0, n, n * 0)

    rows = [np.arange(n) for n in (1, 2, 3, 4)]
    hosted = how == "streamed"
    clients = jfu.stack(np.zeros((4, 1)), np.zeros(4, int), rows, host=hosted)
    fed = jfu.fedavg(work, keep_updates=how == "kept", chunk=0 if how == "all at once" else None)
    zero = {"params": jax.tree.map(lambda a: jnp.zeros(a.shape[1:]), updates)}
    if how == "watched":
        fed = jfu.recorded(fed, ["sums", "norms"], clients=clients, rounds=1)
    run = jfu.streamed(fed, piece=16).round if hosted else jax.jit(fed.round)
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[: 2 if how == "two devices" else 1])):
        state, info = run(fed.init(zero), clients, jax.random.key(0))
    assert info.metrics["not_finite"] == 1 and info.metrics["not_applied"] == 0
    for name, mean in wanted.items():
        np.testing.assert_allclose(state.params[name], mean, rtol=1e-6)
    if how == "watched":
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(state.history))


def test_one_loss_that_is_no_number_hides_no_others(clients):
    right = sends(U)

    def work(shared, client, key):
        update, info = right(shared, client, key)
        return update, info._replace(loss=jnp.where(client.id == 0, jnp.nan, client.id * 2.0))

    fed = jfu.fedavg(work)
    start, step = fed.init({"params": jnp.zeros(2)}), jax.jit(fed.round)
    run = lambda clients: step(start, clients, jax.random.key(0))[1].metrics
    assert run(clients)["loss"] == pytest.approx((1 * 2 + 2 * 4) / 3)
    assert np.isnan(run(only(clients, 0))["loss"]) and run(only(clients, 0))["clients"] == 1
    assert np.isnan(run(only(clients))["loss"]) and run(only(clients))["clients"] == 0


# ---------------------------------------------------------------- weights that clients claim


def mean64(weights, updates):
    weights, updates = np.asarray(weights, np.float64), np.asarray(updates, np.float64)
    return weights @ updates / weights.sum()


def clipped64(updates, limit):
    length = np.linalg.norm(np.asarray(updates, np.float64), axis=1, keepdims=True)
    return updates * np.minimum(1, limit / length)


@pytest.mark.parametrize("options", [{}, {"keep_updates": True}, {"chunk": 0}])
@pytest.mark.parametrize("claim", [2.0, 1e9, 3e38])
def test_a_client_weighs_no_more_than_its_examples(clients, claim, options):
    """Client 1 has one example; whatever it claims, it counts as one of six."""
    found, info = one_round(clients, U, said=[3, claim, 2], **options)
    np.testing.assert_allclose(found, mean64([3, 1, 2], U), rtol=1e-6)
    assert info.clients.weight.tolist() == [3, 1, 2] and info.metrics["examples"] == 6
    clipped = dict(options, aggregator=AGGREGATORS["clipped"])
    found, _ = one_round(clients, U, said=[3, claim, 2], **clipped)
    np.testing.assert_allclose(found, mean64([3, 1, 2], clipped64(U, 2.0)), rtol=1e-6)
    found, _ = one_round(clients, U * [[1], [100], [1]], said=[3, claim, 2], max_update_norm=150.0)
    np.testing.assert_allclose(found, mean64([3, 1, 2], U * [[1], [100], [1]]), rtol=1e-6)


@pytest.mark.parametrize("claim", [np.nan, np.inf, -np.inf, -1.0, -1e9])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_a_weight_that_is_none_leaves_its_client_out(clients, name, claim):
    found, info = one_round(clients, U, said=[3, claim, 2], aggregator=AGGREGATORS[name])
    wanted, _ = one_round(only(clients, 0, 2), U, aggregator=AGGREGATORS[name])
    assert bits(found) == bits(wanted)
    assert info.clients.left_out.tolist() == [0, faults.NOT_FINITE, 0]
    assert info.metrics["clients"] == 2 and info.metrics["not_applied"] == 0


def test_who_is_away_weighs_nothing_whatever_it_says(clients):
    found, info = one_round(only(clients, 0, 2), U, said=[3, 1e6, 2])
    np.testing.assert_allclose(found, mean64([3, 2], U[[0, 2]]), rtol=1e-6)
    assert info.clients.weight.tolist() == [3, 0, 2]


def test_who_weighs_nothing_sends_nothing(clients):
    """Where a method looks at directions alone, an update without a weight would count too."""
    shared = jfu.types.Broadcast({"params": jnp.zeros(2)}, jnp.zeros((), jnp.int32))
    for who, said in ((only(clients, 0, 2), [3, 1, 2]), (clients, [3, 0, 2])):
        work = faults.censored(sends(U, said))
        updates, info = jfu.map_clients(work)(shared, who, jax.random.key(0))
        np.testing.assert_array_equal(updates["params"], U * [[1], [0], [1]])
        assert info.weight.tolist() == [3, 0, 2] and info.left_out.tolist() == [0, 0, 0]


def test_other_weights_are_asked_for_by_name(clients):
    """All alike, or what clients say; but never what is no number."""
    found, _ = one_round(clients, U, weigh=lambda client: 1.0)
    np.testing.assert_allclose(found, U.astype(np.float64).mean(0), rtol=1e-6)
    found, _ = one_round(clients, U, said=[0.25, 0.5, 0.25])  # below their examples: as they say
    np.testing.assert_allclose(found, mean64([1, 2, 1], U), rtol=1e-6)
    trusted = dict(weigh=lambda client: jnp.inf)
    found, _ = one_round(clients, U, said=[3, 1000, 2], **trusted)
    np.testing.assert_allclose(found, mean64([3, 1000, 2], U), rtol=1e-6)
    found, info = one_round(clients, U, said=[3, np.nan, 2], **trusted)
    np.testing.assert_allclose(found, mean64([3, 2], U[[0, 2]]), rtol=1e-6)
    assert info.metrics["not_finite"] == 1


def test_a_streamed_round_bounds_weights_too():
    rows = [[0, 1, 2], [3], [4, 5]]
    clients = jfu.stack(np.zeros((6, 1), np.float32), np.zeros(6, int), rows, host=True)
    fed = jfu.streamed(jfu.fedavg(sends(U, [3, 1e9, 2])))
    state, _ = fed.round(fed.init({"params": jnp.zeros(2)}), clients, jax.random.key(0))
    np.testing.assert_allclose(state.params, mean64([3, 1, 2], U), rtol=1e-6)


def test_a_mark_that_was_copied_is_not_believed(local, data, variables):
    """``functools.wraps`` copies what marks work that looks at itself."""

    @functools.wraps(local)
    def flawed(shared, client, key):
        update, info = local(shared, client, key)
        return jax.tree.map(lambda u: u * jnp.nan, update), info

    assert faults.guarded(local) is local and faults.guarded(flawed) is not flawed
    _, info = jax.jit(jfu.fedavg(flawed).round)(
        jfu.fedavg(flawed).init(variables), data, jax.random.key(0)
    )
    assert info.metrics["not_finite"] == 3 and info.metrics["not_applied"] == 0


# ---------------------------------------------------------------- long updates, and no one left


def test_updates_too_long_are_left_out(clients):
    found, info = one_round(clients, U * [[1], [1000], [1]], max_update_norm=5.0)  # 5 is allowed
    np.testing.assert_allclose(found, [1.8, 3.2], rtol=1e-6)
    assert info.metrics["too_long"] == 1 and info.metrics["not_finite"] == 0
    none, info = one_round(clients, U, max_update_norm=0.5)
    assert none.tolist() == [0, 0] and info.metrics["too_long"] == 3


@pytest.mark.parametrize("options", [{}, {"keep_updates": True}, {"chunk": 0}])
def test_nobody_left_means_nothing_moves(clients, options):
    found, info = one_round(clients, U * np.nan, **options)
    assert found.tolist() == [0, 0]
    assert info.metrics["not_finite"] == 3 and info.metrics["clients"] == 0


@pytest.fixture(scope="module")
def limited(local, fed, variables):
    """One compiled round that leaves out long updates: clients -> (state, info)."""
    run = jax.jit(jfu.fedavg(local, max_update_norm=1e6).round)
    return lambda clients: run(fed.init(variables), clients, jax.random.key(0))


def test_the_mean_of_good_updates_keeps_its_bits(data, round_once, limited):
    """Being looked at changes nothing; a client that sat out is not counted."""
    away = data._replace(mask=data.mask.at[1].set(False))
    (a, info), (b, _) = round_once(away), limited(away)
    assert bits(a) == bits(b)
    assert info.metrics["late"] == info.metrics["not_finite"] == info.metrics["too_long"] == 0


def test_a_mean_that_is_not_finite_leaves_the_model_as_it_was(clients):
    """An aggregator of one's own making that gives no number."""
    spoil = lambda total, state, key: (jax.tree.map(lambda u: u * np.nan, total[0]), state)
    fed = jfu.fedavg(
        sends(U), server=optax.adam(0.1), aggregator=jfu.weighted_mean()._replace(decode=spoil)
    )
    start = fed.init({"params": jnp.ones(2)})
    state, info = jax.jit(fed.round)(start, clients, jax.random.key(0))
    assert bits(state._replace(round=start.round)) == bits(start) and state.round == 1
    assert info.metrics["not_applied"] == 1 and info.metrics["not_finite"] == 0
    good = jfu.fedavg(sends(U), server=optax.adam(0.1))
    assert jax.jit(good.round)(start, clients, jax.random.key(0))[1].metrics["not_applied"] == 0


@pytest.mark.parametrize(
    "server",
    [
        optax.sgd(np.nan),
        optax.sgd(np.inf),
        optax.sgd(1e19),  # the squares of the model would not add up to a number
        optax.chain(optax.adam(0.1), optax.scale(np.nan)),
    ],
)
def test_no_step_of_the_server_makes_a_model_that_is_not_finite(clients, server):
    fed = jfu.fedavg(sends(U), server=server)
    start = fed.init({"params": jnp.ones(2)})
    state, info = jax.jit(fed.round)(start, clients, jax.random.key(0))
    assert bits(state._replace(round=start.round)) == bits(start) and state.round == 1
    assert info.metrics["not_applied"] == 1


def test_a_client_that_diverges_sends_nothing(data, round_once, limited):
    """One of three has an infinite image; the round is as if that client were away."""
    bright = data._replace(x=data.x.at[np.asarray(data.index[1])[0]].set(jnp.inf))
    away = data._replace(mask=data.mask.at[1].set(False))
    (found, info), (wanted, _) = round_once(bright), round_once(away)
    assert info.metrics["not_finite"] == 1 and info.metrics["clients"] == 2
    assert info.clients.left_out.tolist() == [0, faults.NOT_FINITE, 0]
    # A limit for updates does not hide it.
    assert limited(bright)[1].metrics["not_finite"] == 1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_garbage_of_a_client_without_examples_is_not_sent(clients):
    found, info = one_round(only(clients, 0, 2), np.where([[0], [1], [0]], np.nan, U))
    np.testing.assert_allclose(found, [1.8, 3.2], rtol=1e-6)
    assert info.metrics["not_finite"] == 0


def test_faults_come_as_often_as_asked_and_the_same_again():
    many = 4000
    clients = jfu.stack(np.zeros((many, 1)), np.zeros(many, int), np.arange(many)[:, None])
    updates = np.ones((many, 2), np.float32)
    work = faults.faulty(sends(updates), late=0.2, nan=0.1, long=0.05)
    fed = jfu.fedavg(work, max_update_norm=100.0)
    run = jax.jit(fed.round)
    state, info = run(fed.init({"params": jnp.zeros(2)}), clients, jax.random.key(1))
    share = {k: float(info.metrics[k]) / many for k in faults.REASONS}
    for name, rate in (("late", 0.2), ("not_finite", 0.1), ("too_long", 0.05)):
        assert share[name] == pytest.approx(rate, abs=4 * np.sqrt(rate / many))
    assert state.params.tolist() == [1, 1]
    again = run(fed.init({"params": jnp.zeros(2)}), clients, jax.random.key(1))[1]
    assert bits(again) == bits(info)
    other = run(fed.init({"params": jnp.zeros(2)}), clients, jax.random.key(2))[1]
    assert (np.asarray(other.clients.left_out) != np.asarray(info.clients.left_out)).any()
    alone = clients._replace(**{k: getattr(clients, k)[7:8] for k in ("index", "mask", "id")})
    one = run(fed.init({"params": jnp.zeros(2)}), alone, jax.random.key(1))[1]
    assert one.clients.left_out[0] == info.clients.left_out[7]


def test_a_late_client_sends_nothing_even_where_nobody_looks(clients):
    """It is counted as left out; so it must be."""
    fed, two = jfu.fedavg(faults.faulty(sends(U), late=1.0)), only(clients, 0, 2)
    state, info = fed.round(fed.init({"params": jnp.zeros(2)}), two, jax.random.key(0))
    assert state.params.tolist() == [0, 0]
    assert info.metrics["late"] == 2 and info.metrics["clients"] == 0
    assert info.metrics["down"] == 2 and info.metrics["examples"] == 0


def test_training_goes_on_through_faults(data, local, variables):
    fed = jfu.fedavg(faults.faulty(local, late=0.3, nan=0.3), max_update_norm=np.inf)
    state, step = fed.init(variables), jax.jit(fed.round)
    counted = 0
    for done in jfu.rounds(step, state, data, jax.random.key(0), stop=12):
        counted += int(done.info.metrics["not_finite"] + done.info.metrics["late"])
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(done.state.variables))
    assert 8 < counted < 30


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda work: faults.faulty(work, late=0.9, nan=0.2), "at most 1"),
        (lambda work: faults.faulty(work, late=-0.1), "at least 0"),
        (lambda work: faults.faulty(work, nan=np.nan), "at least 0"),
        (lambda work: faults.censored(work, 0.0), "a length of 0.0; it must be above 0"),
        (lambda work: faults.bounded(jfu.unlearn.finetune(work), -1), "by -1; it must be above 0"),
    ],
)
def test_senseless_faults_are_refused(fed, make, words):
    with pytest.raises(ValueError, match=words):
        make(fed)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u: {"params": u["params"].sum()},  # would be broadcast
        lambda u: {"params": u["params"][None]},
        lambda u: {"other": u["params"]},
        lambda u: {**u, "more": jnp.zeros(1)},
    ],
)
def test_updates_of_another_shape_are_refused(clients, wrong):
    right = sends(U)

    def work(shared, client, key):
        update, info = right(shared, client, key)
        return wrong(update), info

    fed = jfu.fedavg(work)
    with pytest.raises(ValueError, match="clients' updates differ from the model in"):
        fed.round(fed.init({"params": jnp.zeros(2)}), clients, jax.random.key(0))


# ---------------------------------------------------------------- the leaving client


def move(a, b):
    return np.sqrt(
        sum(((x - y) ** 2).sum() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    )


# Every method that has rounds of its own, and how many are run; the slow ones are like the others.
OWN = dict(
    ga=1, mode=2, fedosd=2, not_deepest=1, federaser=2, pgd=1, fedquit=1, fcu=1, puf=1, npo=1
)
OWN |= dict(amnesiac=1, wagle=1, modhifi=1)
OWN |= dict(ridge_subtract=1)
SLOW = ("pgd", "fedquit", "fcu", "puf", "npo", "amnesiac", "modhifi")


def bold(model, fed):
    """A setting in which client 9, which stays, and client 5, which leaves, mean harm."""
    usual = jfu.classification(model.apply)

    def local(loss=None, optimizer=None, epochs=1):
        work = jfu.local_sgd(
            loss or usual, optimizer or optax.sgd(0.1), epochs=epochs, batch_size=3
        )

        def harmful(shared, client, key):
            update, info = work(shared, client, key)
            far = jnp.where((client.id == 9) | (client.id == 5), 1e4, 1.0)
            return jax.tree.map(lambda u: u * far, update), info._replace(weight=1e6)

        return harmful

    options = dict(
        federaser=dict(interval=1),
        fcu=dict(lr=0.1, iterations=2, every=1),
        pgd=dict(lr=1.0, margin=-1.0),
        ga=dict(lr=1.0),
        fedquit=dict(lr=0.1),
        npo=dict(lr=1.0),
        amnesiac=dict(lr=1.0),
        modhifi=dict(ratio=0.6),
    )
    layers = jfu.by_layer(model, 0)
    return jfu.unlearn.Setting(
        *(fed, model, layers), local=local, around=jfu.fedavg, batch_size=3, options=options
    )


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in OWN]
)
def test_no_own_round_moves_the_model_further_than_asked(name, fed, model, data, variables):
    limit = 0.05
    request = jfu.split(data, jfu.forget_client(data, [5]))
    far = jax.tree.map(lambda p: jnp.stack([p / 2, p / 2, p / 2]), variables["params"])
    total = jfu.ridge.Statistics(jfu.ridge.packed(100 * jnp.eye(6)), 100 * jnp.ones((6, 3)))
    history = dict(start=variables, norms=jnp.full((4, 3), 7.0), first=far, last=far, total=total)
    method = jfu.unlearn.UNLEARNERS[name](bold(model, fed))
    tame = faults.bounded(method, limit)
    assert tame is not method
    trained = jfu.Trained(variables, {kind: history[kind] for kind in method.needs.history})
    key, step = jax.random.key(4), jax.jit(tame.recover)
    state = tame.perturb(trained, request, key)
    free, _ = jax.jit(method.recover)(state, request, key)
    assert move(free.variables, state.variables) > 2 * limit  # without the bound
    for number in range(OWN[name]):
        after, info = step(state, request, key)
        assert limit / 2 < move(after.variables, state.variables) <= limit * (1 + 1e-6)
        assert int(after.round) == number + 1 and info.metrics["not_applied"] == 0
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(after.variables))
        state = after


def test_tuning_bounds_what_it_tries_as_a_comparison_does(fed, model, data, variables):
    from launch.studies import tuning as tune

    request = jfu.split(data, jfu.forget_client(data, [5]))
    config = SimpleNamespace(max_update_norm=1e-3)
    study = SimpleNamespace(config=config, setting=bold(model, fed))
    tried = tune.settings(study, ["ga"])
    assert list(tried) == [f"ga[lr={rate}]" for rate in (0.01, 0.1, 0.03, 0.003)]
    method = tried["ga[lr=0.1]"]
    start, key = method.perturb(jfu.Trained(variables), request, None), jax.random.key(4)
    after, _ = jax.jit(method.recover)(start, request, key)
    assert 5e-4 < move(after.variables, variables) <= 1e-3 * (1 + 1e-6)


def test_every_method_with_rounds_of_its_own_is_tried(fed, model):
    made = {}
    for name, make in jfu.unlearn.UNLEARNERS.items():
        setting = bold(model, fed)._replace(proxy=np.zeros((4, 2), np.float32))
        made[name] = faults.bounded(method := make(setting), 1.0) is not method
    # The round of fedmemprune is an ordinary one, as its own_now says, so nothing bounds it. The
    # first rounds of blindspot do not move the model.
    assert {n for n, steps in made.items() if steps} == {*OWN, "fedmemprune", "blindspot"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_rounding_takes_no_bounded_move_further(dtype, fed, data):
    """In half precision a step of 0.05 would be rounded up to spaces between numbers."""
    start = {"params": jnp.linspace(0.5, 40.0, 200).astype(dtype)}
    away = jnp.asarray(np.random.default_rng(0).normal(size=200)).astype(dtype)

    def recover(state, request, key):
        return state._replace(variables={"params": state.params + away}), None

    method = faults.bounded(jfu.Unlearner(None, recover, own=1), 0.3)
    state = jfu.FedAvgState(start, (), (), jnp.zeros((), jnp.int32))
    after, _ = method.recover(state, None, None)
    wide = lambda tree: np.asarray(tree["params"], np.float64)
    far = np.linalg.norm(wide(after.variables) - wide(start))
    assert after.params.dtype == dtype and far <= 0.3 * (1 + 1e-6)
    assert far > (0.29 if dtype == jnp.float32 else 0.0)


def test_where_nothing_is_too_long_every_bit_is_as_it_was(fed, model, data, variables):
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = jfu.unlearn.UNLEARNERS["ga"](bold(model, fed))
    start, key = method.perturb(jfu.Trained(variables), request, None), jax.random.key(4)
    loose, _ = jax.jit(faults.bounded(method, 1e9).recover)(start, request, key)
    plain, _ = jax.jit(method.recover)(start, request, key)
    assert bits(loose.variables) == bits(plain.variables)


def test_ordinary_rounds_are_not_bounded(fed, variables, data):
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = jfu.unlearn.finetune(fed)
    assert faults.bounded(method, 1e-9) is method
    state = method.perturb(jfu.Trained(variables), request, jax.random.key(0))
    after, _ = method.recover(state, request, jax.random.key(0))
    assert move(after.variables, variables) > 1e-3
