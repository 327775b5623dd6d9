"""The life of a request: what the lines of ledgers say about it."""

import re
import types

import pytest

from helpers.comparisons import written
from jfu import ledger
from launch.records import erasure, inspection, ledgers, life, records
from launch.workdir.places import WorkDir

NOW = "2026-11-30T12:00:00Z"


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "key", lambda *_: None)
    return written(tmp_path / "W")


def lines_of(work):
    return ledgers.lines_of(work.path, None, None)


def put(work, content):
    records.write(WorkDir(work.path, None), content.pop("event"), **content)


def audit(verdict):
    """A report with a question that this version does not know."""
    given = dict(forgotten=verdict, unheard_of="no")
    methods = {"not": dict(verdicts=given), "original": dict(verdicts=dict(forgotten="no"))}
    return dict(asked=dict(request="client:0"), seeds=[0, 1], methods=methods)


@pytest.mark.parametrize(
    "start, months, end",
    [
        ("2026-01-31", 1, "2026-02-28"),
        ("2028-01-31", 1, "2028-02-29"),
        ("2026-12-31", 2, "2027-02-28"),
        ("2026-08-31", 1, "2026-09-30"),
        ("2026-05-05", 12, "2027-05-05"),
        ("2026-05-05", 8, "2027-01-05"),
    ],
)
def test_months_end_on_the_same_day_or_the_last_one(start, months, end):
    assert life.month_after(start, months) == end


def test_a_request_from_its_receipt_to_the_verdict(work):
    content = life.received("client:0", "p-17", now=NOW, submitted="2026-11-20")
    name = content["subject_request_id"]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", name
    )
    assert content["expected_completion_time"] == "2026-12-20T23:59:59Z"
    put(work, content)
    assert life.waiting(lines_of(work), "client:0") == [name]
    assert life.waiting(lines_of(work), "client:1") == []
    states = []

    def after(event, **more):
        put(work, dict(event=event, request="client:0", **more))
        (one,) = life.lives(lines_of(work))
        states.append((one.state, one.status, one.verdict))

    about = {"method": "not", "from": "0" * 64, life.IDS: [name]}
    after("asked", **about)
    more = dict(model="1" * 64, rounds=1, before=dict(test=90.0), after=dict(test=89.0))
    after("answered", **about, **more)
    assert life.waiting(lines_of(work), "client:0") == []
    for verdict in ("inconclusive", "yes", "no"):
        records.audited(work, audit(verdict), [])
        line = lines_of(work)[-1]
        assert line["verdicts"]["not"] == dict(forgotten=verdict, unheard_of="no")
        (one,) = life.lives(lines_of(work))
        states.append((one.state, one.status, one.verdict))
    wanted = [("decided", "in_progress", None), ("answered", "completed", None)]
    wanted += [("answered", "completed", "inconclusive"), ("verified", "completed", "yes")]
    assert states == [*wanted, ("answered", "completed", "no")]
    before = len(lines_of(work))
    records.audited(work, audit("no"), [])  # the same again
    assert len(lines_of(work)) == before
    records.audited(work, audit("yes"), [])  # as before the last
    assert life.lives(lines_of(work))[0].state == "verified"
    assert all(erasure._is_plain(line) and inspection.in_words(line) for line in lines_of(work))


def test_a_request_that_is_refused_or_due_later(work):
    for request in ("client:0", "client:1"):
        put(work, life.received(request, "p-17", now=NOW))
    first, second = life.lives(lines_of(work))
    assert first.due == "2026-12-30T23:59:59Z"
    put(work, life.extended(first, "2027-02-28", "many requests"))
    put(work, life.refused(second, "no client of this federation"))
    first, second = life.lives(lines_of(work))
    assert (first.due, first.state) == ("2027-02-28T23:59:59Z", "received")
    assert (second.state, second.status) == ("refused", "cancelled")
    assert second.reason == "no client of this federation"
    with pytest.raises(ValueError, match=f"the request {second.id} is not open: it was refused"):
        life.refused(second, "again")
    with pytest.raises(ValueError, match=r"lies before the request of 2026-11-30"):
        life.extended(first, "2026-11-29", "x")
    assert [life.is_late(one, "2027-03-01T00:00:00Z") for one in (first, second)] == [True, False]
    assert all(erasure._is_plain(line) and inspection.in_words(line) for line in lines_of(work))


@pytest.mark.parametrize(
    "given, why",
    [
        (dict(request="Anna"), "--receive=Anna is not a request"),
        (dict(requester="anna@example.org"), "must be a pseudonym"),
        (dict(requester="Anna Berg"), "must be a pseudonym"),
        (dict(submitted="2026-12-01"), "lies in the future"),
        (dict(submitted="yesterday"), "--submitted=yesterday is no day"),
        (dict(due="2026-11-31"), "--due=2026-11-31 is no day"),
        (dict(due="2026-11-29"), "lies before the request of 2026-11-30"),
    ],
)
def test_what_is_not_received(given, why):
    usual = dict(request="client:0", requester="p-17", now=NOW)
    with pytest.raises(ValueError, match=why):
        life.received(**usual | given)


def test_late_requests_are_listed_first(work, monkeypatch, capsys):
    """What launch.ledger does, with the messages of impossible flags."""
    names = "head key_file prove_erased new_key_file receive requester submitted due refuse reason"
    usual = dict.fromkeys([*names.split(), "request_id", "export"]) | dict(gone=[])

    def said(**given):
        flags = types.SimpleNamespace(**usual | dict(workdir=str(work.path)) | given)
        monkeypatch.setattr(inspection, "FLAGS", flags)
        inspection.ledger()
        return "".join(capsys.readouterr())

    said(receive="client:0", requester="p-1")
    out = said(receive="client:1", requester="p-2", submitted="2026-01-05")
    late = re.search(r"received (\S+): p-2 asks to forget client:1, due 2026-02-05", out)[1]
    out = said()
    listed = out[out.index("2 requests were received, and 1 are or were late:") :].splitlines()
    assert listed[1].startswith(f"LATE  {late}  client:1 by p-2")
    assert listed[2].startswith("      ") and "client:0 by p-1" in listed[2]
    path = work.path / "ledger.jsonl"
    kept = path.read_bytes()
    for wrong, why in [
        (dict(refuse="nobody", reason="x"), "nobody is not the id of a received request; those"),
        (dict(refuse="nobody"), "--refuse needs --reason"),
        (dict(refuse=late, reason="two\nlines"), "--reason must be one line of text"),
        (dict(due="2027-01-01", request_id=late), "give --request_id and --reason"),
        (dict(receive="client:0"), "--receive needs --requester"),
        (dict(receive="client:0", requester="p-1", refuse="x"), "give one alone"),
        (dict(refuse=late, reason="x", due="2027-01-01"), "a refused request is not due"),
    ]:
        with pytest.raises(ValueError, match=re.escape(why)):
            said(**wrong)
        assert path.read_bytes() == kept
    assert "Article 12(3) allows two months more" in said(
        request_id=late[:8], due="2026-06-30", reason="many"
    )
    said(refuse=late, reason="no client here")
    assert ledger.read(path)[-1]["status"] == "cancelled"


def test_a_line_about_a_request_that_no_script_writes_is_refused(work):
    put(work, dict(event="received", subject_request_id=7, request="client:0"))
    with pytest.raises(ValueError, match="line 2 of .* is not one that jfu's scripts write"):
        lines_of(work)
