"""An audit of a live server's folder: what its ledger shows, and what nobody can show there.

A server has no data and no retrained model, so every question of an audit is "not shown". What is
left are facts: the ledger is valid, the model is the one that the last answer names, and it is
neither the old model nor its negation.
"""

import json
import os
import pathlib
from typing import Any

import jfu.io
import jfu.ledger
from launch.shell.printing import show
from launch.workdir.places import CONFIG, MODEL

AUDIT = "audit.json"
WHY = (
    "it needs data or retrained models, which a server does not have; rehearse the request in "
    "simulation with launch.compare and audit that"
)


def here(where: pathlib.Path) -> bool:
    """Whether a folder is that of a live server: requests to nodes, and no configuration."""
    if os.path.lexists(where / CONFIG) or not (where / "ledger.jsonl").is_file():
        return False
    return any("nodes" in line for line in jfu.ledger.read(where / "ledger.jsonl"))


def audit(where: pathlib.Path) -> None:
    """Writes and prints what is known."""
    from launch.shell import outputs

    report = examine(where)
    outputs.put(where / AUDIT, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    for answer in report["answers"]:
        points = [f"{n} {answer[n]['retain']:.1f}" for n in ("before", "after") if answer[n]]
        end = "regained" if answer["regained"] else "not regained"
        facts = ", ".join([f"{answer['rounds']} rounds", f"accuracy {end}", *points])
        show(f"request {answer['request']}, answered by {answer['method']}: {facts}")
    if report["open"]:
        show(f"not answered yet: {', '.join(report['open'])}")
    for name, (verdict, why) in report["questions"].items():
        show(f"{name}: {verdict} ({why})")
    show(f"{AUDIT} is in {where}/")


def examine(where: pathlib.Path) -> dict[str, Any]:
    """The content of the report.

    Raises:
      ValueError: the ledger is not valid, the model is not the one that it names, or the model is
        an old one.
    """
    from jfu.audit import rules
    from launch.records import verification

    lines = verification.read(where)
    of = lambda event: [line for line in lines if line["event"] == event]
    answered = of("answered")
    if answered:
        check_new(where / MODEL, lines)
    fields = ("request", "method", "rounds", "regained", "before", "after", "from", "model", "time")
    done = {line["request"] for line in answered}
    return dict(
        answers=[{name: line[name] for name in fields} for line in answered],
        open=[line["request"] for line in of("asked") if line["request"] not in done],
        refused={line["request"]: line["why"] for line in of("refused")},
        questions={name: (rules.NOT_SHOWN, WHY) for name in rules.QUESTIONS},
        head=lines[-1]["hash"],
    )


def check_new(model: pathlib.Path, lines: list[dict[str, Any]]) -> None:
    """Refuses a model with the digest of one before a request, or of one that was just negated."""
    from safetensors.numpy import load

    from jfu.files import read_bytes

    now = jfu.io.digest(load(read_bytes(model)))
    old = {line[name]: line for line in lines for name in ("from", "made") if name in line}
    if now in old:
        raise ValueError(
            f"{model} is the model that line {old[now]['number']} of its ledger was about, before "
            "any recovery; it has forgotten nothing"
        )
