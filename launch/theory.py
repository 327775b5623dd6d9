"""The theorems behind NoT, tried on small networks: four experiments that can fail.

For identity, tanh, ReLU and GELU, chains of matrices without biases learn a few hundred of
scikit-learn's digits (centred, a fifth of the labels drawn at random), of which some are to be
forgotten. Then, seed by seed:

  1  the time in which fine-tuning changes the gap between retained and forgotten loss, against
     the bound, from the trained weights and from those with the first layer negated;
  2  the distance of activations after negating a layer, against other weights of one norm,
     drawn and searched for;
  3  how far the law of later layers' Jacobians moves, over widths, against a new first layer
     and against noise;
  4  what any other layer alone can repair, after negating an antichain, comparable layers, or
     the output layer.

Every line says whether it is consistent with its theorem as jfu.theory reconstructs it; that is
neither the paper's wording nor its proof, and what is not consistent is a result. Writes
theory.jsonl (a line for each number), theory.md and theory.png into the work directory.

  python -m launch.theory --workdir=runs/theory --seeds=3
"""

import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import jfu.io
from jfu import theory
from launch import main, theory_figure
from launch.workdir import make_folder, take, untouched

FLAGS = flags.FLAGS

RETAIN, FORGET, WIDTH, CLASSES = 150, 50, 16, 10
WIDTHS = (16, 32, 64, 128)
TRAINING = dict(steps=150, rate=3e-3)
FLOW = dict(rate=0.005, steps=2000, every=200, iterations=10)
REPAIR = dict(steps=150, rate=0.03)
BINS = 10  # of a unit's histogram
# A tenth above what the histogram of a symmetric law has by chance: below it nothing is seen.
CHANCE = 1.1 * (BINS / (np.pi * (RETAIN + FORGET))) ** 0.5
DRAWS = 8
# Layers to negate: first, second, third, output; and with halves of the second as two.
SETS = dict(first=(0,), pair=(0, 1), output=(3,))
BRANCHES = dict(halves=(1, 2), half=(1,))
NOT_SHOWN = "not shown"
ROUNDING = 1e-3  # what float32 and finite steps may add to a bound
REPAIRED = 0.01  # less than this share of the damage is none

# What is checked: key -> (theorem, in words with the two numbers that are compared).
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


def theorems() -> None:
    text = run(FLAGS.workdir, FLAGS.seeds, FLAGS.processes)
    print(f"\n{text}\ntheory.jsonl, theory.md and theory.png are in {FLAGS.workdir}/")


def run(path: str, seeds: int, processes: int = 1) -> str:
    """The four experiments into a work directory; the text of the tables.

    Args:
      processes: activations at once, most of whose time is compiling on one core.

    Raises:
      ValueError: the directory holds anything but such a run with as many seeds.
    """
    folder = claim(path, seeds)
    lock = take(folder)
    main.say(f"{', '.join(theory.ACTIVATIONS)}: {seeds} seeds each, {processes} at once")
    of = functools.partial(study, seeds=seeds)
    if processes == 1:
        found = list(map(of, theory.ACTIVATIONS))
    else:
        fresh = multiprocessing.get_context("spawn")  # a fork of JAX's threads would hang
        with concurrent.futures.ProcessPoolExecutor(processes, fresh) as pool:
            found = list(pool.map(of, theory.ACTIVATIONS))
    rows = [row for some in found for row in some]
    text = markdown(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    jfu.io.write_bytes(folder / "theory.jsonl", lines.encode())
    jfu.io.write_bytes(folder / "theory.md", text.encode())
    theory_figure.draw(rows, str(folder / "theory.png"))
    if lock:
        lock.close()
    return text


def study(name: str, seeds: int) -> list[dict]:
    """Every row of one activation."""
    activation, task = theory.ACTIVATIONS[name], make(seeds)
    networks = train(activation, task)
    rows = [row for each in EXPERIMENTS for row in each(activation, task, networks)]
    return [dict(theorem=row["theorem"], activation=name) | row for row in rows]


def claim(path: str, seeds: int) -> pathlib.Path:
    """Makes the work directory, or takes over one that was made with the same flags.

    Raises:
      ValueError: it holds anything else; nothing is changed.
    """
    folder, told = pathlib.Path(path), dict(script="theory", seeds=seeds)
    notes = folder / "config.json"
    if notes.exists():
        try:
            kept = dict(json.loads(notes.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{notes} is unreadable ({error!r}); restore it or choose another --workdir"
            ) from None
        if kept.get("script") != "theory":
            raise ValueError(
                f"{folder} holds a run of launch.{kept.get('script')}; choose another --workdir"
            )
        if kept != told:
            raise ValueError(
                f"{folder} holds a run with seeds={kept.get('seeds')}, and seeds={seeds} was asked "
                "for; use the same flags to replace it, or another --workdir"
            )
        return folder
    if not untouched(folder):
        raise ValueError(
            f"{folder} exists and was not made by launch.theory; choose another --workdir, "
            "nothing was touched"
        )
    make_folder(folder)
    jfu.io.write_bytes(notes, (json.dumps(told) + "\n").encode())
    return folder


def make(seeds: int) -> Task:
    """Other images, labels and first weights for every seed."""
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
    """The mean loss, each example counting for its share ``[B]``."""
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
    first, trained = {}, {}
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
            retrained = fit(first[width], KEPT)
    return Networks(first, trained, retrained)


def line(what: str, seed: int, value, bound, consistent, **more) -> dict[str, Any]:
    """One row: what was measured, what it is compared with, and the verdict or None."""
    consistent = None if consistent is None else bool(consistent)
    numbers = dict(value=float(value), bound=float(bound), consistent=consistent)
    return dict(theorem=CHECKS[what][0], what=what, seed=seed) | numbers | more


def unlearning_time(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 1: the time that the gap takes, and the least it could take."""

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
            rows.append(line(f"time, {start}", seed, at.time, at.bound, holds(at), **extra))
        plain, changed = found.speed[seed]
        rows.append(line("speed", seed, changed, plain, changed > plain))
    return rows


def holds(found: theory.TimeBound) -> bool:
    """Whether a flow kept to the bound, and to the speed allowed at every moment."""
    return bool(max(found.ratio, found.nearest) <= 1 + ROUNDING)


def activation_distances(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 2: negation against weights of one norm, drawn and searched for."""

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
        # Exactly of covariance 1 and symmetric, as no finite draw is.
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
    """Searches the weights of one norm for the largest distance: ascent along the sphere.

    Args:
      weight, start: ``[n, m]``.
      inputs: of the layer, ``[B, n]``.

    >>> start, weight = jnp.array([[1.0], [0.0]]), jnp.ones((2, 1))
    >>> farthest(lambda y: y, weight, jnp.eye(2), start, steps=99).round(1).tolist()
    [[-1.0], [-1.0]]
    """
    y, norm = inputs @ weight, jnp.linalg.norm(weight)
    onto = lambda other: other * (norm / jnp.linalg.norm(other))

    def step(other, left):  # a twentieth of the radius at first, then less and less
        uphill = jax.grad(lambda w: theory.activation_distance(activation, y, inputs @ w))(other)
        uphill = uphill - jnp.vdot(uphill, other) / norm**2 * other
        length = jnp.maximum(jnp.linalg.norm(uphill), jnp.finfo(uphill.dtype).tiny)
        return onto(other + 0.05 * left * norm / length * uphill), None

    return jax.lax.scan(step, onto(start), jnp.linspace(1, 0, steps))[0]


def jacobians(activation: Callable, task: Task, networks: Networks) -> list[dict]:
    """Theorem 3: W1 between the laws of later Jacobians, and the asymmetry of the first layer's
    units. Where W1 is 0 on both sides, or the asymmetry is what chance gives, there is nothing
    to compare.
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
        fair = lambda *pair, seen=ROUNDING: (
            pair[0] <= pair[1] + ROUNDING if max(pair) >= seen else None
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
    """Theorem 4: the least loss with one other layer alone free, trained against negated.

    A chain's antichains are single layers, so the halves of the second layer's units count as
    two layers in BRANCHES, none of which feeds the other.
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


def markdown(rows: Sequence[dict]) -> str:
    """Two tables: the verdict of every check over all seeds, and how many each theorem passed."""
    from launch import report

    names = list(dict.fromkeys(row["activation"] for row in rows))
    of = lambda what, name: [r for r in rows if (r["what"], r["activation"]) == (what, name)]
    checks = [["theorem", "consistent if", *names]]
    for what, (number, words) in CHECKS.items():
        checks.append([str(number), words, *(verdict(of(what, name)) for name in names)])
    totals = [["reconstruction of", *names]]
    for number in sorted({number for number, _ in CHECKS.values()}):
        totals.append([f"Theorem {number}"])
        for name in names:
            mine = [of(what, name) for what, (n, _) in CHECKS.items() if n == number]
            totals[-1].append(total([judged(some) for some in mine]))
    return f"{report.aligned(checks)}\n{report.aligned(totals)}"


def judged(rows: Sequence[dict]) -> bool | None:
    """Whether a check holds in every row that has something to compare; None if none has."""
    known = [row["consistent"] for row in rows if row["consistent"] is not None]
    return all(known) if known else None


def total(checks: Sequence[bool | None]) -> str:
    """A theorem's checks in words.

    >>> total([True, True, None]), total([True, False]), total([None])
    ('consistent: 2 of 2 checks, 1 not shown', 'not consistent: 1 of 2 checks', 'not shown')
    """
    known = [check for check in checks if check is not None]
    if not known:
        return NOT_SHOWN
    word = "consistent" if all(known) else "not consistent"
    rest = f", {len(checks) - len(known)} {NOT_SHOWN}" if len(known) < len(checks) else ""
    return f"{word}: {sum(known)} of {len(known)} checks{rest}"


def verdict(rows: Sequence[dict]) -> str:
    """Rows of one check in words; one row that is not consistent makes the check so.

    A mean with ≥ counts, for what was not reached, the end of the way.

    >>> rows = [dict(value=v, bound=2.0, consistent=v <= 2) for v in (1.0, 4.0)]
    >>> verdict(rows), verdict(rows[:1])
    ('not consistent in 1 of 2 (2.5, 2)', 'consistent (1, 2)')
    >>> verdict([dict(rows[0], reached=False)]), verdict([dict(rows[0], consistent=None)])
    ('consistent (≥ 1, 2)', 'not shown: nothing to compare (1, 2)')
    """
    against = sum(row["consistent"] is False for row in rows)
    means = ", ".join(f"{np.mean([row[k] for row in rows]):.3g}" for k in ("value", "bound"))
    means = means if all(row.get("reached", True) for row in rows) else f"≥ {means}"
    if judged(rows) is None:
        return f"{NOT_SHOWN}: nothing to compare ({means})"
    part = f" in {against} of {len(rows)}" if against < len(rows) else ""
    return f"not consistent{part} ({means})" if against else f"consistent ({means})"


def define() -> None:
    flags.DEFINE_string("workdir", "runs/theory", "Where the results go.")
    flags.DEFINE_integer("seeds", 3, "How many times: images, labels, weights.", lower_bound=1)
    flags.DEFINE_integer("processes", 2, "Activations tried at once.", lower_bound=1)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


if __name__ == "__main__":
    define()
    main.run(theorems)
