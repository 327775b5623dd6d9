"""Rollback: what training keeps for it, where it returns to, and in what it is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.io
from helpers.federation import bits, network
from jfu import faults, shadows
from jfu.clients import pick
from jfu.types import FederatedAlgorithm
from jfu.unlearn import first_round, rollback

ROUNDS, CLIENTS = 7, 6
MODEL = network()
KEY = jax.random.key(11)


def by_place(fed):
    """Two clients a round, drawn among those that are there by their place in the row."""

    def round(state, clients, key):
        draw, key = jax.random.split(key)
        live = clients.mask.any(-1)
        place = jnp.argsort(jax.random.permutation(draw, clients.id.shape[0]))
        value = place[jnp.maximum(jnp.cumsum(live) - 1, 0)]
        chosen = jnp.sort(jnp.argsort(jnp.where(live, value, 99))[:2])
        return fed.round(state, pick(clients, chosen)[0], key)

    return FederatedAlgorithm(fed.init, round)


DRAWS = dict(
    sampled=lambda fed: jfu.sampled(fed, 2),
    absent=lambda fed: jfu.absent(fed, 0.6),
    both=lambda fed: jfu.sampled(jfu.absent(fed, 0.3), 2),
    everybody=lambda fed: fed,
)


@functools.cache
def federation(draw, late=0.0):
    """The server has momentum, and clients' rates fall from round to round."""
    optimizer = lambda round: optax.sgd(0.3 * 0.8**round)
    work = jfu.local_sgd(jfu.classification(MODEL.apply), optimizer, batch_size=2)
    work = faults.faulty(work, late=late, nan=late) if late else work
    return DRAWS[draw](jfu.fedavg(work, server=optax.sgd(1.0, momentum=0.5)))


@functools.cache
def compiled(fed):
    return jax.jit(fed.round)


@pytest.fixture(scope="module")
def clients():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(24, 2)).astype(np.float32), rng.integers(0, 3, 24)
    ends = [0, 5, 7, 12, 15, 19, 24]
    rows = [np.arange(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return jfu.stack(x, y, rows, ids=[3, 8, 1, 4, 7, 6])


def states(fed, clients, start=None, first=0):
    """The state before each round and after the last one; the rounds' facts."""
    state, facts = start or fed.init(MODEL.init(jax.random.key(1))), []
    found = [state]
    for done in jfu.rounds(compiled(fed), state, clients, KEY, start=first, stop=ROUNDS):
        found.append(done.state)
        facts.append(done.info)
    return found, facts


def joined(clients, facts):
    """The first round of each client, as the facts of rounds without a history have it."""

    def there(info, id):
        drawn = len(info.ids) < CLIENTS
        part = drawn | (info.clients.weight > 0) | (info.clients.left_out > 0)
        return bool(((info.ids == id) & part).any())

    ids = clients.id.tolist()
    return [next((n for n, info in enumerate(facts) if there(info, id)), ROUNDS) for id in ids]


@pytest.fixture(scope="module")
def trained(clients):
    """The end of training with its history; the states before each round and facts, without it."""

    @functools.cache
    def of(draw, late=0.0):
        fed = federation(draw, late)
        remembering = jfu.recorded(fed, ["before"], clients=clients, rounds=ROUNDS)
        end = states(remembering, clients)[0][-1]
        return jfu.Trained(end.variables, end.history), *states(fed, clients)

    return of


# ---------------------------------------------------------------- what training keeps


@pytest.mark.parametrize("late", [0.0, 0.3])
@pytest.mark.parametrize("draw", DRAWS)
def test_the_states_before_somebody_came_first_are_kept_and_no_others(trained, clients, draw, late):
    end, plain, facts = jax.tree.map(np.asarray, trained(draw, late))
    before, came = end.history["before"], joined(clients, facts)
    assert before["joined"].tolist() == came
    rounds = sorted(set(came) - {ROUNDS})
    assert int(before["used"]) == len(rounds)
    kept = jfu.io.by_name(before["states"])
    assert len(kept["round"]) == CLIENTS  # room for all of them, and less than for all rounds
    for place, number in enumerate(rounds):
        own = jfu.io.by_name(plain[number])
        assert {n: bits(a[place]) for n, a in kept.items()} == {n: bits(a) for n, a in own.items()}
    assert not any(np.any(a[len(rounds) :]) for a in kept.values())
    assert bits(end.variables) == bits(plain[-1].variables)  # training knows nothing of it
    assert (len(rounds) > 1) == (draw != "everybody")


def test_there_is_no_more_room_than_rounds_and_later_ones_are_not_kept(clients):
    fed = jfu.recorded(federation("sampled"), ["before"], clients=clients, rounds=2)
    found, _ = states(fed, clients)
    assert found[0].history["before"]["states"]["round"].shape == (2,)
    assert bits(found[2].history) == bits(found[-1].history)
    assert found[-1].history["before"]["joined"].max() == 2  # in neither


# ---------------------------------------------------------------- where it returns to


def test_the_first_of_all_that_lose_examples_decides(clients):
    """Whole clients, or one example of one client; not those that lose nothing."""
    before = dict(joined=jnp.array([4, 0, 5, 2, ROUNDS, 3]))
    ask = lambda forget: int(first_round(before, jfu.split(clients, forget).forget))
    assert [ask(jfu.forget_client(clients, [id])) for id in (3, 8, 1, 4, 7, 6)] == [
        *(4, 0, 5, 2, ROUNDS, 3)
    ]
    assert ask(jfu.forget_client(clients, [1, 6, 7])) == 3
    one = jnp.zeros_like(clients.mask).at[5, 0].set(True)
    assert ask(one) == 3


def test_who_never_came_leaves_the_model_as_it_is(clients):
    fed = federation("sampled")
    request = jfu.split(clients, jfu.forget_client(clients, [7]))
    without = clients._replace(mask=clients.mask & (clients.id != 7)[:, None])
    remembering = jfu.recorded(fed, ["before"], clients=without, rounds=ROUNDS)
    end, plain = states(remembering, without)[0][-1], states(fed, without)[0]
    end = jfu.Trained(end.variables, end.history)
    state = jax.jit(rollback(fed).perturb)(end, request, None)
    assert int(state.round) == ROUNDS and bits(state.variables) == bits(plain[-1].variables)


# ---------------------------------------------------------------- in what it is exact


@pytest.mark.parametrize("late", [0.0, 0.3])
@pytest.mark.parametrize("draw", DRAWS)
def test_it_is_training_without_the_client_from_the_start_to_the_bit(trained, clients, draw, late):
    """The state that it returns to, with the server's momentum, and all rounds with those keys."""
    fed, rounds = federation(draw, late), []
    end, _, _ = trained(draw, late)
    method = rollback(fed)
    for leaving in ([3], [8], [1], [4], [7], [6], [3, 6]):
        request = jfu.split(clients, jfu.forget_client(clients, leaving))
        state = jax.jit(method.perturb)(end, request, jax.random.key(0))
        number = int(state.round)
        never, _ = states(fed, request.retain)
        if number == ROUNDS:  # it never came, and no server goes on
            assert bits(state.variables) == bits(never[-1].variables)
            continue
        assert bits(state) == bits(never[number])
        after, _ = states(fed, request.retain, state, number)
        assert bits(after[-1]) == bits(never[-1])
        rounds.append(number)
    assert (max(rounds) > 0) == (draw != "everybody")


def test_it_is_not_exact_where_draws_depend_on_who_is_there(clients):
    """A draw by place in the row: without a client, others take part before it would have come."""
    fed = by_place(federation("everybody"))
    plain, facts = states(fed, clients)
    differ = []
    for id, number in zip(clients.id.tolist(), joined(clients, facts), strict=True):
        request = jfu.split(clients, jfu.forget_client(clients, [id]))
        never, _ = states(fed, request.retain)
        differ.append(bits(plain[number]) != bits(never[number]))
    assert any(differ)


def test_a_history_from_a_file_will_do(trained, clients, tmp_path):
    fed = federation("sampled")
    end, _, _ = trained("sampled")
    request = jfu.split(clients, jfu.forget_client(clients, [6]))
    jfu.io.save_state(tmp_path / "history.safetensors", end.history)
    read = jfu.io.unflatten(jfu.io.load_arrays(tmp_path / "history.safetensors"))
    run = lambda history: rollback(fed).perturb(end._replace(history=history), request, None)
    assert bits(run(read)) == bits(run(end.history))


def test_as_one_function_it_runs_the_rounds_that_are_left(trained, clients):
    fed = federation("sampled")
    end, _, _ = trained("sampled")
    request = jfu.split(clients, jfu.forget_client(clients, [6]))
    answer = jax.jit(shadows.answer(rollback(fed), ROUNDS))(end, request, jax.random.key(5))
    first, later = jax.random.split(jax.random.key(5))
    state = rollback(fed).perturb(end, request, first)
    assert 0 < int(state.round) < ROUNDS == int(answer.round)
    for number in range(int(state.round), ROUNDS):
        state, _ = compiled(fed)(state, request.retain, jax.random.fold_in(later, number))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, answer, state)
