"""The JSON schema of evidence.json, version 1 (JSON Schema 2020-12).

A field may be added to version 1, and readers must accept fields that they do not know. A field
that goes or changes its meaning needs version 2.
"""

from typing import Any

NAME = "urn:jfu:evidence:v1"


def an_object(required: str = "", **properties: Any) -> dict[str, Any]:
    return dict(type="object", properties=properties, required=required.split())


def by_name(value: dict[str, Any]) -> dict[str, Any]:
    return dict(type="object", additionalProperties=value)


def or_null(value: dict[str, Any]) -> dict[str, Any]:
    return dict(anyOf=[dict(type="null"), value])


TEXT, COUNT, NUMBER = dict(type="string"), dict(type="integer"), dict(type="number")
DIGEST = dict(type="string", pattern="^[0-9a-f]{64}$")
TIME = dict(type="string", pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$")
STATES = ["received", "decided", "answered", "verified", "refused", "compared"]

RECEIVED = an_object(
    "subject_request_id subject_request_type requester submitted_time received_time "
    "expected_completion_time status state late",
    subject_request_id=TEXT,
    subject_request_type=dict(const="erasure"),
    requester=TEXT,
    submitted_time=TIME,
    received_time=TIME,
    expected_completion_time=TIME,
    status=dict(enum=["pending", "in_progress", "completed", "cancelled"]),
    state=dict(enum=STATES),
    late=dict(type="boolean"),
    decided_time=or_null(TIME),
    answered_time=or_null(TIME),
    verified_time=or_null(TIME),
    refused_time=or_null(TIME),
    reason=or_null(TEXT),
)
ANSWER = {
    "type": "object",
    "required": ["time", "method", "from", "model", "rounds", "before", "after", "costs"],
    "properties": {
        "time": TIME,
        "method": TEXT,
        "from": DIGEST,
        "model": DIGEST,
        "rounds": COUNT,
        "before": by_name(NUMBER),
        "after": by_name(NUMBER),
        "costs": by_name(NUMBER),
    },
}
AUDIT = an_object(
    "of audited seeds questions controls methods notes page sha256 line",
    of=TEXT,
    audited=TEXT,
    seeds=dict(type="array", items=COUNT),
    questions=by_name(an_object("title rule", title=TEXT, rule=TEXT)),
    controls=by_name(or_null(dict(type="array", items=TEXT))),
    methods=by_name(
        an_object("verdicts reasons", verdicts=by_name(TEXT), reasons=by_name(TEXT)),
    ),
    notes=dict(type="array", items=TEXT),
    page=or_null(TEXT),
    sha256=by_name(DIGEST),
    line=or_null(DIGEST),
)
LEDGER = an_object(
    "head lines shown keyed",
    head=DIGEST,
    lines=COUNT,
    shown=COUNT,
    keyed=dict(type="boolean"),
    timestamp=or_null(an_object("time url", time=TIME, url=TEXT)),
)
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": NAME,
    "title": "Evidence about a request to forget",
    **an_object(
        "schema version made made_by request subject digests answer audits erasure ledger",
        schema=dict(const=NAME),
        version=dict(const=1),
        made=TIME,
        made_by=TEXT,
        request=an_object(
            "text state received",
            text=TEXT,
            state=dict(enum=STATES),
            received=dict(type="array", items=RECEIVED),
        ),
        subject=by_name(DIGEST),
        digests=by_name(DIGEST),
        answer=or_null(ANSWER),
        audits=dict(type="array", items=AUDIT),
        erasure=or_null(
            an_object("files depends missing", files=COUNT, depends=COUNT, missing=COUNT)
        ),
        ledger=LEDGER,
    ),
}
