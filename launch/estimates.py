"""What an audit measures, and how samples become numbers with intervals and floors."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jfu import attacks
from launch import report

RETRAINED = ("retrain", report.AGAIN)


class Measure(NamedTuple):
    title: str
    unit: str
    statistic: Callable  # of one seed's arrays
    memory: int = 0  # +1 where more of it is memory of the forgotten data, -1 where less is
    decides: bool = False  # whether the verdict "forgotten" hangs on it
    pair: bool = False  # a distance to the retrained model of the same seed
    pooled: bool = False  # one statistic of all shadow federations' examples
    facts: Callable = lambda groups: {}  # what else the report says, of all seeds' arrays
    note: str = ""


def percent(correct: np.ndarray) -> float:
    return 100 * float(np.mean(correct))


def tpr(rate: float) -> Callable:
    return functools.partial(attacks.tpr_at, rate=rate)


def rates(title: str, name: str, **more: Any) -> dict[str, Measure]:
    """An attack's true-positive rates; ``name`` is a pattern of their keys."""
    words = f"{title}: true positives at {{:g}} % false"
    return {
        name.format(key): Measure(words.format(100 * rate), "", tpr(rate), **more)
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
            note="of the very examples that the retrained models never saw",
        ),
        "test": Measure("accuracy on test data", "%", percent),
        "asr": Measure(
            "backdoor success",
            "%",
            percent,
            memory=1,
            decides=True,
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
            "loss attack, matched: accuracy", "%", np.mean, memory=1, decides=True
        ),
        "auc_matched": Measure(
            "loss attack, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            note="each forgotten example faces a test image of its class, trigger and label",
        ),
        **rates("loss attack, matched", "tpr_{}", memory=1, decides=True),
        "rmia": Measure(
            "RMIA, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            note="offline; its reference models are the retrained ones of the seed",
        ),
        **rates("RMIA, matched", "rmia_tpr_{}", memory=1, decides=True),
    },
    "Attacks with shadow federations": {
        "ulira": Measure(
            "U-LiRA: AUC",
            "",
            attacks.auc,
            decides=True,
            pooled=True,
            note="example by example, federations that unlearned it against ones retrained "
            "without it; any difference tells them apart, so it has no side of memory",
        ),
        **rates("U-LiRA", "ulira_tpr_{}", decides=True, pooled=True),
        "lira": Measure(
            "LiRA: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
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
            note="what an attacker gets who negates the layer once more",
        ),
        "undo_asr": Measure("negation undone: backdoor success", "%", percent, memory=1),
        "undo_auc_matched": Measure(
            "negation undone, matched: AUC", "", attacks.auc, memory=1, decides=True
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


def estimate(
    evidence: Evidence, table: dict[str, Measure], draws: int
) -> tuple[dict, dict[str, str], dict[str, dict[str, str]]]:
    """Values with intervals and floors, and why what is missing is missing.

    The interval of a value is that of its mean over seeds; the floor's is where one retrained
    model falls, so that a method is inside the floor where it is no further from retrained models
    than they are from each other. Both draw seeds and examples, and so count the noise of
    examples twice, since it is in the values of the seeds already. Of shadow federations there
    are many, and one of them says little: there the floor is the interval of the same attack on
    retrained ones, twice as wide, since the method's own interval must find room in it.

    Returns:
      ``measures[method][measure] = {value, low, high, resampled, seeds, floor}``, where
      ``seeds`` counts those that have a retrained model too and ``floor`` is None or ``{value,
      low, high}``; ``missing[measure]``, a sentence; ``broken[method][measure]``, likewise.
    """
    measures: dict[str, dict[str, Any]] = {name: {} for name in evidence}
    missing: dict[str, str] = {}
    broken: dict[str, dict[str, str]] = {name: {} for name in evidence}
    for key in dict.fromkeys(key for found in evidence.values() for key in found):
        measure = table[key.partition(".")[0]]
        held = {name: found[key] for name, found in evidence.items() if key in found}
        for name in [name for name, groups in held.items() if not finite(groups.values())]:
            broken[name][key] = "it is no finite number in every seed"
            del held[name]
        samples = [a for groups in held.values() for a in joined(measure)([*groups.values()])]
        if any(measure.statistic(*arrays) is None for arrays in samples):
            missing[key] = too_few(samples)
            continue
        alike = (report.AGAIN,) if measure.pair or measure.pooled else RETRAINED
        retrained = {name: held[name] for name in alike if name in held}
        floor = floor_of(measure, retrained, draws)
        there = {seed for groups in retrained.values() for seed in groups}
        for name, groups in held.items():
            found = bounds(measure, [*groups.values()], draws)
            found |= dict(resampled=resampled(measure, [*groups.values()]))
            seeds = 1 if measure.pooled else len(there & set(groups) if there else groups)
            measures[name][key] = {**found, "seeds": seeds, "floor": floor}
    return measures, missing, broken


def floor_of(
    measure: Measure, retrained: dict[str, dict[int, Arrays]], draws: int
) -> dict[str, Any] | None:
    groups = [arrays for one in retrained.values() for arrays in one.values()]
    if not groups:
        return None
    floor = bounds(measure, groups, draws, singly=not measure.pooled)
    if measure.pooled:
        floor["low"] -= floor["value"] - floor["low"]
        floor["high"] += floor["high"] - floor["value"]
    return floor


def joined(measure: Measure) -> Callable[[list[Arrays]], list[Arrays]]:
    """The arrays that a statistic is taken of: a group's, or all groups' together."""
    together = lambda groups: [tuple(np.concatenate(side) for side in zip(*groups, strict=True))]
    return together if measure.pooled else lambda groups: groups


def bounds(measure: Measure, groups: list[Arrays], draws: int, singly: bool = False) -> dict:
    value = np.mean([measure.statistic(*arrays) for arrays in joined(measure)(groups)])
    how = dict(draws=draws, singly=singly, pooled=measure.pooled)
    low, high = attacks.interval(measure.statistic, groups, **how)
    return dict(value=float(value), low=low, high=high) | measure.facts(groups)


def resampled(measure: Measure, groups: list[Arrays]) -> str:
    """What an interval was drawn over, in words."""
    if measure.pooled:
        return "pairs of shadow federations"
    words = ["seeds"] if len(groups) > 1 else []
    words += ["examples"] if any(len(a) > 1 for arrays in groups for a in arrays) else []
    return " and ".join(words) or "nothing"


def finite(groups: Iterable[Arrays]) -> bool:
    return all(np.isfinite(a).all() for arrays in groups for a in arrays)


def too_few(groups: list[Arrays]) -> str:
    many = min(len(arrays[1]) for arrays in groups)
    return f"{many} scores of what was never trained on cannot show so low a false-positive rate"
