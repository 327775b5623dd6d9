"""Methods beside tasks: gaps to retraining on three kinds of data, and how exposed a canary is."""

import pathlib
from typing import Any

from jfu import tables
from jfu.results import AGAIN
from launch.report import recorded

# The recorded file of each task, and what its columns show of each method.
FILES = {
    "tasks-breast-cancer-cpu": {"classes: gap": "gap_per_seed"},
    "tasks-diabetes-cpu": {"numbers: gap": "gap_per_seed"},
    "tasks-canary-cpu": {
        "texts: gap": "gap_per_seed",
        "canary bits": "exposure",
        "extracted %": "extracted",
    },
}


def markdown(results: pathlib.Path) -> str:
    """A line for each method, with mean and standard deviation over seeds, as Markdown.

    Args:
      results: the folder of the recorded files.
    """
    found = {name: recorded.read(results / f"{name}.jsonl") for name in FILES}
    order = ["original", *dict.fromkeys(m for one in found.values() for m in one["methods"]), AGAIN]
    lines = [["method", *(title for columns in FILES.values() for title in columns)]]
    for method in dict.fromkeys(order):
        entries = {name: _entry(one, method) for name, one in found.items()}
        shown = [
            tables.cell(entries[name].get(key), digits=1) + _fewer(found[name], entries[name], key)
            for name, columns in FILES.items()
            for key in columns.values()
        ]
        lines.append([method.replace("_again", " again"), *shown])
    seeds = ", ".join(f"{name} {len(one['seeds'])}" for name, one in found.items())
    return f"{tables.aligned(lines)}\nSeeds: {seeds}.\n"


def _entry(summary: dict[str, Any], method: str) -> dict[str, Any]:
    """A method's measures; a retrained model has no gap to itself."""
    entry = dict((summary["floor"] if method == AGAIN else summary["methods"].get(method)) or {})
    return entry | dict(gap_per_seed=None) if method == "retrain" else entry


def _fewer(summary: dict[str, Any], entry: dict[str, Any], key: str) -> str:
    """A mark for a method with fewer seeds than its task has."""
    many = entry.get("of")
    if entry.get(key) is None or many in (None, len(summary["seeds"])):
        return ""
    return f" ({many} seed{'s' * (many != 1)})"
