"""NoT with an anchored recovery: labels, and the old model's soft predictions on retained data.

    theta' = negated theta*;   then rounds on
    (1 - a) CE(y, z(x)) + a T^2 KL( softmax(z*(x) / T) || softmax(z(x) / T) ),   x retained

where z* are the logits of the model before the request.

If many layers follow the negated one, as in a residual network, NoT may need more rounds than it
has to recover. The old model's predictions on retained data carry more information than labels
(Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015, arXiv 1503.02531). But
they can also bring back what was to be forgotten; an audit measures how much. On a small ResNet
this method brought back more than NoT did (launch/results/paper.md). It is not in NoT's paper.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jfu.faults import guarded
from jfu.fedavg import fedavg
from jfu.local import unknown
from jfu.types import ClientFn, FederatedAlgorithm, LossFn, Model, Selector, Unlearner, Variables
from jfu.unlearn.negation import negation
from jfu.unlearn.phases import Beside


def anchored(
    fed: FederatedAlgorithm,
    model: Model,
    selector: Selector,
    local: Callable[..., ClientFn],
    *,
    temperature: float = 2.0,
    anchor: float = 0.5,
    follows: Sequence[tuple[str, str]] = (),
    around: Callable[[ClientFn], FederatedAlgorithm] | None = None,
    chunk: int | None = None,
) -> Unlearner:
    """Negation of what ``selector`` picks, then rounds on labels and the old model's predictions.

    Args:
      local: ``local(loss=...) -> ClientFn``, a client's training on another loss.
      temperature: T, softens both models' predictions.
      anchor: a in [0, 1], the weight of the old model's predictions; 0 is NoT.
      follows: running means that change their sign too; see ``negation``.
      around: makes a federation from a client's work, with its server and sampling;
        plain averaging if not given.

    Raises:
      ValueError: an anchor outside [0, 1], or a temperature that is not positive.

    >>> from jfu.select import by_layer
    >>> anchored(fed, model, by_layer(model, 0), local).needs.forget_data
    False
    """
    if not 0 <= anchor <= 1 or not temperature > 0:
        raise ValueError(
            f"anchor is {anchor} and temperature {temperature}; anchor must lie in [0, 1] and "
            "temperature above 0"
        )
    around = around or functools.partial(fedavg, chunk=chunk)
    plain = negation(fed, selector, follows=follows)

    def perturb(trained, request, key):
        return Beside(plain.perturb(trained, request, key), dict(trained.variables))

    def recover(state, request, key):
        learn = guarded(local(loss=anchored_loss(model, state.own, temperature, anchor)))

        def work(shared, client, key):
            update, info = learn(shared, client, key)
            return update, info._replace(forwards=info.steps)  # the old model's

        inner, info = around(work).round(state.inner, request.retain, key)
        # Before the first round every client also gets the old model. Clients that first take part
        # in a later round (jfu.sampled) would get it then; this is not counted.
        once = (info.clients.weight > 0).sum() * (state.round == 0)
        metrics = {**info.metrics, "down": info.metrics["down"] + once}
        return state._replace(inner=inner), info._replace(metrics=metrics)

    return Unlearner(perturb, recover)


def anchored_loss(model: Model, old: Variables, temperature: float, anchor: float) -> LossFn:
    """Weighted cross-entropy and divergence from the old model, mean over live rows.

    Args:
      old: variables of the model before the request, which get no gradient.
      temperature, anchor: T and a of the module's formula.
    """

    def loss(variables, batch, key):
        logits, changed = model.apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        wise = jax.lax.stop_gradient(model.apply(old, batch.x)[0])
        labels = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
        labels = jnp.where(unknown(batch.y, logits.shape[-1]), jnp.nan, labels)
        soft = jax.nn.log_softmax(logits / temperature)
        answers = optax.kl_divergence(soft, jax.nn.softmax(wise / temperature))
        each = (1 - anchor) * labels + anchor * temperature**2 * answers
        return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1), changed

    return loss
