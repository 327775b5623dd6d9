"""FedMemPrune by hand: which parameters are drawn again, their draws, and the rounds round it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from helpers.rivals import OTHERS, W, close, counts, plain_round, run
from jfu.unlearn.fedmemprune import fedmemprune, least, redrawn

SERVERS = dict(  # not yogi, whose first step is not monotone near 1e-3
    sgd=optax.sgd(0.7),
    momentum=optax.sgd(1.0, momentum=0.9),
    adam=optax.adam(0.1, b2=0.99, eps=1e-3),
    fedadam=jfu.fedadam(0.1),
    fedyogi=jfu.fedyogi(0.1),
)


@pytest.mark.parametrize(("ratio", "many"), [(0.0, 0), (0.3, 1), (0.99, 5)])
def test_fedmemprune(ratio, many):
    """Of six weights the int(6 ratio) that the first round moves least; then plain rounds."""
    models, facts = run("fedmemprune", 3, ratio=ratio)
    w = plain_round(W)
    chosen = np.zeros(6, bool)
    chosen[np.argsort(abs(w - W).ravel())[:many]] = True
    chosen = chosen.reshape(W.shape)
    np.testing.assert_allclose(models[1][~chosen], w[~chosen], rtol=2e-5)
    assert (models[1][chosen] != w[chosen]).all()
    assert (abs(models[1][chosen]) <= np.sqrt(6 / 2)).all()  # two inputs
    second = plain_round(models[1])
    close(models, [W, models[1], second, plain_round(second)])
    assert counts(facts) == [OTHERS] * 3  # the choice is the server's


# ---------------------------------------------------------------- the choice


def first(flat, many):
    """The places of the smallest by absolute value, of equal ones the first."""
    return sorted(range(len(flat)), key=lambda i: (abs(flat[i]), i))[:many]


@pytest.mark.parametrize("ratio", [0.0, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("kinds", [1, 3, 1000])
def test_the_number_is_exact_whatever_is_equal(ratio, kinds):
    """One order over tensors of all shapes; with few kinds of numbers nearly all are ties."""
    rng = np.random.default_rng(kinds)
    sizes = dict(b=(7,), a=(3, 4), c=(), d=(2, 3, 5))  # a tree's order is a, b, c, d
    tree = {k: rng.integers(0, kinds, n) * rng.choice([-1.0, 1.0], n) for k, n in sizes.items()}
    tree = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
    flat = [float(v) for k in "abcd" for v in np.ravel(tree[k])]
    marks = jax.jit(lambda t: least(t, ratio))(tree)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), marks) == {
        k: (n, jnp.dtype(bool)) for k, n in sizes.items()
    }
    found = np.concatenate([np.ravel(marks[k]) for k in "abcd"])
    assert found.sum() == int(ratio * len(flat))
    assert np.flatnonzero(found).tolist() == sorted(first(flat, int(ratio * len(flat))))


def test_halves_and_wider_numbers_are_one_order():
    tree = {"h": jnp.array([3, -1], jnp.bfloat16), "w": jnp.array([-0.5, 2.0], jnp.float32)}
    assert jax.tree.map(list, least(tree, 0.5)) == {"h": [False, True], "w": [True, False]}


@pytest.mark.parametrize("name", SERVERS)
def test_the_first_step_of_a_server_optimizer_keeps_the_order(name):
    """Of mean updates from 1e-7 to 1, which are a negative gradient to the server."""
    update = np.random.default_rng(0).permutation(np.logspace(-7, 0, 200)).astype(np.float32)
    update[::2] *= -1
    change, _ = SERVERS[name].update(-update, SERVERS[name].init(update), update)
    assert np.argsort(abs(np.asarray(change))).tolist() == np.argsort(abs(update)).tolist()


# ---------------------------------------------------------------- the draws


@pytest.mark.parametrize(
    ("shape", "most"),
    [((50, 40), (6 / 50) ** 0.5), ((3, 3, 8, 64), (6 / 72) ** 0.5), ((3000,), 0.1), ((), 0.1)],
)
def test_draws_are_uniform_within_their_bound(shape, most):
    old = jnp.full(shape, 7.0)
    new = np.asarray(redrawn(old, jnp.ones(shape, bool), jax.random.key(0)), float)
    assert (abs(new) <= most).all()
    if shape:
        assert abs(new).max() > 0.99 * most
        assert abs(new.mean()) < 0.05 * most and abs(new.std() - most / 3**0.5) < 0.03 * most


def test_what_is_not_chosen_keeps_its_bits_and_all_keep_their_types():
    tree = {"w": jnp.full((2, 3), 7, jnp.bfloat16), "b": jnp.full(3, 7, jnp.float32)}
    chosen = {"w": jnp.eye(2, 3, dtype=bool), "b": jnp.array([False, True, False])}
    new = redrawn(tree, chosen, jax.random.key(0))
    assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, tree)
    for name in tree:
        assert ((new[name] != 7) == chosen[name]).all()
    assert len(set(np.ravel(new["w"][new["w"] != 7]).tolist())) == 2


# ---------------------------------------------------------------- the round


def test_a_round_that_moves_nothing_leaves_the_choice_to_the_next(model, data, variables):
    """At first nobody sends a number. Equal to a federation in which that round did not happen."""
    work = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.1), batch_size=3)

    def spoilt(shared, client, key):
        update, info = work(shared, client, key)
        return jax.tree.map(lambda u: jnp.where(shared.round == 0, jnp.nan, u), update), info

    request = jfu.split(data, jfu.forget_client(data, [5]))
    bad, good = (fedmemprune(jfu.fedavg(w), ratio=0.5) for w in (spoilt, work))
    step = jax.jit(bad.recover)
    state = bad.perturb(jfu.Trained(variables), request, None)
    state, info = step(state, request, jax.random.key(0))
    assert info.metrics["not_finite"] == 2
    assert bits(state.variables) == bits(variables) and not state.own
    state, _ = step(state, request, jax.random.key(1))
    begun = good.perturb(jfu.Trained(variables), request, None)
    expected, _ = jax.jit(good.recover)(begun, request, jax.random.key(1))
    assert state.own and bits(state.variables) == bits(expected.variables)


def test_a_bound_on_own_rounds_does_not_take_the_draws_back(fed, data, variables):
    """No client sends them. The round before them is one of ``fed``, with its own limit."""
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = fedmemprune(fed, ratio=0.5)
    state = method.perturb(jfu.Trained(variables), request, None)
    results = [
        jax.jit(m.recover)(state, request, jax.random.key(0))[0].variables
        for m in (method, jfu.faults.bounded(method, 1e-6))
    ]
    assert bits(results[0]) == bits(results[1])


def test_the_servers_memory_stays(local, data, variables):
    """What is drawn again is the only difference from a plain round."""
    fed = jfu.fedavg(local, server=optax.sgd(1.0, momentum=0.9))
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = fedmemprune(fed, ratio=0.4)
    state = method.perturb(jfu.Trained(variables), request, None)
    after, _ = jax.jit(method.recover)(state, request, jax.random.key(0))
    plain, _ = jax.jit(fed.round)(state.inner, request.retain, jax.random.key(0))
    assert bits(after.inner._replace(variables=0)) == bits(plain._replace(variables=0))
    differ = jax.tree.map(lambda a, b: int((a != b).sum()), after.variables, plain.variables)
    assert sum(jax.tree.leaves(differ)) == int(0.4 * 33)
