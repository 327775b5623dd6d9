"""From intervals to verdicts: four questions, each with its rule written beside it."""

from collections.abc import Sequence
from typing import Any

from launch import estimates, report

YES, NO, OPEN, NOT_SHOWN = "yes", "no", "inconclusive", "not shown"
FEWEST = 5  # seeds below which nothing is called forgotten

RULES = dict(
    forgotten=(
        "Yes if the interval of every matched measure lies inside the noise floor's, which is "
        "where single retrained models fall; no if the interval of one lies wholly outside on the "
        "side of memory; else inconclusive. Never yes below five seeds. The unmatched attack never "
        "decides."
    ),
    backdoor_gone=(
        "Yes if the interval of the trigger's success ends no higher than the noise floor's of "
        "retrained models; no if it begins above it; else inconclusive."
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
    name: str, measures: dict[str, Any], costs: dict[str, Any], seeds: Sequence[int]
) -> dict[str, tuple[str, str]]:
    """A verdict and its reason, a sentence, for every question.

    Args:
      name: of the method.
      measures: of the method, as ``estimates.estimate`` makes them.
      costs: ratios to retraining, as ``ratios`` makes them.
    """
    if len(seeds) < 2:
        why = "One seed decides nothing: compare on more seeds."
        return {question: (NOT_SHOWN, why) for question in QUESTIONS}
    return dict(
        forgotten=forgotten(measures, len(seeds)),
        backdoor_gone=below(measures, "asr", "no backdoor was planted"),
        useful=above(measures, "test", "test accuracy was not measured"),
        cheaper_than_retraining=cheaper(name, costs),
    )


def forgotten(measures: dict[str, Any], seeds: int) -> tuple[str, str]:
    deciding = {
        key: entry
        for key, entry in measures.items()
        if estimates.measure_of(key).decides and entry["floor"]
    }
    if not deciding:
        return NOT_SHOWN, "No matched measure has a retrained model to stand beside."
    titles = lambda keys: ", ".join(f"{estimates.measure_of(k).title}" for k in keys)
    caught = [key for key, entry in deciding.items() if remembers(key, entry)]
    if caught:
        return NO, f"It can be told from models that never saw the data by {titles(caught)}."
    outside = [key for key, entry in deciding.items() if not inside(entry)]
    if outside:
        return OPEN, f"Not wholly inside the floor: {titles(outside)}."
    if seeds < FEWEST:
        return OPEN, f"Every matched measure is inside the floor, but {seeds} seeds are too few."
    return YES, f"Inside the floor: {titles(deciding)}."


def remembers(key: str, entry: dict[str, Any]) -> bool:
    """Whether the whole interval is beyond the floor's on the side of memory."""
    side, floor = estimates.measure_of(key).memory, entry["floor"]
    return entry["low"] > floor["high"] if side > 0 else entry["high"] < floor["low"]


def inside(entry: dict[str, Any]) -> bool:
    return entry["floor"]["low"] <= entry["low"] and entry["high"] <= entry["floor"]["high"]


def below(measures: dict[str, Any], key: str, otherwise: str) -> tuple[str, str]:
    entry = measures.get(key)
    if not entry or not entry["floor"]:
        return NOT_SHOWN, _absent(entry, otherwise)
    words = _words(entry, "success")
    if entry["low"] > entry["floor"]["high"]:
        return NO, f"The trigger works more often than on retrained models: {words}."
    if entry["high"] <= entry["floor"]["high"]:
        return YES, f"The trigger works no more often than on retrained models: {words}."
    return OPEN, f"The intervals overlap: {words}."


def above(measures: dict[str, Any], key: str, otherwise: str) -> tuple[str, str]:
    entry = measures.get(key)
    if not entry or not entry["floor"]:
        return NOT_SHOWN, _absent(entry, otherwise)
    words = _words(entry, "test accuracy")
    if entry["high"] < entry["floor"]["low"]:
        return NO, f"Less accurate than retrained models: {words}."
    if entry["low"] >= entry["floor"]["low"]:
        return YES, f"As accurate as retrained models: {words}."
    return OPEN, f"The intervals overlap: {words}."


def _absent(entry: Any, otherwise: str) -> str:
    return "There is no retrained model to stand beside." if entry else f"{otherwise.capitalize()}."


def _words(entry: dict[str, Any], what: str) -> str:
    floor = entry["floor"]
    return (
        f"{what} {entry['low']:.1f} to {entry['high']:.1f} %, floor {floor['low']:.1f} to "
        f"{floor['high']:.1f} %"
    )


def cheaper(name: str, costs: dict[str, Any]) -> tuple[str, str]:
    if name in ("original", *estimates.RETRAINED):
        return NOT_SHOWN, "It is what others are compared with."
    if not costs:
        return NOT_SHOWN, "There is no retrained model whose costs could be compared."
    if name == "none":
        return NOT_SHOWN, "It runs no round and does nothing."
    if costs["never"]:
        return NO, f"Retained accuracy never came back on {costs['never']} of the seeds."
    each = {k: v for k, v in costs.items() if k != "never"}
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
      ``{"rounds", "bytes", "operations": {value, low, high}, "never": seeds that did not
      recover}``; empty where retraining is not there, or is this method.
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
    out: dict[str, Any] = dict(never=never)
    if found:
        columns = zip(*found, strict=True)
        out |= dict(zip(("rounds", "bytes", "operations"), map(bounds, columns), strict=True))
    return out
