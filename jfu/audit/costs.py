"""A method's costs until recovery, divided by retraining's costs on the same seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jfu import inference
from jfu.audit.measures import RETRAINED, THIRD
from jfu.metrics import first_round_within


def ratios(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Ratios of a method's costs to recover to those of retraining on the same seed.

    Args:
      rows: lines of results.jsonl.

    Returns:
      ``{"rounds", "bytes", "operations": {value, low, high}, "seeds", "never"}``. The first three
      are geometric means over seeds, so exchanging a method and retraining inverts the ratio.
      ``seeds`` counts seeds, and ``never`` those that did not recover. Empty if there are no rows
      of retraining, or if the method is retraining.
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
            out[kind] = geometric(values)
    return out


def geometric(values: Sequence[float]) -> dict[str, float]:
    """The geometric mean of two or more ratios, with its 95 % interval.

    If a method cost nothing on a seed, the mean is 0, and the interval ends at the largest ratio.

    >>> geometric([0.0, 0.0])
    {'value': 0.0, 'low': 0.0, 'high': 0.0}
    """
    if min(values) == 0:
        return dict(value=0.0, low=0.0, high=float(max(values)))
    mean = inference.t_interval(np.log(values))
    return {end: float(np.exp(getattr(mean, end))) for end in mean._fields}
