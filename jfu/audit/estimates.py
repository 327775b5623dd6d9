"""Makes numbers from samples: values and differences to retraining, with intervals and floors."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfu import attacks, inference, results
from jfu.audit.measures import (
    OLD,
    RETRAINED,
    TABLE,
    Arrays,
    Evidence,
    Measure,
    kind_of,
    percent,
)

LEVEL = 0.90  # of differences' intervals: 95 of 100 lie above its low end, 95 below its high one
Scores = dict[str, dict[str, dict[int, float]]]  # measure -> method -> seed -> statistic


class Estimates(NamedTuple):
    """What ``estimate`` returns: numbers, and the reasons for missing ones."""

    measures: dict[str, dict[str, Any]]  # method -> measure -> entry
    missing: dict[str, str]  # measure -> a sentence
    broken: dict[str, dict[str, str]]  # method -> measure -> a sentence
    coupled: frozenset[str] = frozenset()  # methods that are compared with ``retrain`` alone


def estimate(
    evidence: Evidence,
    table: Mapping[str, Measure] = TABLE,
    draws: int = 1000,
    *,
    coupled: Collection[str] = (),
) -> Estimates:
    """Values and differences to retraining, with intervals.

    A difference compares one seed's models on the same examples. It is the method's statistic minus
    the mean of the retrained models' statistics. Intervals are Student's over seeds. A single
    shadow federation says little, so there intervals are the jackknife's over pairs. With only one
    seed, intervals are a bootstrap over examples, with the same draws for all models.

    A method is coupled if it is meant to share with ``retrain`` all that chance decides, such as
    the features of ridge heads. Its difference is to that model alone. Both retrained models have
    one distribution, so the expected difference is the same. But what they share cancels, so the
    interval is narrower, and for an exact method it is nothing wide (common random numbers:
    Glasserman, Yao. Some Guidelines and Guarantees for Common Random Numbers. Management Science
    1992). A method that is wrongly called coupled gets a wider interval, and no wrong verdict. Name
    methods by what they are, before they are measured.

    Args:
      evidence: samples by method, measure and seed, as ``jfu.audit.collect`` makes them.
      table: the measures.
      draws: number of bootstrap draws for a single seed.
      coupled: names of methods.

    Returns:
      ``measures[method][measure]`` with these entries:

      * ``value, low, high, resampled``: the value, its interval, and what the interval is over
      * ``seeds``: how many seeds have the retrained models too
      * ``difference``: ``{value, low, high}`` or None
      * ``floor``: ``{low, high}``, where the difference of one more retrained model would lie, or
        None
      * ``margin``: the measure's margin
      * ``halfway``: ``{value, low, high}``, memory beyond half of the old model's, or None
      * ``chance``: how often an exact retraining would show as much memory in any measure of its
        kind, or None

      ``missing[measure]`` and ``broken[method][measure]`` are sentences.

    >>> right = lambda share: np.arange(200) < round(200 * share)  # on forgotten data
    >>> models = dict(original=0.9, retrain=0.5, retrain_again=0.52)
    >>> evidence = {
    ...     name: {"forget": {seed: (right(share + seed / 100),) for seed in range(5)}}
    ...     for name, share in models.items()
    ... }
    >>> found = estimate(evidence).measures["original"]["forget"]
    >>> round(found["value"], 3), round(found["difference"]["value"], 3), found["seeds"]
    (92.0, 39.0, 5)
    """
    made = Estimates(
        {name: {} for name in evidence}, {}, {name: {} for name in evidence}, frozenset(coupled)
    )
    scores: Scores = {}
    for key in dict.fromkeys(key for samples in evidence.values() for key in samples):
        measure = table[kind_of(key)]
        by_name = {name: samples[key] for name, samples in evidence.items() if key in samples}
        for name in [name for name, groups in by_name.items() if not finite(groups.values())]:
            made.broken[name][key] = "it is not a finite number in every seed"
            del by_name[name]
        values = {n: {s: measure.statistic(*a) for s, a in g.items()} for n, g in by_name.items()}
        if any(value is None for one in values.values() for value in one.values()):
            made.missing[key] = too_few([a for groups in by_name.values() for a in groups.values()])
            continue
        scores[key] = values
        for name, groups in by_name.items():
            entry = alone(measure, groups, values[name], draws)
            if measure.pooled:
                entry |= of_pairs(measure, name, by_name)
            else:
                others = references(measure, name, name in made.coupled)
                entry |= of_seeds(measure, name, others, by_name, values, draws)
            made.measures[name][key] = entry
    for name, entries in made.measures.items():
        for key, chance in chances(name, entries, scores, table).items():
            entries[key]["chance"] = chance
    return made


def alone(
    measure: Measure, groups: dict[int, Arrays], scores: dict[int, float], draws: int
) -> dict[str, Any]:
    """A value with its interval, and what the interval is over."""
    first, *_ = groups.values()
    if measure.pooled:
        found, over = inference.jackknife(*first), "pairs of shadow federations"
    elif len(scores) > 1:
        narrow = least(measure, groups)
        found, over = inference.t_interval([*scores.values()], least=narrow), "seeds"
    else:
        ends = attacks.interval(measure.statistic, [first], draws=draws)
        found = inference.Interval._make([*scores.values(), *ends])
        over = "examples" if any(len(a) > 1 for a in first) else "nothing"
    bottom, top = limits(measure)
    if measure.unit == "%" and any((a[0] < 0).any() for a in groups.values()):
        bottom = -np.inf  # an explained variance may be below zero
    low, high = max(found.low, min(bottom, found.value)), min(found.high, max(top, found.value))
    entry = plain(dict(value=found.value, low=low, high=high))
    return entry | dict(resampled=over) | measure.facts([*groups.values()])


def references(measure: Measure, name: str, coupled: bool) -> list[str]:
    """The retrained models that a method's difference is to."""
    if measure.pair:  # a distance to ``retrain``, beside that of the other one
        return [other for other in (results.AGAIN,) if other != name]
    return [other for other in RETRAINED[: 1 if coupled else None] if other != name]


def of_seeds(
    measure: Measure,
    name: str,
    others: Sequence[str],
    samples: dict[str, dict[int, Arrays]],
    scores: dict[str, dict[int, float]],
    draws: int,
) -> dict[str, Any]:
    """A method's difference to the retrained models of its seeds."""
    entry = compared(measure, len(scores[name]))
    others = [other for other in others if other in scores]
    seeds = common(scores, [name, *others])
    if not others or not seeds:
        return entry
    entry["seeds"] = len(seeds)
    if len(seeds) == 1:
        models = [samples[who][seeds[0]] for who in (name, *others)]
        return entry | dict(difference=of_one_seed(measure.statistic, models, draws))
    apart = lambda who: np.array(
        [scores[who][s] - np.mean([scores[other][s] for other in others]) for s in seeds]
    )
    narrow = least(measure, samples[name])
    student = functools.partial(inference.t_interval, level=LEVEL, least=narrow)
    interval = lambda values: plain(student(values)._asdict())
    entry |= dict(difference=interval(apart(name)), floor=floor_of(measure, scores, len(others)))
    beside_old = name != OLD and seeds == common(scores, [name, OLD, *others])
    if measure.decides and measure.memory and beside_old:
        entry["halfway"] = interval(measure.memory * (apart(name) - apart(OLD) / 2))
    return entry


def of_pairs(measure: Measure, name: str, samples: dict[str, dict[int, Arrays]]) -> dict[str, Any]:
    """The same for shadow federations, where "no difference" is a known number."""
    interval = functools.partial(inference.jackknife, level=LEVEL)
    ((values,),) = samples[name].values()
    apart, entry = interval(values - measure.null), compared(measure, 1)
    entry["difference"] = plain(apart._asdict())
    if measure.memory:
        entry["chance"] = inference.above(apart, 0.0, len(values) - 2, level=LEVEL)
        ((old,),) = samples.get(OLD, {0: (values[:0],)}).values()
        if name != OLD and len(old) == len(values):
            beyond = measure.memory * ((values - measure.null) - (old - measure.null) / 2)
            entry["halfway"] = plain(interval(beyond)._asdict())
    return entry


def compared(measure: Measure, seeds: int) -> dict[str, Any]:
    """An entry's fields without a comparison."""
    nothing = dict(difference=None, floor=None, halfway=None, chance=None)
    return dict(seeds=seeds, margin=measure.margin) | nothing


def of_one_seed(statistic: Callable, models: list[Arrays], draws: int) -> dict[str, float]:
    """A difference on one seed, with a bootstrap over examples that all models share."""
    together = [np.stack(side, 1) for side in zip(*models, strict=True)]

    def apart(*sides):
        each = [statistic(*(side[:, m] for side in sides)) for m in range(len(models))]
        return each[0] - np.mean(each[1:])

    low, high = attacks.interval(apart, [together], draws=draws, level=LEVEL)
    return plain(dict(value=apart(*together), low=low, high=high))


def floor_of(
    measure: Measure, scores: dict[str, dict[int, float]], others: int
) -> dict[str, float] | None:
    """The range of one more retrained model's difference, from differences of retrained models."""
    seeds = common(scores, RETRAINED)
    if measure.pair or len(seeds) < 2:
        return None
    apart = np.array([scores["retrain"][s] - scores[results.AGAIN][s] for s in seeds])
    half = np.sqrt((apart**2).mean() / 2 * (1 + 1 / others))
    half *= inference.students(LEVEL, len(seeds))
    return plain(dict(low=-half, high=half))


def chances(
    name: str, entries: dict[str, Any], scores: Scores, table: Mapping[str, Measure]
) -> dict[str, float]:
    """How often an exact retraining would show as much memory, by measure.

    The chance is adjusted for all measures of the same kind. The kinds are measures that decide,
    signs of memory, and each attack with shadow federations.
    """
    out: dict[str, float] = {}
    of = {key: table[kind_of(key)] for key in entries}
    memory = [key for key in entries if of[key].memory]
    for kind in ("decides", "sign"):
        keys = [k for k in memory if getattr(of[k], kind) and not of[k].pooled]
        out |= exchanged(name, keys, {key: of[key].memory for key in keys}, scores)
    pooled = [key for key in memory if of[key].pooled]
    return out | {key: min(1.0, len(pooled) * entries[key]["chance"]) for key in pooled}


def exchanged(
    name: str, keys: list[str], signs: dict[str, int], scores: Scores
) -> dict[str, float]:
    """Chances of measures that a method and both retrained models have on the same seeds."""
    models = (name, *RETRAINED)
    seeds = {key: common(scores[key], models) for key in keys if name not in RETRAINED}
    longest = max(seeds.values(), key=len, default=[])
    keys = [key for key in keys if seeds.get(key) == longest]
    if len(longest) < 2:
        return {}
    rows = [
        [[signs[key] * scores[key][model][s] for key in keys] for model in models] for s in longest
    ]
    return dict(zip(keys, inference.exchanges(np.array(rows)).tolist(), strict=True))


def common(scores: dict[str, dict[int, float]], names: Sequence[str]) -> list[int]:
    """Seeds that all of these models have, in order."""
    return sorted(set.intersection(*(set(scores.get(name, ())) for name in names)))


def least(measure: Measure, groups: dict[int, Arrays]) -> float:
    """The smallest half-width of an interval: 3 / N for shares of N examples.

    An event that did not occur in N examples may still have a rate of 3 / N.
    """
    if measure.statistic is not percent:
        return 0.0
    return 300 / sum(len(arrays[0]) for arrays in groups.values())


def limits(measure: Measure) -> tuple[float, float]:
    """The smallest and largest value that a statistic can have."""
    if measure.unit == "%":
        return 0.0, 100.0
    if measure.unit == "rounds":
        return 0.0, np.inf
    share = measure.statistic is attacks.auc or isinstance(measure.statistic, functools.partial)
    return (0.0, 1.0) if share or measure.pooled else (-np.inf, np.inf)


def plain(entry: dict[str, Any]) -> dict[str, float]:
    """The same entry with Python numbers in place of NumPy's."""
    return {key: float(value) for key, value in entry.items()}


def finite(groups: Iterable[Arrays]) -> bool:
    return all(np.isfinite(a).all() for arrays in groups for a in arrays)


def too_few(groups: list[Arrays]) -> str:
    many = min(len(arrays[1]) for arrays in groups)
    return f"{many} scores of data never trained on cannot show so low a false-positive rate"
