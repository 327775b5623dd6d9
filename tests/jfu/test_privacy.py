"""Client-level differential privacy: the mechanism by hand, the accountant by the formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from jfu import privacy

U = jnp.array([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]])


def total(aggregator, updates, weights):
    sent = [aggregator.encode({"a": u}, w) for u, w in zip(updates, weights, strict=True)]
    return jax.tree.map(lambda *leaves: sum(leaves), *sent)


def test_the_mean_of_clipped_updates_by_hand():
    """Lengths 5, 0.5 and 10, clipped to 1: (0.6 + 0.3 + 0.6, 0.8 + 0.4 + 0.8) / 3."""
    mean = privacy.private_mean(1.0, 0.0, 3)
    found, _ = mean.decode(total(mean, U, jnp.array([7.0, 1, 2])), (), jax.random.key(0))
    np.testing.assert_allclose(found["a"], [0.5, 2 / 3], rtol=1e-6)
    # One who stays away leaves the divisor as it is.
    found, _ = mean.decode(total(mean, U, jnp.array([7.0, 1, 0])), (), jax.random.key(0))
    np.testing.assert_allclose(found["a"], [0.3, 0.4], rtol=1e-6)


def test_one_client_moves_the_sum_by_at_most_the_clip():
    mean = privacy.private_mean(2.0, 1.0, 3)
    for scale in (1e-3, 1.0, 1e12):
        with_it = total(mean, U * scale, jnp.array([1.0, 1, 1000]))
        without = total(mean, U * scale, jnp.array([1.0, 1, 0]))
        assert np.linalg.norm(with_it["a"] - without["a"]) <= 2 * (1 + 1e-6)


def test_the_noise_has_the_width_that_is_accounted_for():
    mean = privacy.private_mean(2.0, 1.5, 4)
    zeros = {"a": jnp.zeros(20000), "b": jnp.zeros((100, 100))}
    found, _ = jax.jit(mean.decode)(zeros, (), jax.random.key(1))
    for leaf in found.values():
        assert float(leaf.std()) == pytest.approx(1.5 * 2 / 4, rel=0.03)
        assert abs(float(leaf.mean())) < 0.03
    other, _ = mean.decode(zeros, (), jax.random.key(2))
    assert not np.allclose(other["a"], found["a"])
    assert abs(np.corrcoef(found["a"][:10000], found["b"].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_client_that_sends_no_number_counts_as_one_that_sends_zeros(bad):
    mean = privacy.private_mean(1.0, 0.0, 3)
    for sent in (U.at[1, 0].set(bad), U.at[1].set(bad)):
        found, _ = mean.decode(total(mean, sent, jnp.array([7.0, bad, 2])), (), jax.random.key(0))
        np.testing.assert_allclose(found["a"], [0.4, 1.6 / 3], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e18, 1e19, 1e37])
def test_a_long_update_is_clipped_whatever_its_squares_are(scale):
    """Of (3, 4) times the scale 3/5 and 4/5 of the clip are left, or all of it if it is short."""
    sent = privacy.private_mean(2.0, 0.0, 3).encode({"a": jnp.array([3.0, 4.0]) * scale}, 1.0)
    wanted = np.array([3.0, 4.0]) * min(scale, 0.4)
    np.testing.assert_allclose(sent["a"], wanted, rtol=1e-5, atol=1e-37)


def test_sums_and_noise_of_bfloat16_parameters_are_of_float32():
    """A thousand updates of 2^-9 are 1.95, where a sum in bfloat16 stays at 0.5; noise is fine."""
    mean = privacy.private_mean(1.0, 0.0, 1000)
    one = mean.encode({"a": jnp.full(2, 2.0**-9, jnp.bfloat16)}, jnp.float32(1))
    add = lambda i, total: jax.tree.map(jnp.add, total, one)
    whole = jax.lax.fori_loop(0, 1000, add, {"a": jnp.zeros(2)})
    assert one["a"].dtype == jnp.float32
    found, _ = mean.decode(whole, (), privacy.secret_key())
    np.testing.assert_allclose(found["a"], 2.0**-9, rtol=1e-6)
    noisy, _ = privacy.private_mean(1.0, 1.0, 1).decode(
        {"a": jnp.zeros(9999)}, (), jax.random.key(0)
    )
    assert len(np.unique(noisy["a"])) > 9990  # of bfloat16 there would be a few hundred


def test_no_client_can_stop_a_round(data, variables):
    """One sends NaN, one claims a weight of 1e30: the model is finite, and moves no further."""

    def work(shared, client, key):
        del key
        bad, one = client.id == 2, jnp.ones(())
        value = jnp.where(bad, jnp.nan, client.id + 1.0)
        update = jax.tree.map(lambda a: jnp.full(a.shape, value), dict(shared.variables))
        weight = jnp.where(client.id == 5, 1e30, jnp.where(bad, jnp.nan, 1.0))
        return update, jfu.types.LocalInfo(weight, one, one, one)

    fed = jfu.fedavg(work, aggregator=privacy.private_mean(0.5, 0.0, 3))
    state, info = jax.jit(fed.round)(fed.init(variables), data, privacy.secret_key())
    moved = optax.tree.sub(state.params, variables["params"])
    # Two of three clients, both along (1, 1, ...), each of length 0.5.
    assert float(optax.tree.norm(moved)) == pytest.approx(2 * 0.5 / 3, rel=1e-5)
    assert float(info.metrics["not_applied"]) == 0


def test_a_federation_trains_under_it(data, local, variables):
    aggregator = privacy.private_mean(0.5, 0.01, 3)
    fed = jfu.fedavg(local, aggregator=aggregator)
    state, step = fed.init(variables), jax.jit(fed.round)
    for done in jfu.rounds(step, state, data, jax.random.key(0), stop=3):
        moved = optax.tree.norm(optax.tree.sub(done.state.params, variables["params"]))
        assert float(moved) <= 3 * (0.5 + 0.1)
    assert done.info.metrics["clients"] == 3


def test_epsilon_of_the_gaussian_mechanism():
    """min over orders of T a / (2 z^2) + the conversion of Canonne et al. (2020), from theory."""
    pytest.importorskip("dp_accounting")
    z, rounds, delta = 4.0, 30, 1e-5

    def bound(order):
        return (
            rounds * order / (2 * z * z)
            + math.log1p(-1 / order)
            - math.log(delta * order) / (order - 1)
        )

    wanted = min(bound(1 + k / 100) for k in range(1, 6000))
    found = privacy.spent(z, rounds, delta)
    assert wanted - 1e-9 <= found <= wanted * 1.01
    # Chance that decides who takes part helps; replacing a client is twice removing one.
    assert privacy.spent(z, rounds, delta, present=0.1) < found / 3
    assert privacy.spent(z, rounds, delta, present=1.0) == found
    whole = privacy.spent(z, rounds, delta, sample=(10, 10))
    assert whole == pytest.approx(privacy.spent(z / 2, rounds, delta), rel=0.05)
    assert privacy.spent(z, rounds, delta, sample=(100, 10)) < whole
    assert privacy.spent(z, 2 * rounds, delta) > found
    assert privacy.spent(0, rounds, delta) == math.inf and privacy.spent(z, 0, delta) == 0


def test_senseless_privacy_is_refused():
    with pytest.raises(ValueError, match="noise=-1, cohort=3"):
        privacy.private_mean(1.0, -1, 3)
    good = (1.0, 1.0, 3.0)
    for place in range(3):
        for bad in (math.nan, math.inf, -1.0):
            with pytest.raises(ValueError, match="above 0, and all finite"):
                privacy.private_mean(*good[:place], bad, *good[place + 1 :])
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=f"with noise {bad}; it must be a finite number"):
            privacy.spent(bad, 3, 0.5)
    with pytest.raises(ValueError, match="delta=1.5"):
        privacy.spent(1.0, 3, 1.5)
    for rounds in (-1, math.nan, 1.5, True):  # for numbers that are none it gave 0
        with pytest.raises(ValueError, match="rounds must be whole and at least 0"):
            privacy.spent(1.0, rounds, 0.5)


def test_phases_add_up_and_few_clients_cost_more(monkeypatch):
    """Of ten clients four leave: a round then reveals more; a round's cost is worked out once."""
    pytest.importorskip("dp_accounting")
    monkeypatch.setattr(privacy, "ORDERS", (2, 4, 8, 16))
    privacy._one_round.cache_clear()
    z, delta = 2.0, 1e-3
    both = privacy.composed(z, [(20, 10), (10, 6)], delta, drawn=5)
    assert both > privacy.spent(z, 30, delta, sample=(10, 5))
    assert both < privacy.spent(z, 30, delta, sample=(6, 5))
    assert privacy.composed(z, [(20, 10), (10, 10)], delta, drawn=5) == pytest.approx(
        privacy.spent(z, 30, delta, sample=(10, 5))
    )
    # More than there are: all of them, as `sampled` has it.
    assert privacy.spent(z, 30, delta, sample=(4, 9)) == privacy.spent(z, 30, delta, sample=(4, 4))
    assert privacy._one_round.cache_info().misses == 3  # (10, 5), (6, 5), (4, 4)
    privacy._one_round.cache_clear()
    with pytest.raises(ValueError, match="with 0 clients drawn of 4; both must be at least 1"):
        privacy.spent(z, 3, delta, sample=(4, 0))


# ---------------------------------------------------------------- keys that nobody can guess


def test_noise_of_a_secret_key_is_gaussian_and_comes_twice_from_the_same_bytes_alone():
    from scipy import stats

    secret = bytes(range(32))
    draw = lambda key: np.asarray(
        jax.jit(privacy.gaussian, static_argnums=(1, 2))(key, 40000, jnp.float32)
    )
    noise = draw(privacy.secret_key(secret))
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(noise.std() - 1) < 0.02 and abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.02
    np.testing.assert_array_equal(noise, draw(privacy.secret_key(secret)))
    fresh = [draw(privacy.secret_key()) for _ in range(2)]
    for one, other in ((fresh[0], fresh[1]), (fresh[0], noise)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_a_guess_of_the_sum_is_not_confirmed_by_the_values_that_noise_can_take():
    """Of single float32 draws there are 2^23 values: a number less the true sum is one of them."""
    secret, guess = np.float32(0.3), np.float32(0.30001)
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.arange(2**23, dtype=jnp.float32) * 2.0**-23 * (1 - low) + low
    values = np.sort(
        np.asarray(jax.jit(lambda u: np.float32(2**0.5) * jax.lax.erf_inv(u))(uniform))
    )

    def agree(noise, guess):
        """The share of published numbers that the guess and one of the values give."""
        public = noise + secret
        near = np.searchsorted(values, public - guess)[:, None] + np.arange(-3, 4)
        return (values[near.clip(0, len(values) - 1)] + guess == public[:, None]).any(1).mean()

    single = np.asarray(jax.random.normal(jax.random.key(0), (2000,)))
    assert agree(single, secret) > 0.99 and agree(single, guess) < 0.5
    summed = np.asarray(privacy.gaussian(jax.random.key(0), 2000, jnp.float32))
    assert agree(summed, secret) < 0.3 and agree(summed, guess) < 0.3
