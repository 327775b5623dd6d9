"""The results of launch.pays as tables: one by setting, and one by what is known beforehand."""

from collections.abc import Sequence

import numpy as np

from jfu import tables
from launch.report import advice

# Names in figure and table of the methods that are compared with retraining.
LABELS = {"finetune": "fine-tuning", "reinit": "new first layer", "not": "NoT"}
LABELS |= {"retrain_again": "retraining again"}


def ratios(rows: Sequence[dict], name: str) -> list[float]:
    """Rounds that a method needs to recover, divided by those of retraining, seed by seed.

    A method that does not recover counts with all of its rounds, so its true ratio is at least
    that.
    """
    return [needed(row, name) / needed(row, "retrain") for row in rows]


def needed(row: dict, name: str) -> int:
    """Rounds that a method needed to recover; all rounds if it did not recover."""
    return row["methods"][name]["recover"] or row["rounds"]


def by_setting(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Rows by setting, in their order."""
    names = dict.fromkeys(row["setting"] for row in rows)
    return {name: [row for row in rows if row["setting"] == name] for name in names}


def markdown(rows: Sequence[dict]) -> str:
    """A line for each setting: rounds to recover over retraining's, gaps, backdoor."""
    head = ["setting", "retrain: rounds"]
    head += [f"{name}: rounds / retrain's" for name in LABELS]
    head += [f"{name}: gap" for name in LABELS] + ["NoT: backdoor %", "finetune: backdoor %"]
    cells = [head]

    def spread(values, digits):
        if None in values:
            return "-"
        deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{deviation}"

    for setting, some in by_setting(rows).items():
        out = [setting, spread([needed(row, "retrain") for row in some], 1)]
        out += [spread(ratios(some, name), 2) for name in LABELS]
        out += [spread([row["methods"][name]["gap"] for row in some], 2) for name in LABELS]
        for name in ("not", "finetune"):
            out.append(spread([row["methods"][name]["half"]["asr"] for row in some], 1))
        cells.append(out)
    return tables.aligned(cells)


def groups(rows: Sequence[dict]) -> str:
    """All settings together, grouped by what is known beforehand about the model and its training.

    *Flat*: training was within 0.5 points of its end before its last quarter. The values of a
    second retraining show how much of a ratio or a gap is chance.
    """
    took = lambda row: row["took"] or row["rounds"]
    flat = lambda row: took(row) <= 0.75 * row["rounds"]
    little, much = advice.LITTLE, advice.MUCH
    within = lambda low, high: lambda row: row["excess"] is not None and low < row["excess"] <= high
    kinds = {
        f"up to {little:g} points more on data to forget": within(-np.inf, little),
        f"{little:g} to {much:g} points": within(little, much),
        f"more than {much:g} points": within(much, np.inf),
        "training was flat": flat,
        "training was not flat": lambda row: not flat(row),
        "all": lambda row: True,
    }
    titles = ["NoT's rounds / retraining's", "a second retraining's", "NoT's rounds / training's"]
    titles += ["not back at half %"]
    titles += [f"{label}: gap" for label in LABELS.values()]
    cells = [["", "runs", *titles]]
    for title, belongs in kinds.items():
        if not (some := [row for row in rows if belongs(row)]):
            continue
        shares = [needed(row, "not") / took(row) for row in some]
        late = [needed(row, "not") > row["rounds"] // 2 for row in some]
        gaps = [[row["methods"][name]["gap"] for row in some] for name in LABELS]
        out = [title, str(len(some)), deciles(ratios(some, "not"))]
        out += [
            deciles(ratios(some, "retrain_again")),
            deciles(shares),
            f"{100 * np.mean(late):.0f}",
        ]
        cells.append(out + ["-" if None in found else f"{np.mean(found):.2f}" for found in gaps])
    return tables.aligned(cells)


def deciles(values: Sequence[float]) -> str:
    """Median, then first and last decile.

    >>> deciles([1.0, 2.0, 3.0])
    '2.00 (1.20 to 2.80)'
    """
    first, median, last = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{median:.2f} ({first:.2f} to {last:.2f})"
