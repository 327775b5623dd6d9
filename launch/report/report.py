"""From rows to tables."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import jfu
from jfu.metrics import GAP_MEASURES
from jfu.results import AGAIN
from launch.setup import private
from launch.shell import outputs

MEASURES = ("retain", "forget", "test", "test_kept", "test_forgotten", "mia", "mia_matched", "asr")
COSTS = ("bytes_down", "bytes_up", "flops", "storage", "seconds")


def table(rows: Sequence[dict[str, Any]], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Means and standard deviations over seeds, gaps, costs to recover, and the noise floor.

    Args:
      rows: lines of results.jsonl.

    Returns:
      ``methods.<name>``: each measure and cost after the method's last round as ``{mean,
      std}``, ``gap`` (of the means, the paper's), ``differences``, which it is the mean of,
      ``gap_per_seed``, ``rounds_to_recover`` and the costs up to that round, all these over the
      ``compared`` seeds that retraining has too, of ``of``; ``epsilon``, where there is
      privacy, the largest of a seed, None if not bounded; ``left_out``, answers of clients
      that were not used; ``needs``, and ``stopped``, the same measures where each of four rules
      would have stopped; ``sound``, whether its models learnt anything; ``floor``: the same gaps
      of the second retrained model. Standard deviations are those of a sample (n - 1), 0 for one
      seed.
    """
    runs: dict[str, dict[int, list]] = {}
    for row in rows:
        runs.setdefault(row["method"], {}).setdefault(row["seed"], []).append(row)
    last = lambda name: {s: max(r, key=lambda x: x["round"]) for s, r in runs[name].items()}
    reference = last("retrain") if "retrain" in runs else {}
    methods = {name: _summary(runs[name], last(name), reference) for name in runs if name != AGAIN}
    begin = last("original") if "original" in runs else {}
    for name in methods:
        if name in jfu.unlearn.UNLEARNERS:
            methods[name]["needs"] = _needs(jfu.unlearn.needs_of(name))
        if name not in ("original", "retrain", "none"):
            methods[name]["stopped"] = _stopped(runs[name], reference, begin)
    floor = None
    if AGAIN in runs and reference:
        floor = _summary(runs[AGAIN], last(AGAIN), reference)
        # It is evaluated at its end alone, so when it recovered is not known.
        floor = {k: None if k.endswith("_to_recover") else v for k, v in floor.items()}
    seeds = sorted({row["seed"] for row in rows})
    note = private.footnote(config).strip()
    more = dict(outside_epsilon=note) if note else {}
    return dict(seeds=seeds, methods=methods, floor=floor, config=config, **more)


def _summary(runs: dict[int, list], last: dict[int, dict], reference: dict[int, dict]) -> dict:
    names = [m for m in (*MEASURES, *COSTS) if any(m in row for row in last.values())]
    out: dict[str, Any] = {m: spread([row[m] for row in last.values()]) for m in names}
    if told := [row["epsilon"] for row in last.values() if "epsilon" in row]:
        out["epsilon"] = None if None in told else max(told)
    out["rounds"] = spread([row["round"] for row in last.values()])
    out["sound"] = all(learnt(row) for row in last.values())
    out["left_out"] = spread([row.get("left_out") for row in last.values()])
    seeds = [s for s in last if s in reference]
    mine, theirs = [last[s] for s in seeds], [reference[s] for s in seeds]
    out["of"], out["compared"] = len(last), len(seeds)
    out["gap"] = jfu.gap(mine, theirs) if seeds else None
    out["differences"] = {m: difference(mine, theirs, m) for m in GAP_MEASURES}
    out["gap_per_seed"] = spread(jfu.gap_per_seed(mine, theirs) or [None]) if seeds else None
    rounds = {s: jfu.first_round_within(runs[s], reference[s]["retain"]) for s in seeds}
    out["rounds_to_recover"] = spread(list(rounds.values())) if seeds else None
    at = {s: next(row for row in runs[s] if row["round"] == r) for s, r in rounds.items() if r}
    traffic = [at[s]["bytes_down"] + at[s]["bytes_up"] if s in at else None for s in seeds]
    out["bytes_to_recover"] = spread(traffic) if seeds else None
    for cost in ("flops", "seconds"):
        values = [at[s][cost] if s in at else None for s in seeds]
        out[f"{cost}_to_recover"] = spread(values) if seeds else None
    return out


def learnt(row: dict[str, Any]) -> bool:
    """Whether a model knows more of retained data than the commonest class; True if unknown.

    Retained accuracy of a model that has diverged may well be that of a retrained model that has
    diverged too.

    >>> learnt(dict(retain=12.9, guess=12.9)), learnt(dict(retain=90.0, guess=12.9))
    (False, True)
    >>> learnt(dict(retain=90.0, loss_retain=None))
    False
    """
    guess, finite = row.get("guess"), row.get("loss_retain", 0.0) is not None
    return finite and (guess is None or row["retain"] > guess + 0.5)


def difference(rows: Sequence[dict], others: Sequence[dict], measure: str) -> float | None:
    """Absolute difference of the means of a measure; None where a row has none."""
    means = [spread([row[measure] for row in some]) for some in (rows, others)]
    return None if None in means else abs(means[0]["mean"] - means[1]["mean"])


# In the table's column.
SHORT = dict(history="H", target="T", forget_data="D", per_client="U", proxy_data="P")
NEEDS = dict(
    history="stored history",
    target="the leaving client takes part",
    forget_data="its data is read",
    per_client="the server sees single updates",
    proxy_data="data at the server",
)


def _needs(needs: jfu.Needs) -> list[str]:
    """What a method needs, as words: the fields of ``Needs``, histories by name."""
    words = [name for name in NEEDS if getattr(needs, name) and name != "history"]
    return [f"history:{kind}" for kind in needs.history] + words


RULES = dict(
    budget="the last round there was",
    recovered="first round with retained accuracy within 0.5 points of retraining's last",
    regained="first round with retained accuracy within 0.5 points of the original model's",
    oracle="the round with the smallest gap to retraining, which nobody could know",
)


def stops(rows: Sequence[dict], reference: dict, begin: dict) -> dict[str, dict | None]:
    """Where each rule stops one run.

    Args:
      rows: a method's rows of one seed, by round.
      reference: retraining's last row of the seed.
      begin: the original model's row.
    """
    at = {row["round"]: row for row in rows}
    last = at[max(at)]
    gaps = {r: jfu.gap([row], [reference]) for r, row in at.items() if r}
    known = {r: gap for r, gap in gaps.items() if gap is not None}
    return dict(
        budget=last,
        recovered=at.get(jfu.first_round_within(rows, reference["retain"])),
        # In use it goes on to the budget where the accuracy never comes back.
        regained=at.get(jfu.first_round_within(rows, begin["retain"]), last),
        # Known only where the attack was run at every evaluated round.
        oracle=at[min(known, key=known.get)] if known and len(known) == len(gaps) else None,
    )


def _stopped(runs: dict[int, list], reference: dict, begin: dict) -> dict[str, Any]:
    """Measures over seeds where each rule stops; None where it does not in every seed."""
    seeds = [s for s in runs if s in reference and s in begin]
    found = {s: stops(runs[s], reference[s], begin[s]) for s in seeds}
    out = {}
    for rule in RULES:
        rows = [found[s][rule] for s in seeds]
        if not rows or any(row is None for row in rows):
            out[rule] = None
            continue
        theirs = [reference[s] for s in seeds]
        gaps = jfu.gap_per_seed(rows, theirs)
        out[rule] = dict(
            rounds=spread([row["round"] for row in rows]),
            gap=jfu.gap(rows, theirs),
            gap_per_seed=spread(gaps) if gaps else None,
            **{m: spread([row[m] for row in rows]) for m in ("retain", "forget", "test", "asr")},
        )
    return out


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean and sample standard deviation; None where a seed has no value."""
    if not values or any(v is None for v in values):
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return dict(mean=float(np.mean(values)), std=std)


COLUMNS = (
    ("needs", "needs", 1, 0),
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
    ("left_out", "left out", 1, 1),
)
# Those that are told over the seeds that retraining has too.
COMPARED = ("gap", "gap_per_seed", *(f"{name}_to_recover" for name in ("rounds", "bytes", *COSTS)))


def markdown(summary: dict[str, Any]) -> str:
    """The table as Markdown that is aligned for reading as plain text too."""
    rows = {name: dict(entry or {}) for name, entry in summary["methods"].items()}
    if summary["floor"] or AGAIN in summary.get("cells", {}):
        rows[AGAIN] = summary["floor"] or {}
    if "retrain" in rows:
        rows["retrain"]["gap"] = rows["retrain"]["gap_per_seed"] = None
    if "original" in rows:
        for name in ("rounds", "bytes", "flops", "seconds"):
            rows["original"][f"{name}_to_recover"] = None
    for row in rows.values():
        row["left_out"] = row.get("left_out") if lost(row) else None
    shown = [c for c in COLUMNS if any(row.get(c[0]) not in (None, []) for row in rows.values())]
    cells = [["method", *(title for _, title, _, _ in shown)]]
    for name, row in rows.items():
        values = [
            cell(row.get(key), unit, digits) + fewer(row, key) for key, _, unit, digits in shown
        ]
        cells.append([label(summary, name), *values])
    return aligned(cells) + private.footnote(summary.get("config"), told(summary))


def told(summary: dict[str, Any]) -> dict[str, float | None]:
    """Epsilon by method, where it is told."""
    entries = summary["methods"].items()
    return {name: entry["epsilon"] for name, entry in entries if "epsilon" in (entry or {})}


def lost(entry: dict[str, Any]) -> float:
    """Answers of clients that were not used, mean over seeds."""
    return (entry.get("left_out") or {}).get("mean", 0.0)


def fewer(entry: dict[str, Any], key: str) -> str:
    """The mark of a value that rests on fewer seeds than its line, retraining having no more.

    >>> fewer(dict(gap=0.3, of=3, compared=1), "gap")
    ' (1 seed)'
    """
    count = entry.get("compared")
    if key not in COMPARED or entry.get(key) is None or count == entry.get("of"):
        return ""
    return f" ({count} seed{'s' * (count != 1)})"


def label(summary: dict[str, Any], name: str) -> str:
    """A method's name in the table, with what of its cells is missing.

    >>> half, whole = dict(round=6, of=12), dict(round=12, of=12)
    >>> cells = {"not": {"0": whole, "1": half}, "retrain_again": {"0": half, "1": None}}
    >>> label(dict(cells=cells), "not"), label(dict(cells=cells), "retrain_again")
    ('not (1 of 2 seeds)', 'retrain again (round 6/12)')
    """
    cells = list(summary.get("cells", {}).get(name, {}).values())
    words = [state(cell) for cell in cells]
    shown, done = name.replace("_again", " again"), words.count("done")
    if done == len(words):
        return shown
    if done:
        return f"{shown} ({done} of {len(words)} seeds)"
    return f"{shown} ({next((w for w in words if w != 'missing'), 'missing')})"


def state(cell: dict[str, int] | None) -> str:
    """How far a cell is, in a word or two."""
    if cell is None:
        return "missing"
    return "done" if cell["round"] == cell["of"] else f"round {cell['round']}/{cell['of']}"


def stopping(summary: dict[str, Any]) -> str:
    """What each stopping rule would have given, as Markdown; empty where nothing can be compared.

    Gap to retraining per seed, rounds and backdoor success, means over seeds.
    """
    cells = [["method"]]
    for rule in RULES:
        cells[0] += [f"{rule}: rounds", "gap", "backdoor %"]
    for name, entry in summary["methods"].items():
        stopped = (entry or {}).get("stopped") or {}
        if not any(stopped.values()):
            continue
        row = [name]
        for rule in RULES:
            at = stopped[rule] or {}
            row += [
                cell(at.get(k), 1, d) for k, d in (("rounds", 1), ("gap_per_seed", 2), ("asr", 1))
            ]
        cells.append(row)
    return aligned(cells) if len(cells) > 1 else ""


def aligned(cells: list[list[str]]) -> str:
    """Rows of text as a Markdown table with aligned columns."""
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


def cell(value: Any, unit: float, digits: int) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        kinds = list(dict.fromkeys(word.partition(":")[0] for word in value))
        return " ".join(SHORT[kind] for kind in kinds)
    if isinstance(value, dict):
        mean, std = value["mean"] / unit, value["std"] / unit
        return f"{mean:.{digits}f} ± {std:.{digits}f}"
    return f"{value / unit:.{digits}f}"


def legend(summary: dict[str, Any]) -> str:
    """What the columns mean, and the answer in a few sentences."""
    seeds = len(summary["seeds"])
    methods = {name: entry for name, entry in summary["methods"].items() if entry}
    lines = [
        f"Mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}, after each method's "
        "last round. Columns rounds, MB, GFLOP and seconds count up to the first round whose",
        "retained accuracy is within 0.5 points of retraining's final one (- where a seed never "
        "got there). MIA: 50 is a coin toss. gap: distance to retraining over retain,",
        "forget, test and MIA; 'retrain again' is the noise floor, the same for a second "
        "retraining with other randomness.",
    ]
    if (every := (summary.get("config") or {}).get("eval_every") or 1) > 1:
        lines.append(
            f"Models were evaluated every {every} rounds, so what is counted up to a round is too "
            f"large by up to {every - 1}."
        )
    if any(lost(entry) for entry in methods.values()):
        lines.append(
            "left out: answers of clients that were not used, being late, too long or no finite "
            "numbers; many of the latter are a model that has diverged."
        )
    used = {w.partition(":")[0] for m in methods.values() for w in m.get("needs", [])}
    if used:
        lines.append(
            "needs: " + ", ".join(f"{SHORT[k]} {NEEDS[k]}" for k in NEEDS if k in used) + "."
        )
    lines.append("")
    mean = lambda name, key: (methods.get(name, {}).get(key) or {}).get("mean")
    if not methods.get("retrain", {}).get("sound", True):
        lines += [
            f"  retraining has learnt nothing: it retains {mean('retrain', 'retain'):.1f} %, which "
            "naming one class gets too, so nothing says what forgetting would be; try another --lr",
        ]
    for name in methods:
        budget, asr = (mean(name, k) for k in ("rounds", "asr"))
        words = []
        if asr is not None:
            what = "obeys the trigger on" if name == "original" else "the backdoor works on"
            words.append(f"{what} {asr:.1f} % of test images")
        if back := regained(methods, name):
            words.append(back)
        if lost(methods[name]) and name != "original":
            words.append(f"{lost(methods[name]):.1f} answers of clients were left out")
        if words:
            when = "" if name == "original" else f"after {budget:.0f} rounds "
            lines.append(f"  {name + ':':<11} {when}{'; '.join(words)}")
    return "\n".join(lines) + "\n"


def regained(methods: dict[str, dict], name: str) -> str:
    """Whether and when a method's retained accuracy came back to retraining's, in words.

    >>> spread = lambda mean: dict(mean=mean, std=0.0)
    >>> good = dict(retain=spread(90.0), rounds_to_recover=spread(2.0), sound=True)
    >>> regained(dict(retrain=good, a=good), "a")
    'retained accuracy is back after 2.0 rounds'
    >>> regained(dict(retrain=good, a=good | dict(retain=spread(70.0))), "a")
    'retained accuracy was back after 2.0 rounds, and is not at the end'
    >>> regained(dict(retrain=good, a=good | dict(sound=False)), "a")
    'it has learnt nothing: naming one class gets as much of the retained data right'
    """
    entry, reference = methods[name], methods.get("retrain", {})
    if not entry.get("sound", True):
        return "it has learnt nothing: naming one class gets as much of the retained data right"
    rounds = entry.get("rounds_to_recover")
    if rounds is None or name == "original" or not reference.get("sound", True):
        return ""
    if entry["retain"]["mean"] < reference["retain"]["mean"] - 0.5:
        return (
            f"retained accuracy was back after {rounds['mean']:.1f} rounds, and is not at the end"
        )
    return f"retained accuracy is back after {rounds['mean']:.1f} rounds"


def write(folder: pathlib.Path, summary: dict[str, Any], text: str) -> list[str]:
    """Writes table.md, table.json and, where rules can be compared, stopping.md; their names."""
    found = contents(summary, text)
    for name, content in found.items():
        outputs.put(folder / name, content)
    return list(found)


def contents(summary: dict[str, Any], text: str) -> dict[str, bytes]:
    """What ``write`` writes, by name."""
    found = {"table.md": text.encode(), "table.json": to_json(summary)}
    if rules := stopping(summary):
        words = "\n".join(f"* {name}: {what}" for name, what in RULES.items())
        note = private.footnote(summary["config"])
        found["stopping.md"] = f"## Where to stop\n\n{rules}\n{words}\n{note}".encode()
    return found


def to_json(summary: dict[str, Any]) -> bytes:
    return (json.dumps(summary, indent=1) + "\n").encode()
