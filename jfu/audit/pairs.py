"""Attacks on single examples with pairs of shadow federations: U-LiRA, LiRA, forgetting score."""

from collections.abc import Mapping

import numpy as np

from jfu import attacks, inference
from jfu.audit.measures import THIRD, Evidence


def of_shadows(phi: Mapping[str, np.ndarray]) -> Evidence:
    """Samples from shadow federations, for every method.

    Of shadows ``2 i`` and ``2 i + 1``, one trained on an example and the other did not. A pair
    therefore has one model of each kind for every example. Neither model, once retrained, has seen
    any. Comparing the two retrained models is the control: one more retraining.

    Args:
      phi: the task's statistic of the n forgotten examples under S models, such as log odds of
        their labels (``jfu.tasks``), ``[S, n]`` by method, with ``retrain`` among them. ``held``,
        bool ``[S, n]``, says which examples each shadow had.

    Returns:
      Samples for ``estimate``, with seed 0.
    """
    held = phi["held"]
    retrained, other = by_pair(phi["retrain"], held)
    sides = {THIRD: ((retrained, other), (retrained, other))}
    for name in phi:
        if name not in ("held", "retrain"):
            inside, outside = by_pair(phi[name], held)
            sides[name] = (inside, retrained), (inside, outside)
    out: Evidence = {}
    for name, attacked in sides.items():
        out[name] = {}
        for key, pair in zip(("ulira", "lira"), attacked, strict=True):
            if all(np.isfinite(phi).all() for phi in pair):  # otherwise a federation diverged
                out[name] |= areas(key, *pair)
        if "ulira" in out[name]:
            models = np.array([[len(side) for side in attacked[0]]])
            out[name]["forgetting_score"] = {0: (attacks.epsilon(*attacked[0]), models)}
    return out


def areas(key: str, members: np.ndarray, others: np.ndarray) -> dict[str, dict[int, tuple]]:
    """AUC and true-positive rates of an attack on pairs ``[S/2, n]``: of all, and without each.

    The attack on a pair is fitted to all other pairs. Leaving a pair out therefore changes its
    results on the rest.
    """
    pooled = len(members) < 32  # the same choice for all parts

    def rates(*sides):
        scores = [side.ravel() for side in attacks.lira(*sides, pooled=pooled)]
        some = [attacks.tpr_at(*scores, rate=rate) for rate in (0.01, 0.001)]
        return [attacks.auc(*scores), *(np.nan if rate is None else rate for rate in some)]

    columns = inference.left_out(rates, members, others).T
    names = (key, f"{key}_tpr_1", f"{key}_tpr_01")
    shown = zip(names, columns, strict=True)
    return {name: {0: (values,)} for name, values in shown if np.isfinite(values).all()}


def by_pair(phi: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``phi`` of the shadow in each pair that had the example, and of the other, ``[S/2, n]``."""
    even, odd = phi[0::2], phi[1::2]
    return np.where(held[0::2], even, odd), np.where(held[0::2], odd, even)
