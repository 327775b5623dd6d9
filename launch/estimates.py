"""What an audit measures, and how samples become numbers with intervals and floors."""

import functools
from collections.abc import Callable
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


def measure_of(name: str) -> Measure:
    """A measure by its key; those of layers are ``measure.layer``."""
    return TABLE[name.partition(".")[0]]


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
