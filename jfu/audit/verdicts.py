"""Makes verdicts from differences, by the rules in ``jfu.audit.rules``.

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
    OLD,
    RETRAINED,
    SEEDS,
    SHADOWS,
    SIGNS,
    TABLE,
    THIRD,
    Measure,
    measure_of,
)
from jfu.audit.rules import (
    COUPLED,
    FEWEST,
    NEEDED,
    NO,
    NOT_SHOWN,
    ONE_SEED,
    OPEN,
    TOO_SMALL,
    WIDE,
    YES,
)
from jfu.audit.sides import backdoor_gone, cheaper, others_unharmed, useful


class Controls(NamedTuple):
    """The verdicts of the same rule, in the same audit, on models with a known verdict."""

    old: tuple[str, str] | None = None  # has not forgotten: must be a no
    detecting: tuple[str, ...] = ()  # measures that detect the old model, the clearest first
    third: tuple[str, str] | None = None  # an exact retraining: must not be a no
    mistaken: tuple[str, ...] = ()  # measures that wrongly detect it
    there: tuple[str, str] | None = None  # whether the old model knew the data


def controls(
    measures: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, Mapping],
    poison_named: bool,
    needed: Sequence[str] = NEEDED,
) -> Controls:
    """The verdicts on the old model and on a third retraining, if there are such models.

    Args:
      measures, missing: by method; ``verdicts`` takes those of one method.
      needed: as in ``judge``.
    """
    made = Controls()
    if OLD in measures:
        clear = lambda key: clearness(measures[OLD][key]["difference"])
        old = forgotten(measures[OLD], missing.get(OLD, {}), poison_named, made, needed)
        detecting = sorted(caught(measures[OLD], poison_named), key=clear, reverse=True)
        made = Controls(old, tuple(detecting))
        there = was_it_there(measures[OLD], missing.get(OLD, {}), poison_named, made, needed)
        made = made._replace(there=there)
    if THIRD in measures and "forget" in measures[THIRD]:
        mistaken = caught(measures[THIRD], poison_named)
        lacks = missing.get(THIRD, {})
        found = forgotten(measures[THIRD], lacks, poison_named, made, needed, third=True)
        made = made._replace(third=found, mistaken=mistaken)
    return made


class Judged(NamedTuple):
    """The verdicts of ``judge`` on every model, and on the controls."""

    verdicts: dict[str, dict[str, tuple[str, str]]]  # method -> question -> (verdict, reason)
    controls: Controls


def judge(
    estimates: Estimates,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    poison_named: bool = False,
    needed: Sequence[str] = NEEDED,
) -> Judged:
    """Verdicts on every model of an audit, by the rules in ``RULES``.

    Args:
      estimates: as ``jfu.audit.estimate`` makes them.
      rows: of results, with the costs of recovery; without them that question stays open.
      poison_named: whether the request names every image with the trigger.
      needed: measures without which there is no yes. All of ``NEEDED`` by default; fewer for a
        task that has none of their kind, such as RMIA for targets that are numbers.

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
    known = controls(measures, missing, poison_named, needed)
    each = {
        name: verdicts(
            name,
            entries,
            ratios(rows, name),
            missing[name],
            poison_named,
            known,
            coupled=name in estimates.coupled,
            needed=needed,
        )
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
    *,
    coupled: bool = False,
    needed: Sequence[str] = NEEDED,
) -> dict[str, tuple[str, str]]:
    """A verdict and its reason, a sentence, for every question.

    Args:
      name: the method's name.
      measures: the method's, as ``estimates.estimate`` makes them.
      costs: ratios to retraining, as ``ratios`` makes them.
      missing: reasons for missing measures.
      poison_named: whether the request names every image with the trigger.
      known: the same rule's verdicts on models with a known verdict.
      coupled: whether it is compared with the retrained model that shares its random numbers.
      needed: as in ``judge``.
    """
    how = dict(needed=needed, third=name == THIRD, coupled=coupled)
    judged = forgotten(measures, missing, poison_named, known, **how)
    if name in RETRAINED:
        judged = NOT_SHOWN, "Other models are compared with this one."
    return dict(
        was_it_there=known.there or (NOT_SHOWN, "The old model is missing."),
        forgotten=judged,
        backdoor_gone=backdoor_gone(measures, poison_named),
        useful=useful(measures),
        others_unharmed=others_unharmed(name, measures, missing),
        cheaper_than_retraining=cheaper(name, costs),
    )


def forgotten(
    measures: Mapping[str, Any],
    missing: Mapping[str, str],
    poison_named: bool,
    known: Controls,
    needed: Sequence[str] = NEEDED,
    third: bool = False,
    coupled: bool = False,
) -> tuple[str, str]:
    """The first question.

    Args:
      needed: as in ``judge``.
      third: whether the model is the third retraining, a control.
      coupled: whether it is compared with the retrained model that shares its random numbers.
    """
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
    if known.there and known.there[0] == NO:
        return NOT_SHOWN, f"There was nothing to forget beyond the margins. {known.there[1]}"
    why = [*unfit(known, third, coupled), *doubts(counted, measures, known)]
    why += lacking(counted, measures, missing, [*needed, *["asr"] * poison_named])
    if why:
        return OPEN, " ".join(why)
    words = f"Within the margins of retraining: {titles(bounded(counted))}."
    words += f" {COUPLED}" if coupled else ""
    return YES, f"{words} The same rule detects the old model by {titles(known.detecting)}."


def was_it_there(
    measures: Mapping[str, Any],
    missing: Mapping[str, str],
    poison_named: bool,
    known: Controls,
    needed: Sequence[str] = NEEDED,
) -> tuple[str, str]:
    """Whether the old model knew the data.

    Args:
      measures, missing: the old model's.
      known: its verdict, and the measures that detect it.
      needed: as in ``judge``.
    """
    counted = deciding(measures, poison_named)
    if known.old and max((entry["seeds"] for entry in counted.values()), default=0) < FEWEST:
        return known.old
    if known.detecting:
        return YES, f"The old model shows the data in {titles(known.detecting)}."
    wide = [key for key, entry in bounded(counted).items() if not inside(entry)]
    why = [f"{WIDE}: {titles(wide)}."] if wide else []
    but = [key for key in needed if key != "relearn"] + ["asr"] * poison_named
    why += lacking(counted, {}, missing, but)
    if why:
        return OPEN, " ".join(["The old model is not detected.", *why])
    words = "The old model is within the margins of models that never saw the data, in"
    return NO, f"{words} {titles(bounded(counted))}."


def lacking(
    counted: Mapping[str, Any],
    measures: Mapping[str, Any],
    missing: Mapping[str, str],
    needed: Sequence[str],
) -> list[str]:
    """Sentences on measures that were not taken, or on too few seeds.

    Args:
      counted: measures that decide.
      measures: those whose signs of memory count; empty if none do.
    """
    why = []
    if absent := [key for key in needed if key not in (*counted, *signs(measures))]:
        each = (f"{TABLE[k].title} ({missing.get(k, 'no comparison')})" for k in absent)
        why.append(f"Not shown: {'; '.join(each)}.")
    if few := [key for key, e in counted.items() if not of(key).pooled and e["seeds"] < FEWEST]:
        why.append(f"On fewer than {FEWEST} seeds: {titles(few)}.")
    return why


def unfit(known: Controls, third: bool, coupled: bool = False) -> list[str]:
    """Why this audit could not say yes to any model.

    How much retrained models differ by chance does not matter to a coupled one: it shares that.
    """
    why = []
    if not known.detecting:
        why.append(f"{TOO_SMALL}: it finds no difference between the old model and retrained ones.")
    elif not (third or coupled) and known.third and WIDE in known.third[1]:
        why.append(f"{TOO_SMALL}: a third retraining gets no yes either.")
    if known.mistaken:
        why.append(f"A control failed: {titles(known.mistaken)} detected a third retraining.")
    if not third and known.third is None:
        why.append("No third retraining was made as a control; --control makes it.")
    return why


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
