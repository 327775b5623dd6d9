"""The audits of a request, as evidence.json has them, and their pages."""

import pathlib
from collections.abc import Sequence
from typing import Any

from launch.records import discretion, ledgers, life, support
from launch.workdir.places import MODEL

UNSHOWN = "The page of this audit names other clients by number, so it is not handed over."


def of_request(
    path: pathlib.Path,
    mine: Sequence[dict[str, Any]],
    request: str,
    other: pathlib.Path | None = None,
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The audits of a request, as evidence.json has them, and their pages.

    Every method, question and verdict of audit.json is taken, whatever their names are.

    Args:
      mine: the lines of the work directory's own run.
      other: a comparison whose audit also counts, by a line of ``support``.

    Raises:
      ValueError: an audit's files are missing, or not those that the ledger names.
    """
    of = life.THIS if (path / MODEL).is_file() else "this comparison"
    lines = [x for x in mine if x["event"] == "audited" and x["request"] == request]
    own, beside = ([x for x in lines if ("of" in x) == said][-1:] for said in (False, True))
    audits, pages = [], {}
    report = support.report_of(path, mine)
    if report and report["asked"]["request"] == request:
        known = ledgers.vouched(mine)
        digests = {name: known[name] for name in support.REPORT}
        page = (path / "audit.html").read_bytes()
        audits.append(one(report, of, "audit.html", page, digests, own))
        pages["audit.html"] = page
    if beside and not other:
        raise ValueError(
            f"the ledger of {path} has the audit of a comparison; give its work directory with "
            "--audit, since no audit may be left out"
        )
    if other:
        report, digests = support.checked(path, other)[0], beside[-1]["named"]
        page, name = (other / "audit.html").read_bytes(), "audit-comparison.html"
        audits.append(one(report, support.OF, name, page, digests, beside))
        pages[name] = page
    handed = {audit["page"] for audit in audits}
    return audits, {name: page for name, page in pages.items() if name in handed}


def one(
    report: dict[str, Any],
    of: str,
    name: str,
    page: bytes,
    digests: dict[str, str],
    lines: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """One audit, as evidence.json has it; it names no client but those of the request.

    Args:
      name: of the page in the folder.
      lines: of the ledger, about this audit; none in older ones.
    """
    from jfu.audit import rules
    from jfu.audit.measures import REFERENCES

    request = report["asked"]["request"]
    named = discretion.others(page.decode(errors="replace"), request)
    audit = dict(
        of=of,
        audited=report["audited"],
        seeds=report["seeds"],
        questions={
            question: dict(title=rules.TITLES.get(question, question), rule=rule)
            for question, rule in report["questions"].items()
        },
        controls=report["controls"],
        methods={
            method: dict(verdicts=entry["verdicts"], reasons=entry["reasons"])
            for method, entry in report["methods"].items()
            if method not in REFERENCES
        },
        notes=[*([UNSHOWN] if named else []), *report["notes"]],
    )
    # Their values only: names of methods and questions stay as they are.
    audit = discretion.without_others(audit, request)
    line = lines[-1]["hash"] if lines else None
    return audit | dict(page=None if named else name, sha256=digests, line=line)
