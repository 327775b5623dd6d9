"""What a method costs until it has recovered, over what retraining costs, seed by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jfu import inference
from jfu.audit.measures import RETRAINED, THIRD
from jfu.metrics import first_round_within


def ratios(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Costs to recover over those of retraining, each seed against its own.

    Args:
      rows: lines of results.jsonl.

    Returns:
      ``{"rounds", "bytes", "operations": {value, low, high}, "seeds": how many, "never": seeds
      that did not recover}``, the first three of the geometric mean, of which a method and
      retraining that change places give one over the other; empty where retraining is not
      there, or is this method.
    """
    runs: dict[tuple, list] = {}
    for row in rows:
        runs.setdefault((row["method"], row["seed"]), []).append(row)
    seeds = sorted({s for m, s in runs if m == name and ("retrain", s) in runs})
    if not seeds or name in ("original", *RETRAINED, THIRD):
        return {}
    found, never = [], 0
    for seed in seeds:
        target = max(runs["retrain", seed], key=lambda row: row["round"])["retain"]
        at = []
        for method in (name, "retrain"):
            number = first_round_within(runs[method, seed], target)
            at.append(next((r for r in runs[method, seed] if r["round"] == number), None))
        if at[0] is None:
            never += 1
        else:
            cost = lambda r: (r["round"], r["bytes_down"] + r["bytes_up"], r["flops"])
            found.append([a / b for a, b in zip(cost(at[0]), cost(at[1]), strict=True)])
    out: dict[str, Any] = dict(seeds=len(seeds), never=never)
    if len(found) > 1:
        kinds = ("rounds", "bytes", "operations")
        for kind, values in zip(kinds, zip(*found, strict=True), strict=True):
            mean = inference.t_interval(np.log(values))
            out[kind] = {end: float(np.exp(getattr(mean, end))) for end in mean._fields}
    return out
