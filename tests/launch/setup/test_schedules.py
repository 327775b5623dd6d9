"""Rates by round, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.workdirs import PLAIN, PRIVATE, changed
from launch.setup import federation, private, schedules
from launch.setup.study import recovering


def test_steps_are_at_half_and_three_quarters_of_the_rounds():
    """Of 182 rounds, as in the centralised recipe, at 91 and 136."""
    rate = jax.jit(schedules.schedule("step:0.1", 0.1, 182))
    places = (0, 90, 91, 135, 136, 181, 500)
    by_hand = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]
    np.testing.assert_allclose([rate(n) for n in places], by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    ("rounds", "by_hand"), [(1, [1.0, 0.5]), (2, [1.0, 0.5]), (3, [1.0, 0.5, 0.25])]
)
def test_steps_of_few_rounds(rounds, by_hand):
    rate = schedules.schedule("step:0.5", 1.0, rounds)
    np.testing.assert_allclose([rate(n) for n in range(len(by_hand))], by_hand)


def test_a_cosine_ends_where_it_is_told_to():
    """0.1 to 0.0001 in 50 rounds; after 25 the mean of both, after a tenth cos(18 degrees)."""
    rate = jax.jit(schedules.schedule("cosine:0.0001", 0.1, 50))
    tenth = 0.0001 + 0.0999 * (1 + math.cos(math.pi / 10)) / 2
    by_hand = [0.1, tenth, 0.05005, 0.0001, 0.0001]
    np.testing.assert_allclose([rate(n) for n in (0, 5, 25, 50, 80)], by_hand, rtol=1e-5)


LOSS = lambda variables, batch, key: (batch.x @ variables["params"]).sum()


def steps(config, lr, rounds):
    """The lengths of steps down a linear loss, which are the rates."""
    data = jfu.stack(np.ones((1, 1)), np.zeros(1, int), [[0]])
    fed, _, _ = federation.build(changed(config, batch_size=1), LOSS, lr, 0, 1)
    step, state, places = jax.jit(fed.round), fed.init({"params": jnp.zeros(1)}), [0.0]
    for number in range(rounds):
        state, _ = step(state, data, jax.random.key(number))
        places.append(float(state.params[0]))
    assert step._cache_size() == 1
    return -np.diff(places)


def test_training_and_recovery_have_schedules_of_their_own():
    config = changed(PLAIN, rounds=8, recovery_rounds=4, lr_schedule="step:0.5")
    config = changed(config, recovery_lr_schedule="cosine:0.2")
    by_hand = [0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    np.testing.assert_allclose(steps(config, 0.4, 8), by_hand, rtol=1e-4)
    half = math.cos(math.pi / 4) / 2
    by_hand = [1.0, 0.2 + 0.8 * (0.5 + half), 0.6, 0.2 + 0.8 * (0.5 - half), 0.2]
    np.testing.assert_allclose(steps(recovering(config), 1.0, 5), by_hand, rtol=1e-4)


def test_a_warm_up_multiplies_a_schedule_and_lr_decay_does_not():
    config = changed(PLAIN, rounds=4, lr_schedule="step:0.5", warmup_rounds=2, lr_decay=0.9)
    np.testing.assert_allclose(steps(config, 1.0, 4), [0.5, 1.0, 0.5, 0.25], rtol=1e-4)
    calm = recovering(changed(config, recovery_lr_schedule="constant", recovery_warmup_rounds=0))
    np.testing.assert_allclose(steps(calm, 1.0, 3), [1.0, 0.9, 0.81], rtol=1e-4)


def test_without_a_schedule_training_and_recovery_are_one_configuration():
    """So they are one compiled program, whatever their numbers of rounds."""
    assert recovering(PLAIN) == PLAIN
    both = dict(lr_schedule="step:0.1", recovery_lr_schedule="step:0.1")
    assert recovering(changed(PLAIN, **both)).rounds == PLAIN.recovery_rounds


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(lr_schedule="steps"), "--lr_schedule=steps is not understood; write constant, step:"),
        (dict(recovery_lr_schedule="step:"), "--recovery_lr_schedule=step: is not understood"),
        (dict(lr_schedule="cosine:-1"), "--lr_schedule=cosine:-1 is not understood"),
        (dict(lr_schedule="step:2"), "--lr_schedule=step:2 does not lower the rate; give a factor"),
        (dict(lr_schedule="cosine:0.1"), "cosine:0.1 does not lower the rate of 0.1; give an end"),
    ],
)
def test_what_is_no_schedule_is_refused(changes, words):
    with pytest.raises(ValueError) as caught:
        federation.check(changed(PLAIN, **changes))
    assert words in str(caught.value)


def test_schedules_that_are_taken():
    for text in ("constant", "step:0.1", "step:.5", "cosine:0", "cosine:0.0001", "cosine:1e-4"):
        federation.check(changed(PLAIN, lr_schedule=text))


def test_noise_from_the_seed_is_that_of_before_there_were_schedules():
    """Numbers of a private run without a schedule, as an earlier version drew them."""
    key = jax.random.key(0)
    data = lambda config: jax.random.key_data(private.apart(key, config, "not")).tolist()
    assert data(PRIVATE) == [4243648857, 2441987188]
    assert data(changed(PRIVATE, lr_schedule="step:0.1")) != data(PRIVATE)
