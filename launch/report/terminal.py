"""The audit as a few lines of text, and the names of models and numbers in page and text."""

from typing import Any

from jfu.audit import rules
from jfu.audit.measures import REFERENCES, RETRAINED, measure_of
from jfu.tables import aligned

NAMES = {"not": "NoT", "retrain_again": "retrain again", "retrain_third": "third retraining"}
NAMES |= {"none": "none (the old model)"}
CONTROLS = dict(old="the old model", third="a third retraining")


def title_of(name: str) -> str:
    """A model's name for readers."""
    return NAMES.get(name, name)


# Measures that the terminal shows beside the verdicts, with short headings.
SHOWN = dict(
    forget="forget %",
    asr="backdoor %",
    auc_matched="matched AUC",
    rmia="RMIA",
    ulira="U-LiRA",
    lira="LiRA",
    relearn="rounds to relearn",
    **{"resurfacing.forget": "resurfacing %", "memorised.20": "top 20 % memorised"},
    worst_client="worst client %",
    client_spread="spread of clients",
)


def text(report: dict[str, Any]) -> str:
    """The notes, the verdicts and the measures behind them, for a terminal, as Markdown."""
    notes = [f"note: {note}" for note in report["notes"]]
    tables = _verdicts(report), *_numbers(report["methods"]), by_number(report)
    return "\n".join([*notes, "", *tables]).rstrip("\n") + "\n"


def _verdicts(report: dict[str, Any]) -> str:
    """A line for each answer and each control; empty without any."""
    asked = [*report["questions"]]
    rows = [["method", *(rules.TITLES[question] for question in asked)]]
    for name, entry in report["methods"].items():
        if name not in REFERENCES:
            rows.append([title_of(name), *(entry["verdicts"][question] for question in asked)])
    for name, title in CONTROLS.items():
        if report["controls"][name]:
            verdict, why = report["controls"][name]
            small = f" ({TOO_SMALL})" if is_small(verdict, why) else ""
            given = {question: "-" for question in asked} | dict(forgotten=f"{verdict}{small}")
            rows.append([f"control: {title}", *given.values()])
    return aligned(rows) if len(rows) > 1 else ""


def _numbers(methods: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """The measures of ``SHOWN`` as two tables: values, and differences with their margins."""
    keys = [k for k in SHOWN if any(k in entry["measures"] for entry in methods.values())]
    headings = [SHOWN[key] for key in keys]
    values = [["mean [95 % interval]", *headings]]
    differences = [["difference to retraining [90 %]", *headings]]
    for name, entry in methods.items():
        own = [entry["measures"].get(key) for key in keys]
        values.append([title_of(name), *map(_interval, keys, own)])
        if name not in RETRAINED and any(one and one["difference"] for one in own):
            differences.append([title_of(name), *map(_difference, keys, own)])
    margins = [measure_of(key).margin for key in keys]
    differences.append(["margin", *("-" if m is None else f"± {m:g}" for m in margins)])
    return aligned(values), aligned(differences)


def by_number(report: dict[str, Any]) -> str:
    """What the first question's verdicts would be with fewer seeds; empty if there are none."""
    found = report.get("by_seeds") or {}
    if len(found) < 2:
        return ""
    names = list(dict.fromkeys(name for verdicts in found.values() for name in verdicts))
    rows = [["Forgotten? With the first seeds", *map(str, found)]]
    rows += [[title_of(n), *(each.get(n, "-") for each in found.values())] for n in names]
    return aligned(rows)


TOO_SMALL = "too small to tell"


def is_small(verdict: str, why: str) -> bool:
    """Whether a verdict says that the audit could not decide."""
    return verdict == rules.OPEN and (rules.TOO_SMALL in why or rules.WIDE in why)


def _interval(key: str, entry: dict[str, Any] | None) -> str:
    return in_words(entry, _digits(key)) if entry else "-"


def _difference(key: str, entry: dict[str, Any] | None) -> str:
    return apart(entry["difference"], _digits(key)) if entry and entry["difference"] else "-"


def _digits(key: str) -> int:
    return 2 if measure_of(key).unit == "" else 1


def apart(difference: dict[str, float], digits: int) -> str:
    """A difference with its interval, signed.

    >>> apart(dict(value=1.25, low=-0.5, high=3.0), 1)
    '+1.2 [-0.5, +3.0]'
    """
    value, low, high = (f"{difference[k]:+.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def in_words(entry: dict[str, Any], digits: int) -> str:
    """A value with its interval; ``≥`` if some of its seeds were cut off, ``>`` if all were.

    >>> in_words(dict(value=21.0, low=21.0, high=21.0, censored=1.0, limit=20), 1)
    '> 20'
    """
    value, low, high = (f"{entry[k]:.{digits}f}" for k in ("value", "low", "high"))
    words = f"{value} [{low}, {high}]"
    if cut := entry.get("censored"):
        return f"> {entry['limit']:.3g}" if cut == 1 else f"≥ {words}"
    return words
