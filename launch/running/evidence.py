"""What stored models show: the samples of every measure of an audit, seed by seed."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jfu
import jfu.io
from jfu import attacks, distance
from jfu.audit.estimates import RETRAINED, THIRD, Arrays, percent
from jfu.evaluation import sides
from launch.running import cells
from launch.setup import keys
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell.devices import place
from launch.shell.folders import make_folder
from launch.shell.say import say
from launch.workdir.workdir import WorkDir, cell_notes

FEW = 256  # images that layers are compared on
CONTROLS = "controls"  # the folder of retrainings that are the audit's own


class Seen(NamedTuple):
    """What one model says to the exam."""

    variables: Any
    correct: np.ndarray  # [E] bool
    phi: np.ndarray  # [E]
    p: np.ndarray  # [E, C] probabilities


def stored(work: WorkDir, seed: int, name: str) -> Any:
    """The variables of a finished cell, or None."""
    notes = cell_notes(work, seed, name)
    if not (notes and notes.get("finished")):
        return None
    # A method may keep something beside the federation's state, which is then called inner.
    named = re.compile(r"(?:inner/)*variables/(.+)")
    arrays = jfu.io.load_arrays(work.cell(seed, name))
    flat = {found[1]: a for path, a in arrays.items() if (found := named.fullmatch(path))}
    if not flat:
        raise ValueError(f"{work.cell(seed, name)} holds no model; restore it")
    return place(jfu.io.unflatten(flat))


def third(work: WorkDir, study: Study, trial: Trial, programs: cells.Programs) -> WorkDir:
    """Retrains once more, different in chance alone, unless that was done before.

    Returns:
      Where its cell ``retrain_third`` lies: beside the run's own, which are its ledger's.
    """
    apart = work._replace(path=work.path / CONTROLS)
    make_folder(apart.path / "cells")
    cell = cells.runner(apart, study, trial, programs, 10)
    cell(THIRD, study.fresh, jfu.Trained(()), trial.request, study.config.rounds, quiet=True)
    return apart


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
    logits = np.asarray(tools.logits(variables, trial.evaluation.x), np.float64)
    labels = np.asarray(trial.evaluation.y)
    with np.errstate(invalid="ignore"):  # a model that diverged
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return Seen(
            variables,
            right(logits, labels),
            attacks.confidence(logits, labels),
            shifted / shifted.sum(1, keepdims=True),
        )


def right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which answers are right, bool ``[n]``; what is not finite is no answer.

    >>> right(np.array([[0.0, 1.0], [np.nan, np.nan]]), np.array([1, 0])).tolist()
    [True, False]
    """
    return (logits.argmax(1) == labels) & np.isfinite(logits).all(1)


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
    exam, seen = trial.evaluation, {}
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
            if name != "original" and "original" in models:
                lost = seen["original"].phi - seen[name].phi
                put |= matched(exam, lost, "update_auc_matched")
        if tools.undo and "original" in models:
            put |= undone(exam, tools, seen, name, trial)
        if name != "retrain" and "retrain" in models:
            put |= distances(exam, seen[name], seen["retrain"], put)
    retain = np.random.default_rng([trial.seed, keys.COMPARED]).permutation(sides(exam)["retain"])[
        :FEW
    ]
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
    rows = sides(exam)
    out = {name: (seen.correct[which],) for name, which in rows.items() if len(which)}
    if "forget" in out:
        with np.errstate(invalid="ignore"):  # a model that diverged
            loss = np.logaddexp(0, -seen.phi)
        means = [loss[rows[name]].mean() for name in ("retain", "forget")]
        out["loss_gap"] = (np.array([abs(means[0] - means[1])]),)
    return out


def of_rows(rows: Sequence[dict], name: str) -> dict[str, Arrays]:
    """What results.jsonl holds already, of the method's last round."""
    mine = [row for row in rows if row["method"] == name]
    if not mine:
        return {}
    last = max(mine, key=lambda row: row["round"])
    out = {k: (np.array([last[k]]),) for k in ("mia", "mia_matched") if last[k] is not None}
    return out


def memberships(exam, seen: Seen, all_seen: dict[str, Seen], name: str) -> dict[str, Arrays]:
    rows, out = sides(exam), {}
    plain = seen.phi[rows["forget"]], seen.phi[rows["test"]]
    if min(map(len, plain)) >= attacks.LEAST:
        out |= dict(auc=plain, tpr_1_unmatched=plain, tpr_01_unmatched=plain)
    out |= matched(exam, seen.phi, "auc_matched", "tpr_1", "tpr_01")
    if "auc_matched" not in out:
        return out
    label = np.asarray(exam.y)
    p = lambda s, rows: s.p[rows, label[rows]]
    # A model is no reference for itself.
    references = [s for other, s in all_seen.items() if other in RETRAINED and other != name]
    # A probability that is not finite would lose every comparison, as if it had forgotten.
    if references and all(np.isfinite(s.p).all() for s in (seen, *references)):
        scores = attacks.rmia(
            p(seen, exam.members),
            np.stack([p(s, exam.members) for s in references]),
            p(seen, exam.others),
            np.stack([p(s, exam.others) for s in references]),
        )
        out |= dict(rmia=scores, rmia_tpr_1=scores, rmia_tpr_01=scores)
    return out


def matched(exam, score: np.ndarray, *names: str) -> dict[str, Arrays]:
    """A score ``[E]`` of the forgotten examples and of those matched to them, by measure."""
    if len(exam.members) < attacks.LEAST:
        return {}
    return dict.fromkeys(names, (score[exam.members], score[exam.others]))


def undone(exam, tools: Tools, seen: dict[str, Seen], name: str, trial) -> dict[str, Arrays]:
    """What is left when the negation, which is public, is taken back; of the retrained ones too."""
    if name not in ("not", *RETRAINED, THIRD):
        return {}
    back = look(tools, tools.undo(seen[name].variables), trial)
    away = distance.relative(back.variables["params"], seen["original"].variables["params"])
    out: dict[str, Arrays] = {"undo_to_original": (np.array([away]),)}
    found = accuracies(exam, back)
    out |= {f"undo_{name}": found[name] for name in ("forget", "asr") if name in found}
    out |= matched(exam, back.phi, "undo_auc_matched")
    return out | matched(exam, back.phi - seen[name].phi, "undo_update_auc_matched")


def distances(exam, seen: Seen, retrained: Seen, mine: dict) -> dict[str, Arrays]:
    out: dict[str, Arrays] = {}
    for side in ("forget", "test"):
        which = sides(exam)[side]
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
    return {f"{key}.{name}": (np.array([v]),) for name, v in each.items()}


def relearnt(study, trial, seen, tools: Tools, rounds: int, found) -> None:
    """Rounds until the forgotten data is known again, once it is back in the federation."""
    exam, fed = trial.evaluation, study.further
    some = sides(exam)["forget"]
    goal = percent(seen["original"].correct[some]) - 5
    x, y = exam.x[some], np.asarray(exam.y)[some]
    key = place(jax.random.fold_in(trial.key, keys.RELEARN))
    knows = lambda variables: percent(right(np.asarray(tools.logits(variables, x)), y))
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
        found[name]["relearn"] = np.array([needed[name]]), np.array([rounds])
        many = needed[name] if needed[name] <= rounds else f"more than {rounds}"
        say(f"  seed {trial.seed}  {name} relearns in {many} rounds")
    theirs = needed.get("retrain", 0)
    if 0 < theirs <= rounds:  # else what to divide by is not known
        for name in needed:
            if name != "retrain":
                index = np.array([needed[name]]) / theirs, np.array([rounds]) / theirs
                found[name]["anamnesis"] = index
