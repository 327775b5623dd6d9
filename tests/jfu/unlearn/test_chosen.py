"""Single weights in place of layers: the choice, its scores in NumPy, and methods on it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.rivals import MODEL, OTHERS, SIZES, W, X, Y, close, counts, plain_round, run, slope
from jfu.models import from_linen
from jfu.unlearn import UNLEARNERS, Setting
from jfu.unlearn.chosen import picks, zeroed
from jfu.unlearn.modhifi import best, fidelity, modhifi
from jfu.unlearn.wagle import most

# ---------------------------------------------------------------- wagle


def scores(mu):
    """|(w - g_r / mu) g_f|, the gradients means over examples."""
    retained = (SIZES[1] * slope(W, X[1], Y[1]) + SIZES[2] * slope(W, X[2], Y[2])) / 6
    return abs((W - retained / mu) * slope(W, X[0], Y[0]))


def chosen(values, many):
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values.ravel(), kind="stable")[:many]] = True
    return mask.reshape(values.shape)


@pytest.mark.parametrize(
    ("mu", "ratio", "many"), [(0.3, 0.5, 3), pytest.param(1e9, 0.17, 1, marks=pytest.mark.slow)]
)
def test_wagle(mu, ratio, many):
    """With a large mu the choice is another one, by the forgotten data alone."""
    picked = chosen(scores(mu), many)
    turned = np.where(picked, -W, W)
    models, facts = run("wagle", 3, mu=mu, ratio=ratio)
    close(models, [W, turned, plain_round(turned), plain_round(plain_round(turned))])
    assert counts(facts) == [[3, 3, 3, 0], OTHERS, OTHERS]
    assert (chosen(scores(0.3), 1) != chosen(scores(1e9), 1)).any()


@pytest.mark.slow
def test_the_largest_are_exactly_as_many_as_asked():
    tree = dict(a=jnp.ones((2, 3)), b=jnp.array([1.0, 2.0]))
    marks = most(tree, 0.5)
    assert marks["b"].tolist() == [False, True]
    assert marks["a"].tolist() == [[True, True, True], [False] * 3]


# ---------------------------------------------------------------- modhifi


def fidelities(x, w):
    """max_d 1 - E|Y - d A|^2 / E|Y|^2 for each input alone, by least squares."""
    found = np.zeros(w.shape)
    for i, c in np.ndindex(w.shape):
        whole, part = x @ w[:, c], x[:, i] * w[i, c]
        d = np.linalg.lstsq(part[:, None], whole, rcond=None)[0][0]
        found[i, c] = 1 - ((whole - d * part) ** 2).sum() / (whole**2).sum()
    return found


def linear():
    outputs = lambda variables, x: {"head": x @ variables["params"]["head"]["kernel"]}
    return MODEL._replace(outputs=outputs)


def test_modhifi():
    """Two inputs and three outputs: for each output the better input's weight is set to zero."""
    seen = fidelities(X[0], W)
    worst = seen.argmin(0)
    after = np.where(np.arange(2)[:, None] == worst[None], W, 0)
    models, facts = run("modhifi", 2, model=linear(), ratio=0.5)
    close(models, [W, after, plain_round(after)])
    assert counts(facts) == [[1, 1, 0, 2], OTHERS]


def test_fidelity_is_what_the_best_scale_leaves():
    w = np.random.default_rng(1).normal(size=(2, 4))
    whole, part = X[2] @ w, X[2][:, :, None] * w[None]
    both, parts = (whole[:, None] * part).sum(0), (part**2).sum(0)
    ours = fidelity(*map(jnp.asarray, (both, parts, (whole**2).sum(0))))
    np.testing.assert_allclose(ours, fidelities(X[2], w), rtol=1e-4)
    assert fidelity(jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.zeros(1)).tolist() == [[0], [0]]


@pytest.mark.slow
def test_a_dense_layer_with_more_inputs_than_outputs(data, fed, model, variables):
    """The head has five inputs and three outputs, so two passes show its inputs."""
    request = jfu.split(data, jfu.forget_client(data, [5]))
    method = modhifi(model, lambda s: zeroed(fed, s), ratio=0.4, batch_size=3)
    state = method.perturb(jfu.Trained(variables), request, jax.random.key(0))
    state, info = jax.jit(method.recover)(state, request, jax.random.key(0))
    rows = np.asarray(data.index[0])[np.asarray(data.mask[0])]
    hidden = np.asarray(model.features(variables, data.x[rows]), float)
    kernel = np.asarray(variables["params"]["head"]["kernel"], float)
    order = np.argsort(-fidelities(hidden, kernel), axis=0)
    zeros = np.asarray(state.params["head"]["kernel"]) == 0
    for c in range(3):
        assert np.flatnonzero(zeros[:, c]).tolist() == sorted(order[:2, c].tolist())
    assert float(info.metrics["forwards"]) == 3 * (1 + 1 + 1 + 2)


def test_few_inputs_may_have_none_chosen():
    assert not best(jnp.ones((4, 3)), 0.2).any()
    assert best(jnp.arange(10.0)[:, None], 0.2)[:, 0].tolist() == [False] * 8 + [True] * 2


@pytest.mark.slow
def test_filters_of_a_convolution(data):
    """Stride 2, padding and a bias, against contributions by plain loops."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Conv(2, (3, 3), strides=2, padding=1, name="stem")(x)
            return nn.Dense(3, name="head")(y.reshape(len(y), -1))

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 4, 3)).astype(np.float32)
    model = from_linen(Net(), jnp.zeros((1, 4, 4, 3)))
    variables = model.init(jax.random.key(0))
    variables["params"]["stem"]["bias"] += 3.0  # is no part of any contribution
    clients = jfu.stack(x, np.zeros(5, int), [[0, 1, 2], [3, 4]])
    request = jfu.split(clients, jfu.forget_client(clients, [0]))
    fed = jfu.fedavg(jfu.local_sgd(jfu.classification(model.apply), optax.sgd(0.1)))
    method = modhifi(model, lambda s: zeroed(fed, s), ratio=0.34)
    state = method.perturb(jfu.Trained(variables), request, jax.random.key(0))
    state, _ = jax.jit(method.recover)(state, request, jax.random.key(0))

    kernel = np.asarray(variables["params"]["stem"]["kernel"], float)
    wide = np.pad(x[:3].astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = np.zeros((3, 2, 2, 3, 2))  # examples, rows, columns, inputs, outputs
    for n, r, c in np.ndindex(3, 2, 2):
        window = wide[n, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3]
        parts[n, r, c] = (window[..., None] * kernel).sum((0, 1))
    whole = parts.sum(3)
    both = (whole[..., None, :] * parts).sum((0, 1, 2))
    seen = both**2 / ((parts**2).sum((0, 1, 2)) * (whole**2).sum((0, 1, 2)))
    zeros = np.asarray(state.params["stem"]["kernel"]) == 0
    expected = np.arange(3)[:, None] == seen.argmax(0)[None]
    assert (zeros == expected[None, None]).all()
    assert bool((state.params["stem"]["bias"] == variables["params"]["stem"]["bias"]).all())


# ---------------------------------------------------------------- methods on chosen weights


@pytest.mark.slow
@pytest.mark.parametrize("then", ["noise", "reinit", "zero"])
def test_what_is_not_chosen_keeps_its_bits(then):
    models, _ = run("wagle", 1, mu=0.3, ratio=0.5, then=then)
    picked = chosen(scores(0.3), 3)
    assert (models[1][~picked] == W[~picked]).all() and (models[1][picked] != W[picked]).all()


@pytest.mark.slow
@pytest.mark.parametrize("then", ["not_blend", "not_no_return", "not_coun", "anchored", "permute"])
def test_every_method_that_takes_layers_takes_weights(then, model, data, fed, variables):
    local = lambda loss=None, optimizer=None, epochs=1, augment=None: jfu.local_sgd(
        loss or jfu.classification(model.apply), optimizer or optax.sgd(0.1)
    )
    options = dict(wagle=dict(then=then, ratio=0.5))
    setting = Setting(fed, model, None, local=local, around=jfu.fedavg, guess=1.1, options=options)
    method = UNLEARNERS["wagle"](setting)
    request = jfu.split(data, jfu.forget_client(data, [5]))
    state = method.perturb(jfu.Trained(variables), request, jax.random.key(0))
    step = jax.jit(method.recover)
    for r in range(2):
        state, _ = step(state, request, jax.random.key(r))
        assert int(state.round) == r + 1
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables))
    assert int(state.masks["stem"]["kernel"].sum() + state.masks["head"]["kernel"].sum()) > 0


def test_methods_that_cannot_take_weights_are_refused():
    with pytest.raises(
        ValueError, match="no method finetune takes chosen weights; there are zero, "
    ):
        run("wagle", 1, then="finetune")
    with pytest.raises(ValueError, match="give the Model a function `outputs`"):
        run("modhifi", 1)


def test_an_array_of_another_shape_is_no_selection():
    with pytest.raises(ValueError, match=r"weights of w by an array \[2\], and the parameter is"):
        jfu.select({"w": jnp.zeros(3)}, lambda path, leaf: jnp.ones(2, bool))
    mask = jfu.select(
        {"w": jnp.zeros(2), "b": jnp.zeros(1)}, picks(dict(w=jnp.ones(2, bool), b=False))
    )
    assert jfu.negate(dict(w=jnp.ones(2), b=jnp.ones(1)), mask)["b"].tolist() == [1.0]
