"""The questions besides forgetting: is the backdoor gone, is the model useful, who was harmed?

Each uses one side of a margin, or costs.
"""

from collections.abc import Mapping
from typing import Any

from jfu.audit.measures import RETRAINED, THIRD
from jfu.audit.rules import FEWEST, NO, NOT_SHOWN, ONE_SEED, OPEN, YES


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


def others_unharmed(
    name: str, measures: Mapping[str, Any], missing: Mapping[str, str]
) -> tuple[str, str]:
    """Whether no client that stays is worse off than with retraining.

    Args:
      missing: reasons for missing measures.
    """
    if name in RETRAINED:
        return NOT_SHOWN, "Other models are compared with this one."
    if "worst_client" not in measures:
        why = missing.get("worst_client", "accuracies of single clients were not measured")
        return NOT_SHOWN, f"{why[0].upper()}{why[1:]}."
    if "client_loss" not in measures:
        return NOT_SHOWN, "There is no retrained model to compare with."
    found = [
        one_sided(
            measures["worst_client"],
            -1,
            "The worst client is less accurate than with",
            "The worst client is as accurate as with",
        ),
        one_sided(
            measures["client_loss"],
            1,
            "One client loses more than chance explains, compared with",
            "No client loses more than chance explains, compared with",
        ),
    ]
    for verdict in (NOT_SHOWN, NO, OPEN):
        if why := [words for given, words in found if given == verdict]:
            return verdict, " ".join(dict.fromkeys(why))
    return YES, " ".join(why for _, why in found)


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
    if all(v["high"] <= 1 for v in each.values()) and any(v["high"] < 1 for v in each.values()):
        more = "" if all(v["high"] < 1 for v in each.values()) else ", and nothing more"
        return YES, f"It needs less{more}, {words}."
    if any(v["low"] > 1 for v in each.values()):
        return NO, f"It needs more, {words}."
    return OPEN, f"It needs about as much, {words}."
