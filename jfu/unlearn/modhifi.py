"""ModHiFi: weights chosen by subset fidelity on forgotten examples, without labels or gradients.

The output c of a layer, without its bias, is a sum over inputs i: Y_c = sum_i A_ci. The fidelity of
a subset C of inputs says how well they alone reconstruct it, each scaled at will:

    FS_c(C) = max_d ( 1 - E||Y_c - sum_{i in C} d_i A_ci||^2 / E||Y_c||^2 )

    of one input:   s_ci = E<Y_c, A_ci>^2 / (E||A_ci||^2 E||Y_c||^2)

The means are over the forgotten examples and, in a convolution, over positions. For each output the
int(ratio n) of its n inputs with the largest s_ci are chosen, in every layer. If inputs do not
correlate, no other subset of that size has a larger fidelity. A layer with few inputs, such as a
convolution on pictures, may have none.

ModHiFi-U forgets a class so: the examples are those of the class, and what they need most is set to
zero. Here the choice is one that methods take in place of layers (``jfu.unlearn.chosen``), and
``zeroed`` is the paper's. It is the method's first round: leaving clients send sums for each weight
or filter. It answers other requests too, but what a client's examples need is what all others need.

Kashyap, Murti, Nayak, Narshana, Bhattacharyya. ModHiFi: Identifying High Fidelity Predictive
Components for Model Modification. NeurIPS 2025, arXiv 2511.19566. The definitions are the paper's,
read in texts that quote them; its code was not seen. The share of inputs was not found; with less
than 0.2 of them layers reach a fidelity of 0.8 there.

Differences: the authors take synthetic examples, here clients take their own. Layers whose kernel
is no matrix and no stack of filters, such as those of attention, have nothing chosen.

A_ci is computed by the layer itself, with all filters but those of input i at zero. So it is exact
for any stride and padding, and costs a forward pass for each input of each convolution and batch. A
dense layer shows as many of its inputs at once as it has outputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jfu.clients import sum_clients
from jfu.fedavg import summarise
from jfu.select import paths
from jfu.sums import wide
from jfu.types import (
    Broadcast,
    LocalInfo,
    Model,
    Needs,
    RoundInfo,
    Selector,
    Unlearner,
    check_counts,
    check_numbers,
)
from jfu.unlearn.chosen import if_finite, on_chosen, over_batches


def modhifi(
    model: Model,
    make: Callable[[Selector], Unlearner],
    *,
    ratio: float = 0.2,
    batch_size: int = 32,
    chunk: int | None = None,
) -> Unlearner:
    """A round that measures fidelity, then a method on the weights that forgotten examples need.

    Args:
      model: must have ``outputs``.
      make: the method on what a selector picks, as in ``on_chosen``; the paper's is ``zeroed``.
      ratio: the share of each output's inputs that is chosen, in [0, 1].
      batch_size: examples in a pass.

    Raises:
      ValueError: the model has no ``outputs``, or a number is out of range.

    >>> from jfu.unlearn.chosen import zeroed
    >>> modhifi(model, lambda selector: zeroed(fed, selector)).needs.target
    True
    """
    check_numbers("modhifi", "[0, 1]", ratio=ratio)
    check_counts("modhifi", 1, batch_size=batch_size)
    if model.outputs is None:
        raise ValueError("modhifi compares outputs of layers; give the Model a function `outputs`")
    work = sum_clients(_sums(model, model.outputs, batch_size), chunk=chunk)

    def choose(variables, request, key):
        shared = Broadcast(variables, jnp.zeros((), jnp.int32))
        sums, info = work(shared, request.forget, key)

        def mask(path, leaf):
            layer, _, name = path.rpartition("/")
            if name != "kernel" or layer not in sums:
                return jnp.zeros(leaf.shape, bool)
            return jnp.broadcast_to(best(fidelity(*sums[layer]), ratio), leaf.shape)

        params = variables["params"]
        masks = jax.tree.map(mask, paths(params), params)
        return masks, RoundInfo(info, summarise(info), request.retain.id)

    return on_chosen(choose, make, Needs(target=True, forget_data=True))


def fidelity(both: jax.Array, parts: jax.Array, whole: jax.Array) -> jax.Array:
    """The fidelity of each input alone, ``[I, O]`` in [0, 1]; 0 for what is always zero.

    Args:
      both: sums of Y_c A_ci ``[I, O]``.
      parts: sums of A_ci squared ``[I, O]``.
      whole: sums of Y_c squared ``[O]``.

    >>> # Y = 3 and A = 1, 2
    >>> fidelity(jnp.array([[3.0], [6.0]]), jnp.array([[1.0], [4.0]]), jnp.array([9.0])).tolist()
    [[1.0], [1.0]]
    """
    below = parts * whole[None]
    return jnp.where(below > 0, both**2 / jnp.where(below > 0, below, 1), 0)


def best(scores: jax.Array, ratio: float) -> jax.Array:
    """Marks, for each output, the ``int(ratio I)`` inputs with the largest of ``[I, O]`` scores.

    >>> best(jnp.array([[0.1, 0.9], [0.5, 0.2]]), 0.5).tolist()
    [[False, True], [True, False]]
    """
    rank = jnp.argsort(jnp.argsort(-scores, axis=0, stable=True), axis=0)
    return rank < int(ratio * scores.shape[0])


def _sums(model: Model, outputs: Callable, batch_size: int) -> Callable:
    """A leaving client's work: sums for the fidelity of each layer's inputs."""

    def work(shared, client, key):
        del key
        variables = shared.variables
        kernels = _kernels(model, variables["params"])

        def step(carry, batch):
            live = batch.mask

            def seen(layer, change):
                """The layer's output ``[B, P, O]`` with another kernel and no bias."""
                params = _without_bias(variables["params"], layer, change)
                out = outputs({**variables, "params": params}, batch.x)[layer]
                out = wide(out.reshape(out.shape[0], -1, out.shape[-1]))
                return jnp.where(live[:, None, None] > 0, out, 0)

            def of_filters(layer, kernel, whole):
                def of_input(i):
                    only = (jnp.arange(kernel.shape[-2]) == i)[:, None].astype(kernel.dtype)
                    part = seen(layer, kernel * only[None, None])
                    return (whole * part).sum((0, 1)), (part * part).sum((0, 1))

                return jax.lax.map(of_input, jnp.arange(kernel.shape[-2]))

            def of_dense(layer, kernel, whole):
                inputs, outputs = kernel.shape

                def block(number):  # output j shows input j of the block
                    rows = jnp.arange(inputs)[:, None] - number * outputs
                    return seen(layer, (rows == jnp.arange(outputs)[None]).astype(kernel.dtype))

                shown = jax.lax.map(block, jnp.arange(-(-inputs // outputs)))
                x = jnp.moveaxis(shown, 0, 2).reshape(*shown.shape[1:3], -1)[..., :inputs]
                weights = wide(kernel)
                both = jnp.tensordot(x, whole, ((0, 1), (0, 1))) * weights
                return both, (x * x).sum((0, 1))[:, None] * weights**2

            def of_layer(layer, kernel):
                whole = seen(layer, kernel)
                find = of_dense if kernel.ndim == 2 else of_filters
                return *find(layer, kernel, whole), (whole * whole).sum((0, 1))

            new = {layer: of_layer(layer, kernel) for layer, kernel in kernels.items()}
            return jax.tree.map(jnp.add, carry, new)

        start = {}
        for layer, kernel in kernels.items():
            shape = kernel.shape[-2:]
            zeros = jnp.zeros(shape, wide(kernel).dtype)
            start[layer] = zeros, zeros, zeros[0]
        sums, batches = over_batches(client, batch_size, step, start)
        passes = sum(1 + _passes(kernel) for kernel in kernels.values())
        live, none = client.mask.sum().astype(jnp.float32), jnp.float32(0)
        return if_finite(sums, LocalInfo(live, none, none, (passes * batches).astype(jnp.float32)))

    return work


def _passes(kernel: jax.Array) -> int:
    """The passes that show all inputs of a layer."""
    inputs, outputs = kernel.shape[-2:]
    return -(-inputs // outputs) if kernel.ndim == 2 else inputs


def _kernels(model: Model, params) -> dict[str, jax.Array]:
    """Kernels ``[I, O]`` and ``[height, width, I, O]`` by layer."""
    found = dict(zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params), strict=True))
    kernels = {layer: found.get(f"{layer}/kernel") for layer in model.layers}
    kernels = {k: v for k, v in kernels.items() if v is not None and v.ndim in (2, 4)}
    if not kernels:
        raise ValueError(
            f"modhifi chooses among the inputs of dense and convolutional layers with a kernel, "
            f"and this model has none; its layers are {', '.join(model.layers) or 'not named'}"
        )
    return kernels


def _without_bias(params, layer: str, kernel: jax.Array):
    """The parameters with another kernel in a layer, and a bias of zero."""

    def one(path, leaf):
        if path == f"{layer}/kernel":
            return kernel
        return jnp.zeros_like(leaf) if path == f"{layer}/bias" else leaf

    return jax.tree.map(one, paths(params), params)
