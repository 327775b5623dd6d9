"""The rounds that methods make their own: who fails in them is left out and counted there too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from jfu import faults
from jfu.unlearn import UNLEARNERS, Setting, phases


def trainer(model, spoil=lambda client, update: update):
    """Clients' training; what they send goes through ``spoil(client, update)``."""
    usual = jfu.classification(model.apply)

    def local(loss=None, optimizer=None, epochs=1):
        work = jfu.local_sgd(
            loss or usual, optimizer or optax.sgd(0.1), epochs=epochs, batch_size=3
        )

        def spoilt(shared, client, key):
            update, info = work(shared, client, key)
            return spoil(client, update), info

        return spoilt

    return local


def setting(model, local):
    options = dict(
        federaser=dict(interval=1), fcu=dict(iterations=2, every=1), pgd=dict(margin=-1.0)
    )
    return Setting(
        jfu.fedavg(trainer(model)()),
        model,
        jfu.by_layer(model, 0),
        local=local,
        around=jfu.fedavg,
        batch_size=3,
        within=None,
        options=options,
    )


def begun(method, variables, request):
    """The state before the first round of a method, with a history of three equal rounds."""
    wide = jax.tree.map(lambda p: jnp.stack([p / 20, p / 10, p / 5]), variables["params"])
    history = dict(start=variables, norms=jnp.full((3, 3), 0.2), first=wide, last=wide)
    history = {kind: history[kind] for kind in method.needs.history}
    return method.perturb(jfu.Trained(variables, history), request, jax.random.key(5))


def without(request, client):
    away = lambda side: side._replace(mask=side.mask & (side.id != client)[:, None])
    return request._replace(retain=away(request.retain), forget=away(request.forget))


def same_as_without(method, variables, request, client):
    """A round in which the client fails is as one that it has no part in."""
    state, run = begun(method, variables, request), jax.jit(method.recover)
    found, info = run(state, request, jax.random.key(0))
    wanted, calm = run(state, without(request, client), jax.random.key(0))
    assert info.metrics["not_finite"] == 1 and calm.metrics["not_finite"] == 0
    assert info.metrics["not_applied"] == 0
    assert info.metrics["clients"] == calm.metrics["clients"]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-6)
    moved = optax.tree.sub(dict(found.variables), dict(state.variables))
    assert float(optax.tree.norm(moved)) > 1e-5


COMBINING = ("puf", "federaser", "fedosd", "mode")


@pytest.mark.parametrize("name", COMBINING)
def test_one_that_sends_no_number_is_as_if_it_were_not_there(name, data, model, variables):
    """Client 9, which stays, with any work that does not look at itself."""
    nan = lambda client, u: jax.tree.map(lambda a: jnp.where(client.id == 9, jnp.nan, a), u)
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = UNLEARNERS[name](setting(model, trainer(model, nan)))
    same_as_without(method, variables, request, 9)


@pytest.mark.parametrize(
    "name", ["fcu", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ga", "fedquit", "pgd"))]
)
def test_of_two_that_leave_one_diverges(name, data, model, variables):
    """Client 2 has an infinite image; in these rounds the leaving clients alone work."""
    request = jfu.split(data, jfu.forget_client(data, [5, 2]))
    bright = data.x.at[np.asarray(data.index[1])[0]].set(jnp.inf)
    spoilt = jax.tree.map(
        lambda side: side._replace(x=bright),
        request,
        is_leaf=lambda tree: isinstance(tree, jfu.ClientData),
    )
    method = UNLEARNERS[name](setting(model, trainer(model)))
    same_as_without(method, variables, spoilt, 2)


@pytest.mark.parametrize("name", COMBINING)
@pytest.mark.parametrize("wrong", [jnp.sum, lambda a: a[None]], ids=["scalars", "one axis more"])
def test_updates_of_another_shape_are_refused(name, wrong, data, model, variables):
    """They would be broadcast over the model."""
    local = trainer(model, lambda client, update: jax.tree.map(wrong, update))
    method = UNLEARNERS[name](setting(model, local))
    request = jfu.split(data, jfu.forget_client(data, [5]))
    state = begun(method, variables, request)
    with pytest.raises(ValueError, match="clients' updates differ from the model in"):
        jax.eval_shape(method.recover, state, request, jax.random.key(0))


def test_a_move_that_is_not_finite_leaves_the_model_as_it_was(fed, variables):
    info = jfu.RoundInfo((), {"loss": 7.0}, ())
    state = fed.init(variables)
    for value, applied in ((1.0, True), (np.nan, False), (np.inf, False), (1e30, False)):
        update = jax.tree.map(jnp.zeros_like, variables)
        update["params"]["head"]["bias"] = update["params"]["head"]["bias"].at[0].set(value)
        after, shown = phases.moved(state, update, info)
        assert shown.metrics == {"loss": 7.0, "not_applied": 1.0 - applied}
        assert (bits(after.variables) == bits(variables)) is not applied
        assert after.round == 1


def test_work_that_looks_at_itself_is_not_looked_at_again(model, fed):
    loss = jfu.classification(model.apply)
    work = jfu.local_sgd(loss, optax.sgd(0.1))
    assert faults.guarded(work) is work
    assert faults.guarded(faults.censored(work, 1.0)).checked
    flawed = faults.faulty(work, nan=0.1)
    assert faults.guarded(flawed) is not flawed


@pytest.mark.slow
def test_a_client_that_fails_in_either_half_of_a_round_is_counted_once(data, model, variables):
    """MoDe's guided round has two: client 9 fails where M_de is trained, and then works."""
    calls = []

    def local(loss=None, optimizer=None, epochs=1):
        calls.append(1)
        first = len(calls) == 1  # what trains M_de and M; the guided work is made later
        nan = lambda client, u: jax.tree.map(lambda a: jnp.where(client.id == 9, jnp.nan, a), u)
        return trainer(model, nan if first else lambda client, u: u)(loss, optimizer, epochs)

    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = UNLEARNERS["mode"](setting(model, local))
    state = begun(method, variables, request)
    _, info = jax.jit(method.recover)(state, request, jax.random.key(0))
    assert info.metrics["not_finite"] == 1
    assert info.metrics["down"] == 2 + 3 + 1  # M_de to two and to the target, M to all
