"""Costs, read off the functions that run: bytes from types, FLOPs from one compiled step."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jfu.types import Batch, Broadcast, ClientData, ClientFn, LossFn, PyTree, Variables


def nbytes(tree: PyTree) -> int:
    """Bytes of all arrays, or shapes, of a pytree.

    >>> nbytes({"w": jnp.zeros((3, 4)), "b": jnp.zeros(4, jnp.bfloat16)})
    56
    """
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(a.shape) * jnp.dtype(a.dtype).itemsize for a in leaves)


def entries(tree: PyTree) -> int:
    """The total number of elements in a pytree of arrays or shapes.

    >>> entries({"w": jax.ShapeDtypeStruct((3, 4), jnp.float32), "b": jnp.zeros(4)})
    16
    """
    return sum(math.prod(np.shape(a)) for a in jax.tree.leaves(tree))


def wire(send: ClientFn, variables: Variables, clients: ClientData) -> tuple[int, int]:
    """Bytes that cross the network for one client in one round, ``(down, up)``.

    The types at the client's boundary: what it is sent, and everything it returns (its
    encoded update and its scalars). Nothing is run.

    Args:
      send: ``jfu.sender(local, aggregator)``.
    """
    abstract = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    one = clients._replace(
        index=clients.index[0], mask=clients.mask[0], id=jnp.zeros((), jnp.int32)
    )
    shared = Broadcast(variables, jnp.zeros((), jnp.int32))
    shared, one = jax.tree.map(abstract, (shared, one))
    sent = jax.eval_shape(send, shared, one, jax.random.key(0))
    return nbytes(shared), nbytes(sent)


def step_flops(loss: LossFn, variables: Variables, batch: Batch, *, forward: bool = False) -> float:
    """Floating-point operations of the loss and its gradient on one batch, by XLA's count.

    Count one step and multiply by the steps taken: XLA counts the body of a loop once,
    however often it runs. Use stock convolutions, so that the count is the mathematics',
    not that of a faster way to run it.

    Args:
      forward: counts the loss alone, without its gradient.

    >>> loss = lambda variables, batch, key: (batch.x @ variables["params"]).sum()
    >>> batch = Batch(jnp.ones((8, 16)), jnp.zeros(8, jnp.int32), jnp.ones(8))
    >>> step_flops(loss, {"params": jnp.ones((16, 4))}, batch) >= 2 * 8 * 16 * 4
    True
    """

    def slope(params, rest, batch, key):
        value = lambda p: jax.tree.leaves(loss({**rest, "params": p}, batch, key))[0]
        return value(params) if forward else jax.value_and_grad(value)(params)

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    lowered = jax.jit(slope).lower(variables["params"], rest, batch, jax.random.key(0))
    analysis = lowered.cost_analysis() or {}
    return float(analysis["flops"])
