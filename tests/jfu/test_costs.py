"""Costs against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu


def _loss(variables, batch, key):
    params = variables["params"]
    return jfu.cross_entropy(batch.x @ params["w"] + params["b"][None], batch)


def _start(features=4, classes=3):
    return {"params": {"w": jnp.zeros((features, classes)), "b": jnp.zeros(classes)}}


def _send(**settings):
    return jfu.sender(jfu.local_sgd(_loss, optax.sgd(0.1)), jfu.weighted_mean())


def test_nbytes_counts_arrays_and_shapes():
    tree = {"a": np.zeros((2, 3), np.uint8), "b": (jnp.zeros(4, jnp.bfloat16), jnp.int32(1))}
    assert jfu.nbytes(tree) == 6 + 8 + 4
    assert jfu.nbytes(jax.eval_shape(lambda: tree)) == 18
    assert jfu.nbytes(()) == 0


@pytest.mark.parametrize("slots", [1, 50])
def test_wire_by_hand(slots):
    """Down: 15 parameters and the round. Up: 15 and a weight, five scalars; no examples."""
    data = jfu.stack(np.zeros((50, 4)), np.zeros(50, int), [range(slots), [0]])
    assert jfu.wire(_send(), _start(), data) == (15 * 4 + 4, 15 * 4 + 4 + 5 * 4)


def test_wire_counts_statistics_and_what_an_encoding_saves():
    """Float16 updates and a running mean that is sent both ways."""
    data = jfu.stack(np.zeros((2, 4)), np.zeros(2, int), [[0], [1]])
    mean = jfu.weighted_mean()
    half = lambda update, weight: (
        jax.tree.map(lambda u: u.astype(jnp.float16), update),
        weight,
    )
    send = jfu.sender(jfu.local_sgd(_loss, optax.sgd(0.1)), mean._replace(encode=half))
    variables = {**_start(), "stats": jnp.zeros(5)}
    assert jfu.wire(send, variables, data) == (20 * 4 + 4, 20 * 2 + 4 + 20)


def test_wire_runs_nothing():
    """Shapes are enough, for models that would not fit."""
    data = jfu.stack(np.zeros((2, 1)), np.zeros(2, int), [[0], [1]])
    huge = jax.eval_shape(lambda: _start(1, 10**9))
    assert jfu.wire(_send(), huge, data) == (8 * 10**9 + 4, 8 * 10**9 + 4 + 20)


def _batch(many, features):
    return jfu.Batch(jnp.ones((many, features)), jnp.zeros(many, jnp.int32), jnp.ones(many))


def test_step_flops_of_a_linear_model():
    """Two products of 2 B D C each: the logits and the gradient of the weights."""
    many, features, classes = 32, 300, 50
    flops = jfu.step_flops(_loss, _start(features, classes), _batch(many, features))
    np.testing.assert_allclose(flops, 2 * 2 * many * features * classes, rtol=0.03)


def test_step_flops_of_two_layers():
    """Three products for every layer but the first, whose inputs need no gradient."""
    sizes = (200, 300, 100)
    start = {"params": [jnp.ones((sizes[0], sizes[1])), jnp.ones((sizes[1], sizes[2]))]}

    def loss(variables, batch, key):
        first, second = variables["params"]
        return jfu.cross_entropy(batch.x @ first @ second, batch)

    flops = jfu.step_flops(loss, start, _batch(32, sizes[0]))
    by_hand = 2 * 32 * (2 * sizes[0] * sizes[1] + 3 * sizes[1] * sizes[2])
    np.testing.assert_allclose(flops, by_hand, rtol=0.03)


def test_step_flops_ignore_other_outputs_and_collections():
    plain = jfu.step_flops(_loss, _start(), _batch(8, 4))
    with_stats = lambda v, batch, key: (_loss(v, batch, key), {"stats": v["stats"]})
    assert jfu.step_flops(with_stats, {**_start(), "stats": jnp.ones(3)}, _batch(8, 4)) == plain


def test_a_loop_counts_once_however_often_it_runs():
    """The trap that is the reason to count one step and multiply."""

    def loop(times):
        def loss(variables, batch, key):
            w = variables["params"]
            turn = lambda x, _: (x @ w, None)
            return jax.lax.scan(turn, batch.x, length=times)[0].sum()

        return loss

    start = {"params": jnp.ones((64, 64))}
    few, many = (jfu.step_flops(loop(n), start, _batch(16, 64)) for n in (2, 200))
    one = 3 * 2 * 16 * 64 * 64
    np.testing.assert_allclose(few, one, rtol=0.1)
    np.testing.assert_allclose(many, one, rtol=0.2)
