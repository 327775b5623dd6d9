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
    with pytest.raises(ValueError, match="noise -1 and a cohort of 3"):
        privacy.private_mean(1.0, -1, 3)
    with pytest.raises(ValueError, match="delta=1.5"):
        privacy.spent(1.0, 3, 1.5)


def test_phases_add_up_and_few_clients_cost_more(monkeypatch):
    """Of ten clients four go: a round then tells more; a round's cost is worked out once."""
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
