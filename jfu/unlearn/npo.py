"""NPO: the leaving client makes its examples less likely than the old model has them.

    minimise  -(2 / beta) mean log sigmoid( -beta log( p_theta(y | x) / p_old(y | x) ) )
            = -(2 / beta) mean log sigmoid(  beta (L_theta(x, y) - L_old(x, y)) )

with L the loss of an example, for local epochs on its own data. Then the others train on. The first
step is that of gradient ascent. After it, an example whose loss has risen by some multiples of
1 / beta counts for little, so the model does not run away as under ascent. As beta goes to 0 it is
ascent.

NPO pushes an example by how far it is from the old model. One that the old model hardly knew is
pushed as hard as one that it knew by heart. ``calibrated`` leaves the old model out, and a margin
takes its place. This is SimNPO, the length-calibrated form:

    minimise  -(2 / beta) mean log sigmoid( beta (L_theta(x, y) - margin) )

Its L is the mean loss of an example's tokens, so that a long text counts no more than a short one.
An example with one target has length one.

Zhang, Lin, Bai, Mei. Negative Preference Optimization: From Catastrophic Collapse to Effective
Unlearning. COLM 2024, arXiv 2404.05868. The formula is that of their code
(licong-lin/negative-preference-optimization), without their terms on retained data, which the
leaving client lacks; recovery takes their place. Fan, Liu, Lin, Jia, Zhang, Mei, Liu. Simplicity
Prevails: Rethinking Negative Preference Optimization for LLM Unlearning. 2024, arXiv 2410.07163.
The formula is that of their code (OPTML-Group/Unlearn-Simple). It has margin 0, and beta 2.5 and
4.5 on TOFU.
"""

import jax
import jax.numpy as jnp
import optax

from jfu.fedavg import fedavg
from jfu.local import local_sgd
from jfu.metrics import Judge, classes
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


def npo(
    fed: FederatedAlgorithm,
    model: Model,
    *,
    lr: float = 0.01,
    beta: float = 0.1,
    epochs: int = 1,
    calibrated: bool = False,
    margin: float = 0.0,
    batch_size: int = 32,
    judge: Judge = classes,
    chunk: int | None = None,
) -> Unlearner:
    """Negative preference optimization by the leaving clients, then rounds of ``fed``.

    Args:
      lr: learning rate of SGD.
      beta: the inverse temperature; 0.1 in the authors' code.
      epochs: passes over the forgotten data.
      calibrated: whether the loss is SimNPO's, without the old model. Its authors use a larger
        ``beta``, 2.5 and 4.5.
      margin: the loss that SimNPO compares with; only with ``calibrated``.
      judge: the task's loss of an example (``jfu.tasks``); cross-entropy if not given.

    Raises:
      ValueError: a number out of range, or a margin without ``calibrated``.

    >>> npo(fed, model, beta=0.5).needs.forget_data
    True
    """
    check_numbers("npo", "[0, inf)", lr=lr)
    check_numbers("npo", "(0, inf)", beta=beta)
    check_numbers("npo", "(-inf, inf)", margin=margin)
    check_counts("npo", 1, epochs=epochs, batch_size=batch_size)
    if margin and not calibrated:
        raise ValueError(f"npo was given margin={margin}, which has an effect with calibrated only")

    def early(state, request, key):
        old = None if calibrated else state.variables
        loss = preference(model, old, beta, judge, margin)
        learn = local_sgd(loss, optax.sgd(lr), epochs=epochs, batch_size=batch_size)

        def work(shared, client, key):
            update, info = learn(shared, client, key)
            asked = info.steps * (not calibrated)  # of the old model
            return update, info._replace(forwards=asked)

        return borrowed(fedavg(params_only(work), chunk=chunk))(state, request.forget, key)

    needs = Needs(target=True, forget_data=True)
    recover = phases(1, early, on_retained(fed))
    return finetune(fed)._replace(recover=recover, needs=needs, own=1)


def preference(
    model: Model,
    old: Variables | None,
    beta: float,
    judge: Judge = classes,
    margin: float = 0.0,
) -> LossFn:
    """The loss above, mean over live rows; without an old model that of SimNPO."""

    def loss(variables, batch, key):
        before = margin if old is None else judge(model.apply(old, batch.x)[0], batch.y)[0]
        outputs, changed = model.apply(variables, batch.x, train=True, mask=batch.mask, key=key)
        now, _ = judge(outputs, batch.y)
        each = -2 / beta * jax.nn.log_sigmoid(beta * (now - before))
        # Rows that are not live may have a label that is none, and NaN times 0 is NaN.
        each = jnp.where(batch.mask > 0, each, 0)
        return each.sum() / jnp.maximum(batch.mask.sum(), 1), changed

    return loss
