"""Samples of every measure, from models and the data that they are evaluated on.

A model is a function and its variables, so no work directory and no federation is needed. Samples
from shadow federations are made in ``jfu.audit.pairs``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jfu import attacks, distance
from jfu.audit import probes
from jfu.audit.again import Again, Samples, relearning, resurfacing
from jfu.audit.answers import (
    Answers,
    Tools,
    accuracies,
    answers,
    matched,
    staying,
    tools,
)
from jfu.audit.measures import OLD, RETRAINED, THIRD, Arrays, Evidence, percent
from jfu.evaluation import Evaluation, sides
from jfu.metrics import Judge
from jfu.types import Variables

FEW = 256  # examples that layers are compared on

Models = Mapping[str, Variables]  # by method; the retrained ones and the original among them


def collect(
    apply: Callable,
    models: Mapping[int, Models],
    evaluations: Evaluation | Mapping[int, Evaluation],
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    outputs: Callable | None = None,
    layers: tuple[str, ...] = (),
    undo: Callable | None = None,
    judge: Judge | None = None,
    undone: Collection[str] = ("not",),
    again: Again | None = None,
    limit: int = 20,
    onward: Again | None = None,
    rounds: int = 10,
) -> Evidence:
    """Samples of every measure that needs only models, for ``estimate``.

    Args:
      apply: ``(variables, x) -> logits [B, C]``, or ``-> (logits, changed)``.
      models: by seed and name. ``retrain`` and ``retrain_again`` are two retrained models, with
        which others are compared. ``original`` is the old model and ``retrain_third`` a third
        retrained one; both are controls. All others are audited.
      evaluations: the data for evaluation, one for all seeds or one for each.
      rows: of results; the report shows their accuracies of loss attacks, ``mia`` and
        ``mia_matched``.
      outputs: ``(variables, x) -> {layer: [n, ...]}``, the outputs of layers, for CKA.
      layers: the layers, in call order.
      undo: inverts a method's public perturbation, ``variables -> variables``.
      judge: the task's loss and score of an example (``jfu.tasks``), if targets are no classes.
        Measures for classes then have no samples.
      undone: the methods to which ``undo`` is applied, besides retrained models.
      again: gives the models after each round of training that includes the forgotten data.
      limit: rounds after which a model counts as not relearning.
      onward: gives the models after each round of further training, on retained data only.
      rounds: so many of them, after which it is measured what has come back.

    Returns:
      ``evidence[method][measure][seed] = arrays``.

    >>> from jfu import evaluation
    >>> apply = lambda variables, x: x * variables["params"]["scale"]
    >>> x, y = np.eye(3, dtype=np.float32), np.arange(3)
    >>> made = evaluation.of_arrays((x, y), (x, np.array([1, 2, 2])), (x, y))
    >>> model = {"params": {"scale": jnp.float32(2.0)}}
    >>> evidence = collect(apply, {0: {"mine": model}, 1: {"mine": model}}, made)
    >>> evidence["mine"]["forget"][1][0].tolist()
    [False, False, True]
    """
    kit = tools(apply, outputs=outputs, layers=layers, undo=undo, judge=judge)
    evidence: Evidence = {}
    options = dict(undone=undone, again=again, limit=limit, onward=onward, rounds=rounds)
    for seed, named in models.items():
        one = evaluations if isinstance(evaluations, Evaluation) else evaluations[seed]
        rng = np.random.default_rng(seed)
        own = [row for row in rows if row["seed"] == seed]
        samples = of_seed(kit, named, one, rng, rows=own, **options)
        for name, measured in samples.items():
            for key, arrays in measured.items():
                evidence.setdefault(name, {}).setdefault(key, {})[seed] = arrays
    return evidence


def of_seed(
    tools: Tools,
    models: Models,
    evaluation: Evaluation,
    rng: np.random.Generator,
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    undone: Collection[str] = ("not",),
    again: Again | None = None,
    limit: int = 20,
    onward: Again | None = None,
    rounds: int = 10,
    say: Callable[[str], Any] = lambda line: None,
) -> Samples:
    """All samples from one seed's models, by method and measure.

    Args:
      rng: draws the examples on which layers are compared.
      rows: the seed's rows of results.
      say: gets lines of progress. Other arguments are those of ``collect``.
    """
    said: dict[str, Answers] = {}
    for name, variables in models.items():
        say(f"looking at {name}")
        said[name] = answers(tools, variables, evaluation)
    found: Samples = {name: {} for name in models}
    for name, samples in found.items():
        samples |= accuracies(evaluation, said[name])
        samples |= of_rows(rows, name)
        samples |= staying(
            evaluation, said[name], said.get("retrain") if name != "retrain" else None
        )
        if evaluation.forget.any():
            samples |= memberships(evaluation, said[name], said, name)
            if name != OLD and OLD in models:
                lost = said[OLD].phi - said[name].phi
                samples |= matched(evaluation, lost, "update_auc_matched")
        if OLD in models and name in (*undone, *RETRAINED, THIRD):
            samples |= undo_and_look(evaluation, tools, said[name], said[OLD])
        if name != "retrain" and "retrain" in models:
            samples |= distances(evaluation, said[name], said["retrain"], samples)
    compare(tools, models, evaluation, rng, found)
    if evaluation.forget.any():
        hidden(tools, said, evaluation, found)
        if onward is not None and rounds:
            resurfacing(tools, said, evaluation, onward, rounds, found, say)
    if again is not None and limit and evaluation.forget.any() and OLD in models:
        relearning(tools, said, evaluation, again, limit, found, say)
    return found


def of_rows(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Arrays]:
    """Accuracies of loss attacks after the method's last round, from rows of results."""
    own = [row for row in rows if row["method"] == name]
    if not own:
        return {}
    last = max(own, key=lambda row: row["round"])
    keys = ("mia", "mia_matched", "exposure", "extracted")
    return {k: (np.array([last[k]]),) for k in keys if last.get(k) is not None}


def memberships(
    evaluation: Evaluation, said: Answers, everyone: Mapping[str, Answers], name: str
) -> dict[str, Arrays]:
    """Scores of membership attacks on one model, for forgotten and for other examples."""
    rows, out = sides(evaluation), {}
    plain = said.phi[rows["forget"]], said.phi[rows["test"]]
    if min(map(len, plain)) >= attacks.LEAST:
        out |= dict(auc=plain, tpr_1_unmatched=plain, tpr_01_unmatched=plain)
    out |= matched(evaluation, said.phi, "auc_matched", "tpr_1", "tpr_01")
    if "auc_matched" not in out:
        return out
    label = np.asarray(evaluation.y)
    p = lambda answers, rows: answers.p[rows, label[rows]]
    # A model cannot be its own reference.
    references = [a for other, a in everyone.items() if other in RETRAINED and other != name]
    # A probability that is not finite would lose every comparison, as if the model had forgotten.
    known = [a.p for a in (said, *references) if a.p is not None]
    if references and known and all(np.isfinite(one).all() for one in known):
        scores = attacks.rmia(
            p(said, evaluation.members),
            np.stack([p(a, evaluation.members) for a in references]),
            p(said, evaluation.others),
            np.stack([p(a, evaluation.others) for a in references]),
        )
        out |= dict(rmia=scores, rmia_tpr_1=scores, rmia_tpr_01=scores)
    return out


def undo_and_look(
    evaluation: Evaluation, tools: Tools, said: Answers, old: Answers
) -> dict[str, Arrays]:
    """Samples of the model after the public perturbation is inverted."""
    if tools.undo is None:
        return {}
    back = answers(tools, tools.undo(said.variables), evaluation)
    away = distance.relative(back.variables["params"], old.variables["params"])
    out: dict[str, Arrays] = {"undo_to_original": (np.array([away]),)}
    found = accuracies(evaluation, back)
    out |= {f"undo_{name}": found[name] for name in ("forget", "asr") if name in found}
    out |= matched(evaluation, back.phi, "undo_auc_matched")
    return out | matched(evaluation, back.phi - said.phi, "undo_update_auc_matched")


def distances(
    evaluation: Evaluation, said: Answers, retrained: Answers, samples: Mapping[str, Arrays]
) -> dict[str, Arrays]:
    """Distances of a model's predictions from the retrained model's.

    Args:
      samples: the model's accuracies.
    """
    out: dict[str, Arrays] = {}
    for side in ("forget", "test"):
        which = sides(evaluation)[side]
        if len(which) and said.p is not None and retrained.p is not None:
            p, q = said.p[which], retrained.p[which]
            out[f"activation_{side}"] = (distance.activation_distance(p, q),)
            out[f"js_{side}"] = (distance.js_divergence(p, q),)
            out[f"agreement_{side}"] = (distance.agreement(p, q),)
    if "forget" in samples:
        accuracy = lambda of: {m: percent(of[m][0]) for m in ("retain", "forget", "test")}
        reference = accuracy(accuracies(evaluation, retrained))
        out["tug_of_war"] = (np.array([distance.tug_of_war(accuracy(samples), reference)]),)
    return out


def compare(
    tools: Tools,
    models: Models,
    evaluation: Evaluation,
    rng: np.random.Generator,
    found: Samples,
) -> None:
    """Adds layers' CKA and loss barriers on retained examples, to the retrained and old models."""
    some = rng.permutation(sides(evaluation)["retain"])[:FEW]
    x, y = evaluation.x[some], evaluation.y[some]
    for name, variables in models.items():
        for other, key in (("retrain", "retrained"), (OLD, "original")):
            if other in models and name != other:
                found[name] |= layers(tools, variables, models[other], x, f"cka_to_{key}")
                loss = lambda between: tools.loss(between, x, y)
                hill = distance.barrier(loss, variables, models[other])
                found[name][f"barrier_to_{key}"] = (np.array([hill]),)


def layers(
    tools: Tools, variables: Variables, others: Variables, x: Any, key: str
) -> dict[str, Arrays]:
    """CKA of every layer's outputs between two models on the same examples."""
    if tools.outputs is None:
        return {}
    one, other = tools.outputs(variables, x), tools.outputs(others, x)
    each = {name: distance.cka(one[name], other[name]) for name in tools.layers}
    return {f"{key}.{name}": (np.array([value]),) for name, value in each.items()}


def hidden(
    tools: Tools, said: Mapping[str, Answers], evaluation: Evaluation, found: Samples
) -> None:
    """Adds what features, gradients, the most memorised examples and the efficacy attack show."""
    old = said[OLD].variables if OLD in said else None
    for name, one in said.items():
        found[name] |= probes.features(tools.outputs, tools.layers, one.variables, evaluation)
        found[name] |= probes.poison(tools.outputs, tools.layers, one.variables, evaluation)
        before = old if name != OLD else None
        found[name] |= probes.gradients(tools.gradients, one.variables, before, evaluation)
        found[name] |= {} if one.p is None else probes.efficacy(evaluation, one.p)
    classes = {name: one for name, one in said.items() if one.p is not None}
    phi, correct = ({n: getattr(a, key) for n, a in classes.items()} for key in ("phi", "correct"))
    for name, samples in probes.memorised(evaluation, phi, correct).items():
        found[name] |= samples
