"""The life of a request to forget: received, due, decided, answered, verified, or refused.

A request begins when it arrives, not when a script answers it. ``launch.ledger --receive`` writes
that line, with the person's pseudonym and the date when an answer is due. ``launch.unlearn`` writes
into its own lines which received requests it answers: those with the same text. ``launch.audit``
adds its verdicts. A request may also be refused, with the reason.

Names of fields and of ``status`` are those of OpenDSR (OpenCompliance 1.0, once OpenGDPR):
``subject_request_id``, ``subject_request_type``, ``submitted_time``, ``received_time``,
``expected_completion_time``, and pending, in_progress, completed, cancelled. ``state`` has the
finer words of this module.

A request is due one month after it was submitted, on the day with the same number or the month's
last (GDPR Article 12(3), Regulation 1182/71 Article 3). The answer may stand in the ledger of a
work directory that was begun from this one. So those that are still there are read too.
"""

import datetime
import os
import pathlib
import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from launch.records import ledgers

# OpenDSR's word for each state.
STATUS = dict(
    received="pending",
    decided="in_progress",
    answered="completed",
    verified="completed",
    refused="cancelled",
)
OPEN = ("received", "decided")
EVENTS = ("received", "due", "refused")  # lines that only ``launch.ledger`` writes
IDS = "subject_request_ids"  # in the lines of scripts: the received requests that they are about
REQUEST = re.compile(r"(client|class|fraction|mask):.+")
PSEUDONYM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
THIS = "this model"  # what an audit tested, unless its line says something else
LONGEST = 1000  # letters of a reason


class Life(NamedTuple):
    """One request and its times; a time is None before it has come."""

    id: str
    request: str
    requester: str
    submitted: str
    received: str
    due: str
    state: str
    decided: str | None = None
    answered: str | None = None
    verified: str | None = None
    refused: str | None = None
    reason: str | None = None  # of a refusal, or of a later due date
    method: str | None = None
    verdicts: tuple[tuple[str, str], ...] = ()  # of audits, by what they tested: was it forgotten

    @property
    def verdict(self) -> str | None:
        """Of all audits together: whether the data was forgotten. One no outweighs any yes."""
        return together([verdict for _, verdict in self.verdicts])

    @property
    def status(self) -> str:
        return STATUS[self.state]


def received(
    request: str, requester: str, *, now: str, submitted: str | None = None, due: str | None = None
) -> dict[str, Any]:
    """The content of a line for a request that has arrived.

    Args:
      request: such as ``client:0``.
      requester: a pseudonym of who asked.
      now: the time of receipt, such as 2026-11-30T12:00:00Z.
      submitted: the date of the request itself; that of its receipt by default.
      due: the date of the answer; one month after ``submitted`` by default.

    Raises:
      ValueError: a text that is none, or dates in the wrong order.

    >>> line = received("client:0", "p-17", now="2026-01-31T12:00:00Z")
    >>> line["status"], line["expected_completion_time"]
    ('pending', '2026-02-28T23:59:59Z')
    """
    if not REQUEST.fullmatch(request):
        raise ValueError(
            f"--receive={request} is not a request; write one as for --forget, such as client:0"
        )
    if not PSEUDONYM.fullmatch(requester):
        raise ValueError(
            f"--requester={requester} must be a pseudonym of letters, digits, dots and dashes, at "
            "most 64; a ledger keeps it for ever, so give no name and no address"
        )
    start = day(submitted, "submitted") if submitted else now[:10]
    if start > now[:10]:
        raise ValueError(f"--submitted={start} lies in the future; give the day of the request")
    end = day(due, "due") if due else month_after(start)
    if end < start:
        raise ValueError(f"--due={end} lies before the request of {start}; give a later day")
    return dict(
        event="received",
        subject_request_id=str(uuid.uuid4()),
        subject_request_type="erasure",
        regulation="gdpr",
        request=request,
        requester=requester,
        submitted_time=f"{start}T00:00:00Z" if submitted else now,
        received_time=now,
        expected_completion_time=f"{end}T23:59:59Z",
        status="pending",
    )


def refused(life: Life, reason: str) -> dict[str, Any]:
    """The content of a line that refuses an open request.

    Raises:
      ValueError: the request is not open, or the reason is no text.
    """
    _check_open(life)
    return dict(
        event="refused",
        subject_request_id=life.id,
        request=life.request,
        reason=_reason(reason),
        status="cancelled",
    )


def extended(life: Life, due: str, reason: str) -> dict[str, Any]:
    """The content of a line that moves the day when an open request is due.

    Raises:
      ValueError: the request is not open, or the reason or the day is none.
    """
    _check_open(life)
    end = day(due, "due")
    if end < life.submitted[:10]:
        raise ValueError(f"--due={end} lies before the request of {life.submitted[:10]}")
    return dict(
        event="due",
        subject_request_id=life.id,
        request=life.request,
        reason=_reason(reason),
        expected_completion_time=f"{end}T23:59:59Z",
    )


def _check_open(life: Life) -> None:
    if life.state not in OPEN:
        raise ValueError(f"the request {life.id} is not open: it was {life.state}")


def _reason(text: str) -> str:
    if not text.strip() or len(text) > LONGEST or not text.isprintable():
        raise ValueError(f"--reason must be one line of text, at most {LONGEST} letters")
    return text


def day(text: str, flag: str) -> str:
    """A date as it is written in ISO 8601.

    >>> day("2026-12-30", "due")
    '2026-12-30'
    >>> day("30.12.2026", "due")
    Traceback (most recent call last):
    ValueError: --due=30.12.2026 is no day; write it as 2026-12-30
    """
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"--{flag}={text} is no day; write it as 2026-12-30") from None


def month_after(start: str, months: int = 1) -> str:
    """The day with the same number some months later, or the last day of that month.

    >>> month_after("2026-11-30"), month_after("2026-11-30", 3), month_after("2026-12-01")
    ('2026-12-30', '2027-02-28', '2027-01-01')
    """
    first = datetime.date.fromisoformat(start)
    years, month = divmod(first.month - 1 + months, 12)
    for number in range(first.day, 27, -1):
        try:
            return datetime.date(first.year + years, month + 1, number).isoformat()
        except ValueError:
            continue
    return datetime.date(first.year + years, month + 1, first.day).isoformat()


# ---------------------------------------------------------------- what lines say


def lives(lines: Iterable[dict[str, Any]]) -> list[Life]:
    """The requests that lines tell of, in the order of their receipt.

    >>> line = received("client:0", "p-17", now="2026-01-31T12:00:00Z")
    >>> asked = dict(event="asked", request="client:0", time="2026-02-01T12:00:00Z")
    >>> asked["subject_request_ids"] = [line["subject_request_id"]]
    >>> [(life.request, life.state) for life in lives([line, asked])]
    [('client:0', 'decided')]
    """
    found: dict[str, Life] = {}
    for line in lines:
        if line["event"] == "received":
            found.setdefault(line["subject_request_id"], _begun(line))
            continue
        one = line.get("subject_request_id") if line["event"] in EVENTS else None
        for name in [one, *line.get(IDS, [])]:
            if name in found:
                found[name] = _after(found[name], line)
    return list(found.values())


def _begun(line: dict[str, Any]) -> Life:
    return Life(
        line["subject_request_id"],
        line["request"],
        line["requester"],
        line["submitted_time"],
        line["received_time"],
        line["expected_completion_time"],
        "received",
    )


def _after(life: Life, line: dict[str, Any]) -> Life:
    """A request after one more line about it."""
    time = line["time"]
    match line["event"]:
        case "due":
            return life._replace(due=line["expected_completion_time"], reason=line["reason"])
        case "refused" if life.state in OPEN:
            return life._replace(state="refused", refused=time, reason=line["reason"])
        case "asked" if life.state == "received":
            return life._replace(state="decided", decided=time, method=line.get("method"))
        case "answered" if life.state in OPEN:
            return life._replace(state="answered", answered=time, method=line["method"])
        case "audited" if life.answered:
            verdict = str(line["verdicts"].get(life.method, {}).get("forgotten"))
            given = dict(life.verdicts) | {line.get("of", THIS): verdict}
            life = life._replace(verdicts=tuple(given.items()))
            state, when = ("verified", time) if life.verdict == "yes" else ("answered", None)
            return life._replace(state=state, verified=when)
    return life


def together(verdicts: Sequence[str]) -> str | None:
    """One verdict for several audits; None if there are none.

    >>> together(["inconclusive", "yes"]), together(["yes", "no"]), together(["inconclusive"])
    ('yes', 'no', 'inconclusive')
    """
    deciding = [one for one in ("no", "yes") if one in verdicts]
    return [*deciding, *verdicts[-1:], None][0]


def waiting(lines: Iterable[dict[str, Any]], request: str) -> list[str]:
    """The ids of received requests with this text that are open."""
    return [life.id for life in lives(lines) if life.request == request and life.state in OPEN]


def is_late(life: Life, now: str) -> bool:
    """Whether a request was not answered or refused by the day when it was due.

    >>> life = _begun(received("client:0", "p-17", now="2026-01-31T12:00:00Z"))
    >>> is_late(life, "2026-02-28T23:00:00Z"), is_late(life, "2026-03-01T00:00:00Z")
    (False, True)
    """
    return (life.answered or life.refused or now) > life.due


def chosen(found: Sequence[Life], name: str) -> Life:
    """The request with an id, or with the beginning of one.

    Raises:
      ValueError: there is none, or there are several.
    """
    same = [life for life in found if life.id.startswith(name)]
    if len(same) != 1:
        known = ", ".join(life.id for life in (same or found)) or "none"
        raise ValueError(
            f"{name} is {'the beginning of several' if same else 'not the id of a'} received "
            f"request{'s' * bool(same)}; those here are: {known}"
        )
    return same[0]


def everywhere(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a ledger, and of the work directories that were begun from its model since.

    Those that are no longer there, or whose ledger is not valid, are left out.
    """
    seen = {line["hash"] for line in lines}
    found, folders, waiting = list(lines), {os.path.realpath(path)}, [(path, lines)]
    while waiting:
        folder, some = waiting.pop(0)
        for line in [line for line in some if line["event"] == "begun"]:
            beside = os.path.normpath(os.path.join(os.path.realpath(folder), str(line["beside"])))
            for place in map(pathlib.Path, (str(line["path"]), beside)):
                if ledgers.settings(place) != line["run"] or os.path.realpath(place) in folders:
                    continue
                folders.add(os.path.realpath(place))
                try:
                    more = ledgers.lines_of(place, None, None)
                except (ValueError, OSError):
                    continue
                found += [line for line in more if line["hash"] not in seen]
                seen |= {line["hash"] for line in more}
                waiting.append((place, more))
    return found


def in_words(life: Life, now: str) -> str:
    """One line on a request: its state, its days, and whether it is late.

    >>> life = _begun(received("client:0", "p-17", now="2026-01-31T12:00:00Z"))
    >>> in_words(life._replace(id="a7551968"), "2026-03-01T00:00:00Z")
    'LATE  a7551968  client:0 by p-17: received 2026-01-31, due 2026-02-28'
    """
    text = f"{life.request} by {life.requester}: received {life.received[:10]}"
    if life.state == "refused":
        text += f", refused {str(life.refused)[:10]}: {life.reason}"
    else:
        text += f", due {life.due[:10]}"
        text += f", decided {life.decided[:10]}" if life.decided else ""
        text += f", answered {life.answered[:10]} by {life.method}" if life.answered else ""
        text += f"; forgotten, by the audit: {life.verdict}" if life.verdict else ""
    return f"{'LATE' if is_late(life, now) else '':4}  {life.id}  {text}"
