"""Properties that every unlearning method must have, and one known result."""

import importlib
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.io
from helpers import rivals
from helpers.federation import bits, network
from jfu.types import Traits
from jfu.unlearn import UNLEARNERS, Setting

# ---------------------------------------------------------------- what is true of every method


@pytest.fixture(scope="module")
def request_(data):
    """A client leaves, and another one takes a class back."""
    gone = jfu.forget_client(data, [2]) | jfu.forget_class(data, [1], ids=[5])
    return jfu.split(data, gone)


@pytest.fixture(scope="module")
def traces():
    """Grows by one whenever the loss is traced."""
    return []


@pytest.fixture(scope="module")
def local(model, traces):
    def local(loss=None, optimizer=None, epochs=2):
        loss = loss or jfu.classification(model.apply)

        def counted(variables, batch, key):
            traces.append(1)
            return loss(variables, batch, key)

        optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
        return jfu.local_sgd(counted, optimizer, epochs=epochs, batch_size=3)

    return local


@pytest.fixture(scope="module")
def fed(local):
    return jfu.fedavg(local(), server=optax.sgd(0.9, momentum=0.1))


@pytest.fixture(scope="module")
def setting(fed, model, local):
    """Two rounds to unlearn in, so that every method's own ones are over after the first."""
    proxy = jnp.linspace(-1, 1, 8).reshape(4, 2)
    return Setting(
        fed, model, jfu.by_layer(model, 0), local=local, batch_size=3, within=2, proxy=proxy
    )


def once(fn, name):
    """``fn``, which may be traced once; chex distinguishes functions by name and source."""

    def traced(*args):
        return fn(*args)

    traced.__name__ = name
    return chex.assert_max_traces(traced, n=1)


@pytest.fixture(scope="module")
def build(setting):
    """Methods by name, compiled once: one trace of a recovery serves all rounds and requests."""
    chex.clear_trace_counter()
    made, programs = {}, {}

    def get(name):
        if name not in made:
            method = UNLEARNERS[name](setting)
            # Methods that recover alike share one program here as they do in a run.
            if method.recover not in programs:
                programs[method.recover] = jax.jit(once(method.recover, name))
            recover = programs[method.recover]
            made[name] = method._replace(perturb=jax.jit(method.perturb), recover=recover)
        return made[name]

    return get


methods = pytest.mark.parametrize("name", UNLEARNERS)


def _begun(variables):
    """A state of the setting's federation by names, before its first round."""
    fed = jfu.fedavg(lambda *_: None, server=optax.sgd(0.9, momentum=0.1))
    half = jax.tree.map(lambda p: p / 2, variables)
    return jfu.io.unflatten(jfu.io.by_name(fed.init(half)))


@jax.jit
def _history(variables):
    """One of every kind, of three clients and four rounds."""
    params = variables["params"]

    def wide(*shape):
        rows = lambda p: jnp.multiply.outer(
            jnp.arange(1.0, 4.0) / 20, jnp.broadcast_to(p, (*shape, *p.shape))
        )
        return jax.tree.map(rows, params)

    return dict(
        start=jax.tree.map(lambda p: p / 3, variables),
        norms=jnp.full((4, 3), 0.2),
        sums=wide(),
        first=wide(),
        last=wide(),
        updates=wide(4),
        **_kept(),
        before=dict(
            states=jax.tree.map(lambda a: jnp.stack([a, 0 * a, 0 * a]), _begun(variables)),
            used=jnp.ones((), jnp.int32),
            joined=jnp.array([0, 0, 4], jnp.int32),
        ),
    )


def _kept():
    """Of a ridge federation: six features with the ones, three classes."""
    each = jfu.ridge.Statistics(jfu.ridge.packed(50 * jnp.eye(6)), jnp.ones((6, 3)))
    rows = jax.tree.map(lambda a: jnp.multiply.outer(jnp.arange(1.0, 4.0), a), each)
    return dict(statistics=rows, total=jax.tree.map(lambda a: a.sum(0), rows))


def _trained(method, variables):
    history = _history(variables)
    return jfu.Trained(variables, {kind: history[kind] for kind in method.needs.history})


def _unlearn(method, variables, request, rounds=2):
    state = method.perturb(_trained(method, variables), request, jax.random.key(5))
    for r in range(rounds):
        state, _ = method.recover(state, request, jax.random.key(r))
    return state


@methods
def test_shapes_without_running_and_the_state_keeps_its_kind(build, variables, request_, name):
    method = build(name)
    kind = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype, bool(a.weak_type)), tree)
    key = jax.random.key(0)
    before = jax.eval_shape(method.perturb, _trained(method, variables), request_, key)
    after, info = jax.eval_shape(method.recover, before, request_, key)
    assert kind(after) == kind(before)
    assert kind(before.params) == kind(jax.eval_shape(lambda: variables["params"]))
    assert before.round.dtype == jnp.int32
    assert all(a.shape == (3,) for a in jax.tree.leaves(info.clients))
    counted = {"loss", "clients", "examples", "steps", "forwards", "down", "up"}
    counted |= {"late", "not_finite", "too_long", "not_applied"}
    counted |= {"cut", "told"} if name == "not_deepest" else set()
    assert info.metrics.keys() == counted
    assert isinstance(method.needs, jfu.Needs)


# Examples behind an ordinary round, by client; those of others are five, none and five.
ASKED = dict(none=[0, 0, 0], ridge=[5, 0, 0], ridge_subtract=[0, 0, 0])
NO_STEPS = set(ASKED)  # they never trace the loss


@methods
def test_rounds_count_and_only_the_retained_take_part(build, variables, request_, name):
    """But for the first round of methods in which those who leave take part."""
    method = build(name)
    state = _unlearn(method, variables, request_, rounds=0)
    assert state.round == 0
    for r in range(2):
        state, info = method.recover(state, request_, jax.random.key(r))
        assert state.round == (0 if name == "none" else r + 1)
        kept = ASKED.get(name, [5, 0, 5])
        # Or in which those who stay choose a cut, or what is drawn again.
        chosen = name in ("not_deepest", "fedmemprune")
        assert (method.own > 0) == (method.needs.target or chosen)
        # The first of blindspot trains a second model on what stays.
        if r == (name == "blindspot") and method.needs.target:
            assert all(w > 0 for w in info.clients.weight[:2])
        else:
            assert info.clients.weight.tolist() == kept
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(state))


@methods
def test_one_trace_over_rounds_and_requests(build, traces, variables, data, request_, name):
    method = build(name)
    state = _unlearn(method, variables, request_, rounds=1)
    before = len(traces)
    for forget in (jfu.forget_class(data, [2]), jfu.forget_client(data, [9])):
        request = jfu.split(data, forget)
        state, _ = method.recover(state, request, jax.random.key(1))
        _unlearn(method, state.variables, request)
    assert len(traces) == before
    assert before > 0 or name in NO_STEPS


@methods
@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_forgotten_examples_are_not_read(build, variables, request_, name, value):
    """Whatever stands in their rows of the pool, labels too, no bit of the result changes."""
    method = build(name)
    if method.needs.forget_data:
        pytest.skip("this method reads what it forgets")
    data = request_.forget
    rows = np.unique(np.asarray(data.index)[np.asarray(data.mask)])
    assert len(rows) == 5
    x, y = data.x.at[rows].set(value), data.y.at[rows].set(0)
    spoilt = jax.tree.map(lambda side: side._replace(x=x, y=y), request_, is_leaf=_is_data)
    expected = _unlearn(method, variables, request_)
    assert bits(_unlearn(method, variables, spoilt)) == bits(expected)


def _is_data(tree):
    return isinstance(tree, jfu.ClientData)


@methods
def test_history_beyond_what_is_named_is_not_read(build, variables, request_, name):
    method = build(name)
    spoilt = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), _history(variables))
    history = {**spoilt, **_trained(method, variables).history}
    run = lambda history: method.perturb(
        jfu.Trained(variables, history), request_, jax.random.key(5)
    )
    assert bits(run(history)) == bits(_unlearn(method, variables, request_, rounds=0))


@methods
def test_proxy_data_is_read_by_those_who_say_so(setting, name):
    if jfu.unlearn.needs_of(name).proxy_data:
        with pytest.raises(TypeError):
            UNLEARNERS[name](setting._replace(proxy=None))
    else:
        UNLEARNERS[name](setting._replace(proxy=None))


# By hand, from the papers; what is not named needs the trained model and retained data alone.
LEAVING = dict(target=True, forget_data=True)
NEEDS = dict(
    not_deepest=dict(counts=True),
    federaser=dict(history=("start", "norms", "first"), per_client=True, whole_clients=True),
    fukd=dict(history=("sums",), per_client=True, proxy_data=True, whole_clients=True),
    pgd=dict(LEAVING, history=("last",), whole_clients=True),
    rollback=dict(history=("before",)),
    ga_first=dict(history=("first",), per_client=True, whole_clients=True),
    fedosd=dict(LEAVING, per_client=True),
    ridge=dict(history=("statistics",), per_client=True),
    ridge_subtract=dict(LEAVING, history=("total",)),
    **dict.fromkeys(("mode", "fcu", "puf", "fedquit", "ga", "npo"), LEAVING),
    **dict.fromkeys(("blindspot", "amnesiac", "wagle", "modhifi"), LEAVING),
)


@methods
def test_needs_are_known_beforehand(build, name):
    expected = jfu.Needs(**NEEDS.get(name, {}))
    assert jfu.unlearn.needs_of(name) == build(name).needs == expected


# By hand: what is not named trains on from the old model, and changes no layer by itself.
TRAITS = dict(
    **{key: dict(recovers=False) for key in ("retrain", "rollback", "none")},
    **{
        key: dict(perturbs=True, selects=True, negates=True)
        for key in ("not", "not_blend", "not_no_return")
    },
    coun=dict(doubles=True),
    not_coun=dict(perturbs=True, selects=True, negates=True, doubles=True),
    **{key: dict(perturbs=True, negates=True) for key in ("not_all", "not_last")},
    not_first_weight=dict(perturbs=True, negates=True, weights=True),
    not_deepest=dict(negates=True),
    anchored=dict(perturbs=True, selects=True, negates=True, teaches=True),
    **{key: dict(of_means=True) for key in ("fukd", "pgd")},
    **{key: dict(lonely=True) for key in ("fcu", "fedquit", "ga", "npo")},
    **{key: dict(numbers=True) for key in ("blindspot", "amnesiac")},
    wagle=dict(negates=True, lonely=True),
    modhifi=dict(lonely=True),
    ridge=dict(recovers=False, solves=True),
    ridge_subtract=dict(recovers=False, solves=True, lonely=True),
    **{
        key: dict(perturbs=True, selects=True) for key in ("noise", "reinit", "permute", "ga_first")
    },
)


# Their formulas have logits of classes, or cross-entropy.
OF_CLASSES = {"anchored", "coun", "fcu", "fedosd", "fedquit", "fukd", "ga", "mode", "not_coun"}
OF_CLASSES |= {"not_deepest", "pgd"}


@methods
def test_traits_are_what_a_method_does(build, variables, request_, name):
    traits, state = jfu.unlearn.traits_of(name), _unlearn(build(name), variables, request_, 0)
    assert traits == Traits(**TRAITS.get(name, {}), labels=name in OF_CLASSES)
    old, new = (
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (variables["params"], state.params))
    )
    changed = {path for path in old if (old[path] != new[path]).any()}
    if traits.perturbs:
        assert changed
        if name == "not_blend":  # a mean with a fresh model changes the rest too
            assert changed == set(old)
            return
        if traits.selects:  # of the setting above: the first layer
            assert changed < set(old)
        if traits.negates:
            assert all((old[path] == -new[path]).all() for path in changed)
    elif traits.negates:
        assert not changed
    _, info = build(name).recover(state, request_, jax.random.key(0))
    came = float((info.clients.weight > 0).sum())
    if not build(name).own:
        assert (float(info.metrics["down"]) > came) == traits.teaches
        # Two clients of five examples, in batches of three, twice.
        assert (float(info.metrics["steps"]) > 8) == traits.doubles


def test_traits_of_what_is_no_method_are_the_usual_ones():
    assert jfu.unlearn.traits_of("original") == jfu.unlearn.traits_of("finetune") == Traits()


def test_what_all_means_and_in_which_order():
    assert (
        *("retrain", "finetune", "federaser", "fukd", "pgd", "mode", "fcu"),
        *("fedosd", "puf", "fedquit", "ga", "not", "not_blend"),
    ) == jfu.unlearn.COMPARED


@methods
def test_values_to_choose_from_begin_with_the_published_one(name):
    method = UNLEARNERS[name]
    for option, values in method.tried.items():
        published = method.options[option]  # None: puf's is 20, or 2 with `alone`
        assert values[0] == (20.0 if published is None else published)


FACTORIES = dict.fromkeys(("not", "not_first_weight", "not_all", "not_last"), "negation")
FACTORIES |= {"not_deepest": "deepest", "not_blend": "blended", "not_no_return": "no_return"}
FACTORIES |= {"not_coun": "coun"}
# What a setting gives; everything else that a factory takes by name is an option.
GIVEN = {"follows", "within", "around", "chunk", "batch_size", "weights_only", "augment"}
GIVEN |= {"penalty", "judge"}


@methods
def test_options_are_what_a_factory_takes_by_name(name):
    factory = getattr(jfu.unlearn, FACTORIES.get(name, name))
    taken = inspect.signature(factory).parameters.values()
    own = {p.name: p.default for p in taken if p.kind is p.KEYWORD_ONLY and p.name not in GIVEN}
    # The table's own option names the method that takes the chosen weights.
    assert {k: v for k, v in UNLEARNERS[name].options.items() if k != "then"} == own
    assert UNLEARNERS[name].name == name


def test_options_reach_the_factory(setting):
    with pytest.raises(ValueError, match="tells is 2"):
        UNLEARNERS["not_deepest"](setting._replace(options=dict(not_deepest=dict(tells=2))))
    with pytest.raises(TypeError, match="depth"):
        UNLEARNERS["not_deepest"](setting._replace(options=dict(not_deepest=dict(depth=2))))


SUMMED = ("not", "puf")  # the others are slow tests


@pytest.mark.parametrize(
    "name", [n if n in SUMMED else pytest.param(n, marks=pytest.mark.slow) for n in UNLEARNERS]
)
def test_aggregates_alone_will_do(build, setting, variables, request_, name, monkeypatch):
    """With masks on what each client sends, which cancel in the sum, and no way to stack it.

    What training remembers of single clients is no aggregate either.
    """
    needs = build(name).needs
    if needs.per_client or set(needs.history) & set(jfu.history.SINGLE):
        pytest.skip("this method says that the server sees single updates, or remembers them")
    expected = _unlearn(build(name), variables, request_)

    def masked(fn, **options):
        def hidden(shared, client, key, *row):
            sent, *rest = fn(shared, client, key, *row)
            # Ids 5, 2 and 9: masks of +1, -3 and +2 times a number for each entry.
            share = jnp.where(client.id == 5, 1.0, jnp.where(client.id == 2, -3.0, 2.0))
            leaves, treedef = jax.tree.flatten(sent)
            keys = jax.random.split(jax.random.key(3), len(leaves))
            noise = [jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
            hidden = [a + share * n for a, n in zip(leaves, noise, strict=True)]
            return treedef.unflatten(hidden), *rest

        return sum_clients(hidden, **options)

    def refused(*args, **options):
        raise AssertionError("this would show single updates")

    sum_clients = jfu.sum_clients
    for path in (
        "fedavg",
        "unlearn.puf",
        "unlearn.mode",
        "unlearn.federaser",
        "unlearn.fedosd",
        "ridge",
    ):
        module = importlib.import_module(f"jfu.{path}")
        for attribute, stand_in in (("sum_clients", masked), ("map_clients", refused)):
            if hasattr(module, attribute):
                monkeypatch.setattr(module, attribute, stand_in)
    jfu.unlearn.on_retained.cache_clear()
    importlib.import_module("jfu.unlearn.coun").on_views.cache_clear()
    fed = jfu.fedavg(setting.local(), server=optax.sgd(0.9, momentum=0.1))
    method = UNLEARNERS[name](setting._replace(fed=fed))
    method = method._replace(recover=jax.jit(method.recover))
    after = _unlearn(method, variables, request_)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, after.variables, expected.variables)


def test_requests_that_a_method_cannot_answer_are_refused(data, request_):
    whole = jfu.split(data, jfu.forget_client(data, [2, 9]))
    for name in UNLEARNERS:
        method = jfu.Unlearner(None, None, jfu.unlearn.needs_of(name))
        history = dict.fromkeys(method.needs.history)
        jfu.unlearn.check_request(method, whole, history, name)
        if name in ("federaser", "fukd", "pgd", "ga_first"):
            with pytest.raises(ValueError, match=f"{name} takes whole clients out, .* leaves 1 of"):
                jfu.unlearn.check_request(method, request_, history, name)
            with pytest.raises(ValueError, match=r"and there is no history; train with --keep_hi"):
                jfu.unlearn.check_request(method, whole, {}, name)
        else:
            jfu.unlearn.check_request(method, request_, history, name)


def test_retained_examples_are_read(build, variables, request_):
    """The comparison above would notice."""
    x = request_.retain.x.at[0].set(2.0)
    other = jax.tree.map(lambda side: side._replace(x=x), request_, is_leaf=_is_data)
    results = [_unlearn(build("finetune"), variables, r, rounds=1) for r in (request_, other)]
    assert bits(results[0].params) != bits(results[1].params)


@pytest.mark.parametrize("name", ["retrain", "federaser", "rollback"])
def test_starting_anew_reads_nothing_of_the_trained_model(build, variables, request_, name):
    method = build(name)
    spoilt = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), variables)
    history = _trained(method, variables).history
    results = []
    for start in (variables, spoilt):
        state = method.perturb(jfu.Trained(start, history), request_, jax.random.key(5))
        results.append(method.recover(state, request_, jax.random.key(0))[0])
    assert bits(results[0]) == bits(results[1])


def test_retraining_draws_by_the_key(build, variables, request_):
    draw = lambda key: build("retrain").perturb(jfu.Trained(variables), request_, key).params
    assert bits(draw(jax.random.key(0))) != bits(draw(jax.random.key(1)))
    assert bits(draw(jax.random.key(0))) != bits(variables["params"])


def test_finetuning_with_nothing_to_forget_is_a_training_round(build, data, fed, variables):
    nothing = jfu.split(data, jnp.zeros_like(data.mask))
    state, info = jax.jit(fed.round)(fed.init(variables), data, jax.random.key(0))
    method = build("finetune")
    start = method.perturb(jfu.Trained(variables), nothing, jax.random.key(9))
    assert bits(method.recover(start, nothing, jax.random.key(0))) == bits((state, info))


@pytest.mark.parametrize("name", ["not", "not_first_weight", "not_all", "not_last"])
def test_negating_twice_and_recovering_is_finetuning(build, variables, request_, name):
    once = _unlearn(build(name), variables, request_, rounds=0)
    assert bits(once.params) != bits(variables["params"])
    twice = _unlearn(build(name), once.variables, request_)
    assert bits(twice) == bits(_unlearn(build("finetune"), variables, request_))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("finetune", set()),
        ("none", set()),
        ("not", {"stem"}),
        ("not_first_weight", {"stem/kernel"}),
        ("not_all", {"stem", "head"}),
        ("not_last", {"head"}),
        ("not_blend", {"stem", "head"}),
        ("not_no_return", {"stem"}),
        ("coun", set()),
        ("not_coun", {"stem"}),
        ("anchored", {"stem"}),
        ("noise", {"stem"}),
        ("reinit", {"stem"}),
        ("permute", {"stem"}),
        ("ga_first", {"stem"}),
        *((name, {"stem", "head"}) for name in ("retrain", "rollback")),
        # At the server, before any round; the others begin with the model as it is.
        *((name, {"stem", "head"}) for name in ("federaser", "fukd", "pgd")),
        ("ridge", {"head"}),
        ("ridge_subtract", set()),
        *((name, set()) for name in ("not_deepest", "fedmemprune")),
        *((name, set()) for name in ("mode", "fcu", "fedosd", "puf", "fedquit", "ga", "npo")),
        *((name, set()) for name in ("blindspot", "amnesiac", "wagle", "modhifi")),
    ],
)
def test_which_layers_a_method_perturbs(build, variables, request_, name, changed):
    """Both tensors of a layer, or neither bit of it; or the tensor that is named."""
    after = _unlearn(build(name), variables, request_, rounds=0).params
    chosen = lambda layer, leaf: not {layer, f"{layer}/{leaf}"}.isdisjoint(changed)
    for layer, tensors in variables["params"].items():
        for leaf, old in tensors.items():
            assert (bits(after[layer][leaf]) != bits(old)) is chosen(layer, leaf)
    if name.startswith("not") and name != "not_blend":
        mask = {layer: {leaf: chosen(layer, leaf) for leaf in t} for layer, t in after.items()}
        assert bits(jfu.negate(after, mask)) == bits(variables["params"])


def test_the_table_above_names_every_method():
    marks = test_which_layers_a_method_perturbs.pytestmark
    assert {row[0] for row in marks[0].args[1]} == set(UNLEARNERS)


def test_doing_nothing_costs_nothing(setting, variables, request_):
    method = UNLEARNERS["none"](setting)
    state, info = method.recover(_unlearn(method, variables, request_), request_, None)
    assert bits(state.variables) == bits(variables)
    assert np.isnan(info.metrics["loss"])  # of nobody there is none
    metrics = {**info.metrics, "loss": 0.0}
    assert all(not np.any(a) for a in jax.tree.leaves((info.clients, metrics)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mode", dict(guide=0), "guide must be at least 1"),
        ("mode", dict(degrade=3, guide=2), "degrade must lie between 0 and guide"),
        ("federaser", dict(interval=0), "must be a whole number from 1 on"),
        ("fcu", dict(every=11, iterations=10), "every must lie between 1 and iterations"),
        ("fcu", dict(low="high"), "low is 'high'; it must be 'original' or 'unlearned'"),
        ("fcu", dict(tau=0.0), "tau must be above 0"),
        ("fcu", dict(ratio=1.5), r"ratio must lie in \[0, 1\]"),
        ("pgd", dict(draws=0), "draws=0; it must be a whole number from 1 on"),
        ("fukd", dict(temperature=0.0), r"temperature=0.0; it must be a number in \(0, inf\)"),
        ("mode", dict(lam=1.2), r"in \[0, 1\]"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        rivals.run(name, 0, model=rivals.MODEL._replace(features=lambda v, x: x), **options)


# ---------------------------------------------------------------- a known answer


@pytest.fixture(scope="module")
def blobs():
    """Three classes well apart, four clients, a trained network and its judge."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = 0.5 * rng.normal(size=(120, 2)) + 3 * np.array([[1, 0], [-0.5, 0.9], [-0.5, -0.9]])[y]
    data = jfu.stack(x, y, np.array_split(rng.permutation(120), 4))
    model = network(width=8, activation=jax.nn.relu)
    work = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.1), epochs=2, batch_size=10)
    fed = jfu.fedavg(work)
    run, state = jax.jit(fed.round), fed.init(model.init(jax.random.key(3)))
    for done in jfu.rounds(run, state, data, jax.random.key(4), stop=15):
        state = done.state
    judge = jax.jit(jfu.per_example(model.apply))
    accuracy = lambda variables: [
        float(judge(variables, data.x, data.y)[1][y == c].mean()) for c in range(3)
    ]
    return data, model, fed, state.variables, accuracy


@pytest.mark.parametrize("name", ["retrain", "not"])
def test_a_class_is_forgotten_and_the_others_are_not(blobs, name):
    data, model, fed, trained, accuracy = blobs
    assert min(accuracy(trained)) > 0.95
    method = UNLEARNERS[name](Setting(fed, model, jfu.by_layer(model, 0)))
    request = jfu.split(data, jfu.forget_class(data, [1]))
    state = method.perturb(jfu.Trained(trained), request, jax.random.key(0))
    recover = jax.jit(method.recover)
    for done in jfu.rounds(recover, state, request, jax.random.key(6), stop=30):
        state = done.state
    first, forgotten, last = accuracy(state.variables)
    assert forgotten < 0.05
    assert min(first, last) > 0.95
