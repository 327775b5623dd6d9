"""Recovery that does not go back towards the old model.

In every round of recovery, with theta* the model before the request,

    a = theta - theta*,   Delta = theta' - theta,
    Delta <- Delta - min(0, Delta . a / |a|^2) a.

A perturbed model may recover by the way it came, and what was to be forgotten then comes back too.
Here the part of a round that leads straight back is removed. A round that leads away is not
changed. So the distance |theta - theta*| never shrinks, up to rounding. The server does this to the
mean of a round, since a projection is linear. It needs no single update, and costs no traffic.

Pan, Wang, Li, Zheng, Wang, Tang, Zhao. Federated Unlearning with Gradient Descent and Conflict
Mitigation. AAAI 2025, arXiv 2412.20200.

Differences: FedOSD projects each client's step, also one that leads away, and scales it to its old
length. ``fedosd`` does so. Running statistics are not parameters, and stay as the round left them.
"""

import jax
import jax.numpy as jnp
import optax

from jfu.faults import with_variables
from jfu.sums import narrow, squares, wide
from jfu.types import Params, Unlearner
from jfu.unlearn.phases import Beside


def no_return(method: Unlearner) -> Unlearner:
    """The same method, whose recovery does not lead back to the model before the request.

    Rounds of the method's own are not changed. What a round does is what is projected: the server
    optimizer's step, and noise for privacy too. The server keeps the old model's parameters until
    recovery ends.

    >>> from jfu.select import by_layer
    >>> from jfu.types import Trained
    >>> from jfu.unlearn.negation import negation
    >>> method = no_return(negation(fed, by_layer(model, 0)))
    >>> old = model.init(jax.random.key(0))
    >>> state = method.perturb(Trained(old), None, jax.random.key(1))
    >>> bool((state.own["stem"]["kernel"] == old["params"]["stem"]["kernel"]).all())
    True
    """
    own_now = method.own_now or (lambda state: state.round < method.own)

    def perturb(trained, request, key):
        return Beside(method.perturb(trained, request, key), trained.variables["params"])

    def recover(state, request, key):
        before = state.inner
        after, info = method.recover(before, request, key)
        params = onward(before.params, after.params, state.own)
        params = jax.tree.map(
            lambda turned, plain: jnp.where(own_now(before), plain, turned), params, after.params
        )
        inner = with_variables(after, {**after.variables, "params": params})
        return state._replace(inner=inner), info

    later = method.own_now and (lambda state: method.own_now(state.inner))
    return method._replace(perturb=perturb, recover=recover, own_now=later)


def onward(before: Params, after: Params, origin: Params) -> Params:
    """``after`` without the part of the step from ``before`` that leads back to ``origin``.

    Args:
      before, after, origin: pytrees of the same structure and shapes. Types of ``after`` are kept,
        sums are float32 at least.

    >>> before, origin = jnp.array([2.0, 0.0]), jnp.array([0.0, 0.0])
    >>> onward(before, jnp.array([1.0, 3.0]), origin)  # the first entry leads back
    Array([2., 3.], dtype=float32)
    >>> onward(before, jnp.array([5.0, 3.0]), origin)
    Array([5., 3.], dtype=float32)
    """
    away = optax.tree.sub(wide(before), wide(origin))
    step = optax.tree.sub(wide(after), wide(before))
    squared = squares(away)
    along = optax.tree.vdot(step, away) / jnp.where(squared > 0, squared, 1.0)
    back = (along < 0) & jnp.isfinite(along)
    turned = jax.tree.map(lambda new, a: new - along.astype(a.dtype) * a, wide(after), away)
    keep = lambda turned, plain: jnp.where(back, turned, plain)
    return jax.tree.map(keep, narrow(turned, after), after)
