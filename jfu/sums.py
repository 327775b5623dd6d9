"""Sums in at least float32, whatever the type of the summands.

bfloat16 has eight significant bits, so a sum of a thousand ones in it ends at 256. float16 ends at
65,504. Sums over clients and sums of squares are therefore made in float32. float64 stays float64,
and integers are averaged as floats and rounded. The result is converted to the model's type once,
at the end.

For float32 parameters this changes no bit. With ``jax_enable_x64`` a round also returns the types
that it gets.
"""

import jax
import jax.numpy as jnp
import optax

from jfu.types import PyTree


def wide(tree: PyTree) -> PyTree:
    """Every leaf in the type in which it is summed.

    >>> wide({"a": jnp.ones(2, jnp.bfloat16), "n": jnp.ones(2, int)})
    {'a': Array([1., 1.], dtype=float32), 'n': Array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda a: jnp.asarray(a).astype(_type(a)), tree)


def summable(tree: PyTree) -> PyTree:
    """Every leaf in the type of a plain sum: floats as in ``wide``, bools and small integers int32.

    >>> summable({"a": jnp.ones((), jnp.float16), "n": jnp.ones((), bool)})
    {'a': Array(1., dtype=float32), 'n': Array(1, dtype=int32)}
    """

    def one(a):
        if jnp.issubdtype(a.dtype, jnp.inexact):
            return a.astype(_type(a))
        return a.astype(jnp.int32) if a.dtype.itemsize < 4 else a

    return jax.tree.map(one, tree)


def narrow(tree: PyTree, like: PyTree) -> PyTree:
    """Every leaf in the type that it has in ``like``; integers are rounded.

    >>> narrow(jnp.array([0.5, 1.6]), jnp.zeros(2, int)).tolist()
    [0, 2]
    """

    def one(a, like):
        whole = jnp.issubdtype(like.dtype, jnp.integer)
        return (jnp.round(a) if whole else a).astype(like.dtype)

    return jax.tree.map(one, tree, like)


def plus(tree: PyTree, change: PyTree) -> PyTree:
    """``tree + change`` in the types of ``tree``: floats rounded once, integers added as such.

    >>> plus(jnp.array([2**30 + 1]), jnp.array([2.0])).tolist()
    [1073741827]
    """

    def one(a, change):
        whole = jnp.issubdtype(a.dtype, jnp.integer)
        return (a + (narrow(change, a) if whole else change)).astype(a.dtype)

    return jax.tree.map(one, tree, change)


def squares(tree: PyTree) -> jax.Array:
    """The sum of all squares, scalar.

    >>> squares(jnp.full(4, 300, jnp.float16))  # beyond the largest float16
    Array(360000., dtype=float32)
    """
    return optax.tree.norm(wide(tree), squared=True)


def norm(tree: PyTree) -> jax.Array:
    """Euclidean norm of all leaves together, scalar."""
    return optax.tree.norm(wide(tree))


def _type(a: jax.Array) -> jnp.dtype:
    if jnp.issubdtype(a.dtype, jnp.inexact):
        return jnp.promote_types(a.dtype, jnp.float32)
    return jnp.result_type(float)  # float32, or float64 with jax_enable_x64
