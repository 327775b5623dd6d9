"""Recovery that starts again, calmer, where it has broken down.

A perturbed model may have a loss far above that of guessing. One round at the full learning rate
can then push it to where no unit is active and no gradient is left, for good. The server sees this
in two numbers: the retained clients' mean loss, and its own step. The step is compared with the
kernels' length, ``m = |theta_new - theta| / |theta|`` over tensors of rank 2 and more. A round is
taken back, and recovery starts again, where

    it bursts:  m > 2; or nothing was learnt yet, and the model or the loss is not finite, or after
                the first round the loss is above 2 log C; then
                theta <- theta / 2 + theta_0 / 2
    it idles:   for more than ``patience`` rounds on end the loss is not below 0.985 log C, nor by
                log C / 1000 lower than before; or from the second round on m is below a thousandth
                of its first value, with a loss above log C / 4; then
                theta <- theta_0

with ``theta_0`` drawn anew each time. The schedule starts again too, with ``halves`` at half the
rate; in the limit this is retraining, with a rate that is low enough. A model that was learning is
not given up for one round that is not finite.

Clients with few labels each fit these within a round, by the last biases alone. Their mean training
loss is then below that of guessing, whatever the model has learnt. ``received_loss`` makes clients
report the loss of the model that they receive instead. Clients report losses, so one that lies can
cause as many new starts as there may be. The factors were chosen on digits and Fashion-MNIST.

A limit: where classes are unequal, naming the most frequent ones has a loss below log C, so a dead
model may only be seen by its step.

Fresh weights mixed in: Ash, Adams. On Warm-Starting Neural Network Training. NeurIPS 2020, arXiv
1910.08475.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.local import take
from jfu.sums import norm, wide
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    FederatedAlgorithm,
    Key,
    LossFn,
    Params,
    Unlearner,
    Variables,
    check_counts,
    check_numbers,
)
from jfu.unlearn.blend import blend
from jfu.unlearn.phases import Beside

CALM = 0x63616C6D  # sets the draw of a calmer start apart from all that a round draws
FAR, STUCK, LOW, FALL = 2.0, 0.985, 0.25, 1e-3  # of the loss of guessing
BURST = 2.0  # of the kernels' length
STILL = 1e-3  # of the first round's move
AGAIN = 1 << 20  # what each new start adds to the round number that an optimizer sees


class Watch(NamedTuple):
    """What recovery remembers of itself."""

    since: jax.Array  # [] int32, rounds since the last start
    idle: jax.Array  # [] int32, rounds on end without a sign of learning
    calmed: jax.Array  # [] int32, how often it has started again
    learns: jax.Array  # [] bool, whether a later round than the first since the start showed one
    first: jax.Array  # [] float32, how far the first round moved the kernels
    lowest: jax.Array  # [] float32, the lowest loss since the start


def steady(
    method: Unlearner,
    fed: FederatedAlgorithm,
    init: Callable[[Key], Variables],
    guess: float | None,
    *,
    patience: int = 2,
    most: int = 3,
    halves: bool = False,
) -> Unlearner:
    """The same method, whose recovery starts again, calmer, where it has broken down.

    A round that was taken back has been run, and counts. Its ``metrics["calmed"]`` is 1.

    Args:
      method: a method whose ``perturb`` gives a state of ``fed``.
      fed: the federation that recovers. Rates that rise over its first rounds make it calmer, and
        clients with ``received_loss`` make it see more.
      init: draws a fresh model, ``model.init``.
      guess: the loss of guessing, ``log C`` for C classes; None leaves the method as it is.
      patience: rounds on end that may show no learning; no fewer than those in which the learning
        rate warms up.
      most: how often recovery may start again.
      halves: whether each new start halves the rate. Then the optimizer of ``fed`` is a function of
        the round number that reads it with ``halved``, and the method's state is one of ``fed``.

    Raises:
      ValueError: a loss of guessing that is not positive, or negative counts.

    >>> from jfu.types import Trained
    >>> from jfu.unlearn.finetune import finetune
    >>> method = steady(finetune(fed), fed, model.init, guess=float(jnp.log(3)))
    >>> state = method.perturb(Trained(model.init(jax.random.key(0))), None, jax.random.key(1))
    >>> int(state.own.calmed)
    0
    """
    if guess is None:
        return method
    check_numbers("steady", "(0, inf)", guess=guess)
    check_counts("steady", 0, patience=patience, most=most)

    def watch(calmed):
        none = jnp.zeros((), jnp.int32)
        zero = jnp.zeros((), jnp.float32)
        return Watch(none, none, calmed, none > 0, zero, zero + jnp.inf)

    def perturb(trained, request, key):
        return Beside(method.perturb(trained, request, key), watch(jnp.zeros((), jnp.int32)))

    def recovered(state, request, key):
        if not halves:
            return method.recover(state.inner, request, key)
        later = state.own.calmed * AGAIN  # seen by this round alone: the state counts on from 0
        inner = state.inner._replace(round=state.inner.round + later)
        new, info = method.recover(inner, request, key)
        return new._replace(round=new.round - later), info

    def recover(state, request, key):
        new, info = recovered(state, request, key)
        own, bursts = _seen(state.own, info.metrics, _move(state.inner.params, new.params), guess)
        idles = own.idle > patience
        bad = (bursts | idles) & (own.calmed < most)

        def calmer():
            fresh = dict(init(jax.random.fold_in(key, CALM)))
            keep = jnp.where(idles, 0.0, 0.5)
            return fed.init(blend(dict(state.inner.variables), fresh, keep))

        inner = jax.lax.cond(bad, calmer, lambda: new)
        again = watch(own.calmed + 1)
        own = jax.tree.map(lambda one, other: jnp.where(bad, one, other), again, own)
        metrics = {**info.metrics, "calmed": bad.astype(jnp.float32)}
        return Beside(inner, own), info._replace(metrics=metrics)

    return method._replace(perturb=perturb, recover=recover)


def halved(round: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The share of the learning rate, and the rounds since the last start, of a round number.

    For an optimizer of a ``steady`` recovery with ``halves``.

    Args:
      round: [] int32, what the optimizer of a client is given.

    Returns:
      ``(share, since)``: float32, ``2 ** -n`` after n new starts; and int32.

    >>> share, since = halved(jnp.array(2 * AGAIN + 5))
    >>> float(share), int(since)
    (0.25, 5)
    """
    return jnp.exp2(-(round // AGAIN).astype(jnp.float32)), round % AGAIN


def received_loss(
    work: ClientFn, loss: LossFn, *, batch_size: int = 32, batches: int = 2
) -> ClientFn:
    """The same work of a client, which reports the loss of the model that it received.

    The mean over at most ``batches * batch_size`` live examples, evenly spaced over the client's,
    before any step. It costs as many forward passes, which are counted.

    Args:
      work: a client's training, such as ``local_sgd`` makes.
      loss: as in ``local_sgd``.
      batch_size, batches: how many examples.

    Returns:
      A client function whose ``LocalInfo.loss`` is that mean, float32. It is 0 where the client is
      left out. A model with batch statistics or dropout is in training mode, as in ``loss``.

    Raises:
      ValueError: a count below 1.

    >>> from jfu.local import classification
    >>> work = received_loss(local(), classification(model.apply), batch_size=8)
    """
    check_counts("received_loss", 1, batch_size=batch_size, batches=batches)

    def reporting(shared: Broadcast, client: ClientData, key: Key):
        update, info = work(shared, client, key)
        live, slots = client.mask.sum(), client.mask.shape[0]
        places = jnp.arange(min(batches * batch_size, slots))
        spaced = jnp.where(live > len(places), places * live // len(places), places)
        batch, _ = take(client, jnp.argsort(~client.mask)[spaced])
        value = loss(dict(shared.variables), batch, jax.random.fold_in(key, CALM))
        value = value[0] if isinstance(value, tuple) else value
        stays = (info.left_out == 0) & (live > 0)
        passes = jnp.ceil(jnp.minimum(live, len(places)) / batch_size)
        return update, info._replace(
            loss=jnp.where(stays, value, info.loss).astype(jnp.float32),
            forwards=info.forwards + jnp.where(stays, passes, 0).astype(jnp.float32),
        )

    return reporting


def _move(old: Params, new: Params) -> jax.Array:
    """The length of the kernels' step over their own length; 0 where they are zero.

    Of all parameters, where none is a kernel.
    """
    leaves = lambda tree: [wide(a) for a in jax.tree.leaves(tree)]
    pairs = list(zip(leaves(old), leaves(new), strict=True))
    pairs = [(a, b) for a, b in pairs if a.ndim > 1] or pairs
    own, step = norm([a for a, _ in pairs]), norm([b - a for a, b in pairs])
    return jnp.where(own > 0, step / jnp.where(own > 0, own, 1.0), 0.0)


def _seen(
    own: Watch, metrics: Mapping[str, jax.Array], move, guess: float
) -> tuple[Watch, jax.Array]:
    """What is known after a round, and whether it burst; a round of nobody shows nothing."""
    loss, somebody = metrics["loss"], metrics["clients"] > 0
    finite = jnp.isfinite(loss)
    diverged = (metrics["not_applied"] > 0) | jnp.where(
        somebody, ~finite, metrics["not_finite"] > 0
    )
    seen = somebody | diverged
    since = own.since + seen
    first = jnp.where(since <= 1, move, own.first)
    alive = own.learns | (move > STILL * first) | (loss <= LOW * guess)
    below = loss < STUCK * guess
    falls = (since > 1) & (loss < own.lowest - FALL * guess)
    learning = finite & (below | falls) & alive
    far = finite & (loss > FAR * guess) & (since > 1)
    bursts = ~(move <= BURST) | (~own.learns & (diverged | far))
    idle = jnp.where(learning, 0, own.idle + seen)
    learns = own.learns | (learning & below & (since > 1))
    lowest = jnp.where(finite, jnp.minimum(loss, own.lowest), own.lowest)
    return Watch(since, idle, own.calmed, learns, first, lowest), bursts
