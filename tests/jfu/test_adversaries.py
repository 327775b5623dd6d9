"""Attacks and aggregators that see single updates, against float64 in NumPy; and what they cost."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jfu
from jfu import adversaries, aggregate
from launch.setup import federation
from launch.studies import robustness

K, BAD = 9, np.isin(np.arange(9), [1, 5, 6])
RNG = np.random.default_rng(0)
# Two leaves of different shapes; client 8 is away.
UPDATES = {"a": RNG.normal(1, 1, (K, 3, 2)), "b": RNG.normal(-2, 0.5, (K, 4))}
WEIGHTS = np.array([4.0, 3, 2, 9, 1, 5, 5, 2, 0])
THERE = WEIGHTS > 0


def f32(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def flat(tree):
    """Leaves as one float64 matrix ``[K, P]``, in their order."""
    leaves = jax.tree.leaves(tree)
    return np.concatenate([np.asarray(u, np.float64).reshape(len(u), -1) for u in leaves], 1)


ROWS = flat(UPDATES)
GOOD = THERE & ~BAD


def sent(attack, key=0):
    given = f32(UPDATES), jnp.asarray(WEIGHTS, jnp.float32), jnp.asarray(BAD)
    updates, weights = jax.jit(attack)(*given, jax.random.key(key))
    rows, before = flat(updates), flat(f32(UPDATES))
    assert rows[~BAD].tobytes() == before[~BAD].tobytes()  # the good ones' stay to the bit
    return rows, np.asarray(weights)


# ---------------------------------------------------------------- attacks


def test_signs_are_flipped_and_scaled():
    rows, weights = sent(adversaries.sign_flip(3.0))
    np.testing.assert_allclose(rows[BAD], -3 * ROWS[BAD], rtol=1e-6)
    assert weights.tolist() == WEIGHTS.tolist()


def test_inner_products_are_against_the_mean_of_the_good_ones_there():
    rows, _ = sent(adversaries.inner_product(0.7))
    wanted = -0.7 * ROWS[GOOD].mean(0)
    np.testing.assert_allclose(rows[BAD], np.tile(wanted, (3, 1)), rtol=1e-5)
    assert (rows[BAD] @ ROWS[GOOD].mean(0) < 0).all()


def test_a_little_is_a_multiple_of_what_the_good_ones_differ_by():
    rows, _ = sent(adversaries.little_is_enough())
    n, m = 8, 3
    s = n // 2 + 1 - m
    z = stats.norm.ppf((n - m - s) / (n - m))
    wanted = ROWS[GOOD].mean(0) - z * ROWS[GOOD].std(0)
    np.testing.assert_allclose(rows[BAD], np.tile(wanted, (3, 1)), rtol=1e-4)
    rows, _ = sent(adversaries.little_is_enough(1.5))
    wanted = ROWS[GOOD].mean(0) - 1.5 * ROWS[GOOD].std(0)
    np.testing.assert_allclose(rows[BAD], np.tile(wanted, (3, 1)), rtol=1e-4)


def test_noise_has_the_size_of_the_clients_own_update():
    updates = {"a": np.ones((2, 200, 200)), "b": np.full((2, 1000), 3.0)}
    given = f32(updates), jnp.ones(2), jnp.array([False, True])
    found, _ = adversaries.gaussian_noise(10.0)(*given, jax.random.key(0))
    size = 10 * np.sqrt((40000 + 9 * 1000) / 41000)
    assert float(found["a"][1].std()) == pytest.approx(size, rel=0.02)
    assert float(found["b"][1].std()) == pytest.approx(size, rel=0.1)
    assert abs(float(found["a"][1].mean())) < 0.02 * size
    assert (np.asarray(found["a"][0]) == 1).all()


def test_heavy_clients_claim_and_nan_is_nan():
    rows, weights = sent(adversaries.heavy(1e6, 2.0))
    np.testing.assert_allclose(rows[BAD], -2 * ROWS[BAD], rtol=1e-6)
    np.testing.assert_allclose(weights, np.where(BAD, 1e6, 1) * WEIGHTS)
    rows, _ = sent(adversaries.not_a_number())
    assert np.isnan(rows[BAD]).all()
    rows, _ = sent(adversaries.nothing())
    np.testing.assert_allclose(rows, ROWS, rtol=1e-6)


def test_labels_of_bad_clients_are_flipped_and_no_others(data):
    """ROWS of the fixture: client 5 has seven rows, of which client 2 gets one too."""
    shared = data._replace(index=data.index.at[1, 0].set(data.index[0, 0]))
    bad = jnp.array([True, False, False])
    flipped = adversaries.flip_labels(shared, bad, 3)
    mine = np.asarray(shared.index[0])[np.asarray(shared.mask[0])]
    changed_ = np.flatnonzero(np.asarray(flipped.y) != np.asarray(shared.y))
    flips = [r for r in mine[1:] if 2 - int(shared.y[r]) != int(shared.y[r])]
    assert sorted(changed_) == sorted(flips)
    assert (np.asarray(flipped.y)[flips] == 2 - np.asarray(shared.y)[flips]).all()


# ---------------------------------------------------------------- aggregators in float64


def decoded(aggregator, updates=UPDATES, weights=WEIGHTS):
    given = f32(updates), jnp.asarray(weights, jnp.float32)
    found, _ = jax.jit(aggregator.decode)(given, (), jax.random.key(0))
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in jax.tree.leaves(found)])


def apart64(rows):
    return ((rows[:, None] - rows[None]) ** 2).sum(-1)


def krum64(rows, byzantine, chosen):
    distances = apart64(rows) + np.diag(np.full(len(rows), np.inf))
    near = np.sort(distances, 1)[:, : len(rows) - byzantine - 2]
    best = np.argsort(near.sum(1), kind="stable")[:chosen]
    return rows[best].mean(0)


def weiszfeld64(rows, iterations=16, smoothing=1e-6):
    v = np.median(rows, 0)
    for _ in range(iterations):
        share = 1 / np.maximum(np.linalg.norm(rows - v, axis=1), smoothing)
        v = share @ rows / share.sum()
    return v


def mixed64(rows, byzantine):
    near = np.argsort(apart64(rows), 1, kind="stable")[:, : len(rows) - byzantine]
    return rows[near].mean(1)


def trimmed64(rows, cut):
    return np.sort(rows, 0)[cut : len(rows) - cut].mean(0)


def test_krum_and_multi_krum():
    rows = ROWS[THERE]
    for byzantine, chosen in ((1, 1), (2, 1), (2, 3), (0, 8)):
        found = decoded(jfu.krum(byzantine, chosen=chosen))
        np.testing.assert_allclose(found, krum64(rows, byzantine, chosen), rtol=1e-5, atol=1e-6)


def test_geometric_median():
    rows = ROWS[THERE]
    found = decoded(jfu.geometric_median())
    np.testing.assert_allclose(found, weiszfeld64(rows), rtol=1e-4, atol=1e-5)
    long = decoded(jfu.geometric_median(iterations=500))
    cost = lambda v: np.linalg.norm(rows - v, axis=1).sum()
    for _ in range(20):  # no other point near or far has a smaller sum of distances
        assert cost(long) <= cost(long + RNG.normal(0, 0.1, long.shape)) + 1e-6
    assert cost(long) <= min(cost(rows.mean(0)), cost(np.median(rows, 0))) + 1e-6


def test_the_geometric_median_bears_what_is_far():
    """Three of eight that are at 10^6 move it by no more than the others are apart."""
    far = jax.tree.map(lambda u: np.where(BAD.reshape(-1, *[1] * (u.ndim - 1)), 1e6, u), UPDATES)
    found = decoded(jfu.geometric_median(iterations=200), far)
    others = ROWS[GOOD]
    spread = np.linalg.norm(others - others.mean(0), axis=1).max()
    assert np.linalg.norm(found - others.mean(0)) < 3 * spread
    nobody = decoded(jfu.geometric_median(), weights=WEIGHTS * 0)
    assert (nobody == 0).all()


def test_nearest_neighbours_are_mixed():
    rows = ROWS[THERE]
    found = decoded(jfu.mixed(jfu.trimmed_mean(0.25), 2))
    np.testing.assert_allclose(found, trimmed64(mixed64(rows, 2), 2), rtol=1e-5, atol=1e-6)
    found = decoded(jfu.mixed(jfu.coordinate_median(), 0))  # all mixed: everybody is the mean
    np.testing.assert_allclose(found, rows.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jfu.geometric_median(iterations=0), "iterations=0"),
        (lambda: jfu.geometric_median(iterations=2.5), "iterations=2.5"),
        (lambda: jfu.geometric_median(smoothing=0.0), "smoothing=0.0"),
        (lambda: jfu.mixed(jfu.weighted_mean(), 1), "must see single updates"),
        (lambda: jfu.mixed(jfu.coordinate_median(), -1), "byzantine=-1; it must"),
        (lambda: jfu.mixed(jfu.coordinate_median(), np.nan), "byzantine=nan; it must"),
    ],
)
def test_aggregators_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ---------------------------------------------------------------- a round under attack


def sends(rows, claims):
    def work(shared, client, key):
        mine = jax.tree.map(lambda u: u[client.id], rows)
        none = jnp.zeros(())
        return {"params": mine}, jfu.LocalInfo(jnp.asarray(claims)[client.id], none, none, none)

    return work


SIEGES = {
    "mean, weights": (jfu.weighted_mean(), adversaries.heavy(1e6, 3.0), None),
    "mean, too long": (jfu.weighted_mean(), adversaries.heavy(1e6, 3.0), 4.0),
    "mean, NaN": (jfu.weighted_mean(), adversaries.not_a_number(), None),
    "clipped, weights": (jfu.clipped_mean(2.0), adversaries.heavy(1e6, 3.0), None),
    "median, NaN": (jfu.coordinate_median(), adversaries.not_a_number(), None),
    "median, inner": (jfu.coordinate_median(), adversaries.inner_product(), None),
}


@pytest.mark.parametrize("name", SIEGES)
def test_a_besieged_round_is_one_in_which_the_bad_send_that(name):
    """The same as a round whose clients' work sends the attack's rows and claims its weights."""
    inner, attack, limit = SIEGES[name]
    there = [np.arange(int(w)) for w in WEIGHTS[:8]]
    clients = jfu.stack(np.zeros((9, 1)), np.zeros(9, int), there)
    honest, bad = f32(jax.tree.map(lambda u: u[:8], UPDATES)), jnp.asarray(BAD[:8])
    weights = jnp.asarray(WEIGHTS[:8], jnp.float32)
    zero = {"params": jax.tree.map(lambda u: jnp.zeros(u.shape[1:]), honest)}
    siege = adversaries.besieged(inner, attack, bad, max_update_norm=limit)
    besieged = jfu.fedavg(sends(honest, weights), aggregator=siege)
    found, _ = jax.jit(besieged.round)(besieged.init(zero), clients, jax.random.key(0))
    rows, claims = attack(honest, weights, bad, jax.random.key(0))
    real = jfu.fedavg(sends(rows, claims), aggregator=inner, max_update_norm=limit)
    wanted, _ = jax.jit(real.round)(real.init(zero), clients, jax.random.key(0))
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- what comparing all costs


def test_krum_says_what_it_costs_before_it_runs():
    many = jax.ShapeDtypeStruct((10_000, 50_000), jnp.float32)
    weights = jax.ShapeDtypeStruct((10_000,), jnp.float32)
    words = r"each of 10,000 clients with every other takes 5.0e\+12 operations .* 83 minutes"
    for aggregator in (jfu.krum(1), jfu.mixed(jfu.coordinate_median(), 1)):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(aggregator.decode, ({"a": many}, weights), (), jax.random.key(0))
    allowed = jfu.krum(1, most=1e13)
    jax.eval_shape(allowed.decode, ({"a": many}, weights), (), jax.random.key(0))
    aggregate.check_pairs(1000, 200_000)


def test_scripts_say_what_an_aggregator_cannot_do():
    """Before anything runs; and nothing where it can."""
    plain = dict(aggregator="mean", sample=0, trim=0.1, byzantine=1)
    of = lambda clients, size=10_000, **changes: federation.bearing(
        SimpleNamespace(**plain | changes), clients, size
    )
    assert of((10, 9)) == of((10, 9), aggregator="median") == []
    (note,) = of((10, 9), aggregator="trimmed", trim=0.1)
    assert "--trim=0.1 of 9 clients leaves out none" in note
    assert of((10, 9), aggregator="trimmed", trim=0.12) == []
    assert of((10, 10), aggregator="trimmed", trim=0.1) == []
    (note,) = of((10, 9), aggregator="krum", byzantine=4)
    assert "--byzantine=4 needs at least 11 clients, and there are 9" in note
    with pytest.raises(ValueError, match="each of 10,000 clients"):
        of((10_000, 9_999), 50_000, aggregator="krum")
    assert of((10_000, 9_999), 50_000, aggregator="krum", sample=50) == []
    (note,) = of((10_000, 9_999), 50_000, aggregator="median")
    assert "keeps all 10000 updates of a round in memory, which are 2.0 GB" in note


# ---------------------------------------------------------------- the table


def test_the_table_has_the_worst_strength_and_marks_what_was_withstood():
    rows = []
    for part in robustness.PARTS:
        for name in robustness.AGGREGATORS:
            for attack, (_, strengths) in robustness.ATTACKS.items():
                for place, strength in enumerate(strengths):
                    for bad in robustness.BAD:
                        value = 90.0 if attack == "none" else 90.0 - 3 * bad * place
                        accuracy = [value - 1, value + 1]
                        rows.append(
                            dict(partition=part, aggregator=name, attack=attack)
                            | dict(strength=strength, bad=bad, accuracy=accuracy)
                        )
    lines = robustness.markdown(rows).splitlines()
    assert len(lines) == 2 * (2 + len(robustness.AGGREGATORS)) + 1
    # Three strengths: 90 - 3 * bad * 2; within 5 points of 90 none but the mildest.
    assert lines[2].startswith("| `mean` | **90** | **90** / **90** / **90** |")
    assert "| 84 / 78 / 72 |" in lines[2]


@pytest.mark.slow
def test_attacks_break_the_mean_and_not_the_robust(monkeypatch):
    """Three of ten push ten times as hard the other way; the mean ends near a coin of ten sides."""
    monkeypatch.setattr(robustness, "ROUNDS", 20)
    data = robustness.read()
    for name, low, high in (("mean", 0.0, 0.4), ("median", 0.85, 1.0), ("geometric", 0.85, 1.0)):
        accuracy = robustness.program(name, "iid", data)("sign", 10.0, 1)
        assert low <= accuracy[2, 0] <= high, (name, accuracy)
