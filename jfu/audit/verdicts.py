"""From differences to verdicts: four questions, each with its rule written beside it.

A verdict is about differences on one seed's examples. A no is by exchange of models within seeds,
which needs no law and holds for all measures at once. A yes is an interval within a margin, since
what was not seen is not what is not there. Two controls of which the answer is known stand beside,
the old model and a third retraining. ``launch.audit`` makes that one itself in ``controls/``: the
run's own files are its ledger's. ``launch.rates`` measures how often the whole is wrong; change a
rule and run it again.
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
ONE_SEED = "One seed decides nothing: compare on five."
FEWEST = 5  # seeds below which nothing is decided
TOO_SMALL = "This request is too small for this audit to tell"

# What a yes rests on; a backdoor's success too where the request names all of the poison.
NEEDED = ("forget", "auc_matched", "rmia", "ulira", "lira", "relearn")

RULES = dict(
    forgotten=(
        "On every seed a method's model stands beside two retrained ones, on the same examples. "
        "What counts is the mean over seeds of its differences to them. No, if it shows memory "
        "beyond chance in a measure that decides. An exact retraining would meet a no in at most "
        f"{SEEDS + SHADOWS:.0%} of audits: {SEEDS:.0%} for the measures on seeds together, by an "
        f"exchange of models within seeds, and {SHADOWS:.0%} for LiRA. Yes, if three things hold. "
        f"The 95 % interval of every difference lies within the margin ({ACCURACY:g} points of "
        f"accuracy, {AREA:g} of an AUC, {RATE:g} of a true-positive rate). Where a measure told "
        "the old model, the method is shown to be nearer to retraining than to that. No sign of "
        "memory (rounds to relearn, what negation undone brings back) is beyond chance "
        f"({SIGNS:.0%}). There is no yes unless the same rule, in the same audit, says no to the "
        "old model, and does not say no to a third retraining. There is none either where one of "
        "these was not run: accuracy on the forgotten data, the backdoor that was to be "
        "forgotten, the matched loss attack, RMIA, U-LiRA, LiRA, rounds to relearn. All else is "
        "inconclusive. Where the old model or a third retraining cannot be told from what they "
        "are not, the request is too small to tell. U-LiRA alone never says no: it finds any "
        "difference between unlearned and retrained models, also where the unlearned one is less "
        "sure of the forgotten labels, which is no memory. U-LiRA and LiRA rest on one split of "
        "the data. The unmatched attack never decides."
    ),
    backdoor_gone=(
        "What counts is the trigger's success, less that of the retrained models of the seed. Yes "
        f"if its 95 % interval ends at or below {ACCURACY:g} points; no if it begins above; else "
        "inconclusive. Not shown unless the request names every image with the trigger: retrained "
        "models learn what is left."
    ),
    useful=(
        "What counts is test accuracy, less that of the retrained models of the seed. Yes if its "
        f"95 % interval begins at or above -{TEST:g} points; no if it ends below; else "
        "inconclusive."
    ),
    cheaper_than_retraining=(
        "What counts are rounds, bytes and operations until retained accuracy is within 0.5 "
        "points of retraining's last, over what retraining itself needs for that on the same "
        "seed. Yes if the 95 % interval of each ratio's mean (of logarithms, over seeds) ends "
        "below 1. No if one begins above 1, or if accuracy never came back. Else inconclusive."
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
    """What the same rule says, in the same audit, of models of which the answer is known."""

    old: tuple[str, str] | None = None  # no answer at all: must be a no
    told: tuple[str, ...] = ()  # measures by which it is one, the clearest first
    third: tuple[str, str] | None = None  # an exact answer: must be no no
    mistaken: tuple[str, ...] = ()  # measures by which it is one


def controls(
    measures: Mapping[str, Mapping[str, Any]], missing: Mapping[str, Mapping], poison_named: bool
) -> Controls:
    """The verdicts on the old model and on a third retraining, where they are there.

    Args:
      measures, missing: by method, as ``verdicts`` takes those of one.
    """
    made = Controls()
    if OLD in measures:
        clear = lambda key: clearness(measures[OLD][key]["difference"])
        told = tuple(sorted(caught(measures[OLD], poison_named), key=clear, reverse=True))
        made = Controls(forgotten(measures[OLD], missing.get(OLD, {}), poison_named, made), told)
    if THIRD in measures and "forget" in measures[THIRD]:
        mistaken = caught(measures[THIRD], poison_named)
        found = forgotten(measures[THIRD], missing.get(THIRD, {}), poison_named, made, third=True)
        made = made._replace(third=found, mistaken=mistaken)
    return made


class Judged(NamedTuple):
    """What ``judge`` says of every model, and of the controls."""

    verdicts: dict[str, dict[str, tuple[str, str]]]  # method -> question -> (verdict, reason)
    controls: Controls


def judge(
    estimates: Estimates, rows: Sequence[Mapping[str, Any]] = (), *, poison_named: bool = False
) -> Judged:
    """Verdicts on every model of an audit, by the rules of ``RULES``.

    Args:
      estimates: as ``jfu.audit.estimate`` makes them.
      rows: of results, which say what recovery cost; without them that question stays open.
      poison_named: whether the request names every image with the trigger.

    >>> from jfu.audit.estimates import estimate
    >>> right = lambda share: np.arange(200) < round(200 * share)  # answers on forgotten data
    >>> models = dict(original=0.9, retrain=0.5, retrain_again=0.52, mine=0.9)
    >>> evidence = {
    ...     name: {"forget": {seed: (right(share + seed / 100),) for seed in range(5)}}
    ...     for name, share in models.items()
    ... }
    >>> judge(estimate(evidence)).verdicts["mine"]["forgotten"]
    ('no', 'It can be told from models that never saw the data by accuracy on forgotten data.')
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
      name: of the method.
      measures: of the method, as ``estimates.estimate`` makes them.
      costs: ratios to retraining, as ``ratios`` makes them.
      missing: why measures that are not there are not.
      poison_named: whether the request names every image with the trigger.
      known: what the same rule says of models of which the answer is known.
    """
    judged = forgotten(measures, missing, poison_named, known, third=name == THIRD)
    if name in RETRAINED:
        judged = NOT_SHOWN, "It is what others are compared with."
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
    """The first question; ``third`` where the model is the control itself."""
    counted = deciding(measures, poison_named)
    seeds = [entry["seeds"] for key, entry in counted.items() if not of(key).pooled]
    if not seeds:
        return NOT_SHOWN, "No matched measure has a retrained model to stand beside."
    if max(seeds) < 2:
        return NOT_SHOWN, ONE_SEED
    if max(seeds) < FEWEST:
        return OPEN, f"{max(seeds)} seeds are too few: nothing is decided below {FEWEST}."
    if told := [key for key in caught(measures, poison_named) if key not in known.mistaken]:
        also = [key for key in counted if not of(key).memory and outside(counted[key])]
        words = "It can be told from models that never saw the data by"
        return NO, f"{words} {titles([*told, *also])}."
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
    return YES, f"{words} By the same rule the old model is told by {titles(known.told)}."


def unfit(known: Controls, third: bool) -> list[str]:
    """Why this audit could not say yes to any model."""
    why = []
    if not known.told:
        why.append(f"{TOO_SMALL}: it cannot tell the old model itself from retrained ones.")
    elif not third and known.third and WIDE in known.third[1]:
        why.append(f"{TOO_SMALL}: a third retraining gets no yes either.")
    if known.mistaken:
        why.append(f"A control failed: {titles(known.mistaken)} took a third retraining for none.")
    if not third and known.third is None:
        why.append("No third retraining was made as a control; --control makes it.")
    return why


WIDE = "Not shown to be within the margin"


def doubts(counted: dict[str, Any], measures: Mapping[str, Any], known: Controls) -> list[str]:
    """What of a model's own measures forbids a yes and is no no."""
    why, near = [], bounded(counted)
    if wide := [key for key, e in near.items() if not inside(e) and not outside(e)]:
        spans = "; ".join(f"{of(key).title} ({in_words(near[key], of(key))})" for key in wide)
        why.append(f"{WIDE}: {spans}.")
    if apart := [key for key, entry in near.items() if outside(entry)]:
        how = "Told from retrained models, though not by memory beyond chance, by"
        why.append(f"{how} {titles(apart)}.")
    halfway = {key: counted[key]["halfway"] for key in known.told[:1] if key in counted}
    if between := [key for key, part in halfway.items() if part and not part["high"] < 0]:
        how = "Not shown to be nearer to retraining than to the old model"
        why.append(f"{how}: {titles(between)}.")
    shown = [k for k, e in signs(measures).items() if e["chance"] is not None]
    if remembered := [key for key in shown if measures[key]["chance"] <= SIGNS]:
        why.append(f"It shows signs of memory: {titles(remembered)}.")
    return why


def deciding(measures: Mapping[str, Any], poison_named: bool) -> dict[str, Any]:
    """Measures on which the first question hangs, that have what to be compared with."""
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
    """How often a difference is as large as half of its interval is wide."""
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
    """Whether all of it lies beyond."""
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
        return NOT_SHOWN, "The request does not name every image with the trigger, which may stay."
    words = "The trigger works more often than on", "The trigger works no more often than on"
    return one_sided(measures["asr"], 1, *words)


def useful(measures: dict[str, Any]) -> tuple[str, str]:
    if "test" not in measures:
        return NOT_SHOWN, "Test accuracy was not measured."
    return one_sided(measures["test"], -1, "Less accurate than", "As accurate as")


def one_sided(entry: dict[str, Any], worse: int, no: str, yes: str) -> tuple[str, str]:
    """A verdict from one side of the margin: ``worse`` is 1 where more is, -1 where less is."""
    difference, margin = entry["difference"], entry["margin"]
    if not difference:
        return NOT_SHOWN, "There is no retrained model to stand beside."
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
        return NOT_SHOWN, "It is what others are compared with."
    if not costs:
        return NOT_SHOWN, "There is no retrained model whose costs could be compared."
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
