"""Keys of 256 bits for ``jax.random``, whose draws are those of a cipher: ChaCha20.

    block(key, counter, nonce) = s + 10 double rounds of s,   s = (constants, key, counter, nonce)

JAX's own keys have 64 bits and a generator that is made for statistics: with enough machines all
of them can be tried. Noise that hides something needs more. Keys from here work like any other,
with ``jax.random.split``, ``fold_in``, ``normal`` and the like. A draw is the key's own stream. A
key that is split off or folded in is half a block of another stream, with another nonce. So no draw
reveals the keys that come from the same one.

Y. Nir and A. Langley. ChaCha20 and Poly1305 for IETF Protocols. RFC 8439, 2018 (the block function
is D. J. Bernstein's, 2008).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

BYTES = 32  # of a key
_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")
# The streams of a key, by their nonces.
_DRAWN, _SPLIT, _FOLDED = (0, 0, 0), (1, 0, 0), (2, 0, 0)


def key(content: bytes) -> jax.Array:
    """A key from 32 bytes, for ``jax.random``.

    >>> draw = key(bytes(range(32)))
    >>> draw.shape, jax.random.split(draw).shape, jax.random.bits(draw, dtype=jnp.uint32).shape
    ((), (2,), ())
    """
    if len(content) != BYTES:
        raise ValueError(f"a key was to be made of {len(content)} bytes; it takes {BYTES}")
    words = jnp.asarray(np.frombuffer(content, "<u4").astype(np.uint32))
    return jax.random.wrap_key_data(words, impl=_chacha())


def is_key(key: jax.Array) -> bool:
    """Whether a key, which may be traced, is one of these.

    >>> is_key(key(bytes(32))), is_key(jax.random.key(0))
    (True, False)
    """
    return jax.random.key_impl(key) == _chacha()


@functools.partial(jax.jit, static_argnums=2)  # compiled once also for who folds in eagerly
def blocks(words: jax.Array, counter: jax.Array, nonce: tuple[int, ...]) -> jax.Array:
    """The cipher's block function, ``(uint32 [8], uint32 [n], 3 words) -> uint32 [n, 16]``."""
    many = counter.shape[0]
    row = lambda some: jnp.broadcast_to(jnp.asarray(some, jnp.uint32)[:, None], (len(some), many))
    last = jnp.concatenate([counter[None], row(nonce)])
    start = (row(_CONSTANTS), row(words[:4]), row(words[4:]), last)

    def double_round(_, state):
        a, b, c, d = _quarter_round(*state)  # of the four columns
        b, c, d = (jnp.roll(x, -by, axis=0) for by, x in enumerate((b, c, d), 1))
        a, b, c, d = _quarter_round(a, b, c, d)  # of the diagonals, which are columns now
        return a, *(jnp.roll(x, by, axis=0) for by, x in enumerate((b, c, d), 1))

    end = jax.lax.fori_loop(0, 10, double_round, start)
    return (jnp.concatenate(start) + jnp.concatenate(end)).T


def _quarter_round(a, b, c, d):
    turn = lambda word, by: (word << by) | (word >> (32 - by))
    a += b
    d = turn(d ^ a, 16)
    c += d
    b = turn(b ^ c, 12)
    a += b
    d = turn(d ^ a, 8)
    c += d
    b = turn(b ^ c, 7)
    return a, b, c, d


def _bits(words: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    size = math.prod(shape)
    each = max(1, width // 32)
    many = -(-size * each // 16)
    if many > 2**32:
        raise ValueError(f"{size} numbers were to be drawn at once from one key; split it")
    stream = blocks(words, jnp.arange(many, dtype=jnp.uint32), _DRAWN).reshape(-1)[: size * each]
    if width == 64:
        low, high = (half.astype(jnp.uint64) for half in stream.reshape(2, size))
        return (high << 32 | low).reshape(shape)
    return stream.astype(jnp.dtype(f"uint{width}")).reshape(shape)


def _split(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    counter = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return blocks(words, counter, _SPLIT)[:, :8].reshape(*shape, 8)


def _fold_in(words: jax.Array, number: jax.Array | int) -> jax.Array:
    return blocks(words, jnp.asarray(number, jnp.uint32)[None], _FOLDED)[0, :8]


def _seed(number: jax.Array) -> jax.Array:
    raise ValueError(
        "a seed is no secret, and keys of this kind are made of secrets; use "
        "jfu.privacy.secret_key()"
    )


@functools.cache  # JAX registers a name once
def _chacha():
    # Imported here, since it is a tenth of the time of ``import jfu``.
    from jax.extend.random import define_prng_impl

    return define_prng_impl(
        key_shape=(8,),
        seed=_seed,
        split=_split,
        random_bits=_bits,
        fold_in=_fold_in,
        name="chacha20",
        tag="cha",
    )
