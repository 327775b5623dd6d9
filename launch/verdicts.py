"""From intervals to verdicts: four questions, each with its rule written beside it."""

from collections.abc import Sequence
from typing import Any

from launch import estimates, report

YES, NO, OPEN, NOT_SHOWN = "yes", "no", "inconclusive", "not shown"
ONE_SEED = "One seed decides nothing: compare on more seeds."
FEWEST = 5  # seeds below which nothing is called forgotten

# What a yes rests on; a backdoor's success too where the request names all of the poison.
NEEDED = ("forget", "auc_matched", "rmia", "ulira", "lira")

RULES = dict(
    forgotten=(
        "Yes if the interval of every matched measure (those that say that they decide) lies "
        "inside the noise floor's, which is where one retrained model falls; no if the interval "
        "of one lies wholly outside on the side of memory; else inconclusive. Never yes below five "
        "seeds, nor where accuracy on the forgotten data, the backdoor that was to be forgotten, "
        "the matched loss attack, RMIA, U-LiRA or LiRA was not run; a true-positive rate may be "
        "missing for want of examples. U-LiRA alone never says no: it tells unlearned from "
        "retrained models by any difference, also where the unlearned one is less sure of the "
        "forgotten labels, which is no memory; outside its floor it forbids a yes. U-LiRA and LiRA "
        "rest on one split of the data. The unmatched attack never decides."
    ),
    backdoor_gone=(
        "Yes if the interval of the trigger's success ends no higher than the noise floor's of "
        "retrained models; no if it begins above it; else inconclusive. Not shown unless the "
        "request names every image with the trigger, since retrained models learn what is left."
    ),
    useful=(
        "Yes if the interval of test accuracy begins no lower than the noise floor's of retrained "
        "models; no if it ends below it; else inconclusive."
    ),
    cheaper_than_retraining=(
        "Rounds, bytes and operations until retained accuracy is within 0.5 points of retraining's "
        "last, against what retraining itself needs for that: yes if the interval over seeds of "
        "each ratio ends below 1; no if one begins above 1, or if accuracy never came back; else "
        "inconclusive."
    ),
)
QUESTIONS = tuple(RULES)
TITLES = dict(
    forgotten="Forgotten?",
    backdoor_gone="Backdoor gone?",
    useful="Useful?",
    cheaper_than_retraining="Cheaper than retraining?",
)


def verdicts(
    name: str,
    measures: dict[str, Any],
    costs: dict[str, Any],
    missing: dict[str, str],
    asked: bool,
) -> dict[str, tuple[str, str]]:
    """A verdict and its reason, a sentence, for every question.

    Args:
      name: of the method.
      measures: of the method, as ``estimates.estimate`` makes them.
      costs: ratios to retraining, as ``ratios`` makes them.
      missing: why measures that are not there are not.
      asked: whether the request names every image with the trigger.
    """
    return dict(
        forgotten=forgotten(measures, missing, asked),
        backdoor_gone=backdoor_gone(measures, asked),
        useful=useful(measures),
        cheaper_than_retraining=cheaper(name, costs),
    )


def forgotten(measures: dict[str, Any], missing: dict[str, str], asked: bool) -> tuple[str, str]:
    table = {key: estimates.measure_of(key) for key in measures}
    deciding = {
        key: entry
        for key, entry in measures.items()
        if table[key].decides and entry["floor"] and (asked or key != "asr")
    }
    seeds = {entry["seeds"] for key, entry in deciding.items() if not table[key].pooled}
    if not seeds:
        return NOT_SHOWN, "No matched measure has a retrained model to stand beside."
    if max(seeds) < 2:
        return NOT_SHOWN, ONE_SEED
    titles = lambda keys: "; ".join(table[k].title for k in keys)
    several = lambda key: table[key].pooled or deciding[key]["seeds"] > 1
    apart = [key for key, entry in deciding.items() if side(entry) and several(key)]
    caught = [key for key in apart if side(deciding[key]) == table[key].memory]
    if caught:
        told = [key for key in apart if not table[key].memory]
        return NO, f"It can be told from models that never saw the data by {titles(caught + told)}."
    why = []
    if apart:
        why.append(f"Told from retrained models, though not by memory, by {titles(apart)}.")
    if partly := [key for key, e in deciding.items() if not (inside(e) or key in apart)]:
        why.append(f"Not wholly inside the floor: {titles(partly)}.")
    needed = (*NEEDED, "asr") if asked else NEEDED
    if lacking := [key for key in needed if key not in deciding]:
        each = (f"{estimates.TABLE[k].title} ({missing.get(k, 'no floor')})" for k in lacking)
        why.append(f"Not shown: {'; '.join(each)}.")
    if min(seeds) < FEWEST:
        why.append(f"{min(seeds)} seeds are too few.")
    if why:
        return OPEN, " ".join(why)
    return YES, f"Inside the floor: {titles(deciding)}."


def side(entry: dict[str, Any]) -> int:
    """Where the whole interval is: 1 above the floor, -1 below it, 0 neither."""
    return (entry["low"] > entry["floor"]["high"]) - (entry["high"] < entry["floor"]["low"])


def inside(entry: dict[str, Any]) -> bool:
    return entry["floor"]["low"] <= entry["low"] and entry["high"] <= entry["floor"]["high"]


def backdoor_gone(measures: dict[str, Any], asked: bool) -> tuple[str, str]:
    if "asr" not in measures:
        return NOT_SHOWN, "No backdoor was planted."
    if not asked:
        return NOT_SHOWN, "The request does not name every image with the trigger, which may stay."
    words = "The trigger works more often than on", "The trigger works no more often than on"
    return one_sided(measures["asr"], 1, "success", *words)


def useful(measures: dict[str, Any]) -> tuple[str, str]:
    if "test" not in measures:
        return NOT_SHOWN, "Test accuracy was not measured."
    return one_sided(measures["test"], -1, "test accuracy", "Less accurate than", "As accurate as")


def one_sided(entry: dict[str, Any], worse: int, what: str, no: str, yes: str) -> tuple[str, str]:
    """A verdict from one side of the floor: ``worse`` is 1 where more is, -1 where less is."""
    floor = entry["floor"]
    if not floor:
        return NOT_SHOWN, "There is no retrained model to stand beside."
    if entry["seeds"] < 2:
        return NOT_SHOWN, ONE_SEED
    low, high = sorted(worse * entry[end] for end in ("low", "high"))
    edge = max(worse * floor[end] for end in ("low", "high"))
    spans = (f"{e['low']:.1f} to {e['high']:.1f} %" for e in (entry, floor))
    words = f"{what} {', floor '.join(spans)}"
    if low > edge:
        return NO, f"{no} retrained models: {words}."
    if high <= edge:
        return YES, f"{yes} retrained models: {words}."
    return OPEN, f"The intervals overlap: {words}."


def cheaper(name: str, costs: dict[str, Any]) -> tuple[str, str]:
    if name in ("original", *estimates.RETRAINED):
        return NOT_SHOWN, "It is what others are compared with."
    if not costs:
        return NOT_SHOWN, "There is no retrained model whose costs could be compared."
    if name == "none":
        return NOT_SHOWN, "It runs no round and does nothing."
    if costs["seeds"] < 2:
        return NOT_SHOWN, ONE_SEED
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


def ratios(rows: Sequence[dict], name: str, bounds: Any) -> dict[str, Any]:
    """Costs to recover over those of retraining, each seed against its own.

    Args:
      rows: lines of results.jsonl.
      bounds: ``values -> {value, low, high}`` of their mean.

    Returns:
      ``{"rounds", "bytes", "operations": {value, low, high}, "seeds": how many, "never": seeds
      that did not recover}``; empty where retraining is not there, or is this method.
    """
    import jfu

    runs: dict[tuple, list] = {}
    for row in rows:
        runs.setdefault((row["method"], row["seed"]), []).append(row)
    seeds = sorted({s for m, s in runs if m == name and ("retrain", s) in runs})
    if not seeds or name in ("original", "retrain", report.AGAIN):
        return {}
    found, never = [], 0
    for seed in seeds:
        target = max(runs["retrain", seed], key=lambda row: row["round"])["retain"]
        at = []
        for method in (name, "retrain"):
            number = jfu.first_round_within(runs[method, seed], target)
            at.append(next((r for r in runs[method, seed] if r["round"] == number), None))
        if at[0] is None:
            never += 1
        else:
            cost = lambda r: (r["round"], r["bytes_down"] + r["bytes_up"], r["flops"])
            found.append([a / b for a, b in zip(cost(at[0]), cost(at[1]), strict=True)])
    out: dict[str, Any] = dict(seeds=len(seeds), never=never)
    if found:
        columns = zip(*found, strict=True)
        out |= dict(zip(("rounds", "bytes", "operations"), map(bounds, columns), strict=True))
    return out
