"""What an audit measures, and how samples become numbers with intervals and floors."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfu import attacks, inference, results

RETRAINED = ("retrain", results.AGAIN)
THIRD = "retrain_third"  # a control: an exact answer, which is judged like any other
OLD = "original"  # likewise: no answer at all

# How far from retraining is as good as retraining: margins of the whole interval.
ACCURACY, AREA, RATE, TEST = 5.0, 0.05, 0.02, 1.0  # points, of AUCs, of rates, of test accuracy
# Chances of a false "no": of the 5 in 100 that an exact retraining may meet, so many for measures
# of a seed's models together, and so many for all of one attack with shadow federations.
SEEDS, SHADOWS = 0.04, 0.01
SIGNS = 0.05  # of a false sign of memory, which forbids a yes
LEVEL = 0.90  # of differences' intervals: 95 of 100 lie above its low end, 95 below its high one


class Measure(NamedTuple):
    title: str
    unit: str
    statistic: Callable  # of one seed's arrays
    memory: int = 0  # +1 where more of it is memory of the forgotten data, -1 where less is
    decides: bool = False  # whether the verdict "forgotten" hangs on it
    margin: float | None = None  # its interval must lie within, for a yes
    sign: bool = False  # forbids a yes where it shows memory
    pair: bool = False  # a distance to the retrained model of the same seed
    pooled: bool = False  # of shadow federations; "no difference" is ``null``
    null: float = 0.5
    facts: Callable = lambda groups: {}  # what else the report says, of all seeds' arrays
    note: str = ""


def percent(correct: np.ndarray) -> float:
    return 100 * float(np.mean(correct))


def tpr(rate: float) -> Callable:
    return functools.partial(attacks.tpr_at, rate=rate)


def first(values: np.ndarray) -> float:
    """The statistic of all pairs of shadow federations; others leave one pair out."""
    return float(values[0])


def rates(title: str, name: str, **more: Any) -> dict[str, Measure]:
    """An attack's true-positive rates; ``name`` is a pattern of their keys."""
    words = f"{title}: true positives at {{:g}} % false"
    if more.get("decides"):
        more |= dict(margin=RATE)
    statistic = lambda rate: first if more.get("pooled") else tpr(rate)
    return {
        name.format(key): Measure(words.format(100 * rate), "", statistic(rate), null=rate, **more)
        for key, rate in (("1", 0.01), ("01", 0.001))
    }


def reached(values: np.ndarray, limit: np.ndarray) -> float:
    """Mean of values of which those above the limit were cut off there."""
    del limit
    return float(np.mean(values))


def cut(groups: list) -> dict[str, Any]:
    """The share of seeds in which a value was cut off, and the mean of their limits."""
    above = [float(np.mean(values > limit)) for values, limit in groups]
    return dict(censored=float(np.mean(above)), limit=float(np.mean([m for _, m in groups])))


def quality(epsilons: np.ndarray, models: np.ndarray) -> float:
    del models
    return attacks.forgetting_score(epsilons)


# Groups of measures as the report shows them.
GROUPS: dict[str, dict[str, Measure]] = {
    "Accuracy and backdoor": {
        "retain": Measure("accuracy on retained data", "%", percent),
        "forget": Measure(
            "accuracy on forgotten data",
            "%",
            percent,
            memory=1,
            decides=True,
            margin=ACCURACY,
            note="of the very examples that the retrained models never saw",
        ),
        "test": Measure("accuracy on test data", "%", percent, margin=TEST),
        "asr": Measure(
            "backdoor success",
            "%",
            percent,
            memory=1,
            decides=True,
            margin=ACCURACY,
            note="decides where every image with the trigger was to be forgotten",
        ),
    },
    "Membership attacks on one model": {
        "mia": Measure(
            "loss attack, unmatched: accuracy",
            "%",
            np.mean,
            note="tells forgotten data from test data by looks too, so it never decides",
        ),
        "auc": Measure("loss attack, unmatched: AUC", "", attacks.auc, note="never decides"),
        **rates("loss attack, unmatched", "tpr_{}_unmatched", note="never decides"),
        "mia_matched": Measure(
            "loss attack, matched: accuracy",
            "%",
            np.mean,
            memory=1,
            decides=True,
            note="a yes rests on its AUC, which says the same with less noise",
        ),
        "auc_matched": Measure(
            "loss attack, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            margin=AREA,
            note="each forgotten example faces a test image of its class, trigger and label",
        ),
        **rates("loss attack, matched", "tpr_{}", memory=1, decides=True),
        "rmia": Measure(
            "RMIA, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            margin=AREA,
            note="offline; its reference models are the retrained ones of the seed",
        ),
        **rates("RMIA, matched", "rmia_tpr_{}", memory=1, decides=True),
    },
    "Attacks with shadow federations": {
        "ulira": Measure(
            "U-LiRA: AUC",
            "",
            first,
            decides=True,
            margin=AREA,
            pooled=True,
            note="example by example, federations that unlearned it against ones retrained "
            "without it; any difference tells them apart, so it has no side of memory",
        ),
        **rates("U-LiRA", "ulira_tpr_{}", decides=True, pooled=True),
        "lira": Measure(
            "LiRA: AUC",
            "",
            first,
            memory=1,
            decides=True,
            margin=AREA,
            pooled=True,
            note="example by example, unlearned federations that held it against unlearned ones "
            "that never did",
        ),
        **rates("LiRA", "lira_tpr_{}", memory=1, decides=True, pooled=True),
        "forgetting_score": Measure(
            "forgetting quality F of the NeurIPS 2023 challenge",
            "",
            quality,
            memory=-1,
            facts=lambda groups: dict(models=groups[0][1].ravel().tolist()),
            note="F alone, without the challenge's factors of accuracy; 1 is retraining with many "
            "models, with few chance alone makes it small",
        ),
    },
    "Signs of memory": {
        "relearn": Measure(
            "rounds to relearn",
            "rounds",
            reached,
            memory=-1,
            sign=True,
            facts=cut,
            note="until accuracy on the forgotten data is within 5 points of the original's, once "
            "the data is back in the federation; a model that takes longer than was tried counts "
            "as one round more",
        ),
        "anamnesis": Measure(
            "anamnesis index",
            "",
            reached,
            memory=-1,
            pair=True,
            facts=cut,
            note="rounds to relearn over those of the retrained model: below 1 it remembers",
        ),
        "update_auc_matched": Measure(
            "both models known, matched: AUC of the confidence that was lost",
            "",
            attacks.auc,
            note="what the request itself gives away to who saw the model before and after; so "
            "does retraining",
        ),
        "undo_forget": Measure(
            "negation undone: accuracy on forgotten data",
            "%",
            percent,
            memory=1,
            sign=True,
            note="what an attacker gets who negates the layer once more",
        ),
        "undo_asr": Measure("negation undone: backdoor success", "%", percent, memory=1, sign=True),
        "undo_auc_matched": Measure(
            "negation undone, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            margin=AREA,
        ),
        "undo_update_auc_matched": Measure(
            "negation undone, matched: AUC of the confidence that comes back",
            "",
            attacks.auc,
            memory=1,
        ),
        "undo_to_original": Measure(
            "negation undone: distance to the original's parameters",
            "",
            np.mean,
            memory=-1,
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


def measure_of(name: str) -> Measure:
    """A measure by its key; those of layers are ``measure.layer``."""
    return TABLE[name.partition(".")[0]]


Scores = dict[str, dict[str, dict[int, float]]]  # measure -> method -> seed -> statistic


def estimate(
    evidence: Evidence, table: dict[str, Measure], draws: int
) -> tuple[dict, dict[str, str], dict[str, dict[str, str]]]:
    """Values and differences to retraining with intervals, and why what is missing is missing.

    A difference is that of one seed's models, judged on the same examples: the method's statistic
    less the mean of the retrained models'. Intervals are Student's over seeds; of shadow
    federations, of which one says little, the jackknife's over pairs; of one seed, over examples
    that are drawn anew for all models together.

    Returns:
      ``measures[method][measure] = {value, low, high, resampled, seeds, difference, floor,
      margin, halfway, chance}``, where ``seeds`` counts those that have the retrained models too;
      ``difference`` is None or ``{value, low, high}``; ``floor``, None or ``{low, high}``: where
      the difference of one more retrained model would lie; ``halfway``, None or ``{value, low,
      high}``: memory beyond half of what the old model has; ``chance``, None or how often an
      exact retraining would show as much memory in any measure of its kind.
      ``missing[measure]``, a sentence; ``broken[method][measure]``, likewise.
    """
    measures: dict[str, dict[str, Any]] = {name: {} for name in evidence}
    missing: dict[str, str] = {}
    broken: dict[str, dict[str, str]] = {name: {} for name in evidence}
    scores: Scores = {}
    for key in dict.fromkeys(key for found in evidence.values() for key in found):
        measure = table[key.partition(".")[0]]
        held = {name: found[key] for name, found in evidence.items() if key in found}
        for name in [name for name, groups in held.items() if not finite(groups.values())]:
            broken[name][key] = "it is no finite number in every seed"
            del held[name]
        found = {n: {s: measure.statistic(*a) for s, a in g.items()} for n, g in held.items()}
        if any(value is None for one in found.values() for value in one.values()):
            missing[key] = too_few([a for groups in held.values() for a in groups.values()])
            continue
        scores[key] = found
        for name, groups in held.items():
            entry = alone(measure, groups, found[name], draws)
            compare = of_pairs if measure.pooled else of_seeds
            measures[name][key] = entry | compare(measure, name, held, found, draws)
    for name, mine in measures.items():
        for key, chance in chances(name, mine, scores, table).items():
            mine[key]["chance"] = chance
    return measures, missing, broken


def alone(
    measure: Measure, groups: dict[int, Arrays], scores: dict[int, float], draws: int
) -> dict[str, Any]:
    """A value with its interval and what it is over."""
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
    low, high = max(found.low, min(bottom, found.value)), min(found.high, max(top, found.value))
    entry = plain(dict(value=found.value, low=low, high=high))
    return entry | dict(resampled=over) | measure.facts([*groups.values()])


def of_seeds(
    measure: Measure,
    name: str,
    held: dict[str, dict[int, Arrays]],
    scores: dict[str, dict[int, float]],
    draws: int,
) -> dict[str, Any]:
    """A method's difference to the retrained models of its seeds."""
    entry = compared(measure, len(scores[name]))
    alike = (results.AGAIN,) if measure.pair else RETRAINED
    others = [other for other in alike if other in scores and other != name]
    seeds = common(scores, [name, *others])
    if not others or not seeds:
        return entry
    entry["seeds"] = len(seeds)
    if len(seeds) == 1:
        models = [held[who][seeds[0]] for who in (name, *others)]
        return entry | dict(difference=of_one_seed(measure.statistic, models, draws))
    apart = lambda who: np.array(
        [scores[who][s] - np.mean([scores[other][s] for other in others]) for s in seeds]
    )
    narrow = least(measure, held[name])
    student = functools.partial(inference.t_interval, level=LEVEL, least=narrow)
    interval = lambda values: plain(student(values)._asdict())
    entry |= dict(difference=interval(apart(name)), floor=floor_of(measure, scores, len(others)))
    beside_old = name != OLD and seeds == common(scores, [name, OLD, *others])
    if measure.decides and measure.memory and beside_old:
        entry["halfway"] = interval(measure.memory * (apart(name) - apart(OLD) / 2))
    return entry


def of_pairs(
    measure: Measure, name: str, held: dict[str, dict[int, Arrays]], *_: Any
) -> dict[str, Any]:
    """Likewise of shadow federations, where no difference is a known number."""
    interval = lambda values: inference.jackknife(values, level=LEVEL)
    ((mine,),) = held[name].values()
    found, entry = interval(mine - measure.null), compared(measure, 1)
    entry["difference"] = plain(found._asdict())
    if measure.memory:
        entry["chance"] = inference.above(found, 0.0, len(mine) - 2, level=LEVEL)
        ((old,),) = held.get(OLD, {0: (mine[:0],)}).values()
        if name != OLD and len(old) == len(mine):
            beyond = measure.memory * ((mine - measure.null) - (old - measure.null) / 2)
            entry["halfway"] = plain(interval(beyond)._asdict())
    return entry


def compared(measure: Measure, seeds: int) -> dict[str, Any]:
    """What an entry says of a comparison where there is none."""
    nothing = dict(difference=None, floor=None, halfway=None, chance=None)
    return dict(seeds=seeds, margin=measure.margin) | nothing


def of_one_seed(statistic: Callable, models: list[Arrays], draws: int) -> dict[str, float]:
    """A difference on one seed, its examples drawn anew for all models together."""
    together = [np.stack(side, 1) for side in zip(*models, strict=True)]

    def apart(*sides):
        each = [statistic(*(side[:, m] for side in sides)) for m in range(len(models))]
        return each[0] - np.mean(each[1:])

    low, high = attacks.interval(apart, [together], draws=draws, level=LEVEL)
    return plain(dict(value=apart(*together), low=low, high=high))


def floor_of(
    measure: Measure, scores: dict[str, dict[int, float]], others: int
) -> dict[str, float] | None:
    """Where one more retrained model's difference would lie, from differences of retrainings."""
    seeds = common(scores, RETRAINED)
    if measure.pair or len(seeds) < 2:
        return None
    apart = np.array([scores["retrain"][s] - scores[results.AGAIN][s] for s in seeds])
    half = np.sqrt((apart**2).mean() / 2 * (1 + 1 / others))
    half *= inference.students(LEVEL, len(seeds))
    return plain(dict(low=-half, high=half))


def chances(
    name: str, mine: dict[str, Any], scores: Scores, table: dict[str, Measure]
) -> dict[str, float]:
    """How often an exact retraining would show as much memory, by measure.

    Adjusted for the measures of its kind: those that decide, signs of memory, those of one attack
    with shadow federations.
    """
    out: dict[str, float] = {}
    of = {key: table[key.partition(".")[0]] for key in mine}
    memory = [key for key in mine if of[key].memory]
    for kind in ("decides", "sign"):
        keys = [k for k in memory if getattr(of[k], kind) and not of[k].pooled]
        out |= exchanged(name, keys, {key: of[key].memory for key in keys}, scores)
    pooled = [key for key in memory if of[key].pooled]
    return out | {key: min(1.0, len(pooled) * mine[key]["chance"]) for key in pooled}


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
    """Half an interval's width at the least: of shares, three in all examples that were looked at.

    What was not seen in N of them may have a rate of 3 / N.
    """
    if measure.statistic is not percent:
        return 0.0
    return 300 / sum(len(arrays[0]) for arrays in groups.values())


def limits(measure: Measure) -> tuple[float, float]:
    """Between what a statistic must lie."""
    if measure.unit == "%":
        return 0.0, 100.0
    if measure.unit == "rounds":
        return 0.0, np.inf
    share = measure.statistic is attacks.auc or isinstance(measure.statistic, functools.partial)
    return (0.0, 1.0) if share or measure.pooled else (-np.inf, np.inf)


def plain(entry: dict[str, Any]) -> dict[str, float]:
    """With Python's own numbers."""
    return {key: float(value) for key, value in entry.items()}


def finite(groups: Iterable[Arrays]) -> bool:
    return all(np.isfinite(a).all() for arrays in groups for a in arrays)


def too_few(groups: list[Arrays]) -> str:
    many = min(len(arrays[1]) for arrays in groups)
    return f"{many} scores of what was never trained on cannot show so low a false-positive rate"
