"""The table of a work directory: its summary, its text, its files."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from jfu import results, tables
from jfu.results import Summary
from launch.report import spoken
from launch.setup import private
from launch.shell import outputs


def summarise(
    rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any] | None = None
) -> Summary:
    """``jfu.results.summarise``, with a note on what a private run's epsilon does not cover."""
    summary, note = results.summarise(rows, config), private.footnote(config).strip()
    if (floor := summary["floor"]) and not tables.left_out(floor):
        floor["left_out"] = None  # table.json has always had this field
    return cast(Summary, summary | dict(outside_epsilon=note)) if note else summary


def markdown(summary: Summary) -> str:
    """``jfu.tables.markdown``, and below it a private run's epsilons, and what is not shown."""
    config = summary.get("config")
    notes = private.footnote(config, epsilons(summary)) + private.no_clients(config)
    return tables.markdown(summary) + notes


def epsilons(summary: Summary) -> dict[str, float | None]:
    """Epsilon by method, for methods that have one."""
    entries = summary["methods"].items()
    return {name: entry["epsilon"] for name, entry in entries if "epsilon" in (entry or {})}


def write(folder: pathlib.Path, summary: Summary, text: str) -> list[str]:
    """Writes table.md, table.json and, if rules can be compared, stopping.md; returns the names."""
    files = contents(summary, text)
    for name, content in files.items():
        outputs.put(folder / name, content)
    return list(files)


def contents(summary: Summary, text: str) -> dict[str, bytes]:
    """The files that ``write`` writes, by name."""
    files = {"table.md": text.encode(), "table.json": to_json(summary)}
    if rules := tables.stopping(summary):
        words = "\n".join(f"* {name}: {what}" for name, what in results.RULES.items())
        note = private.footnote(summary["config"])
        text = f"## Where to stop\n\n{rules}\n{words}\n{note}"
        files["stopping.md"] = spoken.text(text, tables.words_of(summary)).encode()
    return files


def to_json(summary: Summary) -> bytes:
    return (json.dumps(summary, indent=1) + "\n").encode()
