"""PGD: the leaving client ascends its loss inside a ball around the mean of the others' models.

    w_ref   = (w - p_u w_u) / (1 - p_u)                 w_u: its last local model
    radius^2 = mean over random models of ||w_ref - w_rand||^2 / 3
    w <- w_ref, then SGD with momentum on -L_u; after each step
    w <- w_ref + (w - w_ref) min(1, radius / ||w - w_ref||)

Halimi, Kadhe, Rawat, Baracaldo. Federated Unlearning: How to Efficiently Erase a Client in FL?
2022, arXiv 2207.05521.

Differences: in the paper clients have equal size, p_u = 1 / K, and one of them leaves. Here the
means are weighted, and several clients may leave. The paper stops early by the distance to w_u,
with a threshold fitted to its network. Here the ascent ends once a batch's accuracy is within
``margin`` of chance, which needs no fitting. The remaining steps then have no effect, but they are
counted.

The mean of the others' models is over clients that took part in the last round. It is exact for
plain averaging (server SGD with rate 1). If no retained client took part, it is the model before
that round. In the paper each client keeps its own last update. ``jfu.recorded`` keeps all clients'
last updates, since any client may leave.
"""

import jax
import jax.numpy as jnp
import optax

from jfu.fedavg import fedavg
from jfu.local import classification, local_sgd
from jfu.stacking import weights
from jfu.sums import narrow, norm, squares, wide
from jfu.types import (
    FederatedAlgorithm,
    Key,
    Model,
    Needs,
    Params,
    Split,
    Trained,
    Unlearner,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.phases import borrowed, params_only, phases


def pgd(
    fed: FederatedAlgorithm,
    model: Model,
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    clip: float = 5.0,
    epochs: int = 5,
    batch_size: int = 128,
    margin: float = 0.05,
    draws: int = 10,
    chunk: int | None = None,
) -> Unlearner:
    """Projected gradient ascent by the leaving clients for one round, then rounds of ``fed``.

    Args:
      lr, momentum: of the ascent.
      clip: largest norm of a step's gradient.
      epochs: passes over the forgotten data.
      margin: the ascent ends once accuracy on a batch is at most ``1 / C + margin``.
      draws: number of random models for the radius, at least 1.

    >>> pgd(fed, model, lr=0.003).needs.history  # what training must have recorded
    ('last',)
    """
    check_numbers("pgd", "[0, inf)", lr=lr)
    check_numbers("pgd", "[0, 1)", momentum=momentum)
    check_numbers("pgd", "(0, inf]", clip=clip)
    check_numbers("pgd", "(-inf, inf)", margin=margin)
    check_counts("pgd", 1, epochs=epochs, batch_size=batch_size, draws=draws)

    def perturb(trained, request, key):
        del key
        return fed.init({**trained.variables, "params": without(trained, request)})

    def climb(state, request, key):
        draw_key, key = jax.random.split(key)
        ball = (state.params, radius(state.params, model, draw_key, draws))
        steps = (optax.clip_by_global_norm(clip), optax.sgd(lr, momentum), inside_ball(*ball))
        loss = uphill_until(model.apply, margin)
        ascend = local_sgd(
            loss, until_still(optax.chain(*steps)), epochs=epochs, batch_size=batch_size
        )

        def work(shared, client, key):
            update, info = ascend(shared, client, key)
            return update, info._replace(forwards=info.steps)  # the accuracy of each batch

        return borrowed(fedavg(params_only(work), chunk=chunk))(state, request.forget, key)

    needs = Needs(history=("last",), target=True, forget_data=True, whole_clients=True)
    return Unlearner(perturb, phases(1, climb, on_retained(fed)), needs, own=1)


def without(trained: Trained, request: Split) -> Params:
    """The mean of the other clients' last local models.

    It is computed from the updates ``D_k`` of the clients in the last round, since the global model
    is ``w_before + sum_k p_k D_k``. A history without ``came`` has all clients in that round.
    """
    stay, leave = weights(request.retain), weights(request.forget)
    all_ = trained.history.get("came", stay + leave)
    stay = jnp.where(stay > 0, all_, 0)
    share = lambda n: n / jnp.where(n.sum() > 0, n.sum(), 1)
    mean = lambda n, d: jnp.tensordot(share(n).astype(d.dtype), d, 1)
    params, last = trained.variables["params"], wide(trained.history["last"])
    moved = lambda w, d: w - mean(all_, d) + mean(stay, d)
    return narrow(jax.tree.map(moved, wide(params), last), params)


def radius(center: Params, model: Model, key: Key, draws: int) -> jax.Array:
    """``sqrt(mean ||center - random model||^2 / 3)``."""

    def squared(key):
        return squares(optax.tree.sub(wide(center), wide(model.init(key)["params"])))

    return jnp.sqrt(jax.lax.map(squared, jax.random.split(key, draws)).mean() / 3)


def inside_ball(center: Params, radius: jax.Array) -> optax.GradientTransformation:
    """Shortens a step so that it ends within ``radius`` of ``center``."""

    def update(updates, state, params=None):
        away = optax.tree.sub(optax.tree.add(wide(params), wide(updates)), wide(center))
        shrink = jnp.minimum(1.0, radius / jnp.maximum(norm(away), 1e-30))
        project = lambda c, a, p: (c + shrink * a - p).astype(p.dtype)
        return jax.tree.map(project, center, away, params), state

    return optax.GradientTransformation(lambda params: (), update)


def uphill_until(apply, margin: float):
    """The negative loss, with zero gradient once accuracy is at most ``1 / C + margin``."""
    loss = classification(apply)

    def negative(variables, batch, key):
        logits = apply(variables, batch.x, train=False)[0]
        right = ((logits.argmax(-1) == batch.y) * batch.mask).sum()
        live = batch.mask.sum()
        above = right > (1 / logits.shape[-1] + margin) * live
        above |= live < len(batch.y) / 2  # too few to decide, as in an epoch's last batch
        value, changed = loss(variables, batch, key)
        return -value * above, changed

    return negative


def until_still(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Stops for good at the first zero gradient; momentum alone would continue."""

    def init(params):
        return jnp.zeros((), bool), inner.init(params)

    def update(updates, state, params=None):
        stopped, memory = state
        stopped = stopped | (norm(updates) == 0)
        step, memory = inner.update(updates, memory, params)
        return jax.tree.map(lambda s: jnp.where(stopped, 0, s), step), (stopped, memory)

    return optax.GradientTransformation(init, update)
