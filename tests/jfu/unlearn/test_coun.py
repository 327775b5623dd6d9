"""CoUn against its formula in float64, its views, and what padding, statistics and dropout do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import bits
from helpers.rivals import DRAW, RATE, SIZES, X, Y, close, counts, run, softmax
from jfu.augment import crop_and_flip
from jfu.models import from_linen
from jfu.types import Batch
from jfu.unlearn import UNLEARNERS, Setting, coun, finetune, ga
from jfu.unlearn.coun import contrast, corrupted, coun_loss, two_views

pytestmark = pytest.mark.conformance

# Two layers, h = x @ a, then h @ b.
A = DRAW.normal(size=(2, 4)).astype(np.float32).astype(float)
B = DRAW.normal(size=(4, 3)).astype(np.float32).astype(float)


def plain_contrast(z, other, temperature):
    """By loops, over live rows only."""
    cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    s = [[cos(a, b) / temperature for b in other] for a in z]
    total = 0.0
    for n in range(len(z)):
        total -= np.log(np.exp(s[n][n]) / sum(np.exp(s[n][j]) for j in range(len(z))))
        total -= np.log(np.exp(s[n][n]) / sum(np.exp(s[j][n]) for j in range(len(z))))
    return total / len(z)


def plain_loss(a, b, x, other, y, temperature, weight):
    p = softmax(x @ a @ b)[np.arange(len(y)), y]
    return -np.log(p).mean() + weight * plain_contrast(x @ a, other @ a, temperature)


def slopes(loss, *weights):
    """Central differences in float64, of the loss in each of the weights."""
    found = []
    for place, w in enumerate(weights):
        slope = np.zeros_like(w)
        for at in np.ndindex(*w.shape):
            ends = []
            for sign in (1, -1):
                moved = [v.copy() for v in weights]
                moved[place][at] += sign * 1e-5
                ends.append(loss(*moved))
            slope[at] = (ends[0] - ends[1]) / 2e-5
        found.append(slope)
    return found


# ---------------------------------------------------------------- the formula


SLOPES = jax.jit(jax.value_and_grad(contrast, (0, 1)))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_contrast(temperature):
    rng = np.random.default_rng(3)
    z, other = rng.normal(size=(2, 6, 4)).astype(np.float32)
    mask = np.array([1, 0, 1, 1, 0, 1], np.float32)
    live = mask > 0
    expected = plain_contrast(z[live].astype(float), other[live].astype(float), temperature)
    run = lambda z, other: SLOPES(z, other, jnp.asarray(mask), temperature)
    np.testing.assert_allclose(run(z, other)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(run(other, z)[0], expected, rtol=1e-5)  # it is the same both ways
    # Padding is nobody's negative, and gets no gradient, whatever stands there.
    spoilt = np.where(live[:, None], z, 1e5), np.where(live[:, None], other, -3.0)
    assert bits(run(z, other)) == bits(run(*spoilt))
    assert not np.any(run(*spoilt)[1][0][~live])


def test_an_example_alone_and_none_at_all():
    """No others to be told from: no loss and no gradient."""
    z = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    for mask in ([1.0, 0.0], [0.0, 0.0]):
        value, slope = SLOPES(z, -z, jnp.array(mask), 0.1)
        assert value == 0 and not any(np.any(s) for s in slope)


def test_features_that_are_all_zero_have_no_gradient():
    """As of units none of which is active."""
    z = jnp.array([[0.0, 0.0], [3.0, -1.0]])
    value, slope = jax.value_and_grad(contrast)(z, z, jnp.ones(2), 0.1)
    assert np.isfinite(value) and np.isfinite(slope).all() and not np.any(slope[0])


def model_of_two(apply_features=True):
    def both(variables, x, *, train=False, mask=None, key=None):
        z = x @ variables["params"]["stem"]["kernel"]
        return z @ variables["params"]["head"]["kernel"], z, {}

    apply = lambda variables, x, **how: both(variables, x, **how)[::2]
    found = both if apply_features else None
    return jfu.Model(lambda key: {}, apply, ("stem", "head"), apply_features=found)


@pytest.mark.parametrize(("name", "sign"), [("coun", 1), ("not_coun", -1)])
def test_rounds(name, sign):
    """Two clients stay, of two and four examples in batches of eight; two passes a step."""
    given = dict(temperature=0.4, weight=0.7)
    wrap = lambda a, b: {"stem": {"kernel": jnp.float32(a)}, "head": {"kernel": jnp.float32(b)}}
    a, b = sign * A, sign * B  # the selector chooses both layers
    expected = [(a, b)]
    for _ in range(2):
        steps = [
            slopes(lambda a, b, k=k: plain_loss(a, b, X[k], X[k], Y[k], **given), a, b)
            for k in (1, 2)
        ]
        sizes = SIZES[1], SIZES[2]
        mean = [
            sum(n * s for n, s in zip(sizes, both, strict=True)) / sum(sizes)
            for both in zip(*steps, strict=True)
        ]
        a, b = a - RATE * mean[0], b - RATE * mean[1]
        expected.append((a, b))
    models, facts = run(name, 2, trained=wrap(A, B), model=model_of_two(), corrupt=0.0, **given)
    for layer, place in (("stem", 0), ("head", 1)):
        ours = [np.asarray(m[layer]["kernel"], float) for m in models]
        close(ours, [e[place] for e in expected], rtol=1e-4)
    assert counts(facts) == [[2, 2, 4, 0]] * 2


# ---------------------------------------------------------------- views


def test_both_views_are_the_federations_and_the_first_is_the_usual_one():
    """Images of two examples as a client's step makes them, and as the loss gets them."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (2, 8, 8, 1)).astype(np.uint8), np.array([0, 1])
    data = jfu.stack(x, y, [[0, 1]])
    seen = {}

    def spy(name):
        def loss(variables, batch, key):
            jax.debug.callback(lambda x, mask: seen.update({name: (x, mask)}), batch.x, batch.mask)
            return variables["params"] * 0.0

        return loss

    for name, augment in (("usual", crop_and_flip), ("views", two_views(crop_and_flip))):
        work = jfu.local_sgd(spy(name), optax.sgd(0.1), batch_size=4, augment=augment)
        fed = jfu.fedavg(work)
        start = fed.init({"params": jnp.zeros(())})
        jax.block_until_ready(jax.jit(fed.round)(start, data, jax.random.key(0)))
    usual, views = seen["usual"][0], seen["views"][0]
    assert views.shape == (2, 2, 8, 8, 1) and views.dtype == np.uint8
    assert bits(views[:, 0]) == bits(usual)
    assert (views[:, 1] != views[:, 0]).any((1, 2, 3)).all()


def flipped(key, x):
    """An augmentation of an example of two numbers."""
    return jnp.where(jax.random.bernoulli(key), x[::-1], x)


@pytest.fixture
def given(fed, model, request):
    augment = getattr(request, "param", None)

    def local(loss=None, epochs=2, augment=augment):
        loss = loss or jfu.classification(model.apply)
        return jfu.local_sgd(loss, optax.sgd(0.1), epochs=epochs, batch_size=3, augment=augment)

    fed = jfu.fedavg(local())
    return Setting(fed, model, jfu.by_layer(model, 0), local=local, augment=augment)


def recovered(method, variables, request, rounds=2):
    state, step = method.perturb(jfu.Trained(variables), request, None), jax.jit(method.recover)
    for number in range(rounds):
        state, info = step(state, request, jax.random.key(number))
    return state.params, info


@pytest.mark.parametrize("given", [None, flipped], indirect=True)
def test_without_a_weight_it_is_the_start(given, data, variables):
    """With the augmentation's usual draws, too; with a weight it is not."""
    request = jfu.split(data, jfu.forget_client(data, [2]))
    of = lambda weight: UNLEARNERS["coun"](given._replace(options=dict(coun=dict(weight=weight))))
    plain, usual = recovered(UNLEARNERS["finetune"](given), variables, request)
    ours, info = recovered(of(0.0), variables, request)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, plain)
    np.testing.assert_allclose(info.metrics["loss"], usual.metrics["loss"], rtol=1e-5)
    other = recovered(of(1.0), variables, request)[0]
    assert max(np.abs(a - b).max() for a, b in pairs(other, plain)) > 1e-3


def pairs(one, other):
    return zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)


def test_corruption_takes_over_entries_of_live_rows_at_their_places():
    rows, live = np.arange(4)[:, None] * 1000 + np.arange(1000), np.array([1.0, 0, 1, 1])
    x = jnp.asarray((rows * live[:, None].astype(int)).reshape(4, 10, 100))
    new = np.asarray(corrupted(jax.random.key(0), x, jnp.asarray(live), 0.6))
    assert new.shape == x.shape and new.dtype == x.dtype
    assert not new[1].any()  # padding stays
    donor, place = np.divmod(new[[0, 2, 3]].reshape(3, -1), 1000)
    assert (place == np.arange(1000)).all()
    for row, own in enumerate((0, 2, 3)):
        # 0.6 are drawn from three rows, of which one is its own: 0.4 and twice 0.2.
        shares = [np.mean(donor[row] == other) for other in range(4)]
        by_hand = [0.0 if other == 1 else 0.6 if other == own else 0.2 for other in range(4)]
        np.testing.assert_allclose(shares, by_hand, atol=0.06)


@pytest.mark.parametrize("share", [1e-9, 1.0])
def test_the_ends_of_corruption(share):
    x = jnp.arange(6, dtype=jnp.uint8).reshape(3, 2)
    new = corrupted(jax.random.key(1), x, jnp.ones(3), share)
    assert new.dtype == jnp.uint8
    if share == 1.0:
        assert set(np.ravel(new[:, 0])) <= {0, 2, 4} and set(np.ravel(new[:, 1])) <= {1, 3, 5}
    else:
        assert (new == x).all()
    alone = corrupted(jax.random.key(1), x, jnp.array([0.0, 1, 0]), share)
    assert (alone == x).all()


def test_views_are_corrupted_where_there_is_no_augmentation_alone(given, data, variables):
    request = jfu.split(data, jfu.forget_client(data, [2]))
    seen = {}
    for augment in (None, flipped):
        for corrupt in (None, 0.0, 0.6):
            method = coun(
                *(finetune(given.fed), given.model, given.local),
                **dict(augment=augment, corrupt=corrupt),
            )
            seen[augment, corrupt] = bits(recovered(method, variables, request, 1)[0])
    assert seen[None, None] == seen[None, 0.6] != seen[None, 0.0]
    assert seen[flipped, None] == seen[flipped, 0.0] != seen[flipped, 0.6]


# ---------------------------------------------------------------- statistics and dropout


class Normed(nn.Module):
    """Batch statistics, and dropout of the features."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.Dense(4, use_bias=False, name="stem")(x)
        live = None if mask is None else mask.reshape(-1, 1) > 0
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x, mask=live)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3, name="head")(x)


def batch_of(x, mask):
    return Batch(jnp.asarray(x, jnp.float32), jnp.arange(len(mask)) % 3, jnp.asarray(mask))


def test_batch_statistics_go_through_both_views():
    """Means and variances of either view's live rows, one step each; as by hand."""
    model = from_linen(Normed(), jnp.zeros((1, 2)))
    variables = model.init(jax.random.key(0))
    x = np.random.default_rng(1).normal(size=(5, 2, 2)).astype(np.float32)
    mask, live = np.array([1.0, 1, 0, 1, 0]), [0, 1, 3]
    loss = jax.jit(coun_loss(model.apply_features, 0.5, 2.0, 0.0, augmented=True))
    value, changed = loss(variables, batch_of(x, mask), jax.random.key(2))

    stem, head = (variables["params"][name] for name in ("stem", "head"))
    y = x[live].astype(float) @ np.asarray(stem["kernel"], float)  # [live, view, 4]
    mean, var = y.mean(0), y.var(0)
    z = (y - mean) / np.sqrt(var + 1e-5)
    p = softmax(z[:, 0] @ np.asarray(head["kernel"], float))[np.arange(3), np.array(live) % 3]
    expected = -np.log(p).mean() + 2 * plain_contrast(z[:, 0], z[:, 1], 0.5)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    kept = changed["batch_stats"]["norm"]
    np.testing.assert_allclose(kept["mean"], 0.09 * mean[0] + 0.1 * mean[1], rtol=1e-4)
    np.testing.assert_allclose(kept["var"], 0.81 + 0.09 * var[0] + 0.1 * var[1], rtol=1e-4)

    spoilt = np.where(mask[:, None, None] > 0, x, 7.0)
    assert bits(loss(variables, batch_of(spoilt, mask), jax.random.key(2))) == bits(
        (value, changed)
    )


def test_dropout_differs_between_views():
    """A view of its own even without any augmentation, and another one in every step."""
    for rate, many in ((0.0, 1), (0.5, 2)):
        model = from_linen(Normed(rate), jnp.zeros((1, 2)))
        variables = model.init(jax.random.key(0))
        x = np.random.default_rng(1).normal(size=(4, 2))
        loss = jax.jit(coun_loss(model.apply_features, 0.5, 1.0, 0.0, augmented=False))
        values = {
            float(loss(variables, batch_of(x, np.ones(4)), jax.random.key(k))[0]) for k in (0, 1)
        }
        assert len(values) == many
        if rate == 0:
            y = x.astype(np.float32).astype(float) @ np.asarray(
                variables["params"]["stem"]["kernel"], float
            )
            z = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
            p = softmax(z @ np.asarray(variables["params"]["head"]["kernel"], float))
            own = -np.log(p[np.arange(4), np.arange(4) % 3]).mean()
            np.testing.assert_allclose(values.pop(), own + plain_contrast(z, z, 0.5), rtol=1e-4)


# ---------------------------------------------------------------- what cannot be


def test_labels_that_are_no_class_leave_the_client_out(given, pool, variables):
    x, y = pool
    data = jfu.stack(x, np.where(np.arange(20) == 0, 7, y), [[0, 1, 2], [3, 4, 5]])
    request = jfu.split(data, jnp.zeros_like(data.mask))
    _, info = recovered(UNLEARNERS["coun"](given), variables, request, 1)
    assert (info.metrics["not_finite"], info.metrics["clients"]) == (1, 1)


def test_a_client_that_sends_too_much_is_left_out_as_in_any_round(given, data, variables):
    """Its work is that of ``local``, with the limits that are set there."""
    local = lambda *loss, **how: jfu.faults.censored(given.local(*loss, **how), 0.01)
    request = jfu.split(data, jfu.forget_client(data, [2]))
    method = UNLEARNERS["coun"](given._replace(local=local))
    params, info = recovered(method, variables, request, 1)
    assert (info.metrics["too_long"], info.metrics["clients"]) == (2, 0)
    assert bits(params) == bits(variables["params"])


def test_both_methods_share_one_program(given):
    of = lambda name, **options: UNLEARNERS[name](given._replace(options={name: options})).recover
    assert of("coun") is of("not_coun") is not of("not_coun", weight=0.5)


def test_what_is_refused(given, model):
    without = model._replace(apply_features=None)
    with pytest.raises(ValueError, match="give the Model a function `apply_features`"):
        coun(finetune(given.fed), without, given.local)
    with pytest.raises(ValueError, match="this start has rounds of its own"):
        coun(ga(given.fed, model), model, given.local)
