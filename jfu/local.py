"""A client's work: one or more epochs of minibatch training from the model that it received.

A client makes one random draw, since on CPU every draw is a loop of small kernels. Clients' keys
are made together, before the loop over clients. A client's key is used for its shuffles. Keys of
losses and augmentations come from counters that no shuffle reaches. A shuffle is drawn and sorted
over the smallest of a few lengths that fits the client's live slots.

Nothing random is stored. A draw depends only on seed, purpose, round, client, step and example. A
continued run therefore draws the same numbers as an uninterrupted one, and so does every layout of
clients.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfu.devices import setting
from jfu.faults import NOT_FINITE, checked
from jfu.sums import squares
from jfu.types import (
    Batch,
    Broadcast,
    ClientData,
    ClientFn,
    Key,
    LocalInfo,
    LossFn,
    Params,
    PyTree,
    check_counts,
    check_numbers,
)

# A client's shuffles draw from its key's counters 0, 1, ... Keys of losses and augmentations derive
# from the last counters, which no shuffle reaches.
BEYOND = (np.uint32(2**32 - 1), np.uint32(2**32 - 2))

# With more than LEAST slots, a client shuffles over the shortest of these lengths that fits its
# live slots. With fewer, a shuffle costs no more than choosing a length.
LEAST, LENGTHS = 512, tuple(8**n for n in range(2, 11))


def local_sgd(
    loss: LossFn,
    optimizer: optax.GradientTransformation | Callable[[jax.Array], optax.GradientTransformation],
    *,
    epochs: int = 1,
    batch_size: int = 32,
    proximal: float = 0.0,
    augment: Callable[[Key, jax.Array], jax.Array] | None = None,
) -> ClientFn:
    """Local training, ``update = trained - received``.

    A client shuffles its live examples again each epoch and takes them in batches. The last batch
    of an epoch may be short. Batches without live examples are never run, so a small client is
    cheap if clients run one after another. Clients that run side by side all take as long as the
    largest, so ``fedavg`` groups similar sizes. A client whose model is no longer finite sends
    zeros with weight 0 and sets ``left_out`` (``jfu.faults``).

    Args:
      loss: ``(variables, batch, key) -> loss`` or ``-> (loss, changed)``: the mean over live
        examples and, if the model has statistics, the collections to replace.
      optimizer: any optax optimizer, or a function from the round number to one, for rates that
        change over rounds. Its state starts again each round. Gradients that ``optax.MultiSteps``
        has gathered but not applied are then lost.
      epochs: passes over the client's examples each round.
      batch_size: the most examples in a step.
      proximal: FedProx's mu. Adds ``mu / 2 * ||params - received||^2`` to the loss (Li et
        al., Federated Optimization in Heterogeneous Networks, MLSys 2020, arXiv 1812.06127).
      augment: ``(key, x [...]) -> x [...]`` for one example, with a key of its own.

    Returns:
      A client function for ``fedavg``: ``(broadcast, client, key) -> (update, info)``.

    Raises:
      ValueError: a number is out of range, or ``optimizer`` is not an optimizer. When the loss is
        traced: it returns something else.

    >>> loss = lambda variables, batch, key: cross_entropy(batch.x @ variables["params"], batch)
    >>> work = local_sgd(loss, optax.sgd(0.1), epochs=2, batch_size=8)
    """
    check_counts("local_sgd", 1, epochs=epochs, batch_size=batch_size)
    check_numbers("local_sgd", "[0, inf)", proximal=proximal)
    make = _maker(optimizer)

    def value(params, rest, received, batch, key):
        mean, changed = _told(loss({**rest, "params": params}, batch, key), rest)
        if proximal:
            mean += proximal / 2 * squares(optax.tree.sub(params, received))
        return mean, changed

    def work(shared: Broadcast, client: ClientData, key: Key):
        received = dict(shared.variables)
        params, rest = received.pop("params"), received
        update = _stepper(make(shared.round))
        size = min(batch_size, client.index.shape[0])
        live = client.mask.sum()
        per_epoch = -(-live // size)
        # Looked up once; in every step each would be its own program to compile and start.
        entries = _shuffled(client, key, epochs, size)
        loss_key, augment_key = (jax.random.fold_in(key, place) for place in BEYOND)

        def step(i, carry):
            params, rest, memory, total = carry
            epoch, number = (0, i) if epochs == 1 else _divmod(i, per_epoch)
            here = partial(_minibatch, epoch=epoch, start=number * size, size=size)
            batch, names = _batch(client, *map(here, entries))
            if augment is not None:
                keys = jax.random.fold_in(augment_key, i)
                keys = jax.vmap(jax.random.fold_in, (None, 0))(keys, names)
                batch = batch._replace(x=_shown(jax.vmap(augment)(keys, batch.x), batch.mask))
            grad = jax.value_and_grad(value, has_aux=True)
            (mean, changed), slope = grad(
                params, rest, shared.variables["params"], batch, jax.random.fold_in(loss_key, i)
            )
            change, memory = update.update(slope, memory, params)
            return (
                optax.apply_updates(params, change),
                {**rest, **changed},
                memory,
                total + mean.astype(jnp.float32),
            )

        steps, most = epochs * per_epoch, epochs * -(-client.index.shape[0] // size)
        start = lambda: (params, rest, update.init(params), jnp.zeros((), jnp.float32))
        trained, rest, _, total = _repeated(step, steps, most, start)
        model = {**rest, "params": trained}
        # Checked on the model, which is in the cache, and not on the update.
        usable = jnp.isfinite(squares(model))
        sent = optax.tree.sub(model, dict(shared.variables))
        info = LocalInfo(
            weight=jnp.where(usable, live, 0).astype(jnp.float32),
            loss=jnp.where(usable, total / jnp.maximum(steps, 1), 0).astype(jnp.float32),
            steps=steps.astype(jnp.float32),
            forwards=jnp.zeros((), jnp.float32),
            left_out=jnp.where(usable, 0.0, NOT_FINITE).astype(jnp.float32),
        )
        return jax.tree.map(lambda u: jnp.where(usable, u, jnp.zeros_like(u)), sent), info

    return checked(jax.jit(work, inline=True))  # traced once for all rounds that it is part of


def _maker(optimizer) -> Callable:
    """A function of the round number that makes the optimizer."""
    if hasattr(optimizer, "init") or not callable(optimizer):
        _stepper(optimizer)
        return lambda round: optimizer
    return optimizer


def _stepper(optimizer):
    """The same, if it is an optimizer."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(
            f"the optimizer is {optimizer!r:.80}; pass an optax optimizer such as optax.sgd(0.1), "
            "or a function from the round number to one"
        )
    return optimizer


def _told(out, rest: Mapping) -> tuple[jax.Array, Mapping]:
    """A loss, and the collections that a step replaces."""
    mean, changed = out if isinstance(out, tuple) and len(out) == 2 else (out, {})
    if not isinstance(mean, jax.Array) or not isinstance(changed, Mapping):
        raise ValueError(
            f"the loss returned {jax.tree.map(jnp.shape, out)}; it must return the mean loss, or "
            "(the mean, {collection: its new variables})"
        )
    if mean.shape or not jnp.issubdtype(mean.dtype, jnp.floating):
        raise ValueError(
            f"the loss returned {mean.dtype} {list(mean.shape)}; it must be one number, the mean "
            "over live examples"
        )
    if other := sorted(changed.keys() - rest.keys()):
        there = f"they are {', '.join(sorted(rest))}" if rest else "there is none"
        raise ValueError(
            f"the loss returned {', '.join(other)} beside its value, which is no collection of the "
            f"model that training replaces ({there}); return only such collections"
        )
    return mean, changed


def _repeated(step: Callable, steps: jax.Array, most: int, start: Callable) -> tuple:
    """``step(i, carry)`` for i below ``steps``, which is ``most`` at most.

    Up to two steps are written out. A loop would begin with a copy of the model and of the
    optimizer's state, which is usually zero. Without the copy there are a third fewer passes over
    memory.
    """
    if most > 2:
        return jax.lax.fori_loop(0, steps, step, start())
    carry = jax.lax.cond(steps > 0, lambda: step(0, start()), start)
    return carry if most < 2 else jax.lax.cond(steps > 1, partial(step, 1), lambda c: c, carry)


def _divmod(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``divmod`` for numbers that are not negative; it need not look at signs."""
    return jax.lax.div(a, b), jax.lax.rem(a, b)


def take(client: ClientData, slots: jax.Array) -> tuple[Batch, jax.Array]:
    """One client's examples at ``slots`` [B], zeros where they are not live; and their names.

    An example's name is its row of the whole pool, however the pool is laid out.
    """
    return _batch(client, *_entries(client, slots))


def _entries(client: ClientData, slots: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which of the slots are live, their rows of the device's pool, and their labels."""
    # Slots and rows are never negative; without this mode JAX would check for that each time.
    beyond = dict(mode="fill", wrap_negative_indices=False)
    mask = client.mask.at[slots].get(**beyond, fill_value=False)
    rows = client.index.at[slots].get(**beyond, fill_value=0)
    return mask, rows, _shown(_at(client.y, rows), mask)


def _batch(client: ClientData, mask: jax.Array, rows: jax.Array, y: jax.Array):
    """The batch of such entries [B], and the examples' names."""
    names = rows if client.row is None else _at(client.row, rows)
    return Batch(_shown(_at(client.x, rows), mask), y, mask.astype(jnp.float32)), names


def _at(pool: jax.Array, rows: jax.Array) -> jax.Array:
    return pool.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _shown(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Live rows, and zeros elsewhere; it does not multiply, since NaN times 0 is NaN."""
    return jnp.where(
        mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)) > 0, x, jnp.zeros_like(x)
    )


def _shuffled(client: ClientData, key: Key, epochs: int, size: int) -> tuple[jax.Array, ...]:
    """The entries of a client's shuffles, ``[epochs, multiple of size, ...]`` each."""
    slots = client.mask.shape[0]

    def within(length):
        order = _shuffles(key, client.mask[:length], epochs)
        room = slots + -slots % size - length
        pad = lambda a: jnp.pad(a, [(0, 0), (0, room)] + [(0, 0)] * (a.ndim - 2))
        return jax.tree.map(pad, _entries(client, order))

    return sized(client.mask, key, within)


def _minibatch(
    a: jax.Array, epoch: jax.Array | int, start: jax.Array | int, size: int
) -> jax.Array:
    """``a[epoch, start : start + size]``."""
    rest = a.shape[2:]
    begin = (epoch, start, *[0] * len(rest))
    return jax.lax.dynamic_slice(a, begin, (1, size, *rest))[0]


def _shuffles(key: Key, mask: jax.Array, epochs: int) -> jax.Array:
    """Slots in a new order each epoch, live ones first, int32 ``[epochs, N]``."""
    # The axis of slots comes first, so that unused slots after the live ones change no draw.
    draw = jax.random.uniform(key, (*mask.shape, epochs)).T
    return jnp.argsort(jnp.where(mask, draw, jnp.inf)).astype(jnp.int32)


def sized(mask: jax.Array, key: Key | None, run: Callable[[int], PyTree]) -> PyTree:
    """``run(length)`` for one of a few lengths, such that the first ``length`` slots have all live.

    A small client among large ones then costs little more than its own examples. ``run`` must use
    only these slots, and its result has the same shapes for each length. Clients that run side by
    side use the length of the largest of them.

    Args:
      mask: ``[N]`` bool, live slots.
      key: the key from which ``run`` draws for each slot, if any. The length is always N if draws
        of the key's generator depend on their number.
    """
    slots = mask.shape[0]
    lengths = [n for n in LENGTHS if 2 * n <= slots] if slots > LEAST else []
    if not lengths or (key is not None and _layout_changes_draws(key)):
        return run(slots)
    extent = jnp.where(mask, jnp.arange(1, slots + 1), 0).max()
    which = sum((extent > n).astype(jnp.int32) for n in lengths)
    return jax.lax.switch(_largest(which), [partial(run, n) for n in (*lengths, slots)])


@jax.custom_batching.custom_vmap
def _largest(number: jax.Array) -> jax.Array:
    """One number for all clients side by side; with one for each, all branches would run."""
    return number


@_largest.def_vmap
def _(size: int, batched: list[bool], number: jax.Array) -> tuple[jax.Array, bool]:
    return _largest(number.max()), False


def _layout_changes_draws(key: Key) -> bool:
    """Whether a draw depends on how many are drawn; not if each has its own counter."""
    counted = setting("jax_threefry_partitionable")
    return not (counted and "threefry" in str(jax.random.key_impl(key)))


def cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Mean softmax cross-entropy over the live examples of a batch, scalar.

    It and its gradients are NaN if a live example has a label outside 0 to C - 1. The client of
    such an example is left out of every round of training, and counted.

    >>> batch = Batch(jnp.zeros((2, 1)), jnp.array([0, 1]), jnp.array([1.0, 0.0]))
    >>> cross_entropy(jnp.zeros((2, 4)), batch)
    Array(1.3862944, dtype=float32)
    """
    if not jnp.issubdtype(batch.y.dtype, jnp.integer):
        raise ValueError(
            f"labels are {batch.y.dtype}, and classes are integers; jfu.tasks.regression is the "
            "loss of other targets"
        )
    # A sum over classes, not a lookup; the derivative of a lookup is a scatter, slow on CPUs.
    each = -jax.nn.log_softmax(logits.astype(jnp.float32))
    label = jax.nn.one_hot(batch.y, logits.shape[-1], dtype=bool)
    other = (batch.mask > 0) & unknown(batch.y, logits.shape[-1])
    each = jnp.where(label | other[:, None], each, 0).sum(-1) * jnp.where(other, jnp.nan, 1.0)
    return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1)


def unknown(y: jax.Array, classes: int) -> jax.Array:
    """Which labels are no class.

    >>> unknown(jnp.array([-1, 0, 3]), 3).tolist()
    [True, False, True]
    """
    return (y < 0) | (y >= classes)


def classification(apply: Callable) -> LossFn:
    """The loss of a ``Model``: cross-entropy, and the statistics that its ``apply`` changed."""

    def loss(variables: Mapping[str, Params], batch: Batch, key: Key):
        logits, changed = apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        if not isinstance(logits, jax.Array):
            raise ValueError(
                f"the model gives a {type(logits).__name__} where logits [B, C] are wanted; give "
                "an apply that picks them, or a loss of your own"
            )
        return cross_entropy(logits, batch), changed

    return loss
