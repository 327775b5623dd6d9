"""Keys that nobody can guess: the cipher and what is drawn with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfu import chacha, privacy


def test_the_cipher_is_that_of_its_standard():
    """RFC 8439, sections 2.3.2 and 2.4.2: key 00 01 ... 1f, counters 1 and 2, two nonces."""
    words = jnp.asarray(np.frombuffer(bytes(range(32)), "<u4"))
    stream = lambda counters, nonce: np.asarray(
        chacha.blocks(
            words, jnp.asarray(counters, jnp.uint32), tuple(np.frombuffer(nonce, "<u4").tolist())
        )
    ).astype("<u4")
    block = stream([1], bytes.fromhex("000000090000004a00000000")).tobytes().hex()
    assert block.startswith("10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e")
    assert block.endswith("d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e")
    keystream = stream([1, 2], bytes.fromhex("000000000000004a00000000")).tobytes()
    text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    text += b"future, sunscreen would be it."
    sent = bytes(a ^ b for a, b in zip(text, keystream, strict=False)).hex()
    assert sent.startswith("6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b")
    assert sent.endswith("5af90bbf74a35be6b40b8eedf2785e42874d")


def test_draws_of_a_secret_key_are_the_ciphers_and_tell_of_no_other_key():
    secret = bytes(range(32))
    key = privacy.secret_key(secret)
    words = jnp.asarray(np.frombuffer(secret, "<u4"))
    block = lambda *nonce: np.asarray(chacha.blocks(words, jnp.arange(2, dtype=jnp.uint32), nonce))
    drawn = np.asarray(jax.random.bits(key, (5, 4), jnp.uint32))
    np.testing.assert_array_equal(drawn.ravel(), block(0, 0, 0).ravel()[:20])
    data = jax.random.key_data
    np.testing.assert_array_equal(data(jax.random.split(key)), block(1, 0, 0)[:, :8])
    np.testing.assert_array_equal(data(jax.random.fold_in(key, 1)), block(2, 0, 0)[1, :8])
    each = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(2))
    np.testing.assert_array_equal(data(each), block(2, 0, 0)[:, :8])
    with jax.enable_x64(True):
        wide = np.asarray(jax.random.bits(key, (3,), jnp.uint64))
    np.testing.assert_array_equal(
        wide.astype("<u8").view("<u4"), block(0, 0, 0).ravel()[[0, 3, 1, 4, 2, 5]]
    )
    with pytest.raises(ValueError, match="a seed is no secret"):
        jax.random.key(0, impl=jax.random.key_impl(key))
    with pytest.raises(ValueError, match="made of 31 bytes; it takes 32"):
        privacy.secret_key(secret[1:])
