"""The folder that is handed over: what is in it, and that nobody can change it unseen."""

import dataclasses
import http.server
import json
import shutil
import subprocess
import sys
import threading
import types

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from helpers import browser
from helpers.answers import begun, train, unlearn
from jfu import ledger
from jfu.audit import rules
from jfu.tasks import TASKS
from launch.records import (
    audits,
    discretion,
    erasure,
    folder,
    inspection,
    ledgers,
    life,
    records,
    schema,
    signing,
    stamps,
    support,
    verifier,
)
from launch.report import officer
from launch.workdir import runs
from launch.workdir.places import WorkDir

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PRINT = verifier.sha256(signing.public_bytes(KEY))
BARE = [sys.executable, "-I", "-S"]  # without any installed package


@pytest.fixture(autouse=True, scope="module")
def _no_key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "key", lambda *_: None)
        yield


def receive(path, request, requester):
    content = life.received(request, requester, now=ledger.now())
    name = content["subject_request_id"]
    records.write(WorkDir(path, None), content.pop("event"), **content)
    return name


def report(request="client:1", forgotten="inconclusive", **more):
    """What an audit of an answer says, with a question that this version does not know."""
    given = dict(forgotten=(forgotten, "Why so."), heard_of=("no", "It <was> & is not."))
    entry = dict(
        verdicts={question: verdict for question, (verdict, _) in given.items()},
        reasons={question: why for question, (_, why) in given.items()},
    )
    return dict(
        audited="2026-11-30",
        asked=dict(request=request),
        seeds=[0],
        questions=dict(forgotten="The rule.", heard_of="Another rule."),
        controls=dict(old=["no", "It differs."], third=None),
        methods={"not": entry, "original": entry},
        notes=["One seed decides nothing."],
    )


def audit(path, content):
    (path / "audit.json").write_text(json.dumps(content))
    (path / "audit.html").write_text("<!doctype html><title>Audit</title>\n")
    records.audited(WorkDir(path, None), content, ["audit.json", "audit.html"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A was trained; client 0 left it for B, client 1 left that for C. Both requests came before.

    Returns the folder of all, the ids of the requests, and the evidence of C.
    """
    root = tmp_path_factory.mktemp("runs")
    train(root / "A")
    first = receive(root / "A", "client:0", "p-first")
    unlearn(root / "B", root / "A", "client:0", 2.0)
    second = receive(root / "B", "client:1", "p-second")
    unlearn(root / "C", root / "B", "client:1", 3.0)
    audit(root / "C", report())
    folder.export(root / "C", root / "out", KEY)
    return types.SimpleNamespace(root=root, first=first, second=second, out=root / "out")


@pytest.fixture(scope="module")
def files(made):
    return verifier.read(made.out)


def evidence_of(files):
    return json.loads(files["evidence.json"])


def bare(program, *words):
    done = subprocess.run([*BARE, program, *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


# ---------------------------------------------------------------- what is in it


def test_a_python_with_neither_jax_nor_jfu_verifies_it(made, tmp_path):
    for name in ("jax", "jfu", "numpy", "cryptography"):
        assert subprocess.run([*BARE, "-c", f"import {name}"], capture_output=True).returncode == 1
    status, said = bare(made.out / "verify.py")
    assert (status, said.splitlines()[-1]) == (0, "VERIFIED"), said
    assert f"fingerprint is {PRINT}, not compared with anything (--key)" in said
    assert "Audit (this model) of not: forgotten: inconclusive, heard_of: no." in said
    words = [made.out, f"--key={PRINT}", f"--model={made.root / 'C' / 'model.safetensors'}"]
    status, said = bare(made.out / "verify.py", *words)
    assert status == 0 and "the one that you gave" in said and "It is the file that you" in said
    words[-1] = f"--model={made.root / 'B' / 'model.safetensors'}"
    assert bare(made.out / "verify.py", *words)[0] == 1
    assert bare(made.out / "verify.py", made.out, f"--key={'0' * 64}")[0] == 1
    assert bare(made.out / "verify.py", tmp_path / "none")[0] == 1
    assert bare(made.out / "verify.py", made.out, "--keys=x")[0] == 2


def test_an_altered_byte_is_refused_in_every_file(made, tmp_path):
    """By the program itself, one byte of each file; the slow test has all bytes."""
    program = shutil.copy(made.out / "verify.py", tmp_path / "verify.py")
    for name in sorted(path.name for path in made.out.iterdir()):
        copy = shutil.copytree(made.out, tmp_path / "copy")
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        status, said = bare(program, copy)
        assert (status, said[:9]) == (1, "REFUSED: "), (name, said)
        shutil.rmtree(copy)


def altered(data, places):
    """The content with one byte changed, cut out, or put in, at each of some places."""
    for place in places:
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        yield data[:place] + data[place + 1 :]
        yield data[:place] + b" " + data[place:]


def refused(files, **changed):
    try:
        verifier.check(files | changed)
    except Exception as error:
        return isinstance(error, verifier.Refused) or "main says that it is refused"
    return False


def test_a_sample_of_altered_bytes_is_refused(files):
    for name, data in files.items():
        places = sorted({0, 1, len(data) - 1, *range(7, len(data), len(data) // 5)})
        for other in altered(data, places):
            assert refused(files, **{name: other}), (name, other)


@pytest.mark.slow
def test_every_altered_byte_is_refused(files):
    for name, data in files.items():
        for place in range(len(data)):
            other = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            assert refused(files, **{name: other}), (name, place)


def test_files_that_were_added_or_removed(files):
    assert verifier.check(files)
    for name in files:
        assert refused({n: data for n, data in files.items() if n != name}), name
    assert refused(files, **{"more.txt": b"x"})
    one, two = files["attestation.intoto.jsonl"].splitlines(keepends=True)
    for lines in (one, two, two + one, one + one, one + two + two, one + b"\n" + two):
        assert refused(files, **{"attestation.intoto.jsonl": lines})


def test_what_the_evidence_says(made, files):
    evidence, lines = evidence_of(files), ledger.read(made.root / "C" / "ledger.jsonl")
    assert verifier.unfit(evidence, schema.SCHEMA, schema.SCHEMA) == ""
    (one,) = evidence["request"]["received"]
    assert (evidence["request"]["text"], evidence["request"]["state"]) == ("client:1", "answered")
    assert (one["subject_request_id"], one["requester"]) == (made.second, "p-second")
    assert (one["status"], one["late"]) == ("completed", False)
    model = ledger.digest(made.root / "C" / "model.safetensors")
    assert evidence["subject"] == {"model.safetensors": model}
    assert evidence["answer"]["model"] == model and evidence["answer"]["method"] == "not"
    (audit,) = evidence["audits"]
    assert audit["methods"]["not"]["verdicts"] == dict(forgotten="inconclusive", heard_of="no")
    assert set(audit["methods"]) == {"not"}  # the old model is a control
    assert audit["questions"]["heard_of"] == dict(title="heard_of", rule="Another rule.")
    assert audit["questions"]["forgotten"]["title"] == rules.TITLES["forgotten"]
    names = ("config.json", "results.jsonl", "audit.json", "audit.html")
    wanted = {name: ledger.digest(made.root / "C" / name) for name in names}
    assert evidence["digests"] == wanted
    found = erasure.holdings(made.root / "C", "client:1")[0]
    left = sum(file.depends for file in found)
    assert evidence["erasure"] == dict(files=len(found), depends=left, missing=0) and left
    assert evidence["ledger"]["head"] == lines[-1]["hash"] and lines[-1]["event"] == "exported"
    ours, tests = [statement for statement, *_ in verifier.statements(files)]
    assert ours["predicate"]["verdicts"] == [{"not": audit["methods"]["not"]["verdicts"]}]
    assert tests["predicate"]["result"] == "FAILED"
    assert tests["predicate"]["failedTests"] == ["this model: not: heard_of"]
    assert tests["predicate"]["warnedTests"] == ["this model: not: forgotten"]
    assert [one["name"] for one in tests["predicate"]["configuration"]] == list(names)


def test_nothing_tells_of_another_request(made, files):
    """Neither the other client, nor who asked, nor which models were between."""
    events = [line["event"] for line in ledger.read(made.root / "C" / "ledger.jsonl")]
    wanted = ["trained", "received", "asked", "answered", "received", "asked", "answered"]
    assert events == [*wanted, "audited", "exported"]
    shown = [json.loads(line) for line in files["ledger.jsonl"].splitlines()]
    assert [line.get("event") for line in shown] == [
        *("trained", None, None, None, "received", "asked", "answered", "audited", "exported")
    ]
    assert [set(line) for line in shown[1:4]] == 3 * [{"number", "time", "previous", "hash"}]
    for name, data in files.items():
        for secret in ("client:0", made.first, "p-first"):
            assert secret.encode() not in data, name


def test_reasons_and_notes_name_no_other_client(made, tmp_path):
    """A page that does stays out, as the ledger has its digest; the request's own client stays."""
    path = shutil.copytree(made.root / "B", tmp_path / "B")
    content = report("client:0", forgotten="no")
    content["methods"]["not"]["reasons"]["forgotten"] = "Client 7 lost most, unlike client:0."
    content["controls"]["third"] = ["no", "On clients 5 and 6 it differs."]
    content["notes"] = ["10 clients; client 8 had the backdoor."]
    audit(path, content)
    names = folder.export(path, tmp_path / "kept", KEY)
    kept = verifier.read(tmp_path / "kept")
    (found,) = evidence_of(kept)["audits"]
    assert found["methods"]["not"]["reasons"]["forgotten"] == (
        "another client lost most, unlike client:0."
    )
    assert found["controls"]["third"] == ["no", "On another client it differs."]
    assert found["notes"] == ["10 clients; another client had the backdoor."]
    assert "audit.html" in names and verifier.check(kept)
    for name, data in kept.items():
        assert not discretion.others(data.decode(), "client:0"), name

    page = b"<th>client 4</th> --backdoor_client=4 --forget=client:0"
    (path / "audit.html").write_bytes(page)
    records.audited(WorkDir(path, None), content, ["audit.json", "audit.html"])
    names = folder.export(path, tmp_path / "left", KEY)
    left = verifier.read(tmp_path / "left")
    (found,) = evidence_of(left)["audits"]
    assert found["page"] is None and "audit.html" not in names and verifier.check(left)
    assert found["notes"][0] == audits.UNSHOWN and audits.UNSHOWN.encode() in left["summary.html"]
    assert found["sha256"]["audit.html"] == verifier.sha256(page)  # as the ledger has it


def test_the_summary_speaks_the_words_of_its_task(files):
    """Nothing else of the folder differs, and it still verifies."""
    kept = {name: files[name] for name in ("ledger.jsonl", "audit.html")}
    words = TASKS["regress"].words
    plain, other = (folder.sealed(kept, evidence_of(files), KEY, *w) for w in ((), (words,)))
    assert b"<th>Accuracy on new data</th>" in plain["summary.html"]
    assert b"<th>Explained variance on new data</th>" in other["summary.html"]
    assert b"ccuracy" not in other["summary.html"] and verifier.check(other)
    assert {n for n in plain if plain[n] != other[n]} == {
        "summary.html",
        "attestation.intoto.jsonl",
    }


# ---------------------------------------------------------------- a signer who lies


def sealed(files, change=lambda evidence: None, **others):
    """The folder signed again with the same key, with other evidence or other files."""
    evidence = evidence_of(files)
    change(evidence)
    kept = {name: files[name] for name in ("ledger.jsonl", "audit.html")}
    return folder.sealed(kept | others, evidence, KEY)


def better(evidence):
    evidence["audits"][0]["methods"]["not"]["verdicts"]["forgotten"] = "yes"


def without_audit(evidence):
    evidence["audits"] = []


def other_model(evidence):
    evidence["answer"]["model"] = "0" * 64


def other_head(evidence):
    evidence["ledger"]["head"] = "0" * 64


def wrong_form(evidence):
    evidence["made"] = "yesterday, perhaps"


@pytest.mark.parametrize(
    "change, why",
    [
        (better, "no line of ledger.jsonl has the audit's verdicts"),
        (without_audit, "the last audit that ledger.jsonl names is not in the evidence"),
        (other_model, "no line of ledger.jsonl has the answer"),
        (other_head, "another head than ledger.jsonl"),
        (wrong_form, "does not fit its schema: it.made does not have the form"),
    ],
)
def test_evidence_that_its_ledger_does_not_bear_out(files, change, why):
    with pytest.raises(verifier.Refused, match=why):
        verifier.check(sealed(files, change))
    assert verifier.check(sealed(files))


def test_a_ledger_or_a_page_that_was_changed_before_signing(files):
    lines = files["ledger.jsonl"].splitlines(keepends=True)
    hidden = [json.loads(line) for line in lines]
    bare = {name: hidden[7][name] for name in ("hash", "number", "previous", "time")}
    for other, why in [
        ([*lines[:3], *lines[4:]], "line 4 of ledger.jsonl does not follow"),
        (lines[:-1], "does not name the lines that are shown"),
        ([*lines[:7], (ledger.canonical(bare) + "\n").encode(), lines[8]], "does not name the li"),
        ([line.replace(b"client:1", b"client:2") for line in lines], "line 5 .* was altered"),
    ]:
        with pytest.raises(verifier.Refused, match=why):
            verifier.check(sealed(files, **{"ledger.jsonl": b"".join(other)}))
    with pytest.raises(verifier.Refused, match="the audit's page is not the one"):
        verifier.check(sealed(files, **{"audit.html": b"<p>All is well.</p>"}))


def test_a_test_result_that_says_more_than_the_evidence(files, monkeypatch):
    monkeypatch.setattr(
        signing,
        "test_result",
        lambda *_: dict(result="PASSED", passedTests=[], warnedTests=[], failedTests=[]),
    )
    with pytest.raises(verifier.Refused, match="the test result has other verdicts"):
        verifier.check(sealed(files))


def test_another_key_is_seen(files):
    """Somebody else signs the same folder: only the fingerprint from elsewhere tells."""
    other = Ed25519PrivateKey.generate()
    forged = folder.sealed(
        {name: files[name] for name in ("ledger.jsonl", "audit.html")}, evidence_of(files), other
    )
    assert verifier.check(forged)
    assert verifier.check(files, PRINT)
    with pytest.raises(verifier.Refused, match="signed with another key"):
        verifier.check(forged, PRINT)
    swapped = forged | {"attestation.intoto.jsonl": files["attestation.intoto.jsonl"]}
    assert refused(swapped)


# ---------------------------------------------------------------- what is exported, and what not


def test_a_request_that_was_refused(made, tmp_path):
    """From the ledger where it was received; the answer to another one is elsewhere."""
    work = shutil.copytree(made.root / "A", tmp_path / "A")
    name = receive(work, "client:2", "p-third")
    one = life.chosen(life.lives(ledgers.lines_of(work, None, None)), name)
    content = life.refused(one, "It is <no> client here.")
    records.write(WorkDir(work, None), content.pop("event"), **content)
    folder.export(work, tmp_path / "out", KEY, name=name[:8])
    files = verifier.read(tmp_path / "out")
    assert verifier.check(files)
    evidence = evidence_of(files)
    assert (evidence["request"]["state"], evidence["answer"]) == ("refused", None)
    assert evidence["request"]["received"][0]["reason"] == "It is <no> client here."
    assert b"The request was refused. It is &lt;no&gt; client here." in files["summary.html"]
    assert b"p-first" not in b"".join(files.values())
    with pytest.raises(ValueError, match="and 3 were received; name one with --request_id"):
        folder.export(work, tmp_path / "other", KEY)


def test_what_is_not_exported(made, tmp_path):
    root = shutil.copytree(made.root, tmp_path / "runs")
    with pytest.raises(ValueError, match="was answered in another work directory"):
        folder.export(root / "A", tmp_path / "new", KEY, name=made.first)
    with pytest.raises(ValueError, match="not an empty folder"):
        folder.export(root / "C", root / "out", KEY)
    with pytest.raises(ValueError, match="lies in the work directory"):
        folder.export(root / "C", root / "C" / "out", KEY)
    (root / "C" / "audit.html").write_text("All is well.")
    with pytest.raises(ValueError, match=r"audit.html is not what its ledger says"):
        folder.export(root / "C", tmp_path / "new", KEY)
    (root / "C" / "audit.html").unlink()
    with pytest.raises(ValueError, match=r"audit.html is not what its ledger says"):
        folder.export(root / "C", tmp_path / "new", KEY)
    assert not (tmp_path / "new").exists()


def test_an_answer_without_a_receipt_or_an_audit(tmp_path):
    """As an older ledger has it, whose lines do not name their run."""
    train(tmp_path / "A")
    unlearn(tmp_path / "B", tmp_path / "A", "client:0", 2.0)
    path = tmp_path / "B" / "ledger.jsonl"
    older = []
    for line in ledger.read(path):
        bare = {n: v for n, v in line.items() if n not in (*ledger.CHAIN, "config")}
        older.append(ledger.chained(bare, older, time=line["time"]))
    path.write_text("".join(ledger.canonical(line) + "\n" for line in older))
    folder.export(tmp_path / "B", tmp_path / "out", KEY)
    files = verifier.read(tmp_path / "out")
    assert verifier.check(files) and "audit.html" not in files
    evidence = evidence_of(files)
    assert (evidence["request"]["state"], evidence["audits"]) == ("answered", [])
    assert evidence["subject"] and evidence["answer"]["method"] == "not"
    assert b"does not say when the request arrived" in files["summary.html"]
    lines = ledgers.lines_of(tmp_path / "B", None, None)
    assert ledgers.own(tmp_path / "B", lines) == lines  # none was disowned
    inspection.verification.read(tmp_path / "B")


def compared(path, config):
    """A comparison on five seeds with an audit, in which the method forgot and another did not."""
    work, rows = begun(path, config, "compare")
    records.compared(work, config, rows)
    content = report(config.forget, "yes") | dict(seeds=[0, 1, 2, 3, 4])
    content["methods"]["finetune"] = report(config.forget, "no")["methods"]["not"]
    audit(path, content)


def test_an_audit_of_a_comparison_supports_an_answer(made, tmp_path, monkeypatch):
    """One model decides nothing; the same method on more seeds does. A no outweighs a yes."""
    same = lambda path, read=runs.read_run: read(path)._replace(data=dict(train="x"))
    monkeypatch.setattr(support.runs, "read_run", same)
    root = shutil.copytree(made.root, tmp_path / "runs")
    config = dataclasses.replace(same(str(root / "B")).config, init_params=None, eval_every=3)
    compared(tmp_path / "W", config)
    audit(root / "B", report("client:0"))
    out = tmp_path / "out"
    folder.export(root / "B", out, KEY, audit=tmp_path / "W")
    files = verifier.read(out)
    assert verifier.check(files)
    evidence = evidence_of(files)
    assert evidence["request"]["state"] == "verified"
    assert [one["of"] for one in evidence["audits"]] == ["this model", support.OF]
    assert [list(one["methods"]) for one in evidence["audits"]] == [["not"], ["not"]]
    assert files["audit-comparison.html"] == (tmp_path / "W" / "audit.html").read_bytes()
    assert b"an audit found that the data was forgotten" in files["summary.html"]
    line = [x for x in ledger.read(root / "B" / "ledger.jsonl") if x["event"] == "audited"][-1]
    assert line["head"] == ledger.read(tmp_path / "W" / "ledger.jsonl")[-1]["hash"]
    assert erasure._is_plain(line) and support.OF in inspection.in_words(line)
    assert evidence["digests"]["audit.html"] == ledger.digest(root / "B" / "audit.html")
    # It is named in the ledger now, and cannot be left out: neither here nor by who signs.
    with pytest.raises(ValueError, match="give its work directory with --audit"):
        folder.export(root / "B", tmp_path / "new", KEY)
    kept = {name: files[name] for name in ("ledger.jsonl", "audit.html")}
    evidence["audits"].pop()
    with pytest.raises(verifier.Refused, match="the last audit that .* names is not in the evid"):
        verifier.check(folder.sealed(kept, evidence, KEY))
    audit(root / "B", report("client:0", "no"))
    folder.export(root / "B", tmp_path / "new", KEY, audit=tmp_path / "W")
    assert evidence_of(verifier.read(tmp_path / "new"))["request"]["state"] == "answered"
    assert b"the data was not forgotten" in (tmp_path / "new" / "summary.html").read_bytes()
    for change, why in [
        (dict(lr=0.7), "was run with lr=0.7, not None, so its audit says nothing"),
        (dict(forget="client:2"), "was run with forget=client:2, not client:0"),
        (dict(options=("not.x=1",)), r"was run with options=\['not.x=1'\], not \[\]"),
    ]:
        other = tmp_path / f"W-{next(iter(change))}"
        compared(other, dataclasses.replace(config, **change))
        with pytest.raises(ValueError, match=why):
            support.checked(root / "B", other)
    with pytest.raises(ValueError, match="has no audit of a comparison with not"):
        support.checked(root / "B", root / "C")
    (tmp_path / "W" / "audit.html").write_text("All is well.")
    with pytest.raises(ValueError, match=r"audit.html is not what its ledger says"):
        support.checked(root / "B", tmp_path / "W")


def test_a_comparison_of_other_data_supports_nothing(made, tmp_path):
    """Nor does one that does not say which data it had, as these made-up ones."""
    config = dataclasses.replace(runs.read_run(str(made.root / "B")).config, init_params=None)
    compared(tmp_path / "W", config)
    with pytest.raises(ValueError, match="has other data than .*B, or data that it does not name"):
        support.checked(made.root / "B", tmp_path / "W")
    with pytest.raises(ValueError, match="supports an answer of launch.unlearn, and .*A has none"):
        support.checked(made.root / "A", tmp_path / "W")


def test_keys_that_sign(tmp_path, monkeypatch):
    path = tmp_path / "sign.pem"
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    path.write_bytes(KEY.private_bytes(*form))
    path.chmod(0o600)
    assert signing.public_bytes(signing.signing_key(str(path))) == signing.public_bytes(KEY)
    with pytest.raises(FileNotFoundError, match="openssl genpkey -algorithm ed25519 -out .*none"):
        signing.signing_key(str(tmp_path / "none"))
    path.write_bytes(X25519PrivateKey.generate().private_bytes(*form))
    with pytest.raises(ValueError, match="is no private key of Ed25519"):
        signing.signing_key(str(path))
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ValueError, match="is no private key of Ed25519"):
        signing.signing_key(str(path))
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in [name for name in sys.modules if name.startswith("cryptography.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"pip install 'jfu\[evidence\]'"):
        signing.signing_key(str(path))


# ---------------------------------------------------------------- the page in plain words


@pytest.mark.skipif(not browser.chromium(), reason="no Chromium on PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(made, width):
    seen = browser.look(made.out / "summary.html", width)
    assert (seen.errors, seen.requests, seen.sideways, seen.without_alternative) == ([], [], [], [])
    assert seen.title == "Answer to a deletion request: client:1"


@pytest.mark.parametrize(
    "forgotten, state, words, mark",
    [
        ("yes", "verified", "an audit found that the data was forgotten", "yes"),
        ("no", "answered", "an audit found that the data was not forgotten", "no"),
        ("inconclusive", "answered", "Whether the data was forgotten is not shown", "open"),
        ("not shown", "answered", "Whether the data was forgotten is not shown", "open"),
    ],
)
def test_the_first_sentence_is_what_was_found(files, forgotten, state, words, mark):
    evidence = evidence_of(files)
    evidence["request"]["state"] = state
    evidence["audits"][0]["methods"]["not"]["verdicts"]["forgotten"] = forgotten
    said, kind = officer.headline(evidence)
    assert words in said and kind == mark
    assert "showed nothing" not in said
    assert f'<p class="result {mark}"><strong>{said}</strong>' in officer.html(evidence, PRINT)


def test_the_first_sentence_says_that_nothing_was_there(files):
    evidence = evidence_of(files)
    given = evidence["audits"][0]["methods"]["not"]["verdicts"]
    given |= dict(forgotten="not shown", was_it_there="no")
    said, kind = officer.headline(evidence)
    assert said.endswith("The model before it showed nothing of the data.") and kind == "open"


def test_texts_are_escaped(files):
    page = files["summary.html"].decode()
    assert "It &lt;was&gt; &amp; is not." in page and "<was>" not in page


# ---------------------------------------------------------------- time stamps


@pytest.fixture
def service(tmp_path):
    """A time-stamping service by openssl, at an address of this machine."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on PATH")
    text = f"""[tsa]
default_tsa=it
[it]
serial={tmp_path}/serial
signer_cert={tmp_path}/cert.pem
signer_key={tmp_path}/key.pem
signer_digest=sha256
default_policy=1.2.3.4
digests=sha256
[req]
distinguished_name=name
x509_extensions=more
prompt=no
[name]
CN=a test
[more]
extendedKeyUsage=critical,timeStamping
"""
    (tmp_path / "conf").write_text(text)
    (tmp_path / "serial").write_text("01")
    openssl = lambda *words: subprocess.run(
        ["openssl", *words], check=True, capture_output=True, cwd=tmp_path
    )
    key = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    openssl(*key)
    openssl("req", "-x509", "-key", "key.pem", "-config", "conf", "-out", "cert.pem", "-days", "9")
    said = {}

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            query = self.rfile.read(int(self.headers["Content-Length"]))
            (tmp_path / "q").write_bytes(said.get("query", query))
            openssl("ts", "-reply", "-config", "conf", "-queryfile", "q", "-out", "r")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said.get("answer", (tmp_path / "r").read_bytes()))

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    yield types.SimpleNamespace(url=url, said=said, cert=tmp_path / "cert.pem")
    server.shutdown()
    server.server_close()


def test_the_head_is_stamped_by_a_service(made, tmp_path, service):
    root = shutil.copytree(made.root, tmp_path / "runs")
    folder.export(root / "C", tmp_path / "out", KEY, stamp_url=service.url)
    files = verifier.read(tmp_path / "out")
    assert "head.tsr says that the head existed at 20" in "".join(verifier.check(files))
    head = evidence_of(files)["ledger"]["head"]
    command = ["openssl", "ts", "-verify", "-digest", head, "-in", tmp_path / "out" / "head.tsr"]
    done = subprocess.run([*command, "-CAfile", service.cert], capture_output=True, text=True)
    assert "Verification: OK" in done.stdout + done.stderr
    assert f"-digest {head} -in head.tsr" in files["VERIFY.md"].decode()
    # The stamp of another head does not pass, though it is signed with the same key.
    other, _ = stamps.stamp(service.url, "1" * 64)
    kept = {name: files[name] for name in ("ledger.jsonl", "audit.html")}
    again = folder.sealed(kept | {"head.tsr": other}, evidence_of(files), KEY)
    with pytest.raises(verifier.Refused, match="the time stamp is not one of the ledger's head"):
        verifier.check(again)
    with pytest.raises(verifier.Refused, match="the time stamp is not one of the ledger's head"):
        verifier.check(folder.sealed(kept, evidence_of(files), KEY))


def test_services_that_give_no_stamp(service):
    service.said["query"] = stamps.query("2" * 64, 5)
    with pytest.raises(ValueError, match="gives a time stamp of something else"):
        stamps.stamp(service.url, "1" * 64)
    for answer in (b"", b"hello", bytes.fromhex("3005300302010" + "2")):
        service.said["answer"] = answer
        with pytest.raises(ValueError, match="gives no time stamp"):
            stamps.stamp(service.url, "1" * 64)
    with pytest.raises(ValueError, match="gives no time stamp"):
        stamps.stamp("http://127.0.0.1:9/", "1" * 64)
    with pytest.raises(ValueError, match="is no address"):
        stamps.stamp("file:///etc/passwd", "1" * 64)
