"""What an audit measures, and how: from stored models to samples that a statistic is taken of."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jfu
import jfu.io
from jfu import attacks, distance
from launch import cells, report
from launch.devices import place
from launch.experiment import Study, Trial
from launch.main import say
from launch.workdir import WorkDir

RELEARN = 6  # a stream of randomness of its own, beside those of launch.experiment
RETRAINED = ("retrain", report.AGAIN)
FEW = 256  # images that layers are compared on


class Measure(NamedTuple):
    title: str
    unit: str
    statistic: Callable  # of one seed's arrays
    memory: int = 0  # +1 where more of it is memory of the forgotten data, -1 where less is
    decides: bool = False  # whether the verdict "forgotten" hangs on it
    pair: bool = False  # a distance to the retrained model of the same seed
    pooled: bool = False  # one statistic of all shadow federations' examples
    note: str = ""


def percent(correct: np.ndarray) -> float:
    return 100 * float(np.mean(correct))


def tpr(rate: float) -> Callable:
    return functools.partial(attacks.tpr_at, rate=rate)


# Groups of measures as the report shows them.
GROUPS: dict[str, dict[str, Measure]] = {
    "Accuracy and backdoor": {
        "retain": Measure("accuracy on retained data", "%", percent),
        "forget": Measure(
            "accuracy on forgotten data",
            "%",
            percent,
            1,
            True,
            note="of the very examples that the retrained models never saw",
        ),
        "test": Measure("accuracy on test data", "%", percent),
        "asr": Measure("backdoor success", "%", percent, 1),
    },
    "Membership attacks on one model": {
        "mia": Measure(
            "loss attack, unmatched: accuracy",
            "%",
            np.mean,
            note="tells forgotten data from test data by looks too, so it never decides",
        ),
        "auc": Measure("loss attack, unmatched: AUC", "", attacks.auc, note="never decides"),
        "mia_matched": Measure("loss attack, matched: accuracy", "%", np.mean, 1),
        "auc_matched": Measure(
            "loss attack, matched: AUC",
            "",
            attacks.auc,
            1,
            True,
            note="each forgotten example faces a test image of its class, trigger and label",
        ),
        "tpr_1": Measure("loss attack, matched: true positives at 1 % false", "", tpr(0.01), 1),
        "tpr_01": Measure("loss attack, matched: true positives at 0.1 % false", "", tpr(0.001), 1),
        "rmia": Measure(
            "RMIA, matched: AUC",
            "",
            attacks.auc,
            1,
            True,
            note="offline; its reference models are the retrained ones of the seed",
        ),
        "rmia_tpr_1": Measure("RMIA, matched: true positives at 1 % false", "", tpr(0.01), 1),
    },
    "Attacks with shadow federations": {
        "ulira": Measure(
            "U-LiRA: AUC",
            "",
            attacks.auc,
            1,
            True,
            pooled=True,
            note="example by example, federations that unlearned it against ones retrained "
            "without it",
        ),
        "ulira_tpr_1": Measure(
            "U-LiRA: true positives at 1 % false", "", tpr(0.01), 1, pooled=True
        ),
        "lira": Measure(
            "LiRA: AUC",
            "",
            attacks.auc,
            1,
            True,
            pooled=True,
            note="example by example, unlearned federations that held it against unlearned ones "
            "that never did",
        ),
        "forgetting_score": Measure(
            "forgetting score of the NeurIPS 2023 challenge",
            "",
            attacks.forgetting_score,
            -1,
            note="1 is retraining with many models; with few, chance alone makes it small",
        ),
    },
    "Signs of memory": {
        "relearn": Measure(
            "rounds to relearn",
            "rounds",
            np.mean,
            -1,
            note="until accuracy on the forgotten data is within 5 points of the original's, once "
            "the data is back in the federation",
        ),
        "anamnesis": Measure(
            "anamnesis index",
            "",
            np.mean,
            -1,
            note="rounds to relearn over those of the retrained model: below 1 it remembers",
        ),
        "undo_forget": Measure(
            "negation undone: accuracy on forgotten data",
            "%",
            percent,
            1,
            note="what an attacker gets who negates the layer once more",
        ),
        "undo_asr": Measure("negation undone: backdoor success", "%", percent, 1),
        "undo_auc_matched": Measure("negation undone: matched AUC", "", attacks.auc, 1),
        "undo_to_original": Measure(
            "negation undone: distance to the original's parameters",
            "",
            np.mean,
            -1,
            note="relative to their length; an attacker who saw both models knows it",
        ),
    },
    "Distance to the retrained model": {
        "activation_forget": Measure(
            "distance of probabilities, forgotten data", "", np.mean, pair=True
        ),
        "activation_test": Measure("distance of probabilities, test data", "", np.mean, pair=True),
        "js_forget": Measure(
            "Jensen-Shannon divergence, forgotten data", "bits", np.mean, pair=True
        ),
        "js_test": Measure("Jensen-Shannon divergence, test data", "bits", np.mean, pair=True),
        "agreement_forget": Measure("same answer, forgotten data", "%", percent, pair=True),
        "agreement_test": Measure("same answer, test data", "%", percent, pair=True),
        "tug_of_war": Measure("tug of war", "", np.mean, pair=True, note="1 is retraining"),
        "barrier_to_retrained": Measure(
            "loss barrier to the retrained model", "", np.mean, pair=True
        ),
        "barrier_to_original": Measure("loss barrier to the original model", "", np.mean),
        "loss_gap": Measure("loss gap: |retained - forgotten|", "", np.mean),
    },
}
LAYERS = {
    "cka_to_retrained": Measure("CKA to the retrained model", "", np.mean, pair=True),
    "cka_to_original": Measure("CKA to the original model", "", np.mean),
}
TABLE = {name: m for group in GROUPS.values() for name, m in group.items()} | LAYERS

Arrays = tuple[np.ndarray, ...]
Evidence = dict[str, dict[str, dict[int, Arrays]]]  # method -> measure -> seed -> arrays


class Seen(NamedTuple):
    """What one model says to the exam."""

    variables: Any
    correct: np.ndarray  # [E] bool
    phi: np.ndarray  # [E]
    p: np.ndarray  # [E, C] probabilities


def measure_of(name: str) -> Measure:
    """A measure by its key; those of layers are ``measure.layer``."""
    return TABLE[name.partition(".")[0]]


def stored(work: WorkDir, seed: int, name: str) -> Any:
    """The variables of a finished cell, or None."""
    path = work.cell(seed, name)
    if not path.exists():
        return None
    if not jfu.io.load_notes(path).get("finished"):
        return None
    flat = {
        k.removeprefix("variables/"): a
        for k, a in jfu.io.load_arrays(path).items()
        if k.startswith("variables/")
    }
    return place(jfu.io.unflatten(flat))


class Tools(NamedTuple):
    """Compiled functions of a study, shared by seeds."""

    logits: Callable  # (variables, x [E, ...]) -> [E, C]
    outputs: Callable | None  # (variables, x [n, ...]) -> {layer: [n, D]}
    layers: tuple[str, ...]  # in call order, which a compiled function does not keep
    undo: Callable | None  # variables -> variables
    loss: Callable  # (variables, x, y) -> mean cross-entropy
    programs: cells.Programs


def tools(study: Study, undo: jfu.Unlearner | None) -> Tools:
    from jfu.clients import in_batches

    apply = lambda variables, x: study.model.apply(variables, x)[0].astype(jnp.float32)
    flat = lambda tree: jax.tree.map(lambda a: a.reshape(len(a), -1), tree)

    def undone(variables):
        return undo.perturb(jfu.Trained(variables), None, None).variables

    def loss(variables, x, y):
        return jfu.per_example(apply)(variables, x, y)[0].mean()

    return Tools(
        jax.jit(in_batches(apply, 500)),
        jax.jit(lambda v, x: flat(study.model.outputs(v, x))) if study.model.outputs else None,
        study.model.layers,
        jax.jit(undone) if undo else None,
        jax.jit(loss),
        cells.Programs(),
    )


def look(tools: Tools, variables: Any, trial: Trial) -> Seen:
    logits = np.asarray(tools.logits(variables, trial.exam.x), np.float64)
    labels = np.asarray(trial.exam.y)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return Seen(
        variables,
        logits.argmax(1) == labels,
        attacks.confidence(logits, labels),
        shifted / shifted.sum(1, keepdims=True),
    )


def of_seed(
    study: Study,
    trial: Trial,
    models: dict[str, Any],
    rows: Sequence[dict],
    tools: Tools,
    relearn_rounds: int,
) -> dict[str, dict[str, Arrays]]:
    """Everything that one seed's models show, by method and measure.

    Args:
      models: variables by method, ``original`` and the retrained ones among them.
      rows: the seed's lines of results.jsonl.
    """
    exam, seen = trial.exam, {}
    for name, variables in models.items():
        say(f"  seed {trial.seed}  looking at {name}")
        seen[name] = look(tools, variables, trial)
    found: dict[str, dict[str, Arrays]] = {name: {} for name in models}
    for name in models:
        put = found[name]
        put |= accuracies(exam, seen[name])
        put |= of_rows(rows, name)
        if exam.forget.any():
            put |= memberships(exam, seen[name], seen, name)
        if tools.undo and "original" in models:
            put |= undone(exam, tools, seen, name, trial)
        if name != "retrain" and "retrain" in models:
            put |= distances(exam, seen[name], seen["retrain"], put, found.get("retrain", {}))
    retain = np.flatnonzero(exam.retain)[:FEW]
    for name, variables in models.items():
        for other, key in (("retrain", "retrained"), ("original", "original")):
            if other in models and name != other:
                put = found[name]
                put |= layers(tools, variables, models[other], exam.x[retain], f"cka_to_{key}")
                some = exam.x[retain], exam.y[retain]
                hill = distance.barrier(
                    lambda v, some=some: tools.loss(v, *some), variables, models[other]
                )
                put[f"barrier_to_{key}"] = (np.array([hill]),)
    if relearn_rounds and exam.forget.any() and "original" in models:
        relearnt(study, trial, seen, tools, relearn_rounds, found)
    return found


def accuracies(exam, seen: Seen) -> dict[str, Arrays]:
    pool, tests = len(exam.retain), len(exam.test_y)
    out = {
        "retain": (seen.correct[:pool][exam.retain],),
        "test": (seen.correct[pool : pool + tests],),
    }
    if exam.forget.any():
        out["forget"] = (seen.correct[:pool][exam.forget],)
        loss = np.logaddexp(0, -seen.phi[:pool])
        out["loss_gap"] = (np.array([abs(loss[exam.retain].mean() - loss[exam.forget].mean())]),)
    if exam.target is not None:
        out["asr"] = (fooled(exam, seen),)
    return out


def fooled(exam, seen: Seen) -> np.ndarray:
    """Which triggered test images, not of the trigger's class, get the trigger's label."""
    return seen.correct[len(exam.retain) + len(exam.test_y) :][exam.test_y != exam.target]


def of_rows(rows: Sequence[dict], name: str) -> dict[str, Arrays]:
    """What results.jsonl holds already, of the method's last round."""
    mine = [row for row in rows if row["method"] == name]
    if not mine:
        return {}
    last = max(mine, key=lambda row: row["round"])
    out = {k: (np.array([last[k]]),) for k in ("mia", "mia_matched") if last[k] is not None}
    return out


def memberships(exam, seen: Seen, all_seen: dict[str, Seen], name: str) -> dict[str, Arrays]:
    pool, tests = len(exam.retain), len(exam.test_y)
    out: dict[str, Arrays] = {}
    plain = seen.phi[:pool][exam.forget], seen.phi[pool : pool + tests]
    if min(map(len, plain)) >= attacks.LEAST:
        out["auc"] = plain
    if len(exam.members) < attacks.LEAST:
        return out
    matched = seen.phi[exam.members], seen.phi[exam.others]
    out |= dict(auc_matched=matched, tpr_1=matched, tpr_01=matched)
    label = np.asarray(exam.y)
    p = lambda s, rows: s.p[rows, label[rows]]
    # A model is no reference for itself.
    references = [s for other, s in all_seen.items() if other in RETRAINED and other != name]
    if references:
        scores = attacks.rmia(
            p(seen, exam.members),
            np.stack([p(s, exam.members) for s in references]),
            p(seen, exam.others),
            np.stack([p(s, exam.others) for s in references]),
        )
        out |= dict(rmia=scores, rmia_tpr_1=scores)
    return out


def undone(exam, tools: Tools, seen: dict[str, Seen], name: str, trial) -> dict[str, Arrays]:
    """What is left when the negation, which is public, is taken back; of the retrained ones too."""
    if name not in ("not", *RETRAINED):
        return {}
    back = look(tools, tools.undo(seen[name].variables), trial)
    away = distance.relative(back.variables["params"], seen["original"].variables["params"])
    out: dict[str, Arrays] = {"undo_to_original": (np.array([away]),)}
    if exam.forget.any():
        out["undo_forget"] = (back.correct[: len(exam.retain)][exam.forget],)
    if exam.target is not None:
        out["undo_asr"] = (fooled(exam, back),)
    if len(exam.members) >= attacks.LEAST:
        out["undo_auc_matched"] = (back.phi[exam.members], back.phi[exam.others])
    return out


def distances(exam, seen: Seen, retrained: Seen, mine: dict, theirs: dict) -> dict[str, Arrays]:
    pool, tests = len(exam.retain), len(exam.test_y)
    rows = dict(forget=np.flatnonzero(exam.forget), test=np.arange(pool, pool + tests))
    out: dict[str, Arrays] = {}
    for side, which in rows.items():
        if len(which):
            p, q = seen.p[which], retrained.p[which]
            out[f"activation_{side}"] = (distance.activation_distance(p, q),)
            out[f"js_{side}"] = (distance.js_divergence(p, q),)
            out[f"agreement_{side}"] = (distance.agreement(p, q),)
    if "forget" in mine:
        accuracy = lambda of: {m: percent(of[m][0]) for m in ("retain", "forget", "test")}
        reference = accuracies(exam, retrained)
        out["tug_of_war"] = (np.array([distance.tug_of_war(accuracy(mine), accuracy(reference))]),)
    return out


def layers(tools: Tools, a: Any, b: Any, x: jax.Array, key: str) -> dict[str, Arrays]:
    """CKA of every layer's outputs on retained images."""
    if tools.outputs is None:
        return {}
    mine, theirs = tools.outputs(a, x), tools.outputs(b, x)
    each = {name: distance.cka(mine[name], theirs[name]) for name in tools.layers}
    return {f"{key}.{name}": (np.array([v]),) for name, v in each.items() if not math.isnan(v)}


def relearnt(study, trial, seen, tools: Tools, rounds: int, found) -> None:
    """Rounds until the forgotten data is known again, once it is back in the federation."""
    exam, fed = trial.exam, study.setting.fed
    pool = len(exam.retain)
    goal = percent(seen["original"].correct[:pool][exam.forget]) - 5
    some = np.flatnonzero(exam.forget)
    x, y = exam.x[some], np.asarray(exam.y)[some]
    key = place(jax.random.fold_in(trial.key, RELEARN))
    knows = lambda variables: percent(np.asarray(tools.logits(variables, x)).argmax(1) == y)
    needed: dict[str, int] = {}
    for name, one in seen.items():
        if name == "original":
            continue
        needed[name] = 0
        if knows(one.variables) < goal:
            state = place(fed.init(one.variables))
            step = tools.programs(fed.round, state, trial.everything.retain, key, donate=(0,))
            for done in jfu.rounds(step, state, trial.everything.retain, key, stop=rounds):
                needed[name] = done.round
                if knows(done.state.variables) >= goal:
                    break
            else:
                needed[name] = rounds + 1  # at least
        found[name]["relearn"] = (np.array([needed[name]]),)
        say(f"  seed {trial.seed}  {name} relearns in {needed[name]} rounds")
    for name in needed:
        if needed.get("retrain"):
            index = needed[name] / needed["retrain"]
            found[name]["anamnesis"] = (np.array([index]),)


# ---------------------------------------------------------------- from samples to numbers


def estimate(evidence: Evidence, table: dict[str, Measure], draws: int) -> tuple[dict, dict]:
    """Values with intervals and floors, and why what is missing is missing.

    The interval of a value is that of its mean over seeds; the floor's is where one retrained
    model falls, so that a method is inside the floor where it is no further from retrained
    models than they are from each other. Of shadow federations there are many, and one of them
    says little: there the floor is the interval of the same attack on retrained ones, twice as
    wide, since the method's own interval must find room in it.

    Returns:
      ``measures[method][measure] = {value, low, high, floor}`` with ``floor`` None or ``{value,
      low, high}``, and ``missing[measure]``, a sentence.
    """
    measures: dict[str, dict[str, Any]] = {name: {} for name in evidence}
    missing: dict[str, str] = {}
    for key in dict.fromkeys(key for found in evidence.values() for key in found):
        measure = table[key.partition(".")[0]]
        held = {name: list(found[key].values()) for name, found in evidence.items() if key in found}
        samples = [arrays for groups in held.values() for arrays in joined(measure)(groups)]
        if any(measure.statistic(*arrays) is None for arrays in samples):
            missing[key] = too_few(samples)
            continue
        alike = (report.AGAIN,) if measure.pair or measure.pooled else RETRAINED
        retrained = [arrays for name in alike for arrays in held.get(name, [])]
        floor = None
        if retrained and measure.pooled:
            floor = bounds(measure, retrained, draws)
            floor["low"] -= floor["value"] - floor["low"]
            floor["high"] += floor["high"] - floor["value"]
        elif retrained:
            floor = bounds(measure, retrained, draws, singly=True)
        for name, groups in held.items():
            measures[name][key] = {**bounds(measure, groups, draws), "floor": floor}
    return measures, missing


def joined(measure: Measure) -> Callable[[list[Arrays]], list[Arrays]]:
    """The arrays that a statistic is taken of: a group's, or all groups' together."""
    together = lambda groups: [tuple(np.concatenate(side) for side in zip(*groups, strict=True))]
    return together if measure.pooled else lambda groups: groups


def bounds(measure: Measure, groups: list[Arrays], draws: int, singly: bool = False) -> dict:
    value = np.mean([measure.statistic(*arrays) for arrays in joined(measure)(groups)])
    how = dict(draws=draws, singly=singly, pooled=measure.pooled)
    low, high = attacks.interval(measure.statistic, groups, **how)
    return dict(value=float(value), low=low, high=high)


def too_few(groups: list[Arrays]) -> str:
    many = min(len(arrays[1]) for arrays in groups)
    return f"{many} examples that were never trained on cannot show so low a false-positive rate"
