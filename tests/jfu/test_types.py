"""Any type of parameters, with 64 bits or without: what a round gets it gives, in every method."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.history
from helpers.federation import ROWS, network
from jfu import adversaries, faults
from jfu.unlearn import UNLEARNERS, Setting

# Parameters' types, and whether jax_enable_x64 is set.
TYPES = [("bfloat16", False), ("float16", False), ("float32", True), ("float64", True)]
typed = pytest.mark.parametrize(("dtype", "x64"), TYPES)


def model_of(dtype):
    cast = lambda tree: jax.tree.map(lambda a: a.astype(dtype), tree)
    model = network()
    return model._replace(init=lambda key: cast(model.init(key)))


def training(model, lr=0.1):
    def local(loss=None, optimizer=None, epochs=1):
        loss = loss or jfu.classification(model.apply)
        return jfu.local_sgd(loss, optimizer or optax.sgd(lr), epochs=epochs, batch_size=3)

    return local


def clients_of(pool):
    return jfu.stack(*pool, ROWS, ids=[5, 2, 9])


def setting(dtype, fed=None):
    model = model_of(dtype)
    local = training(model)
    options = dict(fcu=dict(iterations=2, every=1), mode=dict(degrade=1, guide=2))
    return Setting(
        fed or jfu.fedavg(local()), model, jfu.by_layer(model, 0), local=local, around=jfu.fedavg,
        batch_size=3, within=4, proxy=np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2),
        options=options,
    )  # fmt: skip


def kinds(tree):
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)


def recorded_of(fed, clients):
    return jfu.recorded(fed, jfu.history.KEPT, clients=clients, rounds=3)


@pytest.fixture(scope="module")
def trained(pool):
    """By type: a setting, whose parts methods share, a request, a model and histories of it."""

    @functools.cache
    def given(dtype, x64):
        with jax.enable_x64(x64):
            given, clients = setting(dtype), clients_of(pool)
            variables = given.model.init(jax.random.key(1))
            feds = recorded_of(given.fed, clients), jfu.ridge.federation(given.model, clients=3)
            kept = [jax.eval_shape(fed.init, variables).history for fed in feds]
            return given, jfu.split(clients, forget(clients)), variables, {**kept[0], **kept[1]}

    return given


@typed
@pytest.mark.parametrize("name", UNLEARNERS)
def test_methods_keep_types(trained, name, dtype, x64):
    given, request, variables, kept = trained(dtype, x64)
    with jax.enable_x64(x64):
        method, key = UNLEARNERS[name](given), jax.random.key(0)
        history = jfu.history.needed(kept, method.needs.history)
        before = jax.eval_shape(method.perturb, jfu.Trained(variables, history), request, key)
        after, info = jax.eval_shape(method.recover, before, request, key)
        assert kinds(after) == kinds(before)
        assert kinds(before.params) == kinds(variables["params"])
        assert {str(a.dtype) for a in jax.tree.leaves((info.clients, info.metrics))} == {"float32"}


def forget(clients):
    return jfu.forget_client(clients, [2])


FEDERATIONS = {
    "plain": lambda local, **more: jfu.fedavg(local, **more),
    "momentum": lambda local, **more: jfu.fedavg(local, server=optax.sgd(0.5, 0.9), **more),
    "adam": lambda local, **more: jfu.fedavg(local, server=optax.adam(0.1), **more),
    "yogi": lambda local, **more: jfu.fedavg(local, server=optax.yogi(0.1), **more),
    "clipped": lambda local, **more: jfu.fedavg(local, aggregator=jfu.clipped_mean(1.0), **more),
    "median": lambda local, **more: jfu.fedavg(local, aggregator=jfu.coordinate_median(), **more),
    "trimmed": lambda local, **more: jfu.fedavg(local, aggregator=jfu.trimmed_mean(0.3), **more),
    "krum": lambda local, **more: jfu.fedavg(local, aggregator=jfu.krum(0), **more),
    "private": lambda local, **more: jfu.fedavg(
        local, aggregator=jfu.privacy.private_mean(1.0, 0.1, 3), **more
    ),
    "limited": lambda local, **more: jfu.fedavg(local, max_update_norm=1.0, **more),
    "faulty": lambda local, **more: jfu.fedavg(
        faults.faulty(local, late=0.2, nan=0.2, long=0.2), max_update_norm=9.0, **more
    ),
    "sampled": lambda local, **more: jfu.sampled(jfu.fedavg(local, **more), 2),
    "absent": lambda local, **more: jfu.absent(jfu.fedavg(local, **more), 0.3),
}


def one_layer(variables, x, *, train=False, mask=None, key=None):
    return x @ variables["params"]["kernel"] + variables["params"]["bias"][None], {}


def work_of(optimizer):
    loss = jfu.classification(one_layer)
    return jfu.local_sgd(loss, optimizer, epochs=2, batch_size=2, proximal=0.1)


WORK = [work_of(optax.adam(0.1)), work_of(lambda round: optax.sgd(0.1 * 0.9**round, 0.9))]


@typed
@pytest.mark.parametrize("name", FEDERATIONS)
def test_federations_keep_types(pool, name, dtype, x64):
    """Of each leaf of a network: one layer has as many kinds of leaves as more layers."""
    with jax.enable_x64(x64):
        clients, key = clients_of(pool), jax.random.key(0)
        variables = {"params": dict(kernel=jnp.zeros((2, 3), dtype), bias=jnp.ones(3, dtype))}
        for local in WORK:
            fed = recorded_of(FEDERATIONS[name](local), clients)
            state = jax.eval_shape(fed.init, variables)
            after, info = jax.eval_shape(fed.round, state, clients, key)
            assert kinds(after) == kinds(state)
            facts = info.clients, info.metrics
            assert {str(a.dtype) for a in jax.tree.leaves(facts)} == {"float32"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streamed_rounds_with_64_bits(pool, dtype):
    """The resident round's numbers, and float64 sums where parameters are."""
    with jax.enable_x64(True):
        model, clients = model_of(dtype), clients_of(pool)
        fed = jfu.fedavg(training(model)())
        state, key = fed.init(model.init(jax.random.key(1))), jax.random.key(0)
        wanted, _ = jax.jit(fed.round)(state, clients, key)
        found, _ = jfu.streamed(fed).round(state, jax.tree.map(np.asarray, clients), key)
        assert kinds(found) == kinds(wanted)
        close = dict(rtol=1e-12 if dtype == "float64" else 1e-5, atol=1e-7)
        same = lambda a, b: np.testing.assert_allclose(a, b, **close)
        jax.tree.map(same, found.params, wanted.params)


# ---------------------------------------------------------------- numbers that cannot be


NAN, INF = float("nan"), float("inf")
RATES = [NAN, INF, -0.1, True, "0.1"]  # no rate from 0 on
COUNTS = [NAN, INF, 0, -1, 1.5, True]
TAKES = {
    ("fedadam", "lr"): RATES,
    ("fedadam", "b1"): [*RATES, 1.0],
    ("fedyogi", "b2"): [*RATES, 1.0],
    ("fedyogi", "tau"): [*RATES, 0],
    ("clipped_mean", "max_norm"): [NAN, 0, -1, True],
    ("trimmed_mean", "share"): [NAN, INF, -0.1, 0.5],
    ("krum", "byzantine"): [NAN, -1, 0.5, True],
    ("krum", "most"): [NAN, 0, True],
    ("geometric_median", "iterations"): COUNTS,
    ("geometric_median", "smoothing"): [*RATES, 0],
}
BUILT = {
    "fedadam": lambda **one: jfu.fedadam(**{"lr": 0.1, **one}),
    "fedyogi": lambda **one: jfu.fedyogi(**{"lr": 0.1, **one}),
    "local_sgd": lambda **one: jfu.local_sgd(lambda *_: 0, optax.sgd(0.1), **one),
    "streamed": lambda **one: jfu.streamed(jfu.fedavg(training(network())()), **one),
    "faulty": lambda **one: faults.faulty(training(network())(), **one),
    "mixed": lambda **one: jfu.mixed(jfu.coordinate_median(), **one),
}
TAKES |= {
    ("local_sgd", "epochs"): COUNTS,
    ("local_sgd", "proximal"): RATES,
    ("streamed", "piece"): COUNTS,
    ("faulty", "factor"): [NAN, INF],
    ("mixed", "most"): [NAN, -1],
}
TAKES |= {(name, "scale"): [NAN, INF, True] for name in ("sign_flip", "gaussian_noise")}
TAKES |= {("inner_product", "epsilon"): [NAN, INF], ("little_is_enough", "z"): [NAN, INF]}
TAKES |= {("heavy", "factor"): [NAN, -1]}


@pytest.mark.parametrize(("of", "name"), TAKES)
def test_numbers_that_cannot_be_are_refused_at_the_door(of, name):
    make = BUILT.get(of) or getattr(jfu, of, None) or getattr(adversaries, of)
    for value in TAKES[of, name]:
        with pytest.raises(ValueError, match=rf"{value}.*(must|be whole|in \[0)"):
            make(**{name: value})


VIEWS = dict(temperature=[*RATES, 0], weight=RATES, corrupt=[NAN, -0.1, 1.5, True])
OPTIONS = {
    "amnesiac": dict(lr=RATES),
    "blindspot": dict(lr=RATES, attention=RATES, exposed=COUNTS),
    "fcu": dict(lr=RATES, iterations=COUNTS, every=COUNTS, tau=[NAN, 0], ratio=[NAN, 2]),
    "federaser": dict(interval=COUNTS),
    "fedmemprune": dict(ratio=[NAN, -0.1, 1.5]),
    "fedosd": dict(lr=RATES, rounds=[NAN, -1, 1.5]),
    "fedquit": dict(lr=RATES, epochs=COUNTS),
    "fukd": dict(temperature=[*RATES, 0], lr=RATES, momentum=[*RATES, 1.0], epochs=[NAN, -1]),
    "ga": dict(lr=RATES, epochs=COUNTS, clip=[NAN, 0, -1], rounds=COUNTS),
    "mode": dict(lam=[NAN, 2], degrade=[NAN, -1], guide=[NAN, 0], stay_lr=RATES),
    "ga_first": dict(scale=RATES),
    "wagle": dict(ratio=[NAN, -0.1, 2], mu=[NAN, 0, -1], then=["ga", "other"]),
    "modhifi": dict(ratio=[NAN, -0.1, 2], then=["finetune"]),
    "npo": dict(lr=RATES, beta=[NAN, 0, -1], epochs=COUNTS, margin=[NAN, INF, True]),
    "pgd": dict(lr=RATES, momentum=[*RATES, 1.0], clip=[NAN, 0], epochs=COUNTS, draws=COUNTS)
    | dict(margin=[NAN, INF]),
    "puf": dict(rate=[NAN, INF, True]),
    **dict.fromkeys(("coun", "not_coun"), VIEWS),
    "anchored": dict(temperature=[NAN, 0], anchor=[NAN, 2]),
    "not_blend": dict(keep=[NAN, -0.1, 1.5, True]),
    "not_deepest": dict(tells=[NAN, -1, 2]),
}


def test_every_option_of_every_method_is_met_at_the_door():
    tried = {(name, key) for name, options in OPTIONS.items() for key in options}
    known = {(m.name, key) for m in UNLEARNERS.values() for key in m.options}
    # A word, and yes or no.
    assert known - tried == {("fcu", "low"), ("puf", "alone"), ("npo", "calibrated")}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be_are_refused(name):
    given = setting("float32")._replace(options={})
    UNLEARNERS[name](given)
    for option, values in OPTIONS[name].items():
        for value in values:
            with pytest.raises(ValueError, match=re.escape(f"{value}")):
                UNLEARNERS[name](given._replace(options={name: {option: value}}))


def test_a_number_that_is_traced_or_a_schedule_passes():
    step = lambda lr: jfu.fedadam(lr).update(np.float32(-1), jfu.fedadam(lr).init(np.float32(0)))[0]
    np.testing.assert_allclose(jax.vmap(step)(np.array([0.1, 0.2])), [0.1, 0.2], rtol=0.02)
    UNLEARNERS["ga"](setting("float32")._replace(options={"ga": {"lr": lambda count: 0.1}}))
