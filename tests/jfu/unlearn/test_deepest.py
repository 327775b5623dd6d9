"""The deepest cut: cuts, the information in predictions, and the choice."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information

import jfu
from helpers.federation import bits
from jfu import models
from jfu.unlearn import deepest
from jfu.unlearn.deepest import confusions, information

# ---------------------------------------------------------------- cuts


def test_cuts_of_the_models():
    cuts = lambda name, shape=(8, 8, 1), **more: models.build(
        name, classes=10, image_shape=shape, **more
    ).cuts()
    assert cuts("small") == (("stem",), ("conv2",), ("hidden",), ("head",))
    assert cuts("mlp1") == (("stem",), ("head",))
    # Of a block only what leads into another stage, and only with its shortcut.
    stages = tuple((f"stage{s}_block1/conv1", f"stage{s}_block1/shortcut") for s in (2, 3, 4))
    for norm in models.NORMS["resnet18"]:
        assert cuts("resnet18_narrow", (8, 8, 3), norm=norm) == (("stem",), *stages, ("head",))
    assert cuts("vit_tiny", (32, 32, 3)) == (("stem",), ("head",))


class Skips(nn.Module):
    """``around``: the input reaches the head past the hidden layer."""

    around: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="stem")(x)
        y = nn.relu(nn.Dense(4, name="hidden")(x))
        return nn.Dense(2, name="head")(x + y if self.around else y)


def test_a_layer_that_is_gone_round_is_no_cut():
    cuts = lambda around: models.from_linen(Skips(around), jnp.zeros((1, 3))).cuts()
    assert cuts(False) == (("stem",), ("hidden",), ("head",))
    assert cuts(True) == (("stem",), ("head",))


class Odd(nn.Module):
    """Inside ``remat``, called twice, given by keyword."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="stem")(inputs=x)
        x = nn.remat(nn.Dense)(4, name="inside")(nn.relu(x))
        again = nn.Dense(4, name="again")
        return nn.Dense(2, name="head")(again(nn.relu(again(x))))


def test_cuts_of_odder_modules():
    cuts = models.from_linen(Odd(), jnp.zeros((1, 3))).cuts()
    assert cuts == (("stem",), ("inside",), ("again",), ("head",))


# ---------------------------------------------------------------- what predictions say about labels

information = jax.jit(information)


@pytest.mark.parametrize(("classes", "many"), [(2, 80), (10, 200), (10, 3000), (60, 900)])
@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_information_is_adjusted_for_chance_as_it_is_known_exactly(classes, many, kept):
    """Against scikit-learn's, whose chance is a sum over hypergeometric counts of cells."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, many)
    said = np.where(rng.random(many) < kept, label, rng.integers(0, classes, many))
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (label, said), 1)
    chance = expected_mutual_information(counts, many)
    share = counts.sum(1) / many
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    expected = (mutual_info_score(label, said) - chance) / (entropy - chance)
    near = 0.02 if many < classes**2 else 0.01  # a quarter of an example a cell, or two and more
    assert abs(float(information(jnp.asarray(counts, jnp.float32))) - expected) < near


def test_information_of_answers_that_are_always_wrong_or_always_the_same():
    wrong = jnp.array([[0.0, 50.0], [50.0, 0.0]])
    assert information(wrong) == information(wrong[:, ::-1]) == pytest.approx(1, abs=1e-5)
    for nothing in ([[7, 5], [0, 0]], [[3, 4], [0, 0]], [[0, 0], [0, 9]], [[0, 0], [0, 0]]):
        assert information(jnp.asarray(nothing, jnp.float32)) == 0  # one label, or none
    assert information(jnp.array([[9.0, 0.0], [8.0, 0.0]])) == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- the choice

# relu(mid * relu(stem * x)) - 2 for the second class of two: a negated stem or mid passes nothing
# on, so all are of the first class; a negated head turns every answer round.
TRAINED = dict(params={name: dict(kernel=jnp.ones(())) for name in ("stem", "mid", "head")})
CUTS = [["stem"], ["mid"], ["head"]]


def apply(variables, x, *, train=False, mask=None, key=None):
    w = {name: layer["kernel"] for name, layer in variables["params"].items()}
    hidden = jax.nn.relu(w["mid"] * jax.nn.relu(w["stem"] * x[:, 0]))
    return jnp.stack([jnp.zeros(len(x)), w["head"] * (hidden - 2)], 1), {}


NET = jfu.Model(lambda key: TRAINED, apply, ("stem", "mid", "head"))
# Three clients of 40, 8 and 24; the last one leaves. Its labels are the other way round.
Y = np.arange(72) % 2
X = np.where(Y == 1, 3.0, 1.0)[:, None].astype(np.float32)
Y[48:] = 1 - Y[48:]
DATA = jfu.stack(X, Y, [np.arange(40), np.arange(40, 48), np.arange(48, 72)])
REQUEST = jfu.split(DATA, jnp.asarray(np.arange(3)[:, None] == 2) & DATA.mask)
FED = jfu.fedavg(jfu.local_sgd(jfu.classification(apply), optax.sgd(0.01), batch_size=16))


@functools.cache
def usual(**how):
    """The usual method, compiled once."""
    return deepest(FED, NET, CUTS, batch_size=16, **how)


def answered(rounds=1, model=NET, variables=TRAINED, fed=FED, **how):
    special = model is not NET or fed is not FED or "cuts" in how
    make = functools.partial(deepest, fed, model, batch_size=16) if special else usual
    method = make(**({"cuts": CUTS} | how if special else how))
    state, facts = method.perturb(jfu.Trained(variables), REQUEST, jax.random.key(0)), []
    step = jax.jit(method.recover)
    for number in range(rounds):
        state, info = step(state, REQUEST, jax.random.key(number))
        facts.append(info)
    return state, facts


def signs(state):
    return {name: float(layer["kernel"]) for name, layer in state.params.items()}


@pytest.mark.parametrize(
    ("how", "negative"),
    [
        ({}, "mid"),  # the last of the two that say nothing
        (dict(tells=1.0), "head"),
        (dict(cuts=CUTS[::-1]), "stem"),
        (dict(cuts=[["head"], ["mid"], ["stem"]][:2]), "mid"),
        (dict(cuts=[["stem"], ["head"]]), "stem"),
        (dict(cuts=[["head"]]), "head"),  # there is no other
    ],
)
def test_which_cut_is_chosen(how, negative):
    state, _ = answered(**how)
    assert signs(state) == {name: -1.0 if name == negative else 1.0 for name in TRAINED["params"]}
    assert int(state.round) == 1


def test_a_cut_of_two_layers_is_negated_whole():
    state, _ = answered(cuts=[["stem", "head"]])
    assert signs(state) == dict(stem=-1.0, mid=1.0, head=-1.0)


def test_then_the_others_train_on():
    """After the choice it is NoT with that cut, bit for bit, on the keys of the later rounds."""
    state, _ = answered(3)
    same = jfu.negation(FED, jfu.by_path("mid/.*"))
    other, step = same.perturb(jfu.Trained(TRAINED), REQUEST, None), jax.jit(same.recover)
    for number in (1, 2):
        other, _ = step(other, REQUEST, jax.random.key(number))
    assert bits(state.params) == bits(other.params)
    assert int(state.round) == 3


def test_the_choice_costs_forward_passes_and_counts():
    _, (chosen, later) = answered(2)
    metrics = {name: float(value) for name, value in chosen.metrics.items()}
    assert (metrics["clients"], metrics["down"], metrics["steps"]) == (2, 2, 0)
    assert metrics["forwards"] == 3 * (3 + 1)  # three cuts; 40 and 8 examples in batches of 16
    assert metrics["up"] == 2 * (3 * 2 * 2) / 3  # twelve counts against a model of three numbers
    assert float(later.metrics["steps"]) == 4 and float(later.metrics["up"]) == 2


def test_forgotten_examples_have_no_say():
    """With the leaving client's labels, which are swapped, a negated head says less about labels.

    1 - H(1/3) / ln 2 = 0.08 of everything, so it would be chosen below 0.1.
    """
    state, (info,) = answered(tells=0.1)
    assert signs(state)["mid"] == -1 and float(info.metrics["examples"]) == 48
    step = jax.jit(usual(tells=0.1).recover)
    state, _ = step(FED.init(TRAINED), REQUEST._replace(retain=DATA), jax.random.key(0))
    assert signs(state)["head"] == -1


def test_a_cut_that_gives_no_numbers_is_not_silent():
    """Roots of negative numbers, from a negated stem or mid; a negated head shows all labels."""

    def rooted(variables, x, **how):
        w = {name: layer["kernel"] for name, layer in variables["params"].items()}
        hidden = jnp.sqrt(w["mid"] * w["stem"] * x[:, 0])
        return jnp.stack([jnp.zeros(len(x)), w["head"] * (hidden - 1.5)], 1), {}

    state, (info,) = answered(model=NET._replace(apply=rooted))
    assert signs(state)["head"] == -1 and float(info.metrics["told"]) == pytest.approx(1, abs=1e-5)


def test_what_was_chosen_is_told():
    _, (chosen, later) = answered(2)
    assert (float(chosen.metrics["cut"]), float(later.metrics["cut"])) == (1, -1)
    assert float(chosen.metrics["told"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 0), (1, 2), (2, 1)])
def test_counts_are_those_of_numpy(devices, chunk):
    """Clients of other sizes, examples that left in between, a label that is no class."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 4, 40)
    y[5] = 7
    model = models.build("mlp1", classes=4, image_shape=(3, 1, 1))
    variables = jax.tree.map(lambda a: a + 0.1, model.init(jax.random.key(1)))
    clients = jfu.stack(
        x[:, :, None, None], y, [np.arange(17), np.arange(17, 20), np.arange(20, 40)]
    )
    mask = np.asarray(clients.mask) & (rng.random(clients.mask.shape) < 0.6)
    mask[0, 5] = True
    clients = clients._replace(mask=jnp.asarray(mask))
    count = confusions(model, [["stem"], ["head"]], batch_size=4, chunk=chunk)
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:devices])):
        counts, info = jax.jit(count)(variables, clients)
    expected = np.zeros((2, 4, 4))
    rows = np.concatenate([np.asarray(clients.index)[k][mask[k]] for k in range(3)])
    for cut, name in enumerate(("stem", "head")):
        negated = {
            "params": jfu.negate(
                variables["params"], jfu.select(variables["params"], jfu.by_path(f"{name}/.*"))
            )
        }
        said = np.asarray(model.apply(negated, x[rows][:, :, None, None])[0]).argmax(-1)
        for label, answer in zip(y[rows], said, strict=True):
            if label < 4:
                expected[cut, label, answer] += 1
    np.testing.assert_array_equal(counts, expected)
    assert float(info.weight.sum()) == expected[0].sum() == mask.sum() - 1


@pytest.mark.parametrize("weights_only", [False, True])
def test_biases_are_left_alone_where_that_is_asked(weights_only):
    model = models.build("mlp1", classes=2, image_shape=(1, 1, 1))
    variables = jax.tree.map(lambda a: a + 0.1, model.init(jax.random.key(0)))
    fed = jfu.fedavg(jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.1)))
    method = deepest(fed, model, [["stem"]], weights_only=weights_only)
    request = jax.tree.map(lambda a: a, REQUEST)
    square = lambda side: side._replace(x=side.x.reshape(-1, 1, 1, 1))
    state, _ = jax.jit(method.recover)(
        fed.init(variables), jfu.Split(*map(square, request)), jax.random.key(0)
    )
    old, new = variables["params"]["stem"], state.params["stem"]
    assert bits(new["kernel"]) == bits(-old["kernel"])
    assert bits(new["bias"]) == bits(old["bias"] if weights_only else -old["bias"])


def test_running_means_follow():
    variables = TRAINED | dict(batch_stats=dict(norm=dict(mean=jnp.ones(()), var=jnp.ones(()))))
    run = lambda variables, x, **how: (apply(variables, x)[0], {})
    model = NET._replace(apply=run, init=lambda key: variables)
    fed = jfu.fedavg(jfu.local_sgd(jfu.classification(run), optax.sgd(0.01), batch_size=16))
    state, _ = answered(model=model, variables=variables, fed=fed, follows=[("norm/mean", "mid")])
    assert signs(state)["mid"] == -1.0
    norm = state.variables["batch_stats"]["norm"]
    assert (float(norm["mean"]), float(norm["var"])) == (-1.0, 1.0)


def test_one_client_at_a_time_and_in_half_precision():
    state, _ = answered(chunk=1)
    halved = jax.tree.map(lambda a: a.astype(jnp.bfloat16), TRAINED)
    half, _ = answered(variables=halved)
    assert half.params["mid"]["kernel"].dtype == jnp.bfloat16
    assert signs(half) == signs(state)


def test_errors_say_what_is_possible():
    with pytest.raises(ValueError, match=r"tells is 2; it is a share .* in \[0, 1\]"):
        deepest(FED, NET, CUTS, tells=2)
    for wrong in (["stem", "head"], [["stem", "haed"]]):
        with pytest.raises(ValueError, match="is no cut of this network: .*, of stem, mid, head"):
            deepest(FED, NET, wrong)
    with pytest.raises(ValueError, match="this model names none; give cuts="):
        deepest(FED, NET)


def test_counts_stay_exact_where_float32_would_round(model, variables):
    """They are sums of integers over clients."""
    data = jfu.stack(np.zeros((3, 2), np.float32), [0, 1, 2], [[0, 1], [2]])
    found, _ = confusions(model, [["stem"]])(variables, data)
    assert found.dtype == jnp.int32 and found.sum() == 3
    exact = jnp.array([[40, 3], [2, 40]])
    assert information(exact) == information(exact.astype(float))
