"""The four experiments of launch.theory: the measures for each theorem, and their bounds.

Each takes an activation, the data and the trained networks of all seeds, and returns rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfu import theory

RETAIN, FORGET, WIDTH, CLASSES = 150, 50, 16, 10
WIDTHS = (16, 32, 64, 128)
TRAINING = dict(steps=150, rate=3e-3)
FLOW = dict(rate=0.005, steps=2000, every=200, iterations=10)
REPAIR = dict(steps=150, rate=0.03)
BINS = 10  # of a unit's histogram
# A tenth above what the histogram of a symmetric law has by chance: below it nothing is seen.
CHANCE = 1.1 * (BINS / (np.pi * (RETAIN + FORGET))) ** 0.5
DRAWS = 8
# Layers to negate: first, second, third, output; and the same with the second in two halves.
SETS = dict(first=(0,), pair=(0, 1), output=(3,))
BRANCHES = dict(halves=(1, 2), half=(1,))
ROUNDING = 1e-3  # tolerance of a bound for float32 and finite steps
REPAIRED = 0.01  # less than this share of the damage is none

# The checks: key -> (theorem, the comparison in words).
CHECKS = {
    "time, trained": (1, "time from the trained weights ≥ bound"),
    "time, negated": (1, "time from the negated weights ≥ bound"),
    "speed": (1, "allowed speed after negation > before"),
    "drawn, layer 1": (2, "first layer: drawn weights ≤ negation"),
    "drawn, layer 2": (2, "second layer: drawn weights ≤ negation"),
    "searched, white": (2, "white inputs: searched weights ≤ negation"),
    "searched, layer 1": (2, "first layer: searched weights ≤ negation"),
    "searched, layer 2": (2, "second layer: searched weights ≤ negation"),
    "narrow to wide, first": (3, "untrained: W1 of width 128 ≤ of width 16"),
    "narrow to wide, trained": (3, "trained: W1 of width 128 ≤ of width 16"),
    "asymmetry, first": (3, "untrained: mean TV(y, -y) of a unit, width 128 ≤ 16"),
    "asymmetry, trained": (3, "trained: mean TV(y, -y) of a unit, width 128 ≤ 16"),
    "new layer": (3, "trained: W1 ≤ of a new first layer"),
    "noise": (3, "trained: W1 ≤ of noise as far away"),
    "first": (4, "antichain {first}: share left ≤ 0.01"),
    "halves": (4, "antichain {second, as two halves}: share left ≤ 0.01"),
    "half": (4, "antichain {one half of second}: share left ≤ 0.01"),
    "pair": (4, "comparable {first, second}: damage / that of {first} ≤ 0.01"),
    "output": (4, "{first}: share left ≤ that of {output}"),
    "anew": (4, "{first}: share left ≤ that of a new first layer"),
}


class Task(NamedTuple):
    """Data and networks of every seed, ``S`` of them."""

    x: jax.Array  # [S, RETAIN + FORGET, 64], the retained images first
    y: jax.Array  # [S, RETAIN + FORGET]
    keys: jax.Array  # [S]


def make(seeds: int) -> Task:
    """New images, labels and first weights for every seed."""
    from jfu.data import digits

    data = digits()
    images = data.x_train.reshape(len(data.x_train), -1).astype(np.float32) / 255
    x, y = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(images))[: RETAIN + FORGET]
        some, labels = images[rows] - images[rows].mean(0), data.y_train[rows]
        x.append(some / some.std())
        y.append(np.where(rng.random(len(rows)) < 0.2, rng.integers(0, CLASSES, len(rows)), labels))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return Task(jnp.asarray(np.stack(x)), jnp.asarray(np.stack(y), jnp.int32), keys)


def cross_entropy(activation: Callable, weights: theory.Chain, x, y, share) -> jax.Array:
    """The mean loss, with each example weighted by its share ``[B]``."""
    logits = theory.preactivations(activation, weights, x)[-1]
    each = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)[:, 0]
    return (each * share).sum() / share.sum()


# Compiling is most of the time; this more than halves it.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEPT = np.repeat([1.0, 0.0], [RETAIN, FORGET]).astype(np.float32)


class Networks(NamedTuple):
    """Weights of every seed: three hidden layers of one width."""

    first: dict[int, theory.Chain]  # by width, before training
    trained: dict[int, theory.Chain]  # by width, on all images
    retrained: theory.Chain  # of width WIDTH, on the retained images alone


def train(activation: Callable, task: Task) -> Networks:
    first, trained, retrained = {}, {}, {}
    for width in WIDTHS:
        sizes = (task.x.shape[-1], width, width, width, CLASSES)
        begin = lambda key: theory.chain(key, sizes)

        @quick_jit
        def fit(weights, share):
            def each(x, y, w):
                loss = lambda w: cross_entropy(activation, w, x, y, share)
                return theory.descend(loss, w, **TRAINING)[0]

            return jax.vmap(each)(task.x, task.y, weights)

        first[width] = quick_jit(jax.vmap(begin))(task.keys)
        trained[width] = fit(first[width], np.ones_like(KEPT))
        if width == WIDTH:
            retrained[width] = fit(first[width], KEPT)
    return Networks(first, trained, retrained[WIDTH])


def line(what: str, seed: int, value, bound, consistent, **more) -> dict[str, Any]:
    """One row: a measured value, the bound that it is compared with, and the verdict or None."""
    consistent = None if consistent is None else bool(consistent)
    numbers = dict(value=float(value), bound=float(bound), consistent=consistent)
    return dict(theorem=CHECKS[what][0], what=what, seed=seed) | numbers | more


def unlearning_time(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 1: the time in which the gap changes, and the shortest time by the bound."""

    @quick_jit
    @jax.vmap
    def each(x, y, key, trained, again):
        retained = lambda w: cross_entropy(activation, w, x, y, KEPT)
        forgotten = lambda w: cross_entropy(activation, w, x, y, 1 - KEPT)
        target = jnp.abs(retained(again) - forgotten(again)) / 2
        starts = jax.tree.map(lambda *both: jnp.stack(both), trained, theory.negated(trained, [0]))
        flow = lambda w: theory.time_bound(retained, forgotten, w, target, key, **FLOW)
        return jax.vmap(flow)(starts)

    found = jax.device_get(each(*task, networks.trained[WIDTH], networks.retrained))
    rows = []
    for seed in range(len(task.keys)):
        for i, start in enumerate(("trained", "negated")):
            at = jax.tree.map(lambda a: a[seed, i].item(), found)
            extra = {k: v for k, v in at._asdict().items() if k != "bound"}
            rows.append(line(f"time, {start}", seed, at.time, at.bound, consistent(at), **extra))
        plain, changed = found.speed[seed]
        rows.append(line("speed", seed, changed, plain, changed > plain))
    return rows


def consistent(found: theory.TimeBound) -> bool:
    """Whether a flow met the bound, and the allowed speed at every moment."""
    return bool(max(found.ratio, found.nearest) <= 1 + ROUNDING)


def activation_distances(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 2: negation against other weights of the same norm, random and searched for."""

    def layer(weight, inputs, key):
        y = inputs @ weight
        far = lambda other: theory.activation_distance(activation, y, inputs @ other)
        alike = lambda other: (
            jnp.vdot(y, inputs @ other) / (jnp.linalg.norm(y) * jnp.linalg.norm(inputs @ other))
        )
        drawn = jax.vmap(lambda key: theory.equal_norm(weight, key))(jax.random.split(key, DRAWS))
        found = {kind: (jax.vmap(far)(w), jax.vmap(alike)(w)) for kind, w in drawn.items()}
        best = farthest(activation, weight, inputs, drawn["gaussian"][0], steps=200)
        return found | dict(searched=(far(best)[None], alike(best)[None])), far(-weight)

    @quick_jit
    @jax.vmap
    def each(x, key, weights):
        hidden = activation(x @ weights[0])
        # Covariance exactly 1, and symmetric, unlike a finite random sample.
        white = jnp.linalg.qr(jax.random.normal(key, (1024, x.shape[1])))[0] * 32
        white = jnp.concatenate([white, -white])
        places = dict(
            white=(weights[0], white), layer1=(weights[0], x), layer2=(weights[1], hidden)
        )
        return {name: layer(*place, key) for name, place in places.items()}

    found = jax.device_get(each(task.x, task.keys, networks.trained[WIDTH]))
    rows = []
    for place, (kinds, most) in found.items():
        name = place.replace("layer", "layer ")
        for seed in range(len(task.keys)):
            groups = dict(drawn=("gaussian", "rotated", "permuted"), searched=("searched",))
            for group, members in groups.items():
                if f"{group}, {name}" not in CHECKS:
                    continue
                points = [
                    dict(kind=k, ratio=float(d / most[seed]), correlation=float(c))
                    for k in members
                    for d, c in zip(kinds[k][0][seed], kinds[k][1][seed], strict=True)
                ]
                top = max(p["ratio"] for p in points) * most[seed]
                fair = top <= most[seed] * (1 + ROUNDING)
                rows.append(line(f"{group}, {name}", seed, top, most[seed], fair, points=points))
    return rows


def farthest(
    activation: Callable, weight: jax.Array, inputs: jax.Array, start: jax.Array, *, steps: int
) -> jax.Array:
    """Searches weights of the same norm for the largest distance: gradient ascent on the sphere.

    Args:
      weight, start: ``[n, m]``.
      inputs: of the layer, ``[B, n]``.

    >>> start, weight = jnp.array([[1.0], [0.0]]), jnp.ones((2, 1))
    >>> farthest(lambda y: y, weight, jnp.eye(2), start, steps=99).round(1).tolist()
    [[-1.0], [-1.0]]
    """
    y, norm = inputs @ weight, jnp.linalg.norm(weight)
    onto = lambda other: other * (norm / jnp.linalg.norm(other))

    def step(other, left):  # begins at a twentieth of the radius and decreases
        uphill = jax.grad(lambda w: theory.activation_distance(activation, y, inputs @ w))(other)
        uphill = uphill - jnp.vdot(uphill, other) / norm**2 * other
        length = jnp.maximum(jnp.linalg.norm(uphill), jnp.finfo(uphill.dtype).tiny)
        return onto(other + 0.05 * left * norm / length * uphill), None

    return jax.lax.scan(step, onto(start), jnp.linspace(1, 0, steps))[0]


def jacobians(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 3: W1 between the laws of later Jacobians, and asymmetry of the first layer's units.

    There is nothing to compare if W1 is 0 on both sides, or if the asymmetry is at chance level.
    """
    asymmetry = jax.vmap(functools.partial(theory.total_variation, bins=BINS), in_axes=1)

    @quick_jit
    @jax.vmap
    def each(x, key, weights):
        stem, *rest = weights
        draw, shake = jax.random.split(key)
        new = theory.equal_norm(stem, draw)["gaussian"]
        noise = 2 * theory.equal_norm(stem, shake)["gaussian"]  # negation moves by 2 |W|
        changed = dict(negated=-stem, anew=new, noise=stem + noise)
        far = lambda first: theory.jacobian_distance(activation, weights, (first, *rest), x)
        found = dict(zip(changed, jax.vmap(far)(jnp.stack([*changed.values()])), strict=True))
        return found | dict(asymmetry=asymmetry(x @ stem).mean())

    found = {}
    for width in WIDTHS:
        for phase in ("first", "trained"):
            weights = getattr(networks, phase)[width]
            found[phase, width] = jax.device_get(each(task.x, task.keys, weights))
    rows = []
    narrow, wide = WIDTHS[0], WIDTHS[-1]
    for seed in range(len(task.keys)):
        at = lambda phase, width, name: float(found[phase, width][name][seed])
        fair = lambda value, bound, seen=ROUNDING: (
            value <= bound + ROUNDING if max(value, bound) >= seen else None
        )
        for phase in ("first", "trained"):
            for what, name, seen in (
                ("narrow to wide", "negated", ROUNDING),
                ("asymmetry", "asymmetry", CHANCE),
            ):
                value, bound = at(phase, wide, name), at(phase, narrow, name)
                more = dict(
                    width=wide, points=[dict(width=w, value=at(phase, w, name)) for w in WIDTHS]
                )
                fits = fair(value, bound, seen=seen)
                rows.append(line(f"{what}, {phase}", seed, value, bound, fits, **more))
        for what, name in ("new layer", "anew"), ("noise", "noise"):
            for width in WIDTHS:
                value, bound = at("trained", width, "negated"), at("trained", width, name)
                rows.append(line(what, seed, value, bound, fair(value, bound), width=width))
    return rows


def repair(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 4: the least loss that one other layer alone can reach, trained against negated.

    The antichains of a chain are single layers. So in BRANCHES the two halves of the second layer's
    units count as two layers, and neither feeds the other.
    """

    @quick_jit
    @jax.vmap
    def each(x, y, key, weights):
        x, y = x[:RETAIN], y[:RETAIN]
        stem, second, *rest = weights
        new = (theory.equal_norm(stem, key)["gaussian"], second, *rest)
        branches = (stem, *jnp.split(second, 2, axis=1), *rest)
        whole = lambda w: cross_entropy(activation, w, x, y, KEPT[:RETAIN])
        joined = lambda w: whole((w[0], jnp.hstack(w[1:3]), *w[3:]))

        def both(loss, chains):
            judge = lambda w: (loss(w), theory.layerwise_minima(loss, w, **REPAIR))
            return jax.vmap(judge)(jax.tree.map(lambda *all: jnp.stack(all), *chains))

        changed = [theory.negated(weights, layers) for layers in SETS.values()]
        halves = [theory.negated(branches, layers) for layers in BRANCHES.values()]
        return both(whole, [weights, new, *changed]), both(joined, [branches, *halves])

    found = jax.device_get(each(*task, networks.retrained))
    rows = []
    for seed in range(len(task.keys)):
        damage, left = {}, {}
        for (losses, minima), sets in zip(found, (dict(anew=(0,)) | SETS, BRANCHES), strict=True):
            for i, (name, layers) in enumerate(sets.items(), 1):
                damage[name] = float(losses[seed, i] - losses[seed, 0])
                others = [layer for layer in range(minima.shape[-1]) if layer not in layers]
                remains = minima[seed, i, others] - minima[seed, 0, others]
                left[name] = (remains / damage[name]).tolist() if name != "pair" else []
        detail = lambda name: dict(damage=damage[name], left=left[name])
        for name in ("first", "halves", "half"):
            worst = max(left[name])
            rows.append(line(name, seed, worst, REPAIRED, worst <= REPAIRED, **detail(name)))
        share = abs(damage["pair"]) / damage["first"]
        rows.append(line("pair", seed, share, REPAIRED, share <= REPAIRED, **detail("pair")))
        for name in ("output", "anew"):
            ours, theirs = max(left["first"]), max(left[name])
            rows.append(line(name, seed, ours, theirs, ours <= theirs + REPAIRED, **detail(name)))
    return rows


EXPERIMENTS = (unlearning_time, activation_distances, jacobians, repair)


def study(name: str, seeds: int) -> list[dict]:
    """All rows of one activation."""
    activation, task = theory.ACTIVATIONS[name], make(seeds)
    networks = train(activation, task)
    rows = [row for each in EXPERIMENTS for row in each(activation, task, networks)]
    return [dict(theorem=row["theorem"], activation=name) | row for row in rows]
