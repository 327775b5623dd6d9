"""``report.md``: what the suite has measured so far, and what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

import jfu.devices
from jfu import tables
from launch.timing.accelerator import rule
from launch.timing.accelerator import tables as measured

Row = Mapping[str, Any]


def markdown(rows: Sequence[Row], states: Sequence[Row]) -> str:
    """The report.

    Args:
      rows: of all steps.
      states: the lines of ``steps.jsonl``.
    """
    mine = lambda name: [row for row in rows if row["step"] == name]
    rounds = [row for row in rows if "job" in row]
    facts = next((row for row in mine("device") if row["what"] == "facts"), {})
    name = facts.get("device", "no device measured yet")
    parts = [f"# Measured on: {name}", device(mine("device"))]
    parts += ["## Rounds", measured.rounds({name: rounds} if rounds else {})]
    limits = jfu.devices.PARAMETERS_AT_ONCE
    limit = limits.get(facts.get("backend", "gpu"), limits["gpu"]) or 1
    parts += ["## Clients at once", rule.markdown(rounds, limit)]
    parts += ["## Compiling", compiling(rounds), starts(mine("startup"))]
    parts += ["## Calibration of the CIFAR-10/CNN recipe", calibration(rows)]
    parts += ["## Steps", steps(states)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def device(rows: Sequence[Row]) -> str:
    lines = [["", "precision", "rate", "unit"]]
    for row in rows:
        if row["what"] == "facts":
            continue
        value = row.get("error") or f"{row['value']:.4g}"
        lines.append([row["what"], row["precision"] or "-", value, row.get("unit", "")])
    return tables.aligned(lines)


def compiling(rows: Sequence[Row]) -> str:
    """Seconds to trace and to compile each way's round."""
    lines = [["job", "precision", "way", "trace s", "compile s", "device MB"]]
    put = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
    for row in rows:
        if "error" in row:
            lines.append([row["job"], row["precision"], way(row), row["error"], "-", "-"])
        else:
            times = [put(row[name], 1) for name in ("trace_seconds", "compile_seconds")]
            lines.append([row["job"], row["precision"], way(row), *times, put(row["device_mb"], 0)])
    return tables.aligned(lines)


def starts(rows: Sequence[Row]) -> str:
    """The cold start's times in a sentence."""
    times = [f"{row['seconds_median']:.1f} s with cache {row['cache']}" for row in rows]
    return f"The quickstart's first round takes {', '.join(times)}." if times else ""


def calibration(rows: Sequence[Row]) -> str:
    lines = [["rate", "rounds", "test %", "chosen"]]
    for row in {r["precision"]: r for r in rows if r.get("what") == "calibration"}.values():
        chosen = "yes" if row["chosen"] else ""
        lines.append([f"{row['lr']}", str(row["round"]), f"{row['test']:.1f}", chosen])
    return tables.aligned(lines)


def way(row: Row) -> str:
    words = "central" if row["name"] == "central" else row["strategy"]
    return f"{words}, batch {row['batch_size']}"


def short(why: str | None) -> str:
    """A reason in at most 90 letters; ``steps.jsonl`` has all of it."""
    why = why or ""
    return why if len(why) <= 90 else why[:87] + "..."


def steps(states: Sequence[Row]) -> str:
    """Every step's state, and what those that are left would take."""
    lines = [["step", "state", "took s", "expected s", "why"]]
    for row in states:
        took = "-" if row["took"] is None else f"{row['took']:.0f}"
        lines.append([row["step"], row["state"], took, f"{row['seconds']:.0f}", short(row["why"])])
    left = [row for row in states if row["state"] != "done"]
    words = "All steps are done."
    if left:
        minutes = sum(row["seconds"] for row in left) / 60
        words = f"{len(left)} steps are not done; they would take about {minutes:.0f} minutes."
    return tables.aligned(lines) + "\n" + words
