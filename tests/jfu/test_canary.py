"""Canaries: their exposure against all candidates computed one by one in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfu import canary

VOCABULARY = tuple(" 0123456789iost")
RNG = np.random.default_rng(0)
W = RNG.normal(size=(15, 15)).astype(np.float32)
MODEL = {"params": {"w": W}}


def bigram(variables, x):
    """The next token by this token and the sum of all before it, so that order matters."""
    rows = variables["params"]["w"][x]
    return rows + 0.3 * jnp.cumsum(rows, 1)


def by_hand(ids):
    """Minus the logarithm of a text's likelihood at each place, in float64."""
    rows = W.astype(np.float64)[ids]
    logits = rows + 0.3 * np.cumsum(rows, 0)
    return np.log(np.exp(logits).sum(1)), logits


def test_exposure_is_the_rank_among_all_codes():
    one = canary.of_text("it is so 407", VOCABULARY, 12)
    assert "".join(VOCABULARY[i] for i in (*one.prefix, *one.code)) == "it is so 407"
    losses, said = jax.jit(canary.listener(bigram, one, 16))(MODEL)
    assert losses.shape == (1000,) and said.shape == (3,)
    wanted = []
    for code in itertools.product(range(10), repeat=3):
        ids = np.concatenate([one.prefix, one.digits[list(code)]])
        norm, logits = by_hand(ids)
        places = range(len(one.prefix) - 1, len(ids) - 1)
        wanted.append(sum(norm[t] - logits[t, ids[t + 1]] for t in places))
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    rank = 1 + sum(loss < wanted[407] for loss in wanted)
    found = canary.measures((losses, said), one)
    assert found["exposure"] == pytest.approx(np.log2(1000) - np.log2(rank), abs=1e-6)
    ids = np.concatenate([one.prefix, one.code])
    greedy = by_hand(ids)[1][len(one.prefix) - 1 : -1].argmax(1)
    assert said.tolist() == greedy.tolist()
    assert found["extracted"] == 100 * (greedy.tolist() == one.code.tolist())


def test_a_model_that_knows_the_code_gives_it_away():
    one = canary.of_text("it 12", VOCABULARY, 8)
    ids = np.concatenate([one.prefix, one.code])
    known = np.full((15, 15), -5.0, np.float32)
    known[ids[:-1], ids[1:]] = 5.0
    table = lambda variables, x: variables["params"]["w"][x]
    heard = canary.listener(table, one, 7)
    found = canary.measures(heard({"params": {"w": jnp.asarray(known)}}), one)
    assert found == dict(exposure=pytest.approx(np.log2(100), abs=1e-6), extracted=100.0)
    nothing = heard({"params": {"w": jnp.full((15, 15), jnp.nan)}})
    assert canary.measures(nothing, one) == dict(exposure=None, extracted=None)


def test_codes_of_a_model_that_knows_nothing_are_a_coin_in_the_mean():
    ranks = [canary.exposure(RNG.permutation(10_000), 7) for _ in range(2000)]
    assert np.mean(ranks) == pytest.approx(1 / np.log(2), abs=0.15)  # log2 e bits
    assert canary.exposure(np.zeros(10_000), 7) == pytest.approx(1, abs=1e-3)


def test_planted_texts_begin_with_the_canary_and_others_stay():
    one = canary.of_text("it 12", VOCABULARY, 5)
    x, y = RNG.integers(0, 15, (2, 3, 4))
    new_x, new_y = canary.planted(x, y, [2], one)
    whole = [*one.prefix, *one.code]
    assert new_x[2].tolist() == whole[:4] and new_y[2].tolist() == whole[1:]
    np.testing.assert_array_equal(new_x[:2], x[:2])
    np.testing.assert_array_equal(new_y[:2], y[:2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no code", "must be a sentence that ends in a code of 1 to 5 digits"),
        ("4519", "must be a sentence that ends in a code"),
        ("it 123456", "must be a sentence that ends in a code of 1 to 5"),
        ("it is quite so 1", "has 'q', 'u', 'e', which the vocabulary of 15 tokens lacks"),
        ("it is so it is so 12", "has 20 tokens, and texts have 16"),
    ],
)
def test_a_canary_that_is_none_is_a_sentence(text, said):
    with pytest.raises(ValueError, match=said):
        canary.of_text(text, VOCABULARY, 16)
