"""A summary of results as text: aligned Markdown tables, and a legend.

``jfu.results.summarise`` makes the summaries.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jfu.results import AGAIN, COSTS, NEEDS, RULES, Summary
from jfu.tasks import TASKS, Words


class Column(NamedTuple):
    """A column of the table: its heading, the unit that values are divided by, decimal digits."""

    title: str
    unit: float = 1
    digits: int = 1


COLUMNS = dict(
    needs=Column("needs"),
    retain=Column("retain %"),
    forget=Column("forget %"),
    test=Column("test %"),
    test_kept=Column("test kept %"),
    test_forgotten=Column("test forgotten %"),
    mia=Column("MIA %"),
    mia_matched=Column("MIA matched %"),
    asr=Column("backdoor %"),
    worst_client=Column("worst client %"),
    client_spread=Column("spread"),
    rmse_forget=Column("RMSE forget", digits=3),
    rmse_test=Column("RMSE test", digits=3),
    perplexity_forget=Column("perplexity forget"),
    perplexity_test=Column("perplexity test"),
    exposure=Column("canary bits"),
    extracted=Column("extracted %", digits=0),
    gap=Column("gap", digits=2),
    gap_per_seed=Column("gap per seed", digits=2),
    rounds_to_recover=Column("rounds"),
    bytes_to_recover=Column("MB", 1e6),
    flops_to_recover=Column("GFLOP", 1e9),
    seconds_to_recover=Column("seconds", digits=2),
    storage=Column("storage MB", 1e6),
    left_out=Column("left out"),
)
# Columns over only those seeds that retraining has too.
COMPARED = ("gap", "gap_per_seed", *(f"{name}_to_recover" for name in ("rounds", "bytes", *COSTS)))
# Letters for what a method needs, in the table's column.
SHORT = dict(history="H", target="T", forget_data="D", per_client="U", proxy_data="P")


def markdown(summary: Summary, columns: Sequence[str] | None = None) -> str:
    """The table of a summary as Markdown, aligned to be readable as plain text.

    Args:
      summary: as ``jfu.results.summarise`` returns it.
      columns: keys of ``COLUMNS``, in the order wanted; by default all that have a value.

    Returns:
      A line for each method: mean and standard deviation over seeds, or ``-`` without a value.

    Raises:
      ValueError: there is no such column.

    >>> measures = dict(forget=dict(mean=91.04, std=0.2), gap=0.5)
    >>> methods = {"not": measures | dict(rounds_to_recover=None)}
    >>> summary = dict(seeds=[0, 1], methods=methods, floor=None, config=None)
    >>> print(markdown(summary), end="")
    | method |   forget % |  gap |
    |--------|-----------:|-----:|
    | not    | 91.0 ± 0.2 | 0.50 |
    >>> print(markdown(summary, columns=["gap", "rounds_to_recover"]), end="")
    | method |  gap | rounds |
    |--------|-----:|-------:|
    | not    | 0.50 |      - |
    """
    rows = {name: dict(entry or {}) for name, entry in summary["methods"].items()}
    if summary["floor"] or AGAIN in summary.get("cells", {}):
        rows[AGAIN] = dict(summary["floor"] or {})
    if "retrain" in rows:
        rows["retrain"]["gap"] = rows["retrain"]["gap_per_seed"] = None
    if "original" in rows:
        for name in ("rounds", "bytes", "flops", "seconds"):
            rows["original"][f"{name}_to_recover"] = None
    for row in rows.values():
        row["left_out"] = row.get("left_out") if left_out(row) else None
    shown = _shown(rows) if columns is None else columns
    if unknown := [key for key in shown if key not in COLUMNS]:
        raise ValueError(
            f"there is no column {', '.join(map(str, unknown))}; choose among {', '.join(COLUMNS)}"
        )
    cells = [["method", *(COLUMNS[key].title for key in shown)]]
    for name, row in rows.items():
        values = [
            cell(row.get(key), COLUMNS[key].unit, COLUMNS[key].digits) + fewer(row, key)
            for key in shown
        ]
        cells.append([label(summary, name), *values])
    return aligned(cells)


def _shown(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Columns in which at least one row has a value."""
    return [k for k in COLUMNS if any(row.get(k) not in (None, []) for row in rows.values())]


def left_out(entry: Mapping[str, Any]) -> float:
    """Updates of clients that were not used, mean over seeds."""
    return (entry.get("left_out") or {}).get("mean", 0.0)


def fewer(entry: Mapping[str, Any], key: str) -> str:
    """A mark for a comparison over fewer seeds than its line has, since retraining lacks some.

    >>> fewer(dict(gap=0.3, of=3, compared=1), "gap")
    ' (1 seed)'
    """
    count = entry.get("compared")
    if key not in COMPARED or entry.get(key) is None or count == entry.get("of"):
        return ""
    return f" ({count} seed{'s' * (count != 1)})"


def label(summary: Summary, name: str) -> str:
    """A method's name in the table, with its progress if it is not finished.

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


def state(cell: Mapping[str, int] | None) -> str:
    """The progress of one method on one seed, in a word or two."""
    if cell is None:
        return "missing"
    return "done" if cell["round"] == cell["of"] else f"round {cell['round']}/{cell['of']}"


def stopping(summary: Summary) -> str:
    """Results at the round of each stopping rule, as Markdown; empty without a comparison.

    They are the gap to retraining per seed, rounds and backdoor success, as means over seeds.
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
            row += [cell(at.get("rounds")), cell(at.get("gap_per_seed"), digits=2)]
            row += [cell(at.get("asr"))]
        cells.append(row)
    return aligned(cells) if len(cells) > 1 else ""


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table. The first column is left-aligned, others right-aligned.

    >>> print(aligned([["name", "value"], ["a", "1"]]), end="")
    | name | value |
    |------|------:|
    | a    |     1 |
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    line = lambda row: "| " + " | ".join(map(_padded, range(len(row)), row, widths)) + " |"
    dashes = ["-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)]
    rule = "|" + "|".join(dashes) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])]) + "\n"


def _padded(place: int, text: str, width: int) -> str:
    return text.rjust(width) if place else text.ljust(width)


def cell(value: Any, unit: float = 1, digits: int = 1) -> str:
    """A value as a table shows it; ``-`` for None.

    Args:
      value: a number, ``{mean, std}``, or words for what a method needs.
      unit: numbers are divided by it.
      digits: decimal digits.

    >>> cell(dict(mean=2.5e6, std=1e5), 1e6), cell(0.125, digits=2), cell(None)
    ('2.5 ± 0.1', '0.12', '-')
    >>> cell(["history:last", "history:first", "target"])
    'H T'
    """
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        kinds = dict.fromkeys(word.partition(":")[0] for word in value)
        return " ".join(SHORT[kind] for kind in kinds)
    if isinstance(value, dict):
        mean, std = value["mean"] / unit, value["std"] / unit
        return f"{mean:.{digits}f} ± {std:.{digits}f}"
    return f"{value / unit:.{digits}f}"


def legend(summary: Summary) -> str:
    """The meaning of the columns, then a line about the outcome of each method."""
    methods = {name: entry for name, entry in summary["methods"].items() if entry}
    lines, words = [*_meanings(summary, methods), ""], words_of(summary)
    retrain = methods.get("retrain", {})
    if not retrain.get("sound", True):
        lines.append(
            f"  retraining has learnt nothing: it retains {retrain['retain']['mean']:.1f} %, which "
            f"{words.trivial} gets too. There is no reference for forgetting; try another --lr"
        )
    for name, entry in methods.items():
        if said := _outcome(methods, name, words):
            when = "" if name == "original" else f"after {entry['rounds']['mean']:.0f} rounds "
            lines.append(f"  {name + ':':<11} {when}{'; '.join(said)}")
    return "\n".join(lines) + "\n"


def _meanings(summary: Summary, methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The meaning of a summary's columns, in lines."""
    seeds, words = len(summary["seeds"]), words_of(summary)
    lines = [
        f"Mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}, after each method's "
        "last round. Columns rounds, MB, GFLOP and seconds count up to the first round whose",
        f"retained {words.score} is within 0.5 points of retraining's final one (- where a seed "
        "never got there). MIA: 50 is a coin toss. gap: distance to retraining over retain,",
        "forget, test and MIA; 'retrain again' is the noise floor, the same for a second "
        "retraining with other randomness.",
    ]
    every = (summary.get("config") or {}).get("eval_every", 1)
    most = max((entry.get("rounds_too_many", 0) for entry in methods.values()), default=0)
    if not every and most:
        lines.append(
            "Not all later rounds were evaluated, so counts of rounds are too large by up to "
            f"{most}."
        )
    if every and every > 1:
        lines.append(
            f"Models were evaluated every {every} rounds, so counts of rounds are too large by up "
            f"to {every - 1}."
        )
    if any(left_out(entry) for entry in methods.values()):
        lines.append(
            "left out: updates of clients that were not used, since they were late, too long or "
            "not finite. Many that are not finite mean that the model has diverged."
        )
    if any(entry.get("worst_client") for entry in methods.values()):
        lines.append(
            f"worst client: the lowest {words.score} of a client that stays, on its own data. "
            "spread: its standard deviation over these clients."
        )
    used = {word.partition(":")[0] for m in methods.values() for word in m.get("needs", [])}
    if used:
        each = ", ".join(f"{SHORT[kind]} {NEEDS[kind]}" for kind in NEEDS if kind in used)
        lines.append(f"needs: {each}.")
    return lines


def words_of(summary: Summary) -> Words:
    """The words of a summary's task."""
    name = (summary.get("config") or {}).get("task")
    return TASKS[name if name in TASKS else "classify"].words


def _outcome(methods: Mapping[str, Mapping[str, Any]], name: str, task: Words) -> list[str]:
    """One method's backdoor, recovery and updates that were left out, in words."""
    entry, words = methods[name], []
    if asr := entry.get("asr"):
        what = "obeys the trigger on" if name == "original" else "the backdoor works on"
        words.append(f"{what} {asr['mean']:.1f} % of test images")
    if back := regained(methods, name, task):
        words.append(back)
    if left_out(entry) and name != "original":
        words.append(f"{left_out(entry):.1f} updates of clients were left out")
    return words


def regained(
    methods: Mapping[str, Mapping[str, Any]], name: str, task: Words = TASKS["classify"].words
) -> str:
    """Whether and when a method's retained accuracy reached retraining's, in words.

    Args:
      task: the words of the task.

    >>> value = lambda mean: dict(mean=mean, std=0.0)
    >>> good = dict(retain=value(90.0), rounds_to_recover=value(2.0), sound=True)
    >>> regained(dict(retrain=good, a=good), "a")
    'retained accuracy is back after 2.0 rounds'
    >>> regained(dict(retrain=good, a=good | dict(retain=value(70.0))), "a")
    'retained accuracy was back after 2.0 rounds, and is not at the end'
    >>> regained(dict(retrain=good, a=good | dict(sound=False)), "a")
    'it has learnt nothing: naming one class gets as much of the retained data right'
    """
    entry, reference = methods[name], methods.get("retrain", {})
    if not entry.get("sound", True):
        return f"it has learnt nothing: {task.nothing}"
    rounds = entry.get("rounds_to_recover")
    if rounds is None or name == "original" or not reference.get("sound", True):
        return ""
    if entry["retain"]["mean"] < reference["retain"]["mean"] - 0.5:
        return (
            f"retained {task.score} was back after {rounds['mean']:.1f} rounds, and is not at the "
            "end"
        )
    return f"retained {task.score} is back after {rounds['mean']:.1f} rounds"
