"""Shadow federations: the same federation many times over, in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.io
from helpers.federation import bits, network
from jfu import attacks, inference, shadows
from jfu.audit import pairs


@pytest.fixture(scope="module")
def request_(data):
    return jfu.split(data, jfu.forget_client(data, [5, 9]))


def test_every_example_is_held_by_half_of_the_shadows(request_):
    held = np.asarray(shadows.halves(request_, jax.random.key(3), 10))
    assert (held.sum(0) == 5 * np.asarray(request_.forget.mask)).all()
    assert (held[0::2] ^ held[1::2] == np.asarray(request_.forget.mask)).all()
    assert len({h.tobytes() for h in held}) == 10
    with pytest.raises(ValueError, match="3 shadows cannot have each example in half"):
        shadows.halves(request_, jax.random.key(3), 3)


def test_a_shadows_request_forgets_what_it_held(request_):
    held = shadows.halves(request_, jax.random.key(3), 2)[0]
    mine = shadows.shadow(request_, held)
    assert bits(mine.retain) == bits(request_.retain)
    assert (np.asarray(mine.forget.mask) == np.asarray(held)).all()
    before = shadows.everything(mine)
    wanted = np.asarray(request_.retain.mask) | np.asarray(held)
    assert (np.asarray(before.retain.mask) == wanted).all()
    assert not before.forget.mask.any()
    # Clients 5 and 9 stand first and last.
    assert shadows.candidates(request_).tolist() == sorted(
        [4, 0, 9, 2, 11, 7, 5, 6, 10, 12, 13, 15]
    )


def test_what_clients_share_is_held_by_all_of_them_or_none(pool):
    """Row 3 is at both forgotten clients, row 4 at a forgotten and a retained one."""
    data = jfu.stack(*pool, [[0, 3, 4], [3, 1], [4, 2]])
    shared = jfu.split(data, jfu.forget_client(data, [0, 1]))
    held = np.asarray(shadows.halves(shared, jax.random.key(0), 8))
    assert (held[:, 0, 1] == held[:, 1, 0]).all()
    assert (held[0::2] ^ held[1::2] == np.asarray(shared.forget.mask)).all()
    assert not (held[:, 0, 0] == held[:, 0, 1]).all()
    # What is retained elsewhere is not forgotten by anybody.
    assert shadows.candidates(shared).tolist() == [0, 1, 3]


def test_an_answer_is_the_loop_in_one_program(fed, variables, request_):
    method = jfu.negation(fed, jfu.by_path("stem/.*"))
    key = jax.random.key(4)
    first, later = jax.random.split(key)
    state = method.perturb(jfu.Trained(variables), request_, first)
    for done in jfu.rounds(jax.jit(method.recover), state, request_, later, stop=3):
        state = done.state
    found = jax.jit(shadows.answer(method, 3))(jfu.Trained(variables), request_, key)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(found.round) == 3


@pytest.mark.parametrize("chunk", [1, 3])
def test_federations_are_mapped_over_devices(fed, variables, request_, chunk):
    """Eleven shadows on four devices give what each gives alone."""
    held = shadows.halves(request_, jax.random.key(5), 12)[:11]
    run = shadows.answer(jfu.unlearn.finetune(fed), 2)

    def one(shared, row):
        number, mine = row
        key = jax.random.fold_in(jax.random.key(6), number)
        return run(jfu.Trained(variables), shadows.shadow(shared, mine), key).params

    rows = (jnp.arange(11), held)
    alone = [jax.jit(one)(request_, jax.tree.map(lambda a, i=i: a[i], rows)) for i in range(11)]
    mapped = jax.jit(shadows.map_federations(one, chunk=chunk))
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:4])):
        text = mapped.lower(request_, rows).compile().as_text()
        found = mapped(request_, rows)
    assert "all-reduce" not in text  # nobody waits for another
    for name in ("stem", "head"):
        wanted = np.stack([a[name]["kernel"] for a in alone])
        np.testing.assert_allclose(found[name]["kernel"], wanted, atol=1e-6)
    with pytest.raises(ValueError, match="chunk is 0"):
        shadows.map_federations(one, chunk=0)


@pytest.fixture(scope="module")
def memorised():
    """Shadows whose target has noise for labels, which a wide network learns by heart.

    phi ``[S, n]`` by method: the original passed off as unlearned, and retraining.
    """
    rng = np.random.default_rng(7)
    x = rng.normal(size=(96, 24)).astype(np.float32)
    y = np.where(np.arange(96) < 32, rng.integers(0, 3, 96), (x[:, 0] > 0) + (x[:, 1] > 0))
    clients = jfu.stack(x, y, [np.arange(k * 32, k * 32 + 32) for k in range(3)])
    request = jfu.split(clients, jfu.forget_client(clients, [0]))
    model = network(24, 64, 3, jax.nn.relu)
    loss = jfu.classification(model.apply)
    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.3), epochs=2, batch_size=16))
    fresh = jfu.unlearn.retrain(fed, model.init)
    train = shadows.answer(fresh, 25)
    held = shadows.halves(request, jax.random.key(8), 16)
    rows = shadows.candidates(request)

    def one(shared, row):
        number, mine = row
        key = jax.random.fold_in(jax.random.key(9), number)
        own = shadows.shadow(shared, mine)
        before = train(jfu.Trained(()), shadows.everything(own), jax.random.fold_in(key, 0))
        again = train(jfu.Trained(()), own, jax.random.fold_in(key, 1))
        return [model.apply(s.variables, shared.retain.x[rows])[0] for s in (before, again)]

    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:2])):
        logits = jax.jit(shadows.map_federations(one))(request, (jnp.arange(16), held))
    phi = [np.stack([attacks.confidence(a, y[rows]) for a in np.asarray(each)]) for each in logits]
    return dict(none=phi[0], retrain=phi[1], held=np.asarray(held)[:, 0, :][:, :32])


def test_memorised_noise_is_found_and_its_absence_too(memorised):
    found = pairs.of_shadows(memorised)
    area = lambda name, key: inference.jackknife(*found[name][key][0])
    for key in ("ulira", "lira"):
        assert area("none", key).low > 0.85
        # One more retraining, a coin: what was judged beside itself is now judged beside 0.5.
        assert area("retrain_third", key).low < 0.5 < area("retrain_third", key).high
    scores = {
        name: attacks.forgetting_score(found[name]["forgetting_score"][0][0]) for name in found
    }
    assert scores["none"] < scores["retrain_third"] / 2
