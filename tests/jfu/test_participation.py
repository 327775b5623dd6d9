"""FedAU: weights against the authors' loop in NumPy, and the bias that they remove."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu

pytestmark = pytest.mark.usefixtures("keys_unchecked")

SIZES = (2, 1, 3)
AIMS = np.array([-3.0, 1.0, 5.0])
RATE = 0.2  # a step of SGD on (aim - x)^2 moves by 0.4 of the way


def data():
    rows = np.repeat(np.arange(3), SIZES)
    x = AIMS[rows][:, None].astype(np.float32)
    return jfu.stack(x, np.zeros(len(rows), int), [np.flatnonzero(rows == k) for k in range(3)])


def padded(clients):
    """A row without examples, which has the id of a client."""
    return clients._replace(
        index=jnp.pad(clients.index, ((0, 1), (0, 0))),
        mask=jnp.pad(clients.mask, ((0, 1), (0, 0))),
        id=jnp.concatenate([clients.id, jnp.array([2])]),
    )


def quadratic(variables, batch, key):
    each = (batch.x[:, 0] - variables["params"]) ** 2
    return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1)


LOCAL = jfu.local_sgd(quadratic, optax.sgd(RATE), batch_size=8)


def shown(work, who):
    """A federation to which those come whom ``who [rounds, K]`` names."""
    fed = jfu.fedavg(work, aggregator=jfu.fedau(4))

    def round(state, clients, key):
        here = jnp.append(jnp.asarray(who)[state.round], True)
        return fed.round(state, clients._replace(mask=clients.mask & here[:, None]), key)

    return jfu.FederatedAlgorithm(fed.init, round)


def reference(who, longest, x=0.0):
    """The models, as the authors' code has it, with clients weighted by their examples."""
    waited, intervals, models = [0] * 3, [[] for _ in range(3)], []
    for came in who:
        total = 0.0
        for k in range(3):
            if came[k]:
                weight = np.mean(intervals[k]) if intervals[k] else 1.0
                total += SIZES[k] / sum(SIZES) * weight * 2 * RATE * (AIMS[k] - x)
                intervals[k].append(waited[k] + 1)
                waited[k] = 0
            else:
                waited[k] += 1
                if longest is not None and waited[k] >= longest:
                    intervals[k].append(waited[k])
                    waited[k] = 0
        x += total
        models.append(x)
    return models


@pytest.mark.parametrize("longest", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_rounds_are_those_of_the_authors_loop(longest):
    who = np.random.default_rng(3).random((14, 3)) < [0.9, 0.2, 0.5]
    who[5] = False  # nobody comes, and the model stays
    fed = jfu.evened(LOCAL, lambda work: shown(work, who), longest=longest)
    state, ours = fed.init({"params": jnp.zeros(())}), []
    step = jax.jit(fed.round)
    for r in range(len(who)):
        state, info = step(state, padded(data()), jax.random.key(r))
        assert info.metrics["clients"] == who[r].sum()
        ours.append(float(state.params))
    np.testing.assert_allclose(ours, reference(who, longest), rtol=1e-5)
    assert ours[5] == ours[4]


def run(fed, clients, rounds=2):
    """The model after some rounds."""
    state, step = fed.init({"params": jnp.zeros(())}), jax.jit(fed.round)
    for r in range(rounds):
        state, _ = step(state, clients, jax.random.key(r))
    return float(state.params)


@pytest.mark.slow
def test_if_all_come_it_is_fedavg():
    """Every interval is one round long, and those who came are all."""
    fed = jfu.evened(LOCAL, lambda work: jfu.fedavg(work, aggregator=jfu.fedau(3)))
    assert run(fed, data()) == pytest.approx(run(jfu.fedavg(LOCAL), data()), rel=1e-6)


def ends(make):
    """The mean model of the last rounds of 4,000, where clients come with 0.9, 0.3 and 0.05."""
    fed = make(lambda fed: jfu.absent(fed, [0.1, 0.7, 0.95]))
    step = lambda state, key: (lambda s: (s, s.params))(fed.round(state, clients, key)[0])
    clients, keys = data(), jax.random.split(jax.random.key(0), 4000)
    _, models = jax.jit(lambda s: jax.lax.scan(step, s, keys))(fed.init({"params": jnp.zeros(())}))
    return float(models[1000:].mean())


def test_it_removes_the_bias_of_uneven_participation():
    """The objective's optimum is the mean by examples, (2 * -3 + 1 + 3 * 5) / 6."""
    local = jfu.local_sgd(quadratic, optax.sgd(0.002), batch_size=8)
    optimum = float(np.dot(SIZES, AIMS) / sum(SIZES))
    plain = ends(lambda away: away(jfu.fedavg(local)))
    even = ends(
        lambda away: jfu.evened(local, lambda work: away(jfu.fedavg(work, aggregator=jfu.fedau(3))))
    )
    assert optimum == pytest.approx(5 / 3)
    assert plain < -1.0  # drawn to the client that nearly always comes
    assert abs(even - optimum) < 0.25


def test_a_client_that_is_left_out_did_not_come():
    def spoilt(shared, client, key):
        update, info = LOCAL(shared, client, key)
        return jax.tree.map(lambda u: jnp.where(client.id == 1, jnp.nan, u), update), info

    fed = jfu.evened(spoilt, lambda work: jfu.fedavg(work, aggregator=jfu.fedau(3)))
    state = fed.init({"params": jnp.zeros(())})
    state, info = jax.jit(fed.round)(state, data(), jax.random.key(0))
    assert info.metrics["not_finite"] == 1
    assert state.aggregator.waiting.tolist() == [0, 1, 0]
    assert float(state.params) == pytest.approx(0.4 * (2 * -3 + 3 * 5) / 6, rel=1e-6)


@pytest.mark.slow
def test_drawn_clients_are_counted_at_their_own_places():
    around = lambda work: jfu.sampled(jfu.fedavg(work, aggregator=jfu.fedau(3)), 1)
    fed = jfu.evened(LOCAL, around)
    state, step = fed.init({"params": jnp.zeros(())}), jax.jit(fed.round)
    for r in range(4):
        before = state.aggregator
        state, info = step(state, data(), jax.random.key(r))
        (who,) = info.ids.tolist()
        assert state.aggregator.many.tolist() == [
            n + (k == who) for k, n in enumerate(before.many.tolist())
        ]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="give its fedavg the aggregator jfu.fedau"):
        jfu.evened(LOCAL, jfu.fedavg).init({"params": jnp.zeros(())})
    fed = jfu.evened(LOCAL, lambda work: jfu.fedavg(work, aggregator=jfu.fedau(2)))
    with pytest.raises(ValueError, match="there are 3 clients, and fedau was given 2"):
        fed.round(fed.init({"params": jnp.zeros(())}), data(), jax.random.key(0))
    with pytest.raises(ValueError, match="rate of absence"):
        jfu.absent(fed, [0.5, 1.0])


@pytest.mark.slow
def test_one_rate_of_absence_or_the_same_for_each():
    alike = [jfu.absent(jfu.fedavg(LOCAL), rate) for rate in (0.5, [0.5] * 3)]
    assert run(alike[0], data(), 3) == run(alike[1], data(), 3)
