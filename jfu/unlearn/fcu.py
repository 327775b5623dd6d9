"""FCU: move from the old features to those of an untrained network, in high frequencies only.

The leaving client starts from the trained model w* and repeats three steps. First, it draws an
untrained network w_deg. Second, it takes ``every`` steps on its own data that minimise

    -log( e^(s1 / tau) / (e^(s0 / tau) + e^(s1 / tau)) )
    s0 = cos(h_w(x), h_w*(x)),   s1 = cos(h_w(x), h_w_deg(x)),   h: the last layer's input

Third, it restores the low frequencies of the weights. In the two-dimensional spectrum of each
kernel, the central box of amplitudes and all phases are set to those of w*. Norms and biases are
set to those of w* entirely. After this round the others train on.

Deng, Luo, Chen. Enable the Right to be Forgotten with Federated Client Unlearning in Medical
Imaging. MICCAI 2024, arXiv 2407.02356.

Differences: the published code takes the low frequencies from the unlearned model, contrary to
the paper's text; ``low="unlearned"`` does so here. The paper's w_deg is a network pre-trained
elsewhere. Here networks are trained from scratch, so w_deg is a newly drawn one.

The paper's box leaves out the last row and column. Of n frequencies it has c - b to c + b - 1, with
c = n // 2 and b = int(ratio n / 2). A frequency and its mirror may then fall on different sides.
Here the box is closed, c - b to c + b, and the mixture stays the spectrum of real weights.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jfu.faults import guarded
from jfu.local import sized, take
from jfu.select import by_layer, select
from jfu.sums import wide
from jfu.types import (
    Batch,
    ClientFn,
    FederatedAlgorithm,
    Key,
    LocalInfo,
    Model,
    Needs,
    Params,
    Unlearner,
    Variables,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.ga import on_forgotten
from jfu.unlearn.phases import phases


def fcu(
    fed: FederatedAlgorithm,
    model: Model,
    *,
    lr: float = 1e-5,
    iterations: int = 100,
    every: int = 10,
    batch_size: int = 64,
    tau: float = 0.5,
    ratio: float = 0.5,
    low: str = "original",
    chunk: int | None = None,
) -> Unlearner:
    """Contrastive unlearning with frequency-guided memory for one round, then rounds of ``fed``.

    Args:
      model: must have ``features``.
      lr: learning rate of Adam (b2 0.9999, weight decay 5e-4).
      iterations: all steps.
      every: steps from drawing w_deg to restoring the low frequencies.
      tau: temperature of the contrast.
      ratio: share of each axis of the spectrum that counts as low.
      low: the model whose amplitudes the low frequencies get, ``original`` or ``unlearned``;
        the high frequencies get the other's.

    Raises:
      ValueError: the model has no ``features``, or a value is out of range.

    >>> fcu(fed, model, iterations=20, batch_size=32).needs.forget_data
    True
    """
    check_numbers("fcu", "[0, inf)", lr=lr)
    check_counts("fcu", 1, iterations=iterations, every=every, batch_size=batch_size)
    if model.features is None:
        raise ValueError("fcu compares features; give the Model a function `features`")
    if not 1 <= every <= iterations:
        raise ValueError(
            f"fcu restores every {every} of {iterations} iterations; every must lie between 1 and "
            "iterations"
        )
    if not tau > 0 or not 0 <= ratio <= 1:
        raise ValueError(
            f"fcu was given tau={tau} and ratio={ratio}; tau must be above 0 and ratio must lie in "
            "[0, 1]"
        )
    if low not in ("original", "unlearned"):
        raise ValueError(f"low is {low!r}; it must be 'original' or 'unlearned'")
    work = guarded(contrasted(model, lr, iterations, every, batch_size, tau, ratio, low))
    recover = phases(1, on_forgotten(work, chunk), on_retained(fed))
    needs = Needs(target=True, forget_data=True)
    return finetune(fed)._replace(recover=recover, needs=needs, own=1)


def contrasted(model, lr, iterations, every, batch_size, tau, ratio, low) -> ClientFn:
    """The leaving client's work in the first round."""
    adam = optax.chain(optax.add_decayed_weights(5e-4), optax.adam(lr, b1=0.9, b2=0.9999))

    def work(shared, client, key):
        original = dict(shared.variables)
        rest = {name: tree for name, tree in original.items() if name != "params"}
        live = client.mask.sum()
        size = min(batch_size, client.mask.shape[0])
        last = select(original["params"], by_layer(model, -1))

        def block(number, carry):
            block_key = jax.random.fold_in(key, number)
            degraded = model.init(jax.random.fold_in(block_key, every))

            def step(i, carry):
                params, memory, total = carry
                batch, _ = take(client, drawn(client.mask, jax.random.fold_in(block_key, i), size))

                def loss(params):
                    variables = {**rest, "params": params}
                    return contrast(model.features, (variables, original, degraded), batch, tau)

                value, slope = jax.value_and_grad(loss)(params)
                change, memory = adam.update(slope, memory, params)
                # The features do not depend on the last layer; weight decay must not move it.
                change = jax.tree.map(lambda c, m: c * 0 if m else c, change, last)
                return optax.apply_updates(params, change), memory, total + value

            params, memory, total = jax.lax.fori_loop(0, every, step, carry)
            return fused(original["params"], params, ratio, low), memory, total

        blocks = jnp.where(live > 0, iterations // every, 0)
        start = (original["params"], adam.init(original["params"]), jnp.zeros(()))
        params, _, total = jax.lax.fori_loop(0, blocks, block, start)
        steps = (blocks * every).astype(jnp.float32)
        update = optax.tree.sub(params, original["params"])
        info = LocalInfo(
            weight=live.astype(jnp.float32),
            loss=total / jnp.maximum(steps, 1),
            steps=steps,
            forwards=2 * steps,
        )
        return {**optax.tree.zeros_like(original), "params": update}, info

    return work


def drawn(mask: jax.Array, key: Key, size: int) -> jax.Array:
    """``size`` random live slots, int32 ``[size]``; if there are fewer, others follow them."""

    def among(length):
        draw = jnp.where(mask[:length], jax.random.uniform(key, (length,)), jnp.inf)
        slots = jnp.argsort(draw)[:size].astype(jnp.int32)
        return jnp.pad(slots, (0, size - len(slots)), constant_values=len(mask))

    return sized(mask, key, among)


def contrast(features: Callable, three: Sequence[Variables], batch: Batch, tau: float) -> jax.Array:
    """The contrastive loss of (the model, the original, the degraded), mean over live rows."""
    seen = [features(variables, batch.x) for variables in three]
    squares = [(f * f).sum(-1, keepdims=True) for f in seen]
    # Bounded before the root, since its slope at 0 is infinite and padding rows may be zero.
    unit = [f / jnp.sqrt(jnp.maximum(s, 1e-16)) for f, s in zip(seen, squares, strict=True)]
    h, h0, h1 = unit
    s0, s1 = (h * h0).sum(-1), (h * h1).sum(-1)
    each = jax.nn.softplus((s0 - s1) / tau)
    return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1)


def fused(original: Params, unlearned: Params, ratio: float, low: str) -> Params:
    """Frequency-guided memory preservation: mixes kernels by frequency, keeps the rest original."""

    def mix(path, old, new):
        if path[-1].key != "kernel" or old.ndim < 2:
            return old
        flat = _matrix(old).shape
        inside, outside = (old, new) if low == "original" else (new, old)
        spectrum = lambda a: jnp.fft.fftshift(jnp.fft.fft2(_matrix(wide(a))))
        near, far = (jnp.abs(spectrum(a)) for a in (inside, outside))
        amplitude = jnp.where(box(flat, ratio), near, far)
        mixed = amplitude * jnp.exp(1j * jnp.angle(spectrum(old)))
        matrix = jnp.fft.ifft2(jnp.fft.ifftshift(mixed)).real
        return _from_matrix(matrix, old.shape).astype(old.dtype)

    return jax.tree_util.tree_map_with_path(mix, original, unlearned)


def box(shape: Sequence[int], ratio: float) -> jax.Array:
    """True in the central share ``ratio`` of each axis; ``fftshift`` puts frequency 0 there.

    >>> box((5, 4), 0.5).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    """
    near = [abs(jnp.arange(n) - n // 2) <= int(ratio * n / 2) for n in shape]
    return near[0][:, None] & near[1][None]


def _matrix(kernel: jax.Array) -> jax.Array:
    """``[h, w, in, out] -> [in * h, w * out]``; other kernels by their first axis."""
    if kernel.ndim == 4:
        h, w, i, o = kernel.shape
        return kernel.transpose(2, 0, 1, 3).reshape(i * h, w * o)
    return kernel.reshape(kernel.shape[0], -1)


def _from_matrix(matrix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if len(shape) == 4:
        h, w, i, o = shape
        return matrix.reshape(i, h, w, o).transpose(1, 2, 0, 3)
    return matrix.reshape(shape)
