"""Writes evidence about one request into a folder that can be handed over.

The folder has what an auditor needs, and nothing about other requests:

evidence.json             what was asked, done and found; its form is in evidence.schema.json
attestation.intoto.jsonl  signed statements with the digests of all files, models and verdicts
audit.html                the audit's page, if there was an audit; of a comparison's audit,
                          audit-comparison.html
ledger.jsonl              the ledger; of lines about other requests only number, time and hashes
summary.html              one page in plain words
VERIFY.md, verify.py      how to check all of this, and the program that does
public-key.pem, head.tsr  the signer's public key; a time stamp of the ledger's head, if requested

A last line of the ledger (``exported``) has the hashes of the lines that are shown. So its own
hash, the head, stands for them all, also where other lines lie between.
"""

import importlib.resources
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jfu
import jfu.ledger
from jfu.files import shown
from jfu.io import write_bytes
from jfu.tasks import TASKS, Words
from launch.records import (
    audits,
    erasure,
    ledgers,
    life,
    records,
    schema,
    signing,
    stamps,
    support,
    verifier,
)
from launch.report import officer, spoken
from launch.workdir import locks, runs
from launch.workdir.places import CONFIG, MODEL, RESULTS, WorkDir


def export(
    path: pathlib.Path,
    target: pathlib.Path,
    key: Any,
    *,
    name: str | None = None,
    gone: Sequence[str] = (),
    stamp_url: str | None = None,
    audit: pathlib.Path | None = None,
) -> list[str]:
    """Writes the evidence of a work directory's request into a new folder; returns the files.

    Args:
      path: a work directory whose ledger and files were verified.
      key: a private key of Ed25519.
      name: the id of a received request, or its beginning; by default the run's own request.
      gone: sources that the user says were removed, as for a proof of erasure.
      stamp_url: a time-stamping service (RFC 3161) for the ledger's head.
      audit: a comparison with the same settings, whose audit counts too (``support``).

    Raises:
      ValueError: the folder is not empty, or the request has no evidence here.
    """
    _check_new(path, target)
    lines = ledgers.check(path)
    text, found = requested(path, lines, name)
    ids = [one.id for one in found]
    if audit:
        support.write(path, support.checked(path, audit)[1])
        lines = ledgers.check(path)
        found = [one for one in life.lives(lines) if one.id in ids]
    found_audits, pages = audits.of_request(path, ledgers.own(path, lines), text, audit)
    left = erased(path, text, gone)
    target.mkdir(parents=True, exist_ok=True)
    lines = exported(path, lines, text, ids)
    files = pages | {"ledger.jsonl": excerpt(path, lines, text, ids)}
    evidence = gathered(path, lines, text, found, found_audits, left)
    evidence["ledger"]["shown"] = files["ledger.jsonl"].count(b'"event":')
    if stamp_url:
        head = evidence["ledger"]["head"]
        files["head.tsr"], time = stamps.stamp(stamp_url, head)
        evidence["ledger"]["timestamp"] = dict(time=time, url=stamp_url)
    words = TASKS[runs.read_run(str(path)).config.task].words
    for place, content in sealed(files, evidence, key, words).items():
        write_bytes(target / place, content)
    return sorted(os.listdir(target))


def _check_new(path: pathlib.Path, target: pathlib.Path) -> None:
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already and not an empty folder; name a new one")
    inner, outer = os.path.realpath(target), os.path.realpath(path)
    if os.path.commonpath([inner, outer]) == outer:
        raise ValueError(
            f"{target} lies in the work directory, where only files of its run may be; name a "
            "folder outside of it"
        )


def sealed(
    files: dict[str, bytes],
    evidence: dict[str, Any],
    key: Any,
    words: Words = TASKS["classify"].words,
) -> dict[str, bytes]:
    """All files of the folder, the signed statements last; the page has the task's words."""
    public = signing.public_bytes(key)
    text = lambda value: (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
    print_of = verifier.sha256(public)
    files = files | {
        "evidence.json": text(evidence),
        "evidence.schema.json": text(schema.SCHEMA),
        "public-key.pem": verifier.pem(public),
        "summary.html": spoken.text(officer.html(evidence, print_of), words).encode(),
        "verify.py": importlib.resources.files("launch.records")
        .joinpath("verifier.py")
        .read_bytes(),
    }
    files["VERIFY.md"] = officer.how_to_verify(evidence, print_of, sorted(files)).encode()
    subject, digests = evidence["subject"], evidence["digests"]
    tests = []
    if evidence["audits"]:
        predicate = signing.test_result(evidence["audits"], digests)
        tests = [signing.body(signing.statement(subject, verifier.TESTS, predicate))]
    predicate = dict(
        version=1,
        request=evidence["request"]["text"],
        state=evidence["request"]["state"],
        verdicts=[
            {name: entry["verdicts"] for name, entry in audit["methods"].items()}
            for audit in evidence["audits"]
        ],
        digests=digests,
        head=evidence["ledger"]["head"],
        files={name: verifier.sha256(content) for name, content in files.items()},
        statements=[verifier.sha256(one) for one in tests],
    )
    ours = signing.body(signing.statement(subject, verifier.OURS, predicate))
    return files | {verifier.ATTESTATION: signing.attestation([ours, *tests], key)}


# ---------------------------------------------------------------- what the work directory says


def requested(
    path: pathlib.Path, lines: Sequence[dict[str, Any]], name: str | None
) -> tuple[str, list[life.Life]]:
    """The text of the request, and the received requests that it answers.

    Raises:
      ValueError: no request, or several, or one whose answer is elsewhere.
    """
    known = life.lives(life.everywhere(path, lines))
    run, mine = runs.read_run(str(path)), ledgers.own(path, lines)
    text = run.config.forget if run.script in ("unlearn", "compare") else None
    answers = [line for line in mine if line["event"] == "answered"]
    if name is None and text:
        ids = {one for line in answers for one in line.get(life.IDS, [])}
        return text, [one for one in known if one.id in ids]
    if name is None and len(known) != 1:
        raise ValueError(
            f"{path} answers no request, and {len(known)} were received; name one with "
            f"--request_id: {', '.join(one.id for one in known) or 'none'}"
        )
    one = life.chosen(known, name) if name else known[0]
    both = {x for line in answers if one.id in line.get(life.IDS, []) for x in line[life.IDS]}
    if one.answered and not both:
        raise ValueError(
            f"the request {one.id} was answered in another work directory; export that one"
        )
    return one.request, [x for x in known if x.id in (both or {one.id})]


def erased(path: pathlib.Path, request: str, gone: Sequence[str]) -> dict[str, Any] | None:
    """How many files still depend on the data; None where jfu cannot say.

    Only numbers: names of files and folders may tell of other requests.
    """
    try:
        found, _ = erasure.holdings(path, request, gone)
    except (ValueError, OSError):
        return None
    depends = sum(file.depends and not file.lost for file in found)
    missing = sum(file.lost for file in found)
    said = dict(said_gone=len(gone)) if gone else {}
    return dict(files=len(found), depends=depends, missing=missing, **said)


def gathered(
    path: pathlib.Path,
    lines: Sequence[dict[str, Any]],
    text: str,
    found: Sequence[life.Life],
    audits: list[dict[str, Any]],
    left: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of evidence.json."""
    mine = ledgers.own(path, lines)
    now, digests = lines[-1]["time"], ledgers.vouched(mine)
    answers = [x for x in mine if x["event"] == "answered" and x["request"] == text]
    answer = answered(answers[-1]) if answers else None
    subject = {MODEL: digests[MODEL]} if MODEL in digests else {}
    subject = subject or {n: digests[n] for n in (RESULTS, CONFIG) if n in digests}
    names = (CONFIG, RESULTS, "audit.json", "audit.html")
    return dict(
        schema=schema.NAME,
        version=1,
        made=now,
        made_by=f"jfu {jfu.__version__}",
        request=dict(
            text=text,
            state=state(found, answer, audits),
            received=[received(one, now) for one in found],
        ),
        subject=subject,
        digests={name: digests[name] for name in names if name in digests},
        answer=answer,
        audits=audits,
        erasure=left,
        ledger=dict(
            head=lines[-1]["hash"],
            lines=len(lines),
            shown=0,
            keyed=jfu.ledger.keyed(lines),
            timestamp=None,
        ),
    )


def state(
    found: Sequence[life.Life], answer: dict[str, Any] | None, audits: Sequence[dict[str, Any]]
) -> str:
    """The state of a request, also of one whose receipt is in no ledger."""
    if found:
        return found[0].state
    if not answer:
        return "compared"
    given = [audit["methods"].get(answer["method"], {}).get("verdicts", {}) for audit in audits]
    verdict = life.together([str(one.get("forgotten")) for one in given])
    return "verified" if verdict == "yes" else "answered"


def answered(line: dict[str, Any]) -> dict[str, Any]:
    names = ("time", "method", "from", "model", "rounds", "before", "after", "costs")
    return {name: line.get(name, {}) for name in names}


def received(one: life.Life, now: str) -> dict[str, Any]:
    """A received request in the words of OpenDSR."""
    return dict(
        subject_request_id=one.id,
        subject_request_type="erasure",
        requester=one.requester,
        submitted_time=one.submitted,
        received_time=one.received,
        expected_completion_time=one.due,
        status=one.status,
        state=one.state,
        late=life.is_late(one, now),
        decided_time=one.decided,
        answered_time=one.answered,
        verified_time=one.verified,
        refused_time=one.refused,
        reason=one.reason,
    )


# ---------------------------------------------------------------- the ledger without other requests


def is_about(
    line: dict[str, Any], mine: Sequence[dict[str, Any]], text: str, ids: Sequence[str]
) -> bool:
    """Whether a line of a ledger may be shown: it says nothing about any other request."""
    if line["event"] in life.EVENTS:
        return line["subject_request_id"] in ids
    others = set(line.get(life.IDS, [])) - set(ids)
    if line["event"] == "trained":
        return all(one[1:] == text for one in line.get("past", ()))
    own = any(line["hash"] == other["hash"] for other in mine)
    if not own or others or line.get("request", text) != text:
        return False
    shown_events = "asked answered compared wrote missing key audited erased exported"
    return line["event"] in shown_events.split()


def exported(
    path: pathlib.Path, lines: Sequence[dict[str, Any]], text: str, ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Writes the line with the hashes of all lines that are shown; returns the ledger's lines."""
    mine = ledgers.own(path, lines)
    named = {str(x["number"]): x["hash"] for x in lines if is_about(x, mine, text, ids)}
    with locks.take(path) as lock:
        work = WorkDir(path, None, lock=lock)
        more = {life.IDS: list(ids)} if ids else {}
        records.write(work, "exported", request=text, lines=named, **more)
    now = ledgers.lines_of(path, None, None)
    if len(now) != len(lines) + 1:
        raise ValueError(f"another process wrote into {path}; start the same command again")
    return now


def excerpt(
    path: pathlib.Path, lines: Sequence[dict[str, Any]], text: str, ids: Sequence[str]
) -> bytes:
    """The ledger; of lines about other requests only their number, time and hashes."""
    mine, out = ledgers.own(path, lines), []
    for line in lines:
        bare = {name: line[name] for name in ("number", "time", "previous", "hash")}
        out.append(jfu.ledger.canonical(line if is_about(line, mine, text, ids) else bare))
    return "".join(f"{one}\n" for one in out).encode()


def summary(target: pathlib.Path, names: Sequence[str], key: Any, head: str) -> str:
    """What to say when the folder is written."""
    print_of = verifier.sha256(signing.public_bytes(key))
    return (
        f"{shown(target)} has {len(names)} files: {', '.join(names)}\n"
        f"the key's fingerprint is {print_of}; publish it where readers of the evidence find it\n"
        f"head: {head}"
    )
