"""Which aggregator withstands which attack."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from launch.shell.say import say
from launch.timing.process import free, publish

FLAGS = flags.FLAGS

CLIENTS, ROUNDS, RATE, BATCH = 10, 30, 0.15, 32
LIMIT, CLIP = 1.0, 0.3  # above the lengths of good updates here; near their median
WIDTH = 32  # width of the only hidden layer
PARTS = ("iid", "dirichlet:0.5")
BAD = (1, 2, 3)
NEAR = 5.0  # an attack this many points below averaging without bad clients was withstood

AGGREGATORS = {
    "mean": "`mean`",
    "limited": f"`mean`, `--max_update_norm={LIMIT:g}`",
    "clipped": f"`clipped`, `--clip={CLIP:g}`",
    "median": "`median`",
    "trimmed": "`trimmed`, `--trim=0.3`",
    "krum": "`krum`, `--byzantine=3`",
    "multi-krum": "`jfu.krum(3, chosen=7)`",
    "geometric": "`jfu.geometric_median()`",
    "mixed": "`jfu.mixed(jfu.trimmed_mean(0.3), 3)`",
}
# The name of the attack, its column, and the strengths to try. Labels are flipped in the data.
# 0 deviations means the paper's own number of deviations.
ATTACKS = {
    "none": ("nobody bad", (1.0,)),
    "nan": ("NaN", (1.0,)),
    "weight": ("huge weight", (1.0,)),
    "noise": ("noise", (10.0,)),
    "labels": ("flipped labels", (1.0,)),
    "sign": ("flipped sign", (1.0, 3.0, 10.0)),
    "inner": ("inner product", (0.05, 0.2, 0.5, 2.0)),
    "little": ("a little", (0.0, 0.5, 1.5)),
}


def robustness() -> None:
    free(FLAGS.json)
    rows, data = [], read()
    for part in PARTS:
        for name in AGGREGATORS:
            begun = time.perf_counter()
            run = program(name, part, data)
            for attack, (_, strengths) in ATTACKS.items():
                for strength in strengths:
                    for bad, found in zip(BAD, run(attack, strength, FLAGS.seeds), strict=True):
                        found = [round(100 * float(value), 2) for value in found]
                        case_ = dict(attack=attack, strength=strength, bad=bad, accuracy=found)
                        rows.append(dict(partition=part, aggregator=name) | case_)
            say(f"{part}, {name}: {time.perf_counter() - begun:.0f} s")
    common = dict(clients=CLIENTS, rounds=ROUNDS, lr=RATE, batch_size=BATCH, width=WIDTH)
    publish(FLAGS.json, [common | row for row in rows], markdown(rows))


def read() -> Any:
    from jfu import data

    return data.load("digits")


def aggregator(name: str):
    """``(aggregator, max_update_norm)`` of a row."""
    import jfu

    made = {
        "mean": jfu.weighted_mean,
        "limited": jfu.weighted_mean,
        "clipped": lambda: jfu.clipped_mean(CLIP),
        "median": jfu.coordinate_median,
        "trimmed": lambda: jfu.trimmed_mean(0.3),
        "krum": lambda: jfu.krum(3),
        "multi-krum": lambda: jfu.krum(3, chosen=7),
        "geometric": jfu.geometric_median,
        "mixed": lambda: jfu.mixed(jfu.trimmed_mean(0.3), 3),
    }
    return made[name](), LIMIT if name == "limited" else None


def harm(number, strength, updates, weights, bad, key):
    """The updates of bad clients, by the attack at that position of ``ATTACKS``."""
    import jax
    import jax.numpy as jnp

    from jfu import adversaries as a

    little = lambda z: jnp.where(z > 0, z, a.deviations(weights, bad))
    choices = dict(
        none=lambda s: a.nothing(),
        nan=lambda s: a.not_a_number(),
        weight=lambda s: a.heavy(1e6, s),
        noise=a.gaussian_noise,
        labels=lambda s: a.nothing(),
        sign=a.sign_flip,
        inner=a.inner_product,
        little=lambda s: a.little_is_enough(little(s)),
    )
    run = lambda make: lambda strength: make(strength)(updates, weights, bad, key)
    return jax.lax.switch(number, [run(choices[name]) for name in ATTACKS], strength)


def program(name: str, part: str, data: Any) -> Callable[[str, float, int], Any]:
    """``run(attack, strength, seeds) -> accuracy [bad, seeds]``: one program for all attacks."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import jfu
    from jfu import adversaries, models
    from jfu.models.mlp import MLP

    image = jax.ShapeDtypeStruct((1, *data.x_train.shape[1:]), np.uint8)
    model = models.from_linen(MLP(10, width=WIDTH, depth=1), image)
    local = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(RATE), batch_size=BATCH)
    inner, limit = aggregator(name)

    def train(number, strength, clients, bad, key):
        attack = functools.partial(harm, number, strength)
        siege = adversaries.besieged(inner, attack, bad, max_update_norm=limit)
        fed = jfu.fedavg(local, aggregator=siege, chunk=0)
        init_key, key = jax.random.split(key)

        def step(state, i):
            return fed.round(state, clients, jax.random.fold_in(key, i))[0], None

        state, _ = jax.lax.scan(step, fed.init(model.init(init_key)), jnp.arange(ROUNDS))
        logits, _ = model.apply(state.variables, jnp.asarray(data.x_test))
        return (logits.argmax(-1) == jnp.asarray(data.y_test)).mean()

    axes = jfu.ClientData(x=None, y=0, index=0, mask=0, id=None, row=None)
    run = jax.jit(jax.vmap(train, (None, None, axes, 0, 0)))

    def results(attack, strength, seeds):
        flips = attack == "labels"
        cases = [case(data, part, seed, many, flips) for many in BAD for seed in range(seeds)]
        slots = max(clients.mask.shape[1] for clients, _ in cases)
        clients = stacked([clients for clients, _ in cases], slots)
        keys = jax.vmap(jax.random.key)(jnp.tile(jnp.arange(seeds), len(BAD)))
        bad = np.stack([bad for _, bad in cases])
        found = run(list(ATTACKS).index(attack), float(strength), clients, bad, keys)
        return np.asarray(found).reshape(len(BAD), seeds)

    return results


def stacked(cases: list, slots: int):
    """Several federations that share a pool of images, as one, along a new first axis."""
    import numpy as np

    wide = lambda a: np.pad(a, ((0, 0), (0, slots - a.shape[1])))
    of = lambda name, fit: np.stack([fit(np.asarray(getattr(c, name))) for c in cases])
    return cases[0]._replace(y=of("y", lambda y: y), index=of("index", wide), mask=of("mask", wide))


def case(data: Any, part: str, seed: int, many: int, flips: bool):
    """A seed's clients, with a number of bad ones; flipped labels if that is the attack."""
    import numpy as np

    import jfu
    from jfu import adversaries
    from jfu.data import partition

    lists = partition.partition(part, data.y_train, CLIENTS, seed)
    clients = jfu.stack(data.x_train, data.y_train, lists)
    bad = np.zeros(CLIENTS, bool)
    bad[np.random.default_rng([seed, 7]).permutation(CLIENTS)[:many]] = True
    return adversaries.flip_labels(clients, bad, 10) if flips else clients, bad


def markdown(rows: list[dict[str, Any]]) -> str:
    """Accuracy of each aggregator under each attack, with one, two and three bad clients."""
    found: dict[tuple, float] = {}
    for row in rows:  # mean over seeds, the worst over strengths
        place = tuple(row[name] for name in ("partition", "aggregator", "attack", "bad"))
        found[place] = min(found.get(place, 100.0), statistics.mean(row["accuracy"]))
    put = lambda value, best: f"**{value:.0f}**" if value >= best - NEAR else f"{value:.0f}"
    text = []
    for part in PARTS:
        best = found[part, "mean", "none", BAD[0]]
        head = [f"`{part}`", *(title for title, _ in ATTACKS.values())]
        text += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for name, title in AGGREGATORS.items():
            cells = [title]
            for attack in ATTACKS:
                bad = BAD[:1] if attack == "none" else BAD
                cells.append(" / ".join(put(found[part, name, attack, m], best) for m in bad))
            text.append(f"| {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text[:-1]) + "\n"
