"""One page about a request in plain words, for a data-protection officer; and VERIFY.md."""

import html as markup
from collections.abc import Iterable
from typing import Any

from launch.report.terminal import title_of

STYLE = """
:root { color-scheme: light; --line: #d8dce3; --soft: #f4f6f9; --ink: #1d2430; --dim: #5b6472; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: #fff; }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 2rem; }
h1 { font-size: 1.45rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.02rem; margin: 1.2rem 0 .3rem; border-bottom: 1px solid var(--line); }
p { margin: .35rem 0; } .dim { color: var(--dim); font-size: .85rem; }
.result { border-left: .3rem solid var(--dim); background: var(--soft); padding: .5rem .8rem; }
.result.yes { border-color: #1f8a4c; } .result.no { border-color: #b3242a; }
.result.open { border-color: #b98900; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .2rem .5rem .2rem 0; font-weight: 400;
  border-bottom: 1px solid var(--soft); overflow-wrap: anywhere; }
th { color: var(--dim); width: 32%; }
.verdicts th { color: var(--ink); border: 0; padding-bottom: 0; }
.verdicts td.verdict { font-weight: 600; border: 0; padding-bottom: 0; }
.verdicts td.why { color: var(--dim); font-size: .82rem; line-height: 1.3; padding-top: 0; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media (max-width: 32rem) { .verdicts th { width: 55%; } }
@page { size: A4; margin: 14mm; }
@media print { body { font-size: 9pt; line-height: 1.3; } .verdicts td.why { font-size: 7.5pt; }
   main { max-width: none; padding: 0; }
  h2 { margin-top: .8rem; } h2, tr, .result { break-inside: avoid; } h2 { break-after: avoid; } }
"""

HEADLINES = dict(
    received="The request was received. It is not answered yet.",
    decided="The request was accepted. Its answer has begun and is not finished.",
    answered="The request was answered. Whether the data was forgotten is not shown.",
    verified="The request was answered, and an audit found that the data was forgotten.",
    refused="The request was refused.",
    compared="Methods were compared on this request. No model was changed by it.",
)
FAILED = "The request was answered, but an audit found that the data was not forgotten."
FORGOTTEN = "forgotten"  # the question of an audit that a request is about
BASELINE = "was_it_there"  # the question whether there was anything to forget
NOTES = 3  # of an audit, on the page; audit.html has all


def html(evidence: dict[str, Any], fingerprint: str) -> str:
    """The page; it needs no network and prints on one sheet of paper.

    Args:
      evidence: the content of evidence.json.
      fingerprint: SHA-256 of the signer's public key.
    """
    request = evidence["request"]
    words, kind = headline(evidence)
    what = "Methods compared on" if request["state"] == "compared" else "Answer to"
    title = f"{what} a deletion request: {request['text']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">Written on {date(evidence["made"])} by {escape(evidence["made_by"])}.</p>',
        f'<p class="result {kind}"><strong>{escape(words)}</strong></p>',
        "<h2>The request</h2>",
        rows([("To forget", in_words(request["text"]))]),
        *received(request["received"]),
        *done(evidence),
        *audited(evidence["audits"], evidence["answer"]),
        "<h2>What is left of the data</h2>",
        *(f"<p>{escape(line)}</p>" for line in left(evidence["erasure"])),
        "<h2>How to check this page</h2>",
        f"<p>Every file in this folder is signed. VERIFY.md says how to check that, without the "
        f"software that wrote it. The signer's key has the fingerprint <code>{fingerprint}</code>. "
        f"The ledger's head is <code>{evidence['ledger']['head']}</code>.{stamped(evidence)}</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"</head><body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def headline(evidence: dict[str, Any]) -> tuple[str, str]:
    """The answer in a sentence, and yes, no or open: how it is marked."""
    state, answer = evidence["request"]["state"], evidence["answer"]
    method = answer["method"] if answer else None
    entries = [audit["methods"].get(method, {}) for audit in evidence["audits"]]
    verdicts = [entry["verdicts"] for entry in entries if entry]
    if state == "answered" and "no" in [given.get(FORGOTTEN) for given in verdicts]:
        return FAILED, "no"
    words = HEADLINES[state]
    if state == "answered" and "no" in [given.get(BASELINE) for given in verdicts]:
        words += " The model before it showed nothing of the data."
    if state == "answered" and not evidence["audits"]:
        words += " There was no audit."
    if state == "refused":
        words += f" {evidence['request']['received'][0]['reason']}"
    return words, "yes" if state == "verified" else "open"


def in_words(request: str) -> str:
    """A request as a sentence's end.

    >>> in_words("client:0,3"), in_words("class:7@client:0")
    ('all data of client 0,3', 'the data of class 7 of client 0')
    >>> in_words("fraction:0.1"), in_words("mask:a.npy")
    ('a share of 0.1 of the data', 'the data that a.npy marks')
    """
    kind, _, values = request.partition(":")
    where = ""
    if kind in ("class", "fraction"):
        values, _, where = values.partition("@client:")
    of = f" of client {where}" if where else ""
    forms = {
        "client": f"all data of client {values}",
        "class": f"the data of class {values}{of}",
        "fraction": f"a share of {values} of the data{of}",
        "mask": f"the data that {values} marks",
    }
    return forms.get(kind, request)


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in pairs)
    return f"<table>{lines}</table>"


def received(found: list[dict[str, Any]]) -> list[str]:
    """When a request arrived, from whom, and whether it was in time."""
    if not found:
        return ["<p>The ledger does not say when the request arrived, or from whom.</p>"]
    out = []
    for one in found:
        due = date(one["expected_completion_time"])
        pairs = [
            ("Number", one["subject_request_id"]),
            ("From", f"{one['requester']} (a pseudonym)"),
            ("Made, received", f"{date(one['submitted_time'])}, {date(one['received_time'])}"),
            ("Due", f"{due}, late" if one["late"] else due),
        ]
        names = dict(decided="Answer begun", answered="Answered", verified="Verified by an audit")
        names |= dict(refused="Refused")
        pairs += [(t, date(one[f"{n}_time"])) for n, t in names.items() if one[f"{n}_time"]]
        pairs += [("Reason", one["reason"])] if one["reason"] else []
        out.append(rows(pairs))
    return out


def done(evidence: dict[str, Any]) -> list[str]:
    """What was done to the model, with its accuracy before and after."""
    answer = evidence["answer"]
    if not answer:
        return []
    names = dict(
        test="Accuracy on new data",
        retain="Accuracy on the data that stays",
        forget="Accuracy on the forgotten data",
        asr="Success of a planted backdoor",
    )
    pairs = [
        ("Method", f"{title_of(answer['method'])}, {counted(answer['rounds'], 'round')}"),
        ("Finished", date(answer["time"])),
        *(
            (title, f"{answer['before'][name]:.1f} % before, {answer['after'][name]:.1f} % after")
            for name, title in names.items()
            if name in answer["before"] and name in answer["after"]
        ),
        *(("New model", f"{n}, SHA-256 {digest}") for n, digest in evidence["subject"].items()),
    ]
    return ["<h2>What was done</h2>", rows(pairs)]


def audited(audits: list[dict[str, Any]], answer: dict[str, Any] | None) -> list[str]:
    """The verdicts: of the method that answered, or of all methods that were compared."""
    if not audits:
        return ["<h2>What an audit found</h2><p>There was no audit.</p>"]
    out = []
    for audit in audits:
        details = f" Details: {audit['page']}." if audit["page"] else ""
        out.append(
            f"<h2>What an audit of {escape(audit['of'])} found</h2><p>It was made on "
            f"{escape(audit['audited'])}, with {counted(len(audit['seeds']), 'repetition')}."
            f"{details}</p>"
        )
        for name, entry in audit["methods"].items():
            if answer and name != answer["method"]:
                continue
            if len(audit["methods"]) > 1:
                out.append(f"<p><strong>{escape(title_of(name))}</strong></p>")
            lines = []
            for question, verdict in entry["verdicts"].items():
                title = audit["questions"].get(question, {}).get("title", question)
                reason = escape(entry["reasons"].get(question, ""))
                lines.append(
                    f'<tr><th>{escape(title)}</th><td class="verdict">{escape(verdict)}</td></tr>'
                    f'<tr><td class="why" colspan="2">{reason}</td></tr>'
                )
            out.append(f'<table class="verdicts">{"".join(lines)}</table>')
        out += [f'<p class="dim">{escape(note)}</p>' for note in audit["notes"][:NOTES]]
    return out


def left(erasure: dict[str, Any] | None) -> list[str]:
    """What is known of files with the data."""
    last = "Copies elsewhere, exports, file systems and backups are not known here."
    if erasure is None:
        return [f"Which files still depend on the data was not checked. {last}"]
    text = f"{counted(erasure['files'], 'file')} of this model's history were looked at."
    if erasure["depends"]:
        text += f" {erasure['depends']} of them depend, or may depend, on the data."
    else:
        text += " None of them depends on the data, except through the unlearned model."
    if erasure["missing"]:
        text += f" Sources that are missing and could not be checked: {erasure['missing']}."
    if erasure.get("said_gone"):
        text += " The operator says that sources which are missing were removed."
    return [f"{text} {last}"]


def stamped(evidence: dict[str, Any]) -> str:
    time = evidence["ledger"]["timestamp"]
    if not time:
        return ""
    return f" A time-stamping service ({escape(time['url'])}) signed it on {date(time['time'])}."


def counted(number: int, what: str) -> str:
    """A number with its noun.

    >>> counted(1, "round"), counted(2, "round")
    ('1 round', '2 rounds')
    """
    return f"{number} {what}{'s' * (number != 1)}"


def date(time: str) -> str:
    """The day of a time.

    >>> date("2026-11-30T12:00:00Z")
    '2026-11-30'
    """
    return time[:10]


def escape(words: str) -> str:
    return markup.escape(words, quote=True)


# ---------------------------------------------------------------- how to check it

WHAT = {
    "attestation.intoto.jsonl": "signed statements: the digests of all files, the verdicts",
    "audit.html": "the audit's page, as it was written",
    "audit-comparison.html": "the page of an audit of the same method in a comparison",
    "evidence.json": "what was asked, done and found",
    "evidence.schema.json": "the form of evidence.json (JSON Schema 2020-12)",
    "head.tsr": "a time stamp of the ledger's head (RFC 3161)",
    "ledger.jsonl": "the ledger; of other requests only number, time and hashes of their lines",
    "public-key.pem": "the signer's public key",
    "summary.html": "one page in plain words",
    "verify.py": "a program that checks all of this, with Python 3.9 or later and nothing else",
}


def how_to_verify(evidence: dict[str, Any], fingerprint: str, names: list[str]) -> str:
    """VERIFY.md.

    Args:
      names: the other files of the folder.
    """
    head, time = evidence["ledger"]["head"], evidence["ledger"]["timestamp"]
    files = "".join(f"| `{n}` | {WHAT[n]} |\n" for n in sorted({*names, *list(WHAT)[:1]}))
    stamp = (
        f"""
## The time

`head.tsr` says that the ledger's head existed at {time["time"]}. Check the signature of the
service with its certificate (`CA.pem`), which the service publishes:

```sh
openssl ts -verify -digest {head} -in head.tsr -CAfile CA.pem
```
"""
        if time
        else ""
    )
    return f"""# How to check this folder

```sh
python -I verify.py . --key={fingerprint}
```

It prints VERIFIED, or what is wrong. `--model=FILE` also compares a model with the one that this
folder is about.

Two things must come from elsewhere, since whoever wrote this folder could also write them:

- **The fingerprint** in the command. Ask the signer for it, or look where the signer publishes it.
- **verify.py**. Take it from a copy of jfu that you trust (`launch/records/verifier.py`), or read
  it: it is short.

| file | |
|---|---|
{files}
## What is checked

- Every file is as it was signed, and none was added. The signatures are Ed25519 (RFC 8032), over
  statements of in-toto in DSSE envelopes.
- The lines of the ledger follow one another, and those that are shown have the hashes that they
  name. The last line names all lines that are shown, so its hash (the head) stands for them.
- The evidence fits its schema. Statements, evidence, ledger and the audit's page say the same.

## What is not checked

- That the signer tells the truth. The ledger shows that its lines were not changed since the head
  was written down or stamped. It does not show that they were true.
- Lines about other requests. Their content is left out. Ask the signer for the whole ledger: its
  hashes must be those of `ledger.jsonl`.
- The model itself, unless you have it. The audit's page has the command that repeats the audit.
{stamp}"""
