"""Samples of what a sceptic asks: where memory may hide from a model's answers.

The features of each layer, gradients, the examples that were memorised most, and what comes back
with further training on retained data.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jfu import attacks, metrics
from jfu.audit.measures import OLD, RETRAINED, Arrays
from jfu.evaluation import Evaluation, sides
from jfu.types import Variables

PAIRS = 128  # forgotten examples and as many others whose features and gradients are compared
SHARES = (5, 20, 50)  # percent of the forgotten examples, those that were memorised most
HEAD = 500  # retained examples that a head which reads labels is fitted to
KEPT = 2000  # examples of a side that the efficacy attack learns from


def some_pairs(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Positions of at most ``PAIRS`` forgotten examples and of their matched ones."""
    which = evenly(np.arange(len(evaluation.members)), PAIRS)
    return evaluation.members[which], evaluation.others[which]


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spaced.

    >>> evenly(np.arange(10, 20), 4).tolist()
    [10, 13, 16, 19]
    """
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)]


def features(
    outputs: Callable | None, layers: tuple[str, ...], variables: Variables, evaluation: Evaluation
) -> dict[str, Arrays]:
    """Scores of a linear probe on each layer, of forgotten examples and of matched ones."""
    members, others = some_pairs(evaluation)
    if outputs is None or len(members) < attacks.LEAST:
        return {}
    seen = [outputs(variables, evaluation.x[rows]) for rows in (members, others)]
    sides = {name: [np.asarray(one[name], np.float64) for one in seen] for name in layers}
    fit = {n: pair for n, pair in sides.items() if all(np.isfinite(one).all() for one in pair)}
    return {f"probe.{name}": attacks.probe(*pair) for name, pair in fit.items()}


def poisoned(evaluation: Evaluation) -> np.ndarray:
    """Positions of at most ``PAIRS`` forgotten examples with the trigger and a wrong label."""
    first = len(evaluation.retain) + len(evaluation.test_y)  # of test examples with the trigger
    test = evaluation.others - first
    bad = test >= 0  # a matched example has the trigger if the forgotten one has it
    wrong = evaluation.test_y[np.where(bad, test, 0)] != evaluation.target
    return evenly(evaluation.members[bad & wrong], PAIRS)


def poison(
    outputs: Callable | None, layers: tuple[str, ...], variables: Variables, evaluation: Evaluation
) -> dict[str, Arrays]:
    """Which poisoned labels a head on frozen features reads, which saw retained examples only."""
    if outputs is None or evaluation.target is None:
        return {}
    kept = evenly(sides(evaluation)["retain"], HEAD)
    rows = poisoned(evaluation)
    if min(len(rows), len(kept)) < attacks.LEAST:
        return {}
    labels = np.asarray(evaluation.y)[kept]
    own, theirs = (outputs(variables, evaluation.x[some]) for some in (kept, rows))
    found: dict[str, Arrays] = {}
    for name in layers:
        pair = [np.asarray(one[name], np.float64) for one in (own, theirs)]
        if all(np.isfinite(one).all() for one in pair):
            given = attacks.read(pair[0], labels, pair[1])
            found[f"probe_poison.{name}"] = (given == evaluation.target,)
    return found


def gradient_norms(loss: Callable) -> Callable:
    """A compiled function ``(variables, x [n, ...], y [n]) -> [n]``: norms of loss gradients.

    Args:
      loss: ``(variables, x [1, ...], y [1]) -> ()``; differentiated in all parameters.
    """

    def one(variables, x, y):
        def of(params):
            return loss({**variables, "params": params}, x[None], y[None])

        slope = jax.grad(of)(variables["params"])
        square = sum(jnp.sum(jnp.square(a.astype(jnp.float32))) for a in jax.tree.leaves(slope))
        return jnp.sqrt(square)

    return jax.jit(lambda variables, x, y: jax.lax.map(lambda row: one(variables, *row), (x, y)))


def gradients(
    norms: Callable, variables: Variables, old: Variables | None, evaluation: Evaluation
) -> dict[str, Arrays]:
    """How small gradients are, and how much they grew since the old model, in logarithms."""
    rows = some_pairs(evaluation)
    if len(rows[0]) < attacks.LEAST:
        return {}
    of = lambda model: [log_norms(norms, model, evaluation, side) for side in rows]
    now = of(variables)
    out: dict[str, Arrays] = {"gradient_auc_matched": tuple(-one for one in now)}
    if old is not None:
        grown = tuple(a - b for a, b in zip(now, of(old), strict=True))
        out["update_gradient_auc_matched"] = grown
    return out


def log_norms(norms: Callable, model: Variables, evaluation: Evaluation, rows) -> np.ndarray:
    """Logarithms of gradient norms, float64; a norm of zero counts as the smallest number."""
    found = np.asarray(norms(model, evaluation.x[rows], evaluation.y[rows]), np.float64)
    return np.log(np.maximum(found, np.finfo(np.float32).tiny))


def efficacy(evaluation: Evaluation, p: np.ndarray) -> dict[str, Arrays]:
    """The efficacy attack, from probabilities ``[E, C]``."""
    rows, label = sides(evaluation), np.asarray(evaluation.y)
    confidence = {name: p[rows[name], label[rows[name]]] for name in ("retain", "forget", "test")}
    found = metrics.efficacy_mia(
        confidence["retain"], confidence["test"], confidence["forget"], most=KEPT
    )
    return {} if found is None else {"efficacy_mia": (np.array([found]),)}


def memorised(
    evaluation: Evaluation, phi: Mapping[str, np.ndarray], correct: Mapping[str, np.ndarray]
) -> dict[str, dict]:
    """Right answers and losses on the examples that were memorised most, by model.

    Args:
      phi, correct: log odds of the label, and whether it is predicted, ``[E]`` by model.

    Returns:
      By model, then by measure. Empty without the old and both retrained models.
    """
    rows = sides(evaluation)["forget"]
    of = lambda each: {name: values[rows] for name, values in each.items()}
    return most_memorised(of(phi), of(correct))


def most_memorised(
    phi: Mapping[str, np.ndarray], correct: Mapping[str, np.ndarray]
) -> dict[str, dict]:
    """The same from forgotten examples alone, ``[n]`` by model.

    Memorised most are the forgotten examples whose label's probability fell most from the old
    model to a retrained one (Feldman, Zhang. What Neural Networks Memorize and Why. NeurIPS 2020,
    arXiv 2008.03703). A retrained model would look bad on examples that were chosen by it. So each
    of the two is judged on those that the other one chooses, and any other model on both.
    """
    if not {OLD, *RETRAINED} <= phi.keys():
        return {}
    p = {name: special.expit(phi[name]) for name in (OLD, *RETRAINED)}
    size = len(p[OLD])
    if not size or not all(np.isfinite(one).all() for one in p.values()):
        return {}
    fell = {name: p[OLD] - p[name] for name in RETRAINED}
    order = {name: np.argsort(-one, kind="stable") for name, one in fell.items()}
    out: dict[str, dict] = {}
    for name, logits in phi.items():
        chosen = [order[other] for other in RETRAINED if other != name]
        chosen *= 2 // len(chosen)  # so that all models have equally many rows
        out[name] = {}
        for share in SHARES:
            many = max(1, round(share / 100 * size))
            mine = np.concatenate([ranks[:many] for ranks in chosen])
            out[name][f"memorised.{share}"] = (correct[name][mine],)
            with np.errstate(invalid="ignore"):  # a model that diverged
                out[name][f"memorised.loss_{share}"] = (np.logaddexp(0, -logits[mine]),)
    return out
