"""The measures of an audit: one table, with the margins and chances that verdicts use."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jfu import attacks, results
from jfu.metrics import largest_loss, spread, worst

RETRAINED = ("retrain", results.AGAIN)
THIRD = "retrain_third"  # a control that has forgotten: an exact retraining, audited like any other
OLD = "original"  # a control that has not forgotten: the model before the request
REFERENCES = (OLD, *RETRAINED, THIRD)  # all other models are to be audited

# Margins: an interval wholly within them counts as equal to retraining.
ACCURACY, AREA, RATE, TEST = 5.0, 0.05, 0.02, 1.0  # points, of AUCs, of rates, of test accuracy
# Chances of a false "no". An exact retraining may get one in 4 of 100 audits in all. So a rate that
# is measured on some hundreds of audits stays below 5 of 100 too. SEEDS is the part of all measures
# on seeds' models together, SHADOWS that of one attack with shadows.
SEEDS, SHADOWS = 0.03, 0.01
SIGNS = 0.05  # of a false sign of memory, which forbids a yes


class Measure(NamedTuple):
    """One number of an audit, and its part in verdicts."""

    title: str
    unit: str
    statistic: Callable  # of one seed's arrays
    memory: int = 0  # +1 if higher values mean memory of the forgotten data, -1 if lower ones do
    decides: bool = False  # whether the verdict "forgotten" depends on it
    margin: float | None = None  # a yes requires its interval to lie within
    sign: bool = False  # forbids a yes if it shows memory
    pair: bool = False  # a distance to the retrained model of the same seed
    pooled: bool = False  # of shadow federations; "no difference" is ``null``
    null: float = 0.5
    facts: Callable = lambda groups: {}  # further numbers for the report, from all seeds' arrays
    note: str = ""


def percent(correct: np.ndarray) -> float:
    """The share of right answers, percent."""
    return 100 * float(np.mean(correct))


def tpr(rate: float) -> Callable:
    """The true-positive rate of members' and others' scores at a false-positive rate."""
    return functools.partial(attacks.tpr_at, rate=rate)


def first(values: np.ndarray) -> float:
    """The statistic of all pairs of shadow federations; later values leave one pair out."""
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
    """Mean of values that are cut off at the limit."""
    del limit
    return float(np.mean(values))


def cut(groups: list) -> dict[str, Any]:
    """The share of seeds in which a value was cut off, and the mean limit."""
    above = [float(np.mean(values > limit)) for values, limit in groups]
    return dict(censored=float(np.mean(above)), limit=float(np.mean([m for _, m in groups])))


def quality(epsilons: np.ndarray, models: np.ndarray) -> float:
    """The forgetting quality of examples' epsilons; ``models`` counts the models behind them."""
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
            note="on exactly the examples that the retrained models never saw",
        ),
        "test": Measure("accuracy on test data", "%", percent, margin=TEST),
        "asr": Measure(
            "backdoor success",
            "%",
            percent,
            memory=1,
            decides=True,
            margin=ACCURACY,
            note="decides if the request names every image with the trigger",
        ),
    },
    "Canary": {
        "exposure": Measure(
            "exposure of the canary",
            "bits",
            np.mean,
            memory=1,
            sign=True,
            note="13.3 where the code is the likeliest of 10,000; 1.4 on average by chance",
        ),
        "extracted": Measure("canary extracted by greedy decoding", "%", np.mean),
    },
    "Clients that stay": {
        "worst_client": Measure(
            "lowest accuracy of a client that stays",
            "%",
            worst,
            margin=ACCURACY,
            note="of each client on its own retained data",
        ),
        "client_spread": Measure(
            "accuracy of clients that stay: standard deviation",
            "points",
            spread,
            note="over clients",
        ),
        "client_loss": Measure(
            "largest loss of a client that stays",
            "points",
            largest_loss,
            pair=True,
            margin=ACCURACY,
            note="of each client, its accuracy under the retrained model minus that under this one",
        ),
    },
    "Membership attacks on one model": {
        "mia": Measure(
            "loss attack, unmatched: accuracy",
            "%",
            np.mean,
            note="also separates forgotten from test data by their looks, so it never decides",
        ),
        "auc": Measure("loss attack, unmatched: AUC", "", attacks.auc, note="never decides"),
        **rates("loss attack, unmatched", "tpr_{}_unmatched", note="never decides"),
        "mia_matched": Measure(
            "loss attack, matched: accuracy",
            "%",
            np.mean,
            memory=1,
            decides=True,
            note="a yes uses the AUC instead, which measures the same with less noise",
        ),
        "auc_matched": Measure(
            "loss attack, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            margin=AREA,
            note="each forgotten example is compared with a test image of the same class, trigger "
            "and label",
        ),
        **rates("loss attack, matched", "tpr_{}", memory=1, decides=True),
        "rmia": Measure(
            "RMIA, matched: AUC",
            "",
            attacks.auc,
            memory=1,
            decides=True,
            margin=AREA,
            note="offline; the reference models are the seed's retrained models",
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
            note="for each example, federations that unlearned it against ones retrained without "
            "it; it finds any difference, not only memory",
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
            note="for each example, unlearned federations that trained on it against unlearned "
            "ones that never did",
        ),
        **rates("LiRA", "lira_tpr_{}", memory=1, decides=True, pooled=True),
        "forgetting_score": Measure(
            "forgetting quality F of the NeurIPS 2023 challenge",
            "",
            quality,
            memory=-1,
            facts=lambda groups: dict(models=groups[0][1].ravel().tolist()),
            note="F alone, without the challenge's factors of accuracy; retraining gives 1 with "
            "many models, and less by chance with few",
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
            note="with the data back in the federation, until accuracy on it is within 5 points of "
            "the original's; one round more than the limit if it never is",
        ),
        "anamnesis": Measure(
            "anamnesis index",
            "",
            reached,
            memory=-1,
            pair=True,
            facts=cut,
            note="rounds to relearn divided by the retrained model's; below 1 is memory",
        ),
        "update_auc_matched": Measure(
            "both models known, matched: AUC of the confidence that was lost",
            "",
            attacks.auc,
            note="what the request itself reveals to an attacker who saw the model before and "
            "after; retraining reveals it too",
        ),
        "undo_forget": Measure(
            "negation undone: accuracy on forgotten data",
            "%",
            percent,
            memory=1,
            sign=True,
            note="for an attacker who negates the layer once more",
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
            note="relative to the parameters' norm; an attacker who saw both models knows it",
        ),
    },
    "What a sceptic asks": {
        **{
            f"memorised.{share}": Measure(
                f"the {share} % memorised most: accuracy",
                "%",
                percent,
                memory=1,
                sign=True,
                note="forgotten examples whose labels the old model knew and a retrained one does "
                "not; each retrained model is judged on those that the other one chooses",
            )
            for share in (5, 20, 50)
        },
        **{
            f"memorised.loss_{share}": Measure(
                f"the {share} % memorised most: loss", "", np.mean, memory=-1, sign=True
            )
            for share in (5, 20, 50)
        },
        "gradient_auc_matched": Measure(
            "white box, matched: AUC of how small the gradient is",
            "",
            attacks.auc,
            memory=1,
            sign=True,
            note="of the loss of each example, in all parameters",
        ),
        "update_gradient_auc_matched": Measure(
            "white box, both models known, matched: AUC of how much the gradient grew",
            "",
            attacks.auc,
            note="what the request itself reveals; retraining reveals it too",
        ),
        "resurfacing.forget": Measure(
            "after further rounds on retained data: accuracy on forgotten data",
            "%",
            percent,
            memory=1,
            sign=True,
            note="retrained models are trained further in the same way",
        ),
        "resurfacing.asr": Measure(
            "after further rounds on retained data: backdoor success",
            "%",
            percent,
            memory=1,
            sign=True,
        ),
        "resurfacing.auc_matched": Measure(
            "after further rounds on retained data: matched AUC",
            "",
            attacks.auc,
            memory=1,
            sign=True,
        ),
        "efficacy_mia": Measure(
            "MIA efficacy of the literature on sparsity and SalUn",
            "%",
            np.mean,
            memory=-1,
            note="share of forgotten examples that an attacker takes for unseen; another attack "
            "than the paper's",
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
    "probe": Measure(
        "linear probe, matched: AUC",
        "",
        attacks.auc,
        memory=1,
        sign=True,
        note="a ridge head on frozen features separates forgotten from matched examples; each pair "
        "is scored by a head that was fitted without it",
    ),
    "probe_poison": Measure(
        "linear probe, poisoned labels",
        "%",
        percent,
        memory=1,
        sign=True,
        note="share of forgotten examples with the trigger whose poisoned label is read by a ridge "
        "head on frozen features, which was fitted to retained examples only",
    ),
}
TABLE = {name: m for group in GROUPS.values() for name, m in group.items()} | LAYERS

# Kinds of measures that need probabilities of classes.
CLASSES = ("rmia", "rmia_tpr_1", "rmia_tpr_01", "efficacy_mia", "agreement_forget")
CLASSES += ("agreement_test", "activation_forget", "activation_test", "js_forget", "js_test")

Arrays = tuple[np.ndarray, ...]
Evidence = dict[str, dict[str, dict[int, Arrays]]]  # method -> measure -> seed -> arrays


def kind_of(key: str) -> str:
    """The key in ``TABLE`` of a measure's key; keys of layers are ``measure.layer``.

    >>> kind_of("probe.stem"), kind_of("resurfacing.asr"), kind_of("forget")
    ('probe', 'resurfacing.asr', 'forget')
    """
    return key if key in TABLE else key.partition(".")[0]


def measure_of(key: str) -> Measure:
    """A measure by its key."""
    return TABLE[kind_of(key)]
