"""Makes verdicts from differences: four questions, each with its written rule.

A verdict uses differences on one seed's examples. A no comes from a permutation test that exchanges
models within seeds. The test assumes no distribution and covers all measures at once. A yes needs
an interval within a margin, since a difference that was not found may still exist.

Two controls have a known verdict: the old model and a third retraining. ``launch.audit`` makes the
third one in ``controls/``, since the run's own files belong to its ledger. ``launch.rates``
measures how often verdicts are wrong. Run it again after changing a rule.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jfu.audit.costs import ratios
from jfu.audit.estimates import Estimates
from jfu.audit.measures import (
    ACCURACY,
    AREA,
    OLD,
    RATE,
    RETRAINED,
    SEEDS,
    SHADOWS,
    SIGNS,
    TABLE,
    TEST,
    THIRD,
    Measure,
    measure_of,
)

YES, NO, OPEN, NOT_SHOWN = "yes", "no", "inconclusive", "not shown"
ONE_SEED = "One seed decides nothing; compare on five seeds."
FEWEST = 5  # seeds that a decision needs
TOO_SMALL = "This request is too small for this audit to decide"

# Measures that a yes needs. If the request names all poison, it needs backdoor success too.
NEEDED = ("forget", "auc_matched", "rmia", "ulira", "lira", "relearn")

RULES = dict(
    forgotten=(
        "On every seed a method's model is compared with two retrained models on the same "
        "examples. The rule uses the mean of these differences over seeds. The verdict is no if "
        "the model shows memory beyond chance in a measure that decides. An exact retraining would "
        f"get a no in at most {SEEDS + SHADOWS:.0%} of audits. Of these, {SEEDS:.0%} are for all "
        "measures on seeds together, by a test that exchanges models within seeds, and "
        f"{SHADOWS:.0%} are for LiRA. The verdict is yes under three conditions. First, the 95 % "
        f"interval of every difference lies within the margin ({ACCURACY:g} points of accuracy, "
        f"{AREA:g} of an AUC, {RATE:g} of a true-positive rate). Second, in a measure that detects "
        "the old model, the method is shown to be nearer to retraining than to the old model. "
        "Third, no sign of memory (rounds to relearn, measures with the negation undone) is beyond "
        f"chance ({SIGNS:.0%}). In addition, the same audit must say no to the old model, and must "
        "not say no to a third retraining. Every attack must have been run: the matched loss "
        "attack, RMIA, U-LiRA and LiRA. Accuracy on the forgotten data, the backdoor that was to "
        "be forgotten, and rounds to relearn must have been measured. Otherwise the verdict is "
        "inconclusive. The request is too small to decide if the old model is not detected. It is "
        "also too small if a third retraining is not shown to be within the margins. U-LiRA alone "
        "never leads to a no. It finds any difference between unlearned and retrained models. An "
        "unlearned model may be less sure of the forgotten labels, and that is not memory. U-LiRA "
        "and LiRA use one split of the data. The unmatched attack never decides."
    ),
    backdoor_gone=(
        "The rule uses the trigger's success minus that of the seed's retrained models. The "
        f"verdict is yes if the 95 % interval ends at or below {ACCURACY:g} points. It is no if "
        "the interval begins above. Otherwise it is inconclusive. It is not shown unless the "
        "request names every image with the trigger, since retrained models learn the rest."
    ),
    useful=(
        "The rule uses test accuracy minus that of the seed's retrained models. The verdict is yes "
        f"if the 95 % interval begins at or above -{TEST:g} points. It is no if the interval ends "
        "below. Otherwise it is inconclusive."
    ),
    cheaper_than_retraining=(
        "The rule uses rounds, bytes and operations until retained accuracy is within 0.5 points "
        "of retraining's last. Each is divided by what retraining itself needs for that on the "
        "same seed. The verdict is yes if the 95 % interval of each ratio's geometric mean over "
        "seeds ends below 1. It is no if one begins above 1, or if accuracy never came back. "
        "Otherwise it is inconclusive."
    ),
)
QUESTIONS = tuple(RULES)
TITLES = dict(
    forgotten="Forgotten?",
    backdoor_gone="Backdoor gone?",
    useful="Useful?",
    cheaper_than_retraining="Cheaper than retraining?",
)


class Controls(NamedTuple):
    """The verdicts of the same rule, in the same audit, on models with a known verdict."""

    old: tuple[str, str] | None = None  # has not forgotten: must be a no
    detecting: tuple[str, ...] = ()  # measures that detect the old model, the clearest first
    third: tuple[str, str] | None = None  # an exact retraining: must not be a no
    mistaken: tuple[str, ...] = ()  # measures that wrongly detect it


def controls(
    measures: Mapping[str, Mapping[str, Any]], missing: Mapping[str, Mapping], poison_named: bool
) -> Controls:
    """The verdicts on the old model and on a third retraining, if there are such models.

    Args:
      measures, missing: by method; ``verdicts`` takes those of one method.
    """
    made = Controls()
    if OLD in measures:
        clear = lambda key: clearness(measures[OLD][key]["difference"])
        old = forgotten(measures[OLD], missing.get(OLD, {}), poison_named, made)
        detecting = sorted(caught(measures[OLD], poison_named), key=clear, reverse=True)
        made = Controls(old, tuple(detecting))
    if THIRD in measures and "forget" in measures[THIRD]:
        mistaken = caught(measures[THIRD], poison_named)
        found = forgotten(measures[THIRD], missing.get(THIRD, {}), poison_named, made, third=True)
        made = made._replace(third=found, mistaken=mistaken)
    return made


class Judged(NamedTuple):
    """The verdicts of ``judge`` on every model, and on the controls."""

    verdicts: dict[str, dict[str, tuple[str, str]]]  # method -> question -> (verdict, reason)
    controls: Controls


def judge(
    estimates: Estimates, rows: Sequence[Mapping[str, Any]] = (), *, poison_named: bool = False
) -> Judged:
    """Verdicts on every model of an audit, by the rules in ``RULES``.

    Args:
      estimates: as ``jfu.audit.estimate`` makes them.
      rows: of results, with the costs of recovery; without them that question stays open.
      poison_named: whether the request names every image with the trigger.

    >>> from jfu.audit.estimates import estimate
    >>> right = lambda share: np.arange(200) < round(200 * share)  # on forgotten data
    >>> models = dict(original=0.9, retrain=0.5, retrain_again=0.52, mine=0.9)
    >>> evidence = {
    ...     name: {"forget": {seed: (right(share + seed / 100),) for seed in range(5)}}
    ...     for name, share in models.items()
    ... }
    >>> judge(estimate(evidence)).verdicts["mine"]["forgotten"]
    ('no', 'It differs from models that never saw the data in accuracy on forgotten data.')
    """
    measures = estimates.measures
    missing = {name: estimates.missing | estimates.broken[name] for name in measures}
    known = controls(measures, missing, poison_named)
    each = {
        name: verdicts(name, entries, ratios(rows, name), missing[name], poison_named, known)
        for name, entries in measures.items()
    }
    return Judged(each, known)


def verdicts(
    name: str,
    measures: dict[str, Any],
    costs: dict[str, Any],
    missing: dict[str, str],
    poison_named: bool,
    known: Controls = Controls(),  # noqa: B008
) -> dict[str, tuple[str, str]]:
    """A verdict and its reason, a sentence, for every question.

    Args:
      name: the method's name.
      measures: the method's, as ``estimates.estimate`` makes them.
      costs: ratios to retraining, as ``ratios`` makes them.
      missing: reasons for missing measures.
      poison_named: whether the request names every image with the trigger.
      known: the same rule's verdicts on models with a known verdict.
    """
    judged = forgotten(measures, missing, poison_named, known, third=name == THIRD)
    if name in RETRAINED:
        judged = NOT_SHOWN, "Other models are compared with this one."
    return dict(
        forgotten=judged,
        backdoor_gone=backdoor_gone(measures, poison_named),
        useful=useful(measures),
        cheaper_than_retraining=cheaper(name, costs),
    )


def forgotten(
    measures: Mapping[str, Any],
    missing: Mapping[str, str],
    poison_named: bool,
    known: Controls,
    third: bool = False,
) -> tuple[str, str]:
    """The first question; ``third`` says that the model is the third retraining, a control."""
    counted = deciding(measures, poison_named)
    seeds = [entry["seeds"] for key, entry in counted.items() if not of(key).pooled]
    if not seeds:
        return NOT_SHOWN, "No matched measure has a retrained model to compare with."
    if max(seeds) < 2:
        return NOT_SHOWN, ONE_SEED
    if max(seeds) < FEWEST:
        return OPEN, f"{max(seeds)} seeds are too few; a decision needs {FEWEST}."
    if memory := [key for key in caught(measures, poison_named) if key not in known.mistaken]:
        also = [key for key in counted if not of(key).memory and outside(counted[key])]
        words = "It differs from models that never saw the data in"
        return NO, f"{words} {titles([*memory, *also])}."
    why = [*unfit(known, third), *doubts(counted, measures, known)]
    needed = (*NEEDED, "asr") if poison_named else NEEDED
    if lacking := [key for key in needed if key not in (*counted, *signs(measures))]:
        each = (f"{TABLE[k].title} ({missing.get(k, 'no comparison')})" for k in lacking)
        why.append(f"Not shown: {'; '.join(each)}.")
    if few := [key for key, e in counted.items() if not of(key).pooled and e["seeds"] < FEWEST]:
        why.append(f"On fewer than {FEWEST} seeds: {titles(few)}.")
    if why:
        return OPEN, " ".join(why)
    words = f"Within the margins of retraining: {titles(bounded(counted))}."
    return YES, f"{words} The same rule detects the old model by {titles(known.detecting)}."


def unfit(known: Controls, third: bool) -> list[str]:
    """Why this audit could not say yes to any model."""
    why = []
    if not known.detecting:
        why.append(f"{TOO_SMALL}: it finds no difference between the old model and retrained ones.")
    elif not third and known.third and WIDE in known.third[1]:
        why.append(f"{TOO_SMALL}: a third retraining gets no yes either.")
    if known.mistaken:
        why.append(f"A control failed: {titles(known.mistaken)} detected a third retraining.")
    if not third and known.third is None:
        why.append("No third retraining was made as a control; --control makes it.")
    return why


WIDE = "Not shown to be within the margin"


def doubts(counted: dict[str, Any], measures: Mapping[str, Any], known: Controls) -> list[str]:
    """Reasons from a model's own measures that forbid a yes but do not make a no."""
    why, near = [], bounded(counted)
    if wide := [key for key, e in near.items() if not inside(e) and not outside(e)]:
        spans = "; ".join(f"{of(key).title} ({in_words(near[key], of(key))})" for key in wide)
        why.append(f"{WIDE}: {spans}.")
    if apart := [key for key, entry in near.items() if outside(entry)]:
        how = "It differs from retrained models, but not by memory beyond chance, in"
        why.append(f"{how} {titles(apart)}.")
    halfway = {key: counted[key]["halfway"] for key in known.detecting[:1] if key in counted}
    if between := [key for key, part in halfway.items() if part and not part["high"] < 0]:
        how = "Not shown to be nearer to retraining than to the old model"
        why.append(f"{how}: {titles(between)}.")
    shown = [k for k, e in signs(measures).items() if e["chance"] is not None]
    if remembered := [key for key in shown if measures[key]["chance"] <= SIGNS]:
        why.append(f"It shows signs of memory: {titles(remembered)}.")
    return why


def deciding(measures: Mapping[str, Any], poison_named: bool) -> dict[str, Any]:
    """Measures that decide the first question and have a comparison."""
    return {
        key: entry
        for key, entry in measures.items()
        if of(key).decides and entry["difference"] and (poison_named or key != "asr")
    }


def signs(measures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: e for key, e in measures.items() if of(key).sign and e["difference"]}


def bounded(counted: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in counted.items() if entry["margin"] is not None}


def caught(measures: Mapping[str, Any], poison_named: bool) -> tuple[str, ...]:
    """Measures in which a model shows more memory than an exact retraining would by chance."""
    return tuple(
        key
        for key, entry in deciding(measures, poison_named).items()
        if entry["chance"] is not None
        and (of(key).pooled or entry["seeds"] >= FEWEST)
        and entry["chance"] <= (SHADOWS if of(key).pooled else SEEDS)
    )


def clearness(difference: Mapping[str, float]) -> float:
    """A difference's size divided by the half-width of its interval."""
    half = difference["high"] - difference["value"]
    return abs(difference["value"]) / half if half else float("inf")


def of(key: str) -> Measure:
    return measure_of(key)


def titles(keys: Any) -> str:
    return "; ".join(of(key).title for key in keys)


def inside(entry: dict[str, Any]) -> bool:
    """Whether the whole interval of the difference is within the margin."""
    difference = entry["difference"]
    return -entry["margin"] <= difference["low"] and difference["high"] <= entry["margin"]


def outside(entry: dict[str, Any]) -> bool:
    """Whether the whole interval of the difference is outside the margin."""
    difference, margin = entry["difference"], entry["margin"]
    if margin is None:
        return False
    return difference["low"] > margin or difference["high"] < -margin


def in_words(entry: dict[str, Any], measure: Measure) -> str:
    digits = 1 if measure.unit == "%" else 3
    low, high = (f"{entry['difference'][end]:+.{digits}f}" for end in ("low", "high"))
    return f"{low} to {high}, margin {entry['margin']:g}"


def backdoor_gone(measures: dict[str, Any], poison_named: bool) -> tuple[str, str]:
    if "asr" not in measures:
        return NOT_SHOWN, "No backdoor was planted."
    if not poison_named:
        return NOT_SHOWN, "The request does not name every image with the trigger, so it may stay."
    words = "The trigger works more often than on", "The trigger works no more often than on"
    return one_sided(measures["asr"], 1, *words)


def useful(measures: dict[str, Any]) -> tuple[str, str]:
    if "test" not in measures:
        return NOT_SHOWN, "Test accuracy was not measured."
    return one_sided(measures["test"], -1, "Less accurate than", "As accurate as")


def one_sided(entry: dict[str, Any], worse: int, no: str, yes: str) -> tuple[str, str]:
    """A verdict from one side of the margin; ``worse`` is 1 if more is worse, -1 if less is."""
    difference, margin = entry["difference"], entry["margin"]
    if not difference:
        return NOT_SHOWN, "There is no retrained model to compare with."
    if entry["seeds"] < 2:
        return NOT_SHOWN, ONE_SEED
    low, high = (difference[end] for end in ("low", "high"))
    words = f"{low:+.1f} to {high:+.1f} points, margin {margin:g}"
    if entry["seeds"] < FEWEST:
        return OPEN, f"{entry['seeds']} seeds are too few: {words}."
    low, high = sorted((worse * low, worse * high))
    if low > margin:
        return NO, f"{no} retrained models: {words}."
    if high <= margin:
        return YES, f"{yes} retrained models: {words}."
    return OPEN, f"Not shown to be within the margin: {words}."


def cheaper(name: str, costs: dict[str, Any]) -> tuple[str, str]:
    if name in ("original", *RETRAINED, THIRD):
        return NOT_SHOWN, "Other models are compared with this one."
    if not costs:
        return NOT_SHOWN, "There is no retrained model to compare costs with."
    if name == "none":
        return NOT_SHOWN, "It runs no round and does nothing."
    if costs["seeds"] < 2:
        return NOT_SHOWN, ONE_SEED
    if costs["seeds"] < FEWEST:
        return OPEN, f"{costs['seeds']} seeds are too few."
    if costs["never"]:
        return NO, f"Retained accuracy never came back on {costs['never']} of the seeds."
    each = {k: v for k, v in costs.items() if k not in ("never", "seeds")}
    words = ", ".join(f"{k} {v['low']:.2f} to {v['high']:.2f}" for k, v in each.items())
    words = f"of retraining's: {words}"
    if all(v["high"] < 1 for v in each.values()):
        return YES, f"It needs less, {words}."
    if any(v["low"] > 1 for v in each.values()):
        return NO, f"It needs more, {words}."
    return OPEN, f"It needs about as much, {words}."
