"""An audit of a comparison as evidence for one answer.

``launch.unlearn`` makes one model, and one model decides nothing. A comparison runs the same method
with the same settings on several seeds, beside retraining. So its audit says what this method does
to such a request, though not to this very model. It counts for an answer if request, data, method
and settings are the same. A line ``audited`` in the answer's ledger has its verdicts on that
method, the digests of its report, and the head of its own ledger.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jfu.ledger
from jfu.files import read_json
from launch.records import ledgers, life, records, verification
from launch.shell.config import Config, having
from launch.workdir import locks, runs
from launch.workdir.places import WorkDir

OF = "the same method in a comparison"
REPORT = ("audit.json", "audit.html")
MOST = 2**26  # bytes of audit.json
# Fields that may differ: no result of a comparison at its last round depends on them.
FREE = ("init_params", "rounds_before", "eval_every", "attack_every", "proxy", "options")


def differing(answer: Config, compared: Config, method: str) -> list[str]:
    """The settings in which a comparison differs from an answer, as text."""
    free = (*having("place"), *FREE)
    pairs = [
        (name, getattr(answer, name), getattr(compared, name))
        for name in (field.name for field in dataclasses.fields(Config))
        if name not in free
    ]
    of = lambda config: [text for text in config.options or () if text.startswith(f"{method}.")]
    pairs.append(("options", of(answer), of(compared)))
    return [f"{name}={theirs}, not {ours}" for name, ours, theirs in pairs if ours != theirs]


def report_of(path: pathlib.Path, mine: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The content of audit.json, if the ledger names the audit's files; None if it names none.

    Args:
      mine: the lines of the work directory's own run.

    Raises:
      ValueError: a file is missing, is not the one that the ledger names, or is no audit.
    """
    known = ledgers.vouched(mine)
    if not any(name in known for name in REPORT):
        return None
    for name in REPORT:
        there = name in known and (path / name).is_file()
        if not there or jfu.ledger.digest(path / name) != known[name]:
            raise ValueError(
                f"{path / name} is not what its ledger says; restore it, or run launch.audit again"
            )
    report = read_json(path / "audit.json", most=MOST)
    try:
        given = [entry["verdicts"] for entry in report["methods"].values()]
        if not all(isinstance(one, dict) for one in (*given, report["questions"])):
            raise TypeError
        _ = report["asked"]["request"], report["seeds"], report["controls"], report["notes"]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path / 'audit.json'} has not the form of an audit") from None
    return report


def checked(path: pathlib.Path, other: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The audit of a comparison, and the line about it, if it is about an answer's method.

    Args:
      path: the work directory of the answer.
      other: the work directory of the comparison.

    Raises:
      ValueError: the comparison has no audit, is not valid, or has other settings.
    """
    run = runs.read_run(str(path))
    if run.script != "unlearn":
        raise ValueError(f"--audit supports an answer of launch.unlearn, and {path} has none")
    lines, theirs = verification.read(other, None), runs.read_run(str(other))
    mine = ledgers.own(other, lines)
    report = report_of(other, mine)
    method = run.more.get("method")
    if theirs.script != "compare" or report is None or method not in report["methods"]:
        raise ValueError(
            f"{other} has no audit of a comparison with {method}; run launch.compare and "
            "launch.audit there first"
        )
    if different := differing(run.config, theirs.config, str(method)):
        raise ValueError(
            f"{other} was run with {different[0]}, so its audit says nothing about {path}; compare "
            "with the same settings"
        )
    ours, data = (one.data or {} for one in (run, theirs))
    if not ours.get("train") or ours["train"] != data.get("train"):
        raise ValueError(f"{other} has other data than {path}, or data that it does not name")
    report = report | dict(methods={method: report["methods"][method]})  # others answered nothing
    known = ledgers.vouched(mine)
    line = dict(
        of=OF,
        request=run.config.forget,
        seeds=report["seeds"],
        verdicts={name: entry["verdicts"] for name, entry in report["methods"].items()},
        named={name: known[name] for name in REPORT},
        head=lines[-1]["hash"],
    )
    return report, line


def write(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Writes the line about a comparison's audit into an answer's ledger, unless it is the last.

    The head is that of the first time, as later lines of that ledger change nothing in the audit.
    """
    lines = ledgers.check(path)
    mine = ledgers.own(path, lines)
    answers = [x for x in mine if x["event"] == "answered" and x["request"] == line["request"]]
    ids = sorted({name for x in answers for name in x.get(life.IDS, [])})
    content = line | ({life.IDS: ids} if ids else {})
    before = [x for x in mine if x["event"] == "audited" and x.get("of") == OF][-1:]
    same = {name: value for name, value in content.items() if name != "head"}
    if not (before and same.items() <= before[0].items()):
        with locks.take(path) as lock:
            work = WorkDir(path, None, lock=lock)
            records.write(work, "audited", **content, since=lines[-1]["hash"])
