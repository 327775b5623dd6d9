"""The tables of what was measured on accelerators, from ``launch/results/accelerator-*.jsonl``."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from launch.timing.accelerator import files, jobs, rule

Row = Mapping[str, Any]
HEADER = ["job", "device", "precision", "the rule's way", "s/round", "efficiency", "device MB"]
HEADER += ["fastest way", "s/round", f"1x1, batch {jobs.LARGE}: s/round"]


def overview(results: pathlib.Path) -> str:
    """Rounds of every job on every recorded device; a job without a record has empty places.

    Args:
      results: the folder of recorded files, ``accelerator-<device>.jsonl``.
    """
    recorded = {
        path.stem.partition("-")[2]: [row for row in files.read(path) if "job" in row]
        for path in sorted(results.glob("accelerator-*.jsonl"))
    }
    return rounds(recorded)


def rounds(recorded: Mapping[str, Sequence[Row]]) -> str:
    """The table of rounds, from the rows of each device by its name."""
    from jfu import tables

    lines = [HEADER]
    for name, job in jobs.JOBS.items():
        title = f"`{job.workload}`, {job.sizes.clients} x {job.sizes.examples:,}"
        found = []
        for device, rows in recorded.items():
            for precision in jobs.PRECISIONS:
                mine = [r for r in rows if (r["job"], r["precision"]) == (name, precision)]
                if mine:
                    found.append([title, device, precision, *figures(mine)])
        lines += found or [[title, *[""] * (len(HEADER) - 1)]]
    return tables.aligned(lines)


def figures(rows: Sequence[Row]) -> list[str]:
    """The last seven columns, of the rows of one job, device and precision."""
    put = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
    timed = [row for row in rows if row.get("seconds_median") is not None]
    central = next((row for row in timed if row["name"] == "central"), None)
    ways = rule.comparable(timed)
    default, best = rule.default(ways), rule.fastest(ways)
    large = next((r for r in timed if r["name"] == "jfu" and r["large"]), None)
    value = lambda row, name: row and row.get(name)
    efficiency = None
    if default and central:
        efficiency = central["seconds_median"] / default["seconds_median"]
    return [
        value(default, "strategy") or "-",
        put(value(default, "seconds_median"), 3),
        put(efficiency, 2),
        put(value(default, "device_mb"), 0),
        value(best, "strategy") or "-",
        put(value(best, "seconds_median"), 3),
        put(value(large, "seconds_median"), 3),
    ]
