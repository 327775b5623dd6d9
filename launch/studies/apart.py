"""Why U-LiRA tells unlearned models from retrained ones: controls that differ in one thing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jfu import tables
from launch.shell.say import say
from launch.studies.power import AT_ONCE, ROUNDS, case, federation
from launch.timing.process import free, publish

FLAGS = flags.FLAGS

HALF = ROUNDS // 2  # of recovery, as in the quickstart
# Answers: the method, and its rounds.
ANSWERS = {
    "a third retraining": ("retrain", ROUNDS),
    "retraining stopped after half its rounds": ("retrain", HALF),
    "NoT": ("not", HALF),
    "NoT, for as long as retraining": ("not", ROUNDS),
    "first layer drawn again": ("reinit", HALF),
    "first layer drawn again, for as long": ("reinit", ROUNDS),
    "fine-tuning": ("finetune", HALF),
    "fine-tuning, for as long": ("finetune", ROUNDS),
    "NoT, a fresh model mixed in": ("blend", HALF),
    "NoT, a fresh model mixed in, for as long": ("blend", ROUNDS),
}


def apart() -> None:
    free(FLAGS.json)
    if FLAGS.shadows % 2:
        raise ValueError(f"--shadows={FLAGS.shadows} is odd; shadows come in pairs")
    rows = measured(*answered(FLAGS.shadows))
    publish(FLAGS.json, rows, markdown(rows))


def programs(request: Any) -> tuple[Any, dict[str, Any]]:
    """The network, and a program for each method: ``(key, rounds, held, old models) -> models``.

    Retraining trains on what ``held`` has of the forgotten data, and on retained data.
    """
    import jax

    import jfu
    from jfu import shadows
    from jfu.unlearn import blended, finetune, negation, reinit, retrain

    model, fed = federation()
    first = jfu.by_layer(model, 0)
    methods = dict(
        retrain=retrain(fed, model.init),
        finetune=finetune(fed),
        reinit=reinit(fed, first, model.init),
        blend=blended(fed, first, model.init),
    )
    methods["not"] = negation(fed, first)

    def compiled(name):
        def one(shared, row):
            (request, key, rounds), (number, held, old) = shared, row
            mine = shadows.shadow(request, held)
            mine = shadows.everything(mine) if name == "retrain" else mine
            answer = shadows.answer(methods[name], rounds)
            return answer(jfu.Trained(old), mine, jax.random.fold_in(key, number)).variables

        mapped = jax.jit(shadows.map_federations(one, chunk=AT_ONCE))

        def run(key, rounds, held, old=()):
            return mapped((request, key, rounds), (np.arange(len(held)), held, old))

        return run

    return model, {name: compiled(name) for name in methods}


def answered(many: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """``phi`` of every candidate under every shadow's answers, ``[S, n]``; and who had what."""
    import jax

    from jfu import attacks, data, shadows

    request = case("trigger", 0, data.load("digits")).request
    model, run = programs(request)
    keys = jax.random.split(jax.random.key(0), len(ANSWERS) + 3)
    held = np.asarray(shadows.halves(request, keys[0], many))
    rows = shadows.candidates(request)
    x, y = request.retain.x[rows], np.asarray(request.retain.y)[rows]

    def phi(stacked):
        logits = jax.vmap(lambda variables: model.apply(variables, x)[0])(stacked)
        return np.stack([attacks.confidence(np.asarray(one), y) for one in logits])

    nothing = np.zeros_like(held)
    old = run["retrain"](keys[1], ROUNDS, held)
    found = dict(original=phi(old), retrain=phi(run["retrain"](keys[2], ROUNDS, nothing)))
    for (name, (method, rounds)), key in zip(ANSWERS.items(), keys[3:], strict=True):
        given = (nothing,) if method == "retrain" else (held, old)
        found[name] = phi(run[method](key, rounds, *given))
        say(f"{name}: {many} shadow federations")
    slots = np.nonzero(np.asarray(request.forget.mask))
    order = np.argsort(np.asarray(request.forget.index)[slots])
    return found, held[:, slots[0], slots[1]][:, order]


def measured(phi: Mapping[str, np.ndarray], held: np.ndarray) -> list[dict[str, Any]]:
    """A line for each answer: U-LiRA and LiRA with 95 % intervals, and how sure models are.

    ``sure`` is the mean of ``phi`` on what was unlearned, minus that of retrained models.
    """
    from jfu.audit import estimates, pairs

    measures, *_ = estimates.estimate(pairs.of_shadows({**phi, "held": held}))
    reference, _ = pairs.by_pair(phi["retrain"], held)
    rows = []
    for name in ("original", *ANSWERS):
        inside, _ = pairs.by_pair(phi[name], held)
        line: dict[str, Any] = dict(answer=name, rounds=ANSWERS.get(name, ("", 0))[1])
        for key in ("ulira", "lira"):
            line[key] = [measures[name][key][end] for end in ("value", "low", "high")]
        rows.append(line | dict(sure=float(inside.mean() - reference.mean()), shadows=len(held)))
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [["answer", "rounds", "U-LiRA", "LiRA", "surer than retrained models"]]
    spans = lambda one: "{:.2f} [{:.2f}, {:.2f}]".format(*one)
    for row in rows:
        cells = [row["answer"], str(row["rounds"] or "-")]
        lines.append([*cells, spans(row["ulira"]), spans(row["lira"]), f"{row['sure']:+.1f}"])
    return tables.aligned(lines)
