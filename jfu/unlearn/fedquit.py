"""FedQUIT: the leaving client distils from the old model with the true class suppressed.

    minimise KL( softmax(z') || softmax(z_w(x)) ),   z' = z_w*(x) with z'_y = min_c z_w*(x)_c

for a local epoch on its own data. The teacher is the old model w*, but the true class gets the
smallest of its logits. The logits of all other classes stay. Then the others train on.

Mora, Valerio, Bellavista, Passarella. FedQUIT: On-Device Federated Unlearning via a
Quasi-Competent Virtual Teacher. 2024, arXiv 2408.07587.
"""

import jax
import jax.numpy as jnp
import optax

from jfu.fedavg import fedavg
from jfu.local import local_sgd, unknown
from jfu.types import (
    FederatedAlgorithm,
    LossFn,
    Model,
    Needs,
    Unlearner,
    Variables,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.phases import borrowed, params_only, phases


def fedquit(
    fed: FederatedAlgorithm,
    model: Model,
    *,
    lr: float = 1e-4,
    epochs: int = 1,
    batch_size: int = 32,
    chunk: int | None = None,
) -> Unlearner:
    """Distillation from the quasi-competent teacher for one round, then rounds of ``fed``.

    Args:
      lr: learning rate of Adam; the paper uses 1e-3 for IID clients and 1e-4 for skewed ones.
      epochs: passes over the forgotten data.

    >>> fedquit(fed, model, lr=1e-3).needs.forget_data
    True
    """
    check_numbers("fedquit", "[0, inf)", lr=lr)
    check_counts("fedquit", 1, epochs=epochs, batch_size=batch_size)

    def early(state, request, key):
        loss = distillation(model, state.variables)
        learn = local_sgd(loss, optax.adam(lr), epochs=epochs, batch_size=batch_size)

        def work(shared, client, key):
            update, info = learn(shared, client, key)
            return update, info._replace(forwards=info.steps)  # the teacher's

        return borrowed(fedavg(params_only(work), chunk=chunk))(state, request.forget, key)

    needs = Needs(target=True, forget_data=True)
    recover = phases(1, early, on_retained(fed))
    return finetune(fed)._replace(recover=recover, needs=needs, own=1)


def distillation(model: Model, teacher: Variables) -> LossFn:
    """Mean divergence from the virtual teacher to the student, over live rows."""

    def loss(variables, batch, key):
        wise = quasi_competent(model.apply(teacher, batch.x)[0], batch.y)
        logits, changed = model.apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        each = optax.kl_divergence(jax.nn.log_softmax(logits), jax.nn.softmax(wise))
        return (each * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1), changed

    return loss


def quasi_competent(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Lowers the true class's logit to the smallest; NaN if the label is no class.

    >>> quasi_competent(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0]))
    Array([[1., 1., 2.]], dtype=float32)
    """
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    wise = jnp.where(true, logits.min(-1, keepdims=True), logits)
    return jnp.where(unknown(labels, logits.shape[-1])[:, None], jnp.nan, wise)
