"""Recovery that starts again: when, from where, how often; and not where nothing broke."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from jfu.types import LocalInfo, RoundInfo
from jfu.unlearn import finetune, halved, negation, received_loss, steady
from jfu.unlearn.steady import AGAIN, CALM

pytestmark = pytest.mark.conformance

GUESS = math.log(10)
SEED = 5  # a key is drawn from once, so each use makes it anew


def script(losses, moves=None, **metrics):
    """What rounds report and do, by the number of rounds ever run; all scripts have one shape.

    Each round changes every parameter by the share of it in ``moves``, else by a tenth.
    """
    moves = [0.1] * len(losses) if moves is None else moves
    room = lambda values: np.pad(np.float32(values), (0, 12 - len(values)))
    usual = dict(clients=3.0, not_finite=0.0, not_applied=0.0)
    shown = {k: np.float32(v) for k, v in (usual | metrics).items()}
    return dict(losses=room(losses), moves=room(moves), shown=shown)


def scripted(fed):
    """Fine-tuning whose request is a script."""

    def recover(state, request, key):
        number, zero = jax.random.key_data(key)[-1].astype(int), jnp.zeros(3)
        shown = request["shown"] | dict(loss=request["losses"][number])
        info = RoundInfo(LocalInfo(zero, zero, zero, zero), shown, zero)
        factor = 1 + request["moves"][number]
        variables = jax.tree.map(lambda a: a * factor, dict(state.variables))
        return state._replace(variables=variables, round=state.round + 1), info

    return finetune(fed)._replace(recover=recover)


@pytest.fixture(scope="module")
def steadied(fed, model):
    """A scripted recovery by how many rounds may show no learning; each is compiled once."""

    @functools.cache
    def made(patience):
        return steady(scripted(fed), fed, model.init, GUESS, patience=patience)

    return made


def run(method, variables, script, rounds):
    """States and the metric of each round; round n has the key n."""
    state = method.perturb(jfu.Trained(variables), None, jax.random.key(SEED))
    states, calmed = [state], []
    step = jax.jit(method.recover)
    for number in range(rounds):
        state, info = step(state, script, jax.random.key(number))
        states.append(state)
        calmed.append(int(info.metrics["calmed"]))
    return states, calmed


@pytest.mark.parametrize(
    ("losses", "calmed"),
    [
        ([6.0, 2.0, 1.0, 0.5], [0, 0, 0, 0]),  # a first round far above guessing is NoT's usual one
        ([6.0, 4.7, 1.0, 0.5], [0, 1, 0, 0]),  # and a second one is not: 4.605 is the limit
        ([6.0, 4.5, 2.2, 0.5], [0, 0, 0, 0]),
        ([2.3, 2.3, 2.3, 2.2, 2.0], [0, 0, 1, 0, 0]),  # the third one has to be below 2.268
        ([2.3, 2.3, 2.26, 2.2, 2.0], [0, 0, 0, 0, 0]),
        ([2.4, 2.36, 2.33, 2.31, 2.3, 2.29], [0] * 6),  # or by 0.0023 lower than all before
        ([2.4, 2.3, 2.299, 2.298, 2.297, 1.0], [0, 0, 0, 0, 1, 0]),  # here the second alone is
        ([math.nan, 2.2, 2.1], [1, 0, 0]),
        ([math.inf, 2.2, 2.1], [1, 0, 0]),
        ([2.4, 2.0, math.nan, math.inf, 1.0], [0] * 5),  # a model that learns is not given up
        ([2.4, 2.0, 4.7, 2.3, 1.0, 2.3, 2.3], [0] * 7),  # nor for two bad rounds
        ([2.4, 2.0, 4.7, math.nan, 2.3, 1.0], [0, 0, 0, 0, 1, 0]),  # and for three it is
        ([2.3] * 12, [0, 0, 1] * 3 + [0, 0, 0]),  # three times at most
    ],
)
def test_when_recovery_starts_again(steadied, variables, losses, calmed):
    assert run(steadied(2), variables, script(losses), len(losses))[1] == calmed


@pytest.mark.parametrize(
    ("losses", "moves", "calmed"),
    [
        ([1.4] * 4, [1.9, 0.1, 0.1, 0.1], [0, 0, 0, 0]),
        ([1.4] * 4, [2.1, 0.1, 0.1, 0.1], [1, 0, 0, 0]),  # a step of twice the kernels' length
        ([1.4] * 4, [0.1, 0.1, 2.1, 0.1], [0, 0, 1, 0]),  # later too
        ([1.4] * 4, [0.1, 0.1, math.inf, 0.1], [0, 0, 1, 0]),
        # dead: a loss below guessing's, as of clients with few labels each, and nothing moves
        ([1.4] * 6, [0.5, 4e-4, 4e-4, 4e-4, 0.1, 0.1], [0, 0, 0, 1, 0, 0]),
        ([1.4] * 6, [0.5, 6e-4, 4e-4, 4e-4, 4e-4, 4e-4], [0] * 6),
        ([0.6] + [0.57] * 5, [0.5] + [1e-6] * 5, [0] * 6),  # learnt: 0.576 is the limit
        ([1.4] * 6, [1e-3] + [1e-4] * 5, [0] * 6),  # a low rate from the start is none
        ([1.4] * 6, [0.0] * 6, [0, 0, 1, 0, 0, 1]),  # dead from the start
    ],
)
def test_what_the_kernels_show(steadied, variables, losses, moves, calmed):
    assert run(steadied(2), variables, script(losses, moves), len(losses))[1] == calmed


def test_a_model_without_kernels_is_judged_by_all_it_has(fed, model):
    """Vectors alone: a round that moves them by more than twice their length is taken back."""
    flat = lambda scale: {"params": {"w": scale * jnp.ones(3)}}
    method = steady(scripted(fed), fed, lambda _: flat(0.5), GUESS)
    assert run(method, flat(1.0), script([1.4] * 3, [0.1, 2.5, 0.1]), 3)[1] == [0, 1, 0]


@pytest.mark.parametrize(
    ("metrics", "calmed"),
    [
        (dict(not_applied=1.0), [1, 1]),
        (dict(clients=0.0), [0, 0]),  # nobody came, so there is no loss
        (dict(clients=0.0, not_finite=2.0), [1, 1]),  # all who came diverged
    ],
)
def test_rounds_without_a_loss(steadied, variables, metrics, calmed):
    losses = [math.nan if "clients" in metrics else 1.0] * 2
    assert run(steadied(2), variables, script(losses, **metrics), 2)[1] == calmed


@pytest.mark.parametrize(("loss", "patience", "keep"), [(math.nan, 2, 0.5), (3.0, 1, 0.0)])
def test_after_a_burst_half_the_model_before_the_round_stays_and_after_idling_nothing(
    steadied, model, variables, loss, patience, keep
):
    """In float64; the fresh one is another draw each time, and rounds count from 0 again."""
    states, calmed = run(steadied(patience), variables, script([3.0, loss]), 2)
    assert calmed == [0, 1]
    assert [int(s.round) for s in states] == [0, 1, 0]
    assert [int(s.own.calmed) for s in states] == [0, 0, 1]
    before, after = (jax.tree.leaves(dict(s.variables)) for s in states[1:])
    fresh = jax.tree.leaves(dict(model.init(jax.random.fold_in(jax.random.key(1), CALM))))
    wide = lambda a: np.asarray(a, np.float64)
    for old, new, drawn in zip(before, after, fresh, strict=True):
        right = keep * wide(old) + (1 - keep) * wide(drawn)
        np.testing.assert_allclose(new, right, rtol=1e-6, atol=1e-7)


def test_where_nothing_breaks_no_bit_changes(fed, model, variables, data):
    request = jfu.split(data, data.mask & (data.id == 0)[:, None])
    plain = negation(fed, jfu.by_layer(model, 0))
    method = steady(plain, fed, model.init, 100.0)
    ends = []
    for one in (plain, method):
        state = one.perturb(jfu.Trained(variables), request, jax.random.key(SEED))
        step = jax.jit(one.recover)
        for number in range(3):
            state, info = step(state, request, jax.random.key(number))
        ends.append((state.variables, info.metrics["loss"], state.round))
    assert bits(ends[0]) == bits(ends[1])


def test_each_new_start_halves_the_rate(model, variables, data):
    """Two new starts at once, by a guess that no loss is near: then a round is one of a quarter."""
    loss = jfu.classification(model.apply)
    rate = lambda round: 0.1 / (1 + halved(round)[1]) * halved(round)[0]
    made = lambda rate: jfu.fedavg(jfu.local_sgd(loss, rate, batch_size=8))
    fed = made(lambda round: optax.sgd(rate(round)))
    method = steady(finetune(fed), fed, model.init, 1e-3, patience=0, most=2, halves=True)
    request = jfu.split(data, data.mask & (data.id == 5)[:, None])
    states = [method.perturb(jfu.Trained(variables), request, jax.random.key(SEED))]
    step = jax.jit(method.recover)
    for number in range(4):
        states.append(step(states[-1], request, jax.random.key(number))[0])
    assert [int(s.own.calmed) for s in states] == [0, 1, 2, 2, 2]
    assert [int(s.round) for s in states] == [0, 0, 0, 1, 2]
    for start, rate in ((2, 0.1 / 4), (3, 0.1 / 2 / 4)):
        alike = made(optax.sgd(rate))
        right, _ = jax.jit(alike.round)(
            alike.init(states[start].variables), request.retain, jax.random.key(start)
        )
        for one, other in zip(
            *map(jax.tree.leaves, (states[start + 1].params, right.params)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_the_share_of_the_rate_by_hand():
    shares = [tuple(map(float, halved(jnp.array(n * AGAIN + 7)))) for n in range(4)]
    assert shares == [(1.0, 7.0), (0.5, 7.0), (0.25, 7.0), (0.125, 7.0)]


def test_going_on_from_a_stored_state_is_going_on(steadied, variables):
    """Also between a round that stays at guessing and the one that is taken back for it."""
    method, told = steadied(2), script([2.3] * 6)
    states, _ = run(method, variables, told, 6)
    for start in range(6):
        stored = jax.tree.map(np.asarray, states[start])
        new, _ = jax.jit(method.recover)(stored, told, jax.random.key(start))
        assert bits(new) == bits(states[start + 1])


def test_without_a_loss_of_guessing_it_is_the_method_itself(fed, model):
    method = finetune(fed)
    assert steady(method, fed, model.init, None) is method


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(guess=0.0), "guess=0.0"),
        (dict(guess=math.nan), "guess=nan"),
        (dict(guess=1.0, patience=-1), "patience=-1"),
        (dict(guess=1.0, most=-1), "most=-1"),
    ],
)
def test_what_cannot_be(fed, model, given, message):
    with pytest.raises(ValueError, match=message):
        steady(finetune(fed), fed, model.init, given.pop("guess"), **given)


def losses_by_hand(model, variables, data, client, rows):
    """Mean cross-entropy in float64 over the given places among a client's live examples."""
    live = np.asarray(data.index)[client][np.asarray(data.mask)[client]][rows]
    logits = np.asarray(model.apply(variables, data.x[live])[0], np.float64)
    labels = np.asarray(data.y)[live]
    own = logits[np.arange(len(labels)), labels]
    return np.mean(np.log(np.exp(logits).sum(-1)) - own)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        (3, [[0, 1, 2, 3, 4, 5], [0, 1, 2], [0, 1, 2, 3, 4]]),  # two batches; all of small clients
        (2, [[0, 1, 3, 5], [0, 1, 2], [0, 1, 2, 3]]),  # 4 of 7 examples: 0, 7/4, 14/4, 21/4
        (1, [[0, 3], [0, 1], [0, 2]]),
    ],
)
def test_clients_report_the_loss_of_the_model_that_they_received(
    model, variables, data, local, size, rows
):
    loss = jfu.classification(model.apply)
    plain, shown = local, received_loss(local, loss, batch_size=size)
    ends = []
    for work in (plain, shown):
        fed = jfu.fedavg(work)
        ends.append(jax.jit(fed.round)(fed.init(variables), data, jax.random.key(SEED)))
    (one, before), (other, after) = ends
    assert bits(one.variables) == bits(other.variables)  # training is the same
    right = [losses_by_hand(model, variables, data, k, r) for k, r in enumerate(rows)]
    np.testing.assert_allclose(after.clients.loss, right, rtol=1e-5)
    weights = np.asarray(before.clients.weight, np.float64)
    np.testing.assert_allclose(after.metrics["loss"], np.average(right, weights=weights), rtol=1e-5)
    passes = [-(-len(r) // size) for r in rows]
    np.testing.assert_array_equal(after.clients.forwards, np.add(before.clients.forwards, passes))


def test_a_client_without_examples_passes_nothing_forward(model, variables, data, local):
    """Nor does it change the mean."""
    fed = jfu.fedavg(received_loss(local, jfu.classification(model.apply), batch_size=3))
    some = data._replace(mask=data.mask.at[1].set(False))
    _, info = jax.jit(fed.round)(fed.init(variables), some, jax.random.key(SEED))
    assert info.clients.forwards.tolist() == [2.0, 0.0, 2.0]
    right = [losses_by_hand(model, variables, data, k, slice(6)) for k in (0, 2)]
    np.testing.assert_allclose(info.metrics["loss"], np.average(right, weights=[7, 5]), rtol=1e-5)


def test_a_client_that_is_left_out_reports_nothing_new(model, variables, data):
    loss = jfu.classification(model.apply)
    fed = jfu.fedavg(received_loss(jfu.local_sgd(loss, optax.sgd(math.nan)), loss))
    _, info = jax.jit(fed.round)(fed.init(variables), data, jax.random.key(SEED))
    assert int(info.metrics["not_finite"]) == 3
    assert info.clients.loss.tolist() == info.clients.forwards.tolist() == [0.0] * 3


def test_few_labels_each_hide_a_dead_model_from_the_training_loss_alone(model, variables, data):
    """Clients with one label each: biases fit it within a round, and the model knows nothing."""
    rows = jnp.where(data.mask, data.index, len(data.y))  # beyond the pool where no example is
    one_each = data._replace(y=data.y.at[rows].set(jnp.arange(3)[:, None], mode="drop"))
    work = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(1.0), epochs=20, batch_size=4)
    dead = {"params": jax.tree.map(jnp.zeros_like, variables["params"])}
    losses = []
    for one in (work, received_loss(work, jfu.classification(model.apply))):
        fed = jfu.fedavg(one)
        _, info = jax.jit(fed.round)(fed.init(dead), one_each, jax.random.key(SEED))
        losses.append(float(info.metrics["loss"]))
    assert losses[0] < 0.5 * math.log(3) and abs(losses[1] - math.log(3)) < 1e-5
