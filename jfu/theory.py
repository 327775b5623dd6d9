"""The four theorems behind NoT as small experiments that can fail.

    1  unlearning takes time          |d gap / dt| <= (sqrt(2 u L_u) + sqrt(2 r L_r)) sqrt(2 r L_r)
    2  negation moves outputs most    E|s(Y) - s(-Y)|^2 >= E|s(Y) - s(Y')|^2  for |W'| = |W|
    3  later Jacobians keep their law W1(J, J') <= c TV(Y, -Y), which vanishes in wide layers
    4  every layer can repair it      min over W_l alone of L is the same before and after

Khalil, Brunswic, Lamghari, Li, Beitollahi, Chen. NoT: Federated Unlearning via Weight
Negation. CVPR 2025, arXiv 2503.05657. The statements are reconstructions from summaries of that
paper. A result that agrees with one is consistent with Theorem n (reconstruction). A result that
does not speaks against the reconstruction.

Networks are chains of matrices without biases, ``f(x) = s(... s(x W_1) ...) W_L``, so a negated
layer negates its pre-activation ``Y``. Shapes: ``B`` examples, ``D`` features, ``n_l`` units,
``C`` logits, ``L`` layers.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from jfu.types import Key, Params

Chain: TypeAlias = Sequence[jax.Array]  # [n_l-1, n_l] each
Loss: TypeAlias = Callable[[Params], jax.Array]

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda y: y,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def chain(key: Key, sizes: Sequence[int]) -> tuple[jax.Array, ...]:
    """Gaussian matrices of variance 1 / fan-in.

    >>> [w.shape for w in chain(jax.random.key(0), (4, 3, 2))]
    [(4, 3), (3, 2)]
    """
    keys = jax.random.split(key, len(sizes) - 1)
    draw = lambda key, n, m: jax.random.normal(key, (n, m)) / math.sqrt(n)
    return tuple(draw(*each) for each in zip(keys, sizes[:-1], sizes[1:], strict=True))


def preactivations(activation: Callable, weights: Chain, x: jax.Array) -> tuple[jax.Array, ...]:
    """``Y_1 ... Y_L`` of inputs ``[B, D]``, ``[B, n_l]`` each; the last are the logits.

    >>> y, logits = preactivations(jax.nn.relu, [-jnp.eye(2), jnp.eye(2)], jnp.array([[1.0, -3]]))
    >>> y.tolist(), logits.tolist()
    ([[-1.0, 3.0]], [[0.0, 3.0]])
    """
    outputs = [x @ weights[0]]
    for weight in weights[1:]:
        outputs.append(activation(outputs[-1]) @ weight)
    return tuple(outputs)


def negated(weights: Chain, layers: Sequence[int]) -> tuple[jax.Array, ...]:
    """The chain with some layers' signs changed, counted from 0, or from -1 backwards.

    Raises:
      IndexError: a position beyond the layers.

    >>> negated((1.0, 2.0, 3.0), [0, -1])
    (-1.0, 2.0, -3.0)
    """
    chosen = {range(len(weights))[layer] for layer in layers}
    return tuple(-w if layer in chosen else w for layer, w in enumerate(weights))


def descend(loss: Loss, params: Params, *, steps: int, rate: float) -> tuple[Params, jax.Array]:
    """Adam on the whole loss; the last parameters and the smallest loss met.

    >>> params, least = descend(lambda w: (w - 1.0) ** 2, jnp.zeros(()), steps=200, rate=0.1)
    >>> bool(abs(params - 1) < 0.01), bool(least < 1e-4)
    (True, True)
    """
    optimizer = optax.adam(rate)

    def step(carry, _):
        value, gradient = jax.value_and_grad(loss)(carry[0])
        updates, state = optimizer.update(gradient, carry[1])
        return (optax.apply_updates(carry[0], updates), state), value

    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params, values.min()


def smoothness(loss: Loss, params: Params, key: Key, *, iterations: int = 20) -> jax.Array:
    """The largest absolute eigenvalue of the Hessian, from below, by power iteration.

    >>> loss = lambda w: 0.5 * (w @ (jnp.array([1.0, -3.0]) * w))
    >>> round(float(smoothness(loss, jnp.ones(2), jax.random.key(0))), 3)
    3.0
    """
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    gradient = jax.grad(lambda flat: loss(unravel(flat)))
    unit = lambda v: v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    def step(v, _):
        after = jax.jvp(gradient, (flat,), (v,))[1]
        return unit(after), jnp.linalg.norm(after)

    start = unit(jax.random.normal(key, flat.shape, flat.dtype))
    return jax.lax.scan(step, start, length=iterations)[1][-1]


class TimeBound(NamedTuple):
    """What ``time_bound`` found: scalars."""

    time: jax.Array  # when the gap of losses was at its target, or when the flow was stopped
    bound: jax.Array  # no change of the gap as large as this one could be quicker
    ratio: jax.Array  # bound / time, at most 1 if consistent with Theorem 1
    speed: jax.Array  # the largest speed that was allowed on the way
    nearest: jax.Array  # the gap's speed in units of the speed allowed there, the largest
    reached: jax.Array  # whether the target was


def time_bound(
    retained: Loss,
    forgotten: Loss,
    params: Params,
    target: float | jax.Array,
    key: Key,
    *,
    rate: float,
    steps: int,
    every: int = 50,
    iterations: int = 20,
) -> TimeBound:
    """Theorem 1 (reconstruction): how soon can fine-tuning bring the gap of losses to a target?

    Follows the gradient flow of the retained loss by small steps, and compares the time until
    ``gap = |L_r - L_u|`` is at the target with

        bound = |target - gap_0| / max_t (sqrt(2 u L_u) + sqrt(2 r L_r)) sqrt(2 r L_r),

    which rests on ``|grad L|^2 <= 2 smoothness L``. The smoothnesses ``r`` and ``u`` are the
    largest met on the way, not in all space. A kink of ReLU has none. So the bound may fail.
    Where the target is not reached, time and change are those of the whole way.

    Args:
      retained, forgotten: losses of the parameters, nowhere negative.
      params: where fine-tuning starts: trained parameters, or negated ones.
      rate: of plain gradient descent, far below 1 / smoothness; time is rate times steps.
      steps: when to stop, a multiple of ``every``, which lies between measured smoothnesses.
      iterations: of the power method.

    Raises:
      ValueError: ``steps`` is no multiple of ``every``.

    >>> retained, forgotten = lambda w: 0.5 * w**2, lambda w: 0.0 * w
    >>> at_half = dict(params=1.0, target=0.25, key=jax.random.key(0))  # log(2) / 2, from 0.5
    >>> found = time_bound(retained, forgotten, **at_half, rate=1e-3, steps=500)
    >>> round(float(found.time), 3), round(float(found.bound), 3)
    (0.346, 0.25)
    """
    if steps % every:
        raise ValueError(f"steps is {steps}, which is no multiple of every, {every}")
    losses = lambda params: jnp.stack([retained(params), forgotten(params)])

    def descent(params, _):
        after = jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(retained)(params))
        return after, losses(params)

    def stretch(params, _):
        of = lambda one: smoothness(lambda p: losses(p) @ one, params, key, iterations=iterations)
        smooth = jax.vmap(of)(jnp.eye(2))
        after, met = jax.lax.scan(descent, params, length=every)
        return after, (met, smooth)

    params = jax.tree.map(jnp.asarray, params)
    _, (met, smooth) = jax.lax.scan(stretch, params, length=steps // every)
    met = met.reshape(steps, 2)
    gap, number = jnp.abs(met[:, 0] - met[:, 1]), jnp.arange(steps)
    there = (gap - target) * (gap[0] - target) <= 0
    reached, at = there.any(), jnp.where(there.any(), there.argmax(), steps - 1)
    last = jnp.maximum(at - 1, 0)  # from there to `at` the gap is taken for straight
    width = jnp.where(gap[at] == gap[last], 1.0, gap[at] - gap[last])
    part = jnp.where(reached & (at > 0), (target - gap[last]) / width, 1.0 * (at > 0))
    time, change = rate * (last + part), jnp.abs(jnp.where(reached, target, gap[at]) - gap[0])
    on_way = jnp.arange(len(smooth)) * every <= at
    smooth = jnp.where(on_way[:, None], smooth, 0.0).max(0)
    slopes = jnp.sqrt(2 * smooth[None] * jnp.maximum(met, 0))  # at least the gradients' norms
    allowed = slopes.sum(1) * slopes[:, 0]
    speed = jnp.where(number <= at, allowed, 0.0).max()
    actual = jnp.abs(jnp.diff(gap)) / rate
    nearest = jnp.where(number[1:] <= at, _over(actual, jnp.maximum(allowed[1:], allowed[:-1])), 0)
    bound = _over(change, speed)
    return TimeBound(time, bound, _over(bound, time), speed, nearest.max(), reached)


def _over(a: jax.Array, b: jax.Array) -> jax.Array:
    """The quotient of what is not negative, 0 where both are 0."""
    return jnp.where(a == 0, 0.0, a / jnp.where(a == 0, 1.0, b))


def activation_distance(activation: Callable, y: jax.Array, other: jax.Array) -> jax.Array:
    """``E|s(Y) - s(Y')|^2`` over all entries of two arrays of one shape.

    Theorem 2 (reconstruction): among weights of one norm the negated ones, ``Y' = -Y``, are at the
    largest distance. It is ``4 E s(Y)^2`` for odd ``s``, and ``E Y^2`` for ReLU and GELU.

    >>> y = jnp.array([1.0, -2.0])
    >>> [float(activation_distance(s, y, -y)) for s in (jax.nn.relu, lambda y: y, jnp.abs)]
    [2.5, 10.0, 0.0]
    """
    return jnp.mean((activation(y) - activation(other)) ** 2)


def relu_distance(rho: float | jax.Array) -> jax.Array:
    """The distance for ReLU and a standard Gaussian pair of correlation ``rho``.

        1 - (sqrt(1 - rho^2) + rho (pi - arccos rho)) / pi

    The product's mean is an arc-cosine kernel (Cho, Saul. Kernel Methods for Deep Learning.
    NeurIPS 2009).

    >>> [round(float(relu_distance(rho)), 3) for rho in (-1.0, 0.0, 1.0)]
    [1.0, 0.682, 0.0]
    """
    rho = jnp.asarray(rho)
    return 1 - (jnp.sqrt(1 - rho**2) + rho * (jnp.pi - jnp.arccos(rho))) / jnp.pi


def equal_norm(weight: jax.Array, key: Key) -> dict[str, jax.Array]:
    """Other weights of the norm of ``weight [n, m]``.

    ``gaussian`` is drawn anew and scaled, ``rotated`` is ``Q W`` with a uniform orthogonal
    ``Q``, ``permuted`` has the entries in another order.

    >>> {name: w.shape for name, w in equal_norm(jnp.ones((3, 2)), jax.random.key(0)).items()}
    {'gaussian': (3, 2), 'rotated': (3, 2), 'permuted': (3, 2)}
    """
    draw, turn, order = jax.random.split(key, 3)
    fresh = jax.random.normal(draw, weight.shape)
    return dict(
        gaussian=fresh * (jnp.linalg.norm(weight) / jnp.linalg.norm(fresh)),
        rotated=jax.random.orthogonal(turn, len(weight)) @ weight,
        permuted=jax.random.permutation(order, weight.ravel()).reshape(weight.shape),
    )


def wasserstein(one: jax.Array, other: jax.Array) -> jax.Array:
    """The W1 distance of two samples of one size: ``mean |sorted - sorted|``.

    >>> float(wasserstein(jnp.array([0.0, 1.0]), jnp.array([3.0, 1.0])))
    1.5
    """
    return jnp.abs(jnp.sort(one, axis=None) - jnp.sort(other, axis=None)).mean()


def total_variation(y: jax.Array, *, bins: int = 40) -> jax.Array:
    """``TV(Y, -Y)``: 0 for a symmetric law, 1 for a law of one sign, by a histogram.

    ``bins`` are equal and reach from ``-max|y|`` to ``max|y|``. Independent draws from a
    symmetric law have up to ``sqrt(bins / (pi size))`` by chance.

    >>> float(total_variation(jnp.array([1.0, 2.0, -2.0, 1.0])))
    0.5
    """
    half = bins // 2
    edge = jnp.maximum(jnp.abs(y).max(), jnp.finfo(y.dtype).tiny)
    place = jnp.minimum((jnp.abs(y) / edge * half).astype(int), half - 1)
    surplus = jnp.zeros(half).at[place.ravel()].add(jnp.sign(y).ravel())
    return jnp.abs(surplus).sum() / y.size


def jacobian_distance(activation: Callable, before: Chain, after: Chain, x: jax.Array) -> jax.Array:
    """Theorem 3 (reconstruction): how far does the law of later layers' Jacobians move?

    W1 between the singular values of ``d logits / d s(Y_1)`` at the inputs ``x [B, D]``, before and
    after a change of the first layer. Its unit is their mean before. It is at most a multiple of
    the ``total_variation`` of the layer's outputs, which vanishes as the layer widens. It is 0 for
    odd activations, and for the identity whatever the change.

    >>> weights, x = chain(jax.random.key(0), (4, 3, 3, 2)), jnp.eye(4)
    >>> round(float(jacobian_distance(jnp.tanh, weights, negated(weights, [0]), x)), 3)
    0.0
    """

    def values(weights):
        logits = lambda a: preactivations(activation, weights[1:], a[None])[-1][0]
        jacobians = jax.vmap(jax.jacrev(logits))(activation(x @ weights[0]))
        return jnp.linalg.svd(jacobians, compute_uv=False)

    old, new = values(before), values(after)
    return wasserstein(old, new) / old.mean()


def layerwise_minima(
    loss: Loss, weights: Chain, *, steps: int = 300, rate: float = 0.01
) -> jax.Array:
    """The least loss with one layer alone free, for each layer, ``[L]``.

    Theorem 4 (reconstruction): take an antichain of layers without the output layer. Negating it
    does not change these minima of the other layers, for odd and even activations. In a chain with
    odd activations, a second flip undoes the first. So two comparable layers cancel, and nothing is
    unlearned. The minima of the negated layers carry no information, since they can flip back.

    Adam starts from the layer and from its negative, and the least loss met counts: a minimum
    from above.

    Args:
      loss: of a sequence of ``L`` arrays, which need not be a chain.
      steps, rate: of Adam.

    >>> loss = lambda w: (w[0] * w[1] - 1.0) ** 2
    >>> trained = (jnp.ones(()), jnp.ones(()))
    >>> layerwise_minima(loss, negated(trained, [0])).tolist()
    [0.0, 0.0]
    """

    def least(pick, sign):
        # A layer that is not free has no gradient, so Adam leaves it where it is.
        joined = lambda free: [w + p * (f - w) for w, p, f in zip(weights, pick, free, strict=True)]
        start = [w * sign for w in weights]
        return descend(lambda free: loss(joined(free)), start, steps=steps, rate=rate)[1]

    ways = jax.vmap(jax.vmap(least, (None, 0)), (0, None))
    return ways(jnp.eye(len(weights)), jnp.array([1.0, -1.0])).min(1)
