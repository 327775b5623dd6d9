"""Recovery that starts again, calmer, where it has broken down.

    calm:  theta <- theta / 2 + theta_0 / 2,   theta_0 drawn anew,   and the schedule starts again

A perturbed model may have a loss far above that of guessing. One round at the full learning rate
can then push it to where no unit is active and no gradient is left. Its loss stays that of guessing
for good. The server sees this in a number that it has anyway, the mean training loss of the
retained clients. A round is taken back in three cases:

* the model or the loss is not finite, and no loss was below 0.985 log C before
* the loss is above 2 log C after the first round
* the loss is not below 0.985 log C after ``patience`` rounds

A model that was recovering already is not given up for one round that is not finite; averaging
leaves it as it was. Each time the start keeps half as much of the old model. In the limit this is
retraining. Clients report the losses, so one that lies can cause as many new starts as are allowed.
The factors were chosen on digits.

Fresh weights mixed in: Ash, Adams. On Warm-Starting Neural Network Training. NeurIPS 2020, arXiv
1910.08475.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jfu.types import (
    FederatedAlgorithm,
    Key,
    RoundInfo,
    Unlearner,
    Variables,
    check_counts,
    check_numbers,
)
from jfu.unlearn.blend import blend
from jfu.unlearn.phases import Beside

CALM = 0x63616C6D  # sets the draw of a calmer start apart from all that a round draws
FAR, STUCK = 2.0, 0.985  # of the loss of guessing


class Watch(NamedTuple):
    """What recovery remembers of itself."""

    since: jax.Array  # [] int32, rounds since the last start
    calmed: jax.Array  # [] int32, how often it has started again
    learns: jax.Array  # [] bool, whether a loss since the last start was below that of guessing


def steady(
    method: Unlearner,
    fed: FederatedAlgorithm,
    init: Callable[[Key], Variables],
    guess: float | None,
    *,
    patience: int = 2,
    most: int = 3,
) -> Unlearner:
    """The same method, whose recovery starts again, calmer, where it has broken down.

    A round that was taken back has been run, and counts. Its ``metrics["calmed"]`` is 1.

    Args:
      method: a method whose ``perturb`` gives a state of ``fed``.
      fed: the federation that recovers.
      init: draws a fresh model, ``model.init``.
      guess: the loss of guessing, ``log C`` for C classes; None leaves the method as it is.
      patience: rounds after a start in which the loss may stay that of guessing; more than those in
        which the learning rate warms up.
      most: how often recovery may start again.

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

    def perturb(trained, request, key):
        none = jnp.zeros((), jnp.int32)
        return Beside(method.perturb(trained, request, key), Watch(none, none, none > 0))

    def recover(state, request, key):
        new, info = method.recover(state.inner, request, key)
        since, calmed = state.own.since + 1, state.own.calmed
        bad = _broken(info, guess, since, patience, state.own.learns) & (calmed < most)

        def calmer():
            fresh = dict(init(jax.random.fold_in(key, CALM)))
            return fed.init(blend(dict(state.inner.variables), fresh, 0.5))

        inner = jax.lax.cond(bad, calmer, lambda: new)
        learns = state.own.learns | (info.metrics["loss"] < STUCK * guess)
        own = Watch(jnp.where(bad, 0, since), calmed + bad, learns & ~bad)
        metrics = {**info.metrics, "calmed": bad.astype(jnp.float32)}
        return Beside(inner, own), info._replace(metrics=metrics)

    return method._replace(perturb=perturb, recover=recover)


def _broken(info: RoundInfo, guess: float, since, patience: int, learns) -> jax.Array:
    """Whether a round shows that recovery has broken down; a round of nobody shows nothing."""
    metrics, loss = info.metrics, info.metrics["loss"]
    somebody = metrics["clients"] > 0
    diverged = jnp.where(somebody, ~jnp.isfinite(loss), metrics["not_finite"] > 0)
    far = (since > 1) & (loss > FAR * guess) & jnp.isfinite(loss)
    stuck = (since > patience) & (loss >= STUCK * guess) & jnp.isfinite(loss)
    return (~learns & ((metrics["not_applied"] > 0) | diverged)) | (somebody & (far | stuck))
