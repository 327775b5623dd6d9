"""From rows to a table and a plot."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import jfu
import jfu.io

MEASURES = ("retain", "forget", "test", "test_kept", "test_forgotten", "mia", "mia_matched", "asr")
COSTS = ("bytes_down", "bytes_up", "flops", "storage", "seconds")
AGAIN = "retrain_again"


def table(rows: Sequence[dict[str, Any]], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Means and standard deviations over seeds, gaps, costs to recover, and the noise floor.

    Args:
      rows: lines of results.jsonl.

    Returns:
      ``methods.<name>``: each measure and cost after the method's last round as ``{mean,
      std}``, ``gap`` (of the means, the paper's), ``gap_per_seed``, ``rounds_to_recover`` and
      the costs up to that round; ``floor``: the same gaps of the second retrained model.
      Standard deviations are those of a sample (n - 1), 0 for one seed.
    """
    runs: dict[str, dict[int, list]] = {}
    for row in rows:
        runs.setdefault(row["method"], {}).setdefault(row["seed"], []).append(row)
    last = lambda name: {s: max(r, key=lambda x: x["round"]) for s, r in runs[name].items()}
    reference = last("retrain") if "retrain" in runs else {}
    methods = {name: _summary(runs[name], last(name), reference) for name in runs if name != AGAIN}
    floor = None
    if AGAIN in runs and reference:
        floor = _summary(runs[AGAIN], last(AGAIN), reference)
        # It is evaluated at its end alone, so when it recovered is not known.
        floor = {k: None if k.endswith("_to_recover") else v for k, v in floor.items()}
    seeds = sorted({row["seed"] for row in rows})
    return dict(seeds=seeds, methods=methods, floor=floor, config=config)


def _summary(runs: dict[int, list], last: dict[int, dict], reference: dict[int, dict]) -> dict:
    names = [m for m in (*MEASURES, *COSTS) if any(m in row for row in last.values())]
    out: dict[str, Any] = {m: _spread([row[m] for row in last.values()]) for m in names}
    out["rounds"] = _spread([row["round"] for row in last.values()])
    seeds = [s for s in last if s in reference]
    mine, theirs = [last[s] for s in seeds], [reference[s] for s in seeds]
    out["gap"] = jfu.gap(mine, theirs) if seeds else None
    out["gap_per_seed"] = _spread(jfu.gap_per_seed(mine, theirs) or [None]) if seeds else None
    rounds = {s: jfu.first_round_within(runs[s], reference[s]["retain"]) for s in seeds}
    out["rounds_to_recover"] = _spread(list(rounds.values())) if seeds else None
    at = {s: next(row for row in runs[s] if row["round"] == r) for s, r in rounds.items() if r}
    traffic = [at[s]["bytes_down"] + at[s]["bytes_up"] if s in at else None for s in seeds]
    out["bytes_to_recover"] = _spread(traffic) if seeds else None
    for cost in ("flops", "seconds"):
        values = [at[s][cost] if s in at else None for s in seeds]
        out[f"{cost}_to_recover"] = _spread(values) if seeds else None
    return out


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean and sample standard deviation; None where a seed has no value."""
    if not values or any(v is None for v in values):
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return dict(mean=float(np.mean(values)), std=std)


COLUMNS = (
    ("retain", "retain %", 1, 1),
    ("forget", "forget %", 1, 1),
    ("test", "test %", 1, 1),
    ("test_kept", "test kept %", 1, 1),
    ("test_forgotten", "test forgotten %", 1, 1),
    ("mia", "MIA %", 1, 1),
    ("mia_matched", "MIA matched %", 1, 1),
    ("asr", "backdoor %", 1, 1),
    ("gap", "gap", 1, 2),
    ("gap_per_seed", "gap per seed", 1, 2),
    ("rounds_to_recover", "rounds", 1, 1),
    ("bytes_to_recover", "MB", 1e6, 1),
    ("flops_to_recover", "GFLOP", 1e9, 1),
    ("seconds_to_recover", "seconds", 1, 2),
    ("storage", "storage MB", 1e6, 1),
)


def markdown(summary: dict[str, Any]) -> str:
    """The table as Markdown that is aligned for reading as plain text too."""
    rows = {name: dict(entry) for name, entry in summary["methods"].items()}
    if summary["floor"]:
        rows["retrain again"] = summary["floor"]
    if "retrain" in rows:
        rows["retrain"]["gap"] = rows["retrain"]["gap_per_seed"] = None
    if "original" in rows:
        for name in ("rounds", "bytes", "flops", "seconds"):
            rows["original"][f"{name}_to_recover"] = None
    shown = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows.values())]
    cells = [["method", *(title for _, title, _, _ in shown)]]
    for name, row in rows.items():
        cells.append([name, *(_cell(row.get(key), unit, digits) for key, _, unit, digits in shown)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    line = lambda row: (
        "| "
        + " | ".join(
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
    )
    rule = (
        "|"
        + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
        + "|"
    )
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])]) + "\n"


def _cell(value: Any, unit: float, digits: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        mean, std = value["mean"] / unit, value["std"] / unit
        return f"{mean:.{digits}f} ± {std:.{digits}f}"
    return f"{value / unit:.{digits}f}"


def legend(summary: dict[str, Any]) -> str:
    """What the columns mean, and the answer in a few sentences."""
    seeds, methods = len(summary["seeds"]), summary["methods"]
    lines = [
        f"Mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}, after each method's "
        "last round. Columns rounds, MB, GFLOP and seconds count up to the first round whose",
        "retained accuracy is within 0.5 points of retraining's final one (- where a seed never "
        "got there). MIA: 50 is a coin toss. gap: distance to retraining over retain,",
        "forget, test and MIA; 'retrain again' is the noise floor, the same for a second "
        "retraining with other randomness.",
        "",
    ]
    mean = lambda name, key: (methods.get(name, {}).get(key) or {}).get("mean")
    for name in methods:
        budget, asr, rounds = (mean(name, k) for k in ("rounds", "asr", "rounds_to_recover"))
        words = []
        if asr is not None:
            what = "obeys the trigger on" if name == "original" else "the backdoor works on"
            words.append(f"{what} {asr:.1f} % of test images")
        if rounds is not None and name != "original":
            words.append(f"retained accuracy is back after {rounds:.1f} rounds")
        if words:
            when = "" if name == "original" else f"after {budget:.0f} rounds "
            lines.append(f"  {name + ':':<11} {when}{'; '.join(words)}")
    return "\n".join(lines) + "\n"


def write(folder: pathlib.Path, rows: Sequence[dict[str, Any]], config: Any) -> tuple:
    """Writes table.md and table.json; returns the summary and the text of the table."""
    summary = table(rows, dataclasses.asdict(config))
    text = markdown(summary)
    jfu.io.write_bytes(folder / "table.md", text.encode())
    jfu.io.write_bytes(folder / "table.json", to_json(summary))
    return summary, text


def to_json(summary: dict[str, Any]) -> bytes:
    return (json.dumps(summary, indent=1) + "\n").encode()


def curves(rows: Sequence[dict[str, Any]], path: str, title: str = "") -> None:
    """Retained, forgotten, test accuracy and backdoor success by round, one line a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [("retain", "retained accuracy"), ("forget", "accuracy on forgotten data")]
    panels += [("test", "test accuracy"), ("asr", "backdoor success")]
    panels = [(k, t) for k, t in panels if any(row.get(k) is not None for row in rows)]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), squeeze=False)
    names = [
        n for n in dict.fromkeys(row["method"] for row in rows) if n not in ("original", AGAIN)
    ]
    colours = dict(retrain="black", finetune="tab:orange", none="tab:gray")
    colours["not"] = "tab:blue"
    summary = table(rows)
    reference = "retrain" in names

    def floor_of(key):
        """Close up on accuracies where all that counts happens near the top."""
        ends = [summary["methods"][n][key]["mean"] for n in names if summary["methods"][n][key]]
        return 70 if key in ("retain", "test") and min(ends, default=0) > 90 else -3

    spare = iter(plt.cm.tab10(i) for i in (2, 3, 4, 5, 6, 8, 9, 7, 2, 3, 4, 5, 6, 8, 9))
    colours |= {name: next(spare) for name in names if name not in colours}
    for axis, (key, label) in zip(axes[0], panels, strict=True):
        start = [row[key] for row in rows if row["method"] == "original"]
        if start:
            axis.axhline(np.mean(start), color="0.6", linestyle=":", label="original")
        for name in names:
            at: dict[int, list] = {}
            for row in rows:
                if row["method"] == name and row[key] is not None:
                    at.setdefault(row["round"], []).append(row[key])
            x = sorted(at)
            mean = np.array([np.mean(at[r]) for r in x])
            spread = np.array([np.std(at[r], ddof=1) if len(at[r]) > 1 else 0 for r in x])
            marker = "o" if len(x) == 1 else None
            label_of = "NoT" if name == "not" else name
            axis.plot(x, mean, color=colours[name], label=label_of, marker=marker, linewidth=1.8)
            axis.fill_between(
                x, mean - spread, mean + spread, color=colours[name], alpha=0.15, lw=0
            )
        if key == "retain" and reference:
            for name in names:  # where retained accuracy is back
                rounds = summary["methods"][name]["rounds_to_recover"]
                if rounds and name != "finetune":
                    axis.axvline(rounds["mean"], color=colours[name], linestyle="--", linewidth=1)
                    text = f" recovered: {rounds['mean']:.0f} rounds"
                    axis.text(
                        rounds["mean"],
                        floor_of(key) + 1,
                        text,
                        rotation=90,
                        fontsize=7,
                        color=colours[name],
                        va="bottom",
                        ha="right",
                    )
        axis.set(title=label, xlabel="communication rounds since the request")
        axis.set_ylim(floor_of(key), 103 if floor_of(key) < 0 else 101)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("percent")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
