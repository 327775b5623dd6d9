"""Tasks: losses and scores against NumPy in float64, and targets that are not a task's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from jfu import evaluation, tasks
from jfu.audit import pairs
from jfu.data import Dataset, load, partition
from jfu.data.standardise import added, centre, standardised, sums
from jfu.data.tokens import inputs_and_targets

RNG = np.random.default_rng(0)
SLOPE = np.array([1.0, -2.0, 0.5])


def table(many, noise=0.1):
    x = RNG.normal(size=(many, 3)).astype(np.float32)
    return x, (x @ SLOPE + noise * RNG.normal(size=many)).astype(np.float32)


def apply(variables, x, **how):
    return x @ variables["params"]["w"], {}


MODEL = {"params": {"w": RNG.normal(size=(3, 1)).astype(np.float32)}}


def test_measures_of_a_regression():
    retain, forget, test = table(40), table(30), table(50)
    made = evaluation.of_arrays(retain, forget, test)
    variance = float(np.var(np.r_[retain[1], forget[1]].astype(np.float64)))
    judge = tasks.explained(variance)
    found = evaluation.measures(apply, MODEL, made, judge=judge)
    for name, (x, y) in dict(retain=retain, forget=forget, test=test).items():
        error = (x.astype(np.float64) @ MODEL["params"]["w"][:, 0].astype(np.float64) - y) ** 2
        assert found[name] == pytest.approx(100 * (1 - error.mean() / variance), rel=1e-4)
        if name != "test":
            assert found[f"loss_{name}"] == pytest.approx(error.mean(), rel=1e-4)
    assert found["guess"] == 0 and found["asr"] is None
    # Every forgotten example has a test example beside it, as if all were of one class.
    assert len(made.members) == 30 and made.y.dtype == np.float32


def test_a_federation_fits_a_line_and_padding_does_not_count():
    x, y = table(60, noise=0.0)
    clients = jfu.stack(x, y, [range(5), range(5, 30), range(30, 60)])
    assert clients.y.dtype == jnp.float32
    loss = tasks.TASKS["regress"].loss(apply)
    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.1), batch_size=8))
    state = fed.init(jax.tree.map(jnp.asarray, MODEL))
    for done in jfu.rounds(jax.jit(fed.round), state, clients, jax.random.key(0), stop=20):
        state = done.state
    np.testing.assert_allclose(state.params["w"][:, 0], SLOPE, atol=1e-3)


def test_the_loss_is_the_mean_square_over_live_examples():
    out, y, mask = RNG.normal(size=(4, 1)), RNG.normal(size=4), np.array([1.0, 0, 1, 1])
    batch = jfu.Batch(None, jnp.float32(y), jnp.float32(mask))
    wanted = ((out[:, 0] - y) ** 2)[mask > 0].mean()
    assert float(tasks.squared_error(jnp.float32(out), batch)) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ValueError, match="labels are float32, and classes are integers"):
        jfu.cross_entropy(jnp.zeros((4, 2)), batch)


def test_a_model_that_has_diverged_has_the_least_score():
    _, score = tasks.explained(1.0)(jnp.array([[jnp.nan], [jnp.inf], [1e30], [1.0]]), jnp.ones(4))
    assert score.tolist() == [tasks.LEAST] * 3 + [1]


def test_sums_of_clients_standardise_as_the_pool_does():
    x = RNG.normal(3, 5, (50, 4))
    x[:, 2] = 7.0
    parts = [sums(x[rows]) for rows in np.array_split(np.arange(50), 7)]
    mean, scale = centre(added(parts))
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, np.where(x.std(0) > 1e-9, x.std(0), 1), rtol=1e-9)
    data = Dataset(np.float32(x), np.float32(x[:, 0]), np.float32(x[:9]), np.float32(x[:9, 0]), ())
    turned = standardised(data)
    np.testing.assert_allclose(turned.x_test, (x[:9] - mean) / scale, atol=1e-5)
    np.testing.assert_allclose(turned.y_train, (x[:, 0] - mean[0]) / scale[0], atol=1e-5)
    with pytest.raises(ValueError, match="features that are floats, and these are uint8"):
        standardised(load("synthetic"))


def test_shadow_attacks_find_a_regression_that_memorises():
    """Least squares on noisy targets: trained on an example, or unlearned without it."""
    draw = np.random.default_rng(3)
    x, held = draw.normal(size=(60, 22)), np.repeat(draw.random((16, 24)) < 0.5, 2, 0)
    y, held = draw.normal(size=60), held ^ (np.arange(32) % 2 == 1)[:, None]
    chosen = lambda *parts: np.concatenate(parts)
    stays = [24 + draw.choice(36, 30, replace=False) for _ in range(96)]

    def phi(rows):
        fit = np.linalg.lstsq(x[rows], y[rows], rcond=None)[0]
        return np.asarray(tasks.residuals(jnp.asarray(x[:24] @ fit)[:, None], y[:24]))

    found = dict(
        held=held,
        retrain=np.stack([phi(rows) for rows in stays[:32]]),
        original=np.stack(
            [phi(chosen(np.flatnonzero(h), r)) for h, r in zip(held, stays[32:64], strict=True)]
        ),
        exact=np.stack([phi(rows) for rows in stays[64:]]),
    )
    seen = pairs.of_shadows(found)
    attack = lambda name, key: float(seen[name][key][0][0][0])
    assert attack("original", "lira") > 0.75 and attack("original", "ulira") > 0.75
    assert abs(attack("exact", "lira") - 0.5) < 0.06 and abs(attack("exact", "ulira") - 0.5) < 0.06


def test_targets_of_another_task_are_a_sentence():
    classes, numbers = load("breast_cancer"), load("diabetes")
    assert classes.x_train.shape == (455, 30) and classes.labels == ("malignant", "benign")
    assert numbers.x_train.shape == (354, 10) and numbers.labels == ()
    tasks.check("classify", classes)
    tasks.check("regress", numbers)
    with pytest.raises(ValueError, match="does not take targets that are floats.*task=regress"):
        tasks.check("classify", numbers)
    with pytest.raises(ValueError, match="does not take targets that are integers.*=classify"):
        tasks.check("regress", classes)
    flat = numbers._replace(y_train=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="all 4 training targets are 1"):
        tasks.TASKS["regress"].judge(flat)


def test_shards_of_a_regression_go_by_the_size_of_targets():
    y = RNG.permutation(100).astype(np.float32)
    lists = partition.partition("shards:1", y, clients=10)
    assert sorted(sorted(y[rows] // 10) for rows in lists) == [[float(n)] * 10 for n in range(10)]
    assert sum(map(len, partition.partition("iid", y, clients=3))) == 100


def texts(many, length=6, vocabulary=5):
    tokens = RNG.integers(0, vocabulary, (many, length + 1))
    tokens[1, 3:] = -1
    return inputs_and_targets(tokens)


TABLE = {"params": {"w": RNG.normal(size=(5, 5)).astype(np.float32)}}


def bigram(variables, x, **how):
    return variables["params"]["w"][x], {}


def by_hand(x, y):
    """Mean losses of texts, and shares of right tokens, in float64."""
    w = TABLE["params"]["w"].astype(np.float64)
    each = np.log(np.exp(w).sum(1))[x] - w[x, np.maximum(y, 0)]
    live = y >= 0
    right = (w[x].argmax(-1) == y) & live
    return (each * live).sum(1) / live.sum(1), right.sum(1) / live.sum(1)


def test_measures_of_a_language_model():
    retain, forget, test = texts(40), texts(30), texts(50)
    made = evaluation.of_arrays(retain, forget, test)
    found = evaluation.measures(
        bigram, TABLE, made, judge=tasks.next_tokens, more=tasks.TASKS["tokens"].more
    )
    for name, (x, y) in dict(retain=retain, forget=forget, test=test).items():
        loss, right = by_hand(x, y)
        assert found[name] == pytest.approx(100 * right.mean(), rel=1e-5)
        if name != "test":
            assert found[f"loss_{name}"] == pytest.approx(loss.mean(), rel=1e-5)
        if name != "retain":
            assert found[f"perplexity_{name}"] == pytest.approx(np.exp(loss.mean()), rel=1e-5)
    live = retain[1][retain[1] >= 0]
    assert found["guess"] == pytest.approx(100 * np.bincount(live).max() / len(live))
    assert len(made.members) == 30 and 0 <= found["mia"] <= 100


def test_the_loss_of_texts_skips_padding_and_tokens_without_a_next():
    x, y = texts(4)
    mask = np.array([1.0, 1, 0, 1], np.float32)
    batch = jfu.Batch(jnp.asarray(x), jnp.asarray(y), jnp.asarray(mask))
    wanted = by_hand(x, y)[0][mask > 0].mean()
    loss = lambda variables: tasks.language(bigram)(variables, batch, None)[0]
    assert float(loss(TABLE)) == pytest.approx(wanted, rel=1e-5)
    beyond = batch._replace(y=batch.y.at[0, 0].set(7))
    assert np.isnan(tasks.next_token_loss(bigram(TABLE, batch.x)[0], beyond))
    hidden = batch._replace(y=batch.y.at[2, 0].set(7))
    assert float(tasks.next_token_loss(bigram(TABLE, batch.x)[0], hidden)) == float(loss(TABLE))


def test_a_federation_learns_which_token_follows():
    """Each token is followed by the next number; clients on two devices, or in pieces, agree."""
    start = RNG.integers(0, 5, (30, 1))
    x, y = inputs_and_targets((start + np.arange(7)) % 5)
    rows = [range(4), range(4, 15), range(15, 30)]
    clients = jfu.stack(x, y, rows, classes=5)
    fed = jfu.fedavg(jfu.local_sgd(tasks.language(bigram), optax.sgd(2.0), batch_size=8))
    step, key = jax.jit(fed.round), jax.random.key(0)
    state = fed.init(jax.tree.map(jnp.asarray, TABLE))
    for done in jfu.rounds(step, state, clients, key, stop=20):
        state = done.state
    follows = np.asarray(state.params["w"]).argmax(1)
    assert follows.tolist() == [1, 2, 3, 4, 0]
    with jax.set_mesh(jfu.clients_mesh(jax.devices()[:2])):
        spread = jfu.spread(clients)
        assert spread.y.ndim == 3
        apart, _ = step(fed.init(jax.tree.map(jnp.asarray, TABLE)), spread, key)
    whole, _ = step(fed.init(jax.tree.map(jnp.asarray, TABLE)), clients, key)
    np.testing.assert_allclose(apart.params["w"], whole.params["w"], rtol=1e-5)
    pieces = jfu.streamed(fed, piece=2**10)
    host = jfu.stack(x, y, rows, host=True)
    streamed, _ = pieces.round(pieces.init(jax.tree.map(jnp.asarray, TABLE)), host, key)
    np.testing.assert_allclose(streamed.params["w"], whole.params["w"], rtol=1e-5)


def test_next_tokens_that_are_none_are_a_sentence():
    x, y = texts(4)
    with pytest.raises(
        ValueError, match="next tokens run from -1 to 4, and the vocabulary is 0 to 2"
    ):
        jfu.stack(x, y, [range(4)], classes=3)
    with pytest.raises(ValueError, match="example 2 has no next token"):
        jfu.stack(x, np.where(np.arange(4)[:, None] == 2, -1, y), [range(4)])
    clients = jfu.stack(x, y, [range(4)])
    with pytest.raises(ValueError, match="texts, which have no classes"):
        jfu.forget_class(clients, [1])
    with pytest.raises(ValueError, match=r"logits are \[B, T, V\]"):
        tasks.next_tokens(jnp.zeros((2, 3)), jnp.zeros((2, 3), int))
    for name in ("classify", "regress"):
        with pytest.raises(ValueError, match="targets that are next tokens.*--task=tokens"):
            tasks.check(name, load("pydoc_topics", train_size=10))
