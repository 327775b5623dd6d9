"""Random streams that never meet."""

import jax

from helpers.federation import bits
from launch.setup import keys


def test_what_is_past_leads_to_keys_that_nothing_else_draws_with():
    """Numbers of rounds and the halves of a split are counters of keys, as numbers of pasts are."""
    key, drawn = jax.random.key(7), []
    for past in ((), ("-client:0",), ("-client:0", "+client:0")):
        stream = keys.run(key, "not", past)
        perturb, rounds = jax.random.split(stream)
        inside = [jax.random.fold_in(rounds, number) for number in range(4)]
        halves = [half for one in inside for half in jax.random.split(one)]
        drawn += [bits(jax.random.key_data(k)) for k in (stream, perturb, rounds, *inside, *halves)]
    assert len(set(drawn)) == len(drawn)
    plain = jax.random.fold_in(key, keys.RECOVER)  # what runs without a past have always had
    assert drawn[0] == bits(jax.random.key_data(plain))
