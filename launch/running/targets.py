"""What each method needs to reach the targets, from rows."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.report import figures
from launch.running import comparison
from launch.setup import private
from launch.shell.config import resolve
from launch.shell.printing import listed, show
from launch.shell.say import say

FLAGS = flags.FLAGS

# Points between a default target and retraining's last value.
LEEWAY = dict(test=-1.0, forget=2.0, asr=5.0)
COSTS = ("round", "bytes", "flops", "seconds")


def rounds() -> None:
    if FLAGS.target_asr is not None and not resolve(FLAGS.methods).backdoor:
        raise ValueError("--target_asr does nothing without poisoned images; leave it out")
    given = {m: getattr(FLAGS, f"target_{m}") for m in LEEWAY}
    if None in given.values() and not {"retrain", "all"} & set(FLAGS.methods):
        say("note: default targets come from retraining, which is not among --methods")
    work, config, rows = comparison.run(tests=True)
    from launch.records import records
    from launch.shell import hosts, outputs
    from launch.workdir import places

    if not hosts.first():
        return
    if coarse(rows):
        say(
            "note: not every round was evaluated on test data, so counts of rounds may be too "
            "large; to evaluate all, begin another --workdir with --eval_every=1"
        )
    lines = reach(rows, given)
    lines = [private.marked(config, line, ("target", *COSTS)) for line in lines]
    outputs.put(
        work.path / "rounds.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode()
    )
    text = markdown(lines) + private.footnote(dataclasses.asdict(config))
    outputs.put(work.path / "rounds.md", text.encode())
    title = f"{config.dataset}: forget {config.forget}{private.title(config)}"
    plotted = figures.drawn(plot, lines, str(work.path / "rounds.png"), title)
    names = ["rounds.jsonl", "rounds.md", *["rounds.png"] * plotted]
    records.compared(work, config, rows, [*names, places.PLAN])
    show(f"\n{text}\n{listed(names)} are in {work.path}/")


def reach(rows: Sequence[dict], given: dict[str, float | None]) -> list[dict[str, Any]]:
    """One line for each method, seed and target: its costs, None if it never reached the target.

    Args:
      rows: lines of results.jsonl.
      given: targets by measure; None takes the target from retraining on the same seed.

    Raises:
      ValueError: a target is missing and so is retraining.
    """
    runs: dict[tuple, list] = {}
    for row in rows:
        if row["method"] not in ("original", "retrain_again"):
            runs.setdefault((row["method"], row["seed"]), []).append(row)
    last = {key: max(run, key=lambda row: row["round"]) for key, run in runs.items()}
    lines = []
    for measure, target in given.items():
        if all(row[measure] is None for row in last.values()):
            continue  # no backdoor
        if target is None and any(("retrain", seed) not in runs for _, seed in runs):
            raise ValueError(
                f"without retraining there is no default target for {measure}; add retrain to "
                f"--methods, or give --target_{measure}"
            )
        for (name, seed), run in runs.items():
            goal = target
            if goal is None:
                goal = round(last["retrain", seed][measure] + LEEWAY[measure], 4)
            row = first(run, measure, goal)
            cost = dict.fromkeys(COSTS)
            if row:
                traffic = row["bytes_down"] + row["bytes_up"]
                cost = dict(
                    round=row["round"], bytes=traffic, flops=row["flops"], seconds=row["seconds"]
                )
            lines.append(dict(method=name, seed=seed, measure=measure, target=goal, **cost))
    return lines


def coarse(rows: Sequence[dict]) -> bool:
    """Whether test data were left out after some round of a run with more than one round.

    >>> rows = [dict(method="not", seed=0, round=n, test=n and 9.0) for n in (0, 1, 3)]
    >>> coarse(rows), coarse([*rows, rows[0] | dict(round=2)])
    (True, False)
    """
    known: dict[tuple, set] = {}
    for row in rows:
        if row["method"] not in ("original", "retrain_again") and row["test"] is not None:
            known.setdefault((row["method"], row["seed"]), set()).add(row["round"])
    return any(set(range(1, max(found) + 1)) - found for found in known.values())


def first(run: Sequence[dict], measure: str, target: float) -> dict | None:
    """The first evaluated row that reaches the target: up at it, or down at it for good.

    >>> run = [dict(round=r, test=t, asr=a) for r, t, a in [(0, 9, 0), (1, 8, 9), (2, 9, 1)]]
    >>> first(run, "test", 8.5)["round"], first(run, "asr", 1)["round"]
    (2, 2)
    """
    known = (row for row in run if row[measure] is not None)
    run = sorted(known, key=lambda row: row["round"])
    if LEEWAY[measure] < 0:  # round 0 is before any communication
        after = [row for row in run if row["round"] and not row.get("own")]
        return next((row for row in after if row[measure] >= target), None)
    below = None
    for row in reversed(run):
        if row[measure] > target:
            break
        below = row
    return below


def table(lines: Sequence[dict]) -> dict[str, dict[str, Any]]:
    """``{method: {measure: {cost: {mean, std}}}}``, None if a seed never reached the target."""
    from jfu.results import mean_std

    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["method"], {}).setdefault(line["measure"], []).append(line)
    return {
        name: {
            measure: {cost: mean_std([line[cost] for line in some]) for cost in COSTS}
            for measure, some in by_measure.items()
        }
        for name, by_measure in found.items()
    }


def markdown(lines: Sequence[dict]) -> str:
    from jfu.tables import aligned, cell

    targets = goals(lines)
    sign = lambda measure: "≥" if LEEWAY[measure] < 0 else "≤"
    header = ["method"]
    for measure, target in targets.items():
        header += [f"{measure} {sign(measure)} {target}: rounds", "MB", "GFLOP"]
    cells = [header]
    for name, by_measure in table(lines).items():
        row = [name]
        for measure in targets:
            costs = by_measure[measure]
            row += [cell(costs["round"], 1, 1), cell(costs["bytes"], 1e6, 1)]
            row += [cell(costs["flops"], 1e9, 1)]
        cells.append(row)
    return aligned(cells)


def goals(lines: Sequence[dict]) -> dict[str, str]:
    """The targets in words: a number, or a distance to retraining if seeds differ."""
    found: dict[str, set] = {}
    for line in lines:
        found.setdefault(line["measure"], set()).add(line["target"])
    return {
        measure: f"{min(values):.1f}" if len(values) == 1 else f"retrain {LEEWAY[measure]:+.0f}"
        for measure, values in found.items()
    }


@figures.plain()
def plot(lines: Sequence[dict], path: str, title: str) -> None:
    """Rounds to each target, a bar for each method; seeds are dots; a cross if one is missing."""
    targets = goals(lines)
    names = list(dict.fromkeys(line["method"] for line in lines))
    size = (4.2 * len(targets) + 1, 0.34 * len(names) + 1.6)
    figure, axes = figures.sheet(1, len(targets), size=size, sharey=True, squeeze=False)
    longest = max((line["round"] or 0 for line in lines), default=0) or 1
    for axis, (measure, target) in zip(axes[0], targets.items(), strict=True):
        for y, name in enumerate(names):
            some = [x["round"] for x in lines if (x["method"], x["measure"]) == (name, measure)]
            known = [r for r in some if r is not None]
            colour = "tab:blue" if name == "not" else "black" if name == "retrain" else "0.6"
            if len(known) == len(some):
                axis.barh(y, sum(known) / len(known), color=colour, alpha=0.6, height=0.6)
            axis.plot(known, [y] * len(known), ".", color=colour)
            if len(known) < len(some):
                axis.annotate(
                    f"never in {len(some) - len(known)} of {len(some)} seeds",
                    (0.99, y),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="center",
                    fontsize=8,
                )
        sign = "at least" if LEEWAY[measure] < 0 else "at most"
        what = dict(test="test accuracy", forget="forgotten accuracy", asr="backdoor success")
        axis.set(title=f"{what[measure]}\n{sign} {target} %", xlabel="communication rounds")
        axis.set_xlim(0, longest * 1.05)
        axis.grid(alpha=0.25, axis="x")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(names)), ["NoT" if n == "not" else n for n in names])
    axes[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.tight_layout()
    figures.save(figure, path)
