"""Verifies a folder of evidence about a request to forget. This file needs nothing but Python.

  python -I verify.py                          the folder in which this file is
  python -I verify.py FOLDER --key=PRINT       also: who signed; PRINT came from the signer directly
  python -I verify.py FOLDER --model=FILE      also: this is the model that the evidence is about

It checks that every file is as it was signed, that no file was added, that the lines of the ledger
follow one another, and that all files say the same. The exit status is 0 if so, and 1 otherwise.

Anybody can sign anything with a key of their own. So compare the key's fingerprint with one that
the signer published elsewhere (--key), and take this file from where you trust it.

S. Josefsson and I. Liusvaara. Edwards-curve digital signature algorithm (EdDSA). RFC 8032, 2017.
DSSE: Dead Simple Signing Envelope, protocol 1.0. in-toto attestation framework, Statement v1.
"""

import base64
import hashlib
import json
import os
import re
import sys

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
OURS = "urn:jfu:erasure-evidence:v1"
TESTS = "https://in-toto.io/attestation/test-result/v0.1"
ATTESTATION, EVIDENCE, SCHEMA = "attestation.intoto.jsonl", "evidence.json", "evidence.schema.json"
LEDGER, KEY, PAGE, STAMP = "ledger.jsonl", "public-key.pem", "audit.html", "head.tsr"
MOST = 2**28  # bytes of a file
FIRST = "0" * 64


class Refused(Exception):
    """What is wrong with the folder, in a sentence."""


# ---------------------------------------------------------------- Ed25519, RFC 8032 section 5.1

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
PREFIX = bytes.fromhex("302a300506032b6570032100")  # of a public key in DER, RFC 8410


def add(a, b):
    """The sum of two points (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z."""
    one, two = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    three, four = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = two - one, four - three, four + three, two + one
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    out = (0, 1, 1, 0)
    while number:
        if number & 1:
            out = add(out, point)
        point = add(point, point)
        number >>= 1
    return out


def decoded(data):
    """The point of 32 bytes; None if they are no point in its only form."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if len(data) != 32 or y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def encoded(point):
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = decoded(bytes.fromhex("58" + "66" * 31))


def is_signed(public, message, signature):
    """Whether an Ed25519 signature of 64 bytes is that of a message by a public key."""
    point = decoded(public)
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or point is None or s >= ORDER:
        return False
    if encoded(times(8, point)) == encoded((0, 1, 1, 0)):  # such a key signs every message
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % ORDER
    minus = (P - point[0], point[1], 1, P - point[3])
    return encoded(add(times(s, BASE), times(k, minus))) == signature[:32]


# ---------------------------------------------------------------- forms


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def once(pairs):
    """An object of JSON; refuses a name that it has twice."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refused("an object of JSON has a name twice")
    return dict(pairs)


def parsed(data, what):
    try:
        return json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Refused(f"{what} is no JSON") from None


def pae(kind, body):
    """The bytes that a DSSE envelope's signature is of.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def pem(public):
    text = base64.b64encode(PREFIX + public).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n".encode()


def public_key(data):
    """The 32 bytes of a public key's file."""
    try:
        public = base64.b64decode(data.split(b"\n")[1], validate=True)[len(PREFIX) :]
    except (ValueError, IndexError):
        public = b""
    if pem(public) != data or len(public) != 32:
        raise Refused(f"{KEY} is no public key of Ed25519")
    return public


def unfit(value, schema, root, where="it"):
    """The first place where a value does not fit a JSON schema; "" if it fits.

    Only the words of JSON Schema 2020-12 that the schema of evidence uses are known.
    """
    if "$ref" in schema:
        return unfit(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        tries = [unfit(value, one, root, where) for one in schema["anyOf"]]
        return "" if "" in tries else tries[-1]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = dict(
        object=isinstance(value, dict),
        array=isinstance(value, list),
        string=isinstance(value, str),
        boolean=isinstance(value, bool),
        integer=is_number and value == int(value),
        number=is_number,
        null=value is None,
    )
    if kinds and not any(fits[kind] for kind in kinds):
        return f"{where} is no {' or '.join(kinds)}"
    if "const" in schema and value != schema["const"]:
        return f"{where} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is none of {schema['enum']}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        return f"{where} does not have the form {schema['pattern']}"
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name in schema.get("required", []):
            if name not in value:
                return f"{where} has no {name}"
        for name, one in value.items():
            if name not in known and more is False:
                return f"{where} has a field {name!r}, which is not known"
            inner = known.get(name, more)
            if isinstance(inner, dict) and (why := unfit(one, inner, root, f"{where}.{name}")):
                return why
    if isinstance(value, list) and "items" in schema:
        for place, one in enumerate(value):
            if why := unfit(one, schema["items"], root, f"{where}[{place}]"):
                return why
    return ""


# ---------------------------------------------------------------- time stamps, RFC 3161


def der(data):
    """The values that follow one another in DER: tag and content of each."""
    found = []
    while data:
        tag, size, start = data[0], data[1], 2
        if size > 127:
            start += size - 128
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size or start > 6:
            raise ValueError
        found.append((tag, data[start : start + size]))
        data = data[start + size :]
    return found


def stamped(answer):
    """What a time-stamping service answered: the stamped digest, its time, the number sent to it.

    The service's signature is not checked here: ``openssl ts -verify`` does that.
    """
    try:
        ((_, whole),) = der(answer)
        (_, status), *token = der(whole)
        if der(status)[0][1] not in (b"\0", b"\1"):
            raise Refused("the service did not grant the time stamp")
        (_, (_, signed)) = der(token[0][1])
        (_, info) = der(der(der(signed)[0][1])[2][1])
        ((_, inner),) = der(der(info[1])[0][1])
        fields = der(inner)
        imprint, time = der(fields[2][1])[1][1], fields[4][1].decode()
        numbers = [content for tag, content in fields[5:] if tag == 2]
        form = re.fullmatch(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.\d+)?Z", time)
        time = "{}-{}-{}T{}:{}:{}Z".format(*form.groups())
        return imprint.hex(), time, int.from_bytes(numbers[0], "big") if numbers else None
    except (ValueError, IndexError, AttributeError):
        raise Refused(f"{STAMP} is no time stamp") from None


# ---------------------------------------------------------------- the folder


def statements(files):
    """The signed statements, with the payload and the signature of each."""
    lines = files[ATTESTATION].split(b"\n")
    if lines.pop() or not 1 <= len(lines) <= 2:
        raise Refused(f"{ATTESTATION} has not the form in which it was written")
    found = []
    for line in lines:
        envelope = parsed(line, ATTESTATION)
        if canonical(envelope).encode() != line or set(envelope) != {
            "payload",
            "payloadType",
            "signatures",
        }:
            raise Refused(f"{ATTESTATION} has not the form in which it was written")
        (signature,) = envelope["signatures"]
        body = base64.b64decode(envelope["payload"], validate=True)
        signed = base64.b64decode(signature["sig"], validate=True)
        same = base64.b64encode(body).decode(), base64.b64encode(signed).decode()
        if same != (envelope["payload"], signature["sig"]) or set(signature) != {"keyid", "sig"}:
            raise Refused(f"{ATTESTATION} has not the form in which it was written")
        if envelope["payloadType"] != PAYLOAD:
            raise Refused(f"{ATTESTATION} has a statement that is not of in-toto")
        found.append((parsed(body, ATTESTATION), body, signed, signature["keyid"]))
    return found


def check_signed(found, public):
    """Refuses statements that the key did not sign, or that do not belong together."""
    first = found[0][0]
    kinds = [statement["predicateType"] for statement, *_ in found]
    if kinds != [OURS, TESTS][: len(kinds)] or first["predicate"]["statements"] != [
        sha256(body) for _, body, *_ in found[1:]
    ]:
        raise Refused("a signed statement was removed, added or exchanged")
    for statement, body, signed, name in found:
        if statement["_type"] != STATEMENT or statement["subject"] != first["subject"]:
            raise Refused("the signed statements are not about the same model")
        if name != sha256(public) or not is_signed(public, pae(PAYLOAD, body), signed):
            raise Refused("a signature is not that of the key in the folder")


def check_files(files, named):
    """Refuses a file that is not as the statement says, is missing, or was added."""
    for name in sorted(named):
        if name not in files:
            raise Refused(f"{name} is missing")
        if sha256(files[name]) != named[name]:
            raise Refused(f"{name} is not as it was signed")
    if more := sorted(files.keys() - named.keys() - {ATTESTATION}):
        raise Refused(f"{more[0]} was added: no signed statement names it")


def check_ledger(data):
    """The lines of the excerpt that are shown whole, if all lines follow one another.

    A line about other requests has only its number, time, hash, and the hash of the line before.
    """
    entries, whole, before = data.decode().split("\n"), [], FIRST
    if entries.pop() or not entries:
        raise Refused(f"{LEDGER} is cut off")
    for number, text in enumerate(entries, 1):
        line = parsed(text, LEDGER)
        if canonical(line) != text or (line["number"], line["previous"]) != (number, before):
            raise Refused(f"line {number} of {LEDGER} does not follow the one before")
        before = line["hash"]
        if set(line) == {"hash", "number", "previous", "time"}:
            continue
        bare = {name: v for name, v in line.items() if name not in ("hash", "mac", "next")}
        if sha256(canonical(bare).encode()) != before:
            raise Refused(f"line {number} of {LEDGER} was altered")
        whole.append(line)
    last = whole[-1] if whole else {}
    named = {str(line["number"]): line["hash"] for line in whole[:-1]}
    if last.get("hash") != before or last["event"] != "exported" or last["lines"] != named:
        raise Refused(f"the last line of {LEDGER} does not name the lines that are shown")
    return whole


def check_same(files, statement, evidence, whole):
    """Refuses evidence, statement and ledger that do not say the same."""
    said, ledger = statement["predicate"], evidence["ledger"]
    if said["head"] != whole[-1]["hash"] or ledger["head"] != whole[-1]["hash"]:
        raise Refused(f"the evidence has another head than {LEDGER}")
    verdicts = [
        {name: entry["verdicts"] for name, entry in audit["methods"].items()}
        for audit in evidence["audits"]
    ]
    if said["verdicts"] != verdicts or said["request"] != evidence["request"]["text"]:
        raise Refused("the evidence has other verdicts than the signed statement")
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    if digests != evidence["subject"] or said["digests"] != evidence["digests"]:
        raise Refused("the evidence is about other files than the signed statement")
    time = ledger["timestamp"]
    if (STAMP in files) != bool(time) or (
        time and stamped(files[STAMP])[:2] != (ledger["head"], time["time"])
    ):
        raise Refused("the time stamp is not one of the ledger's head")
    answer, lines = evidence["answer"], [x for x in whole if x["event"] == "answered"]
    if answer and not any(
        all(line.get(name) == answer[name] for name in ("method", "from", "model", "rounds"))
        for line in lines
    ):
        raise Refused(f"no line of {LEDGER} has the answer of the evidence")
    for audit in evidence["audits"]:
        if audit["page"] and sha256(files[audit["page"]]) != audit["sha256"]["audit.html"]:
            raise Refused("the audit's page is not the one that the evidence names")
        line = {line["hash"]: line for line in whole}.get(audit["line"])
        given = {name: entry["verdicts"] for name, entry in audit["methods"].items()}
        if audit["line"] and not (
            line
            and line["verdicts"].items() >= given.items()
            and line.get("named", line.get("wrote")).items() >= audit["sha256"].items()
            and line.get("of", audit["of"]) == audit["of"]
        ):
            raise Refused(f"no line of {LEDGER} has the audit's verdicts")
    last = {line.get("of"): line["hash"] for line in whole if line["event"] == "audited"}
    if not set(last.values()) <= {audit["line"] for audit in evidence["audits"]}:
        raise Refused(f"the last audit that {LEDGER} names is not in the evidence")


def check_tests(statement, evidence):
    """Refuses a test result that does not say what the evidence says."""
    lists = dict(passedTests=[], warnedTests=[], failedTests=[])
    for audit in evidence["audits"]:
        for name, entry in audit["methods"].items():
            for question, verdict in entry["verdicts"].items():
                kind = dict(yes="passedTests", no="failedTests").get(verdict, "warnedTests")
                lists[kind].append(f"{audit['of']}: {name}: {question}")
    result = "FAILED" if lists["failedTests"] else "WARNED" if lists["warnedTests"] else "PASSED"
    said = {name: statement["predicate"][name] for name in (*lists, "result")}
    if said != {name: sorted(some) for name, some in lists.items()} | {"result": result}:
        raise Refused("the test result has other verdicts than the evidence")


def check(files, key=None, model=None):
    """What was verified, in sentences; cheap checks first, and nothing is believed before the last.

    Args:
      files: the content of each file of the folder, by name.
      key: the fingerprint of the signer's key, from elsewhere; None if there is none.
      model: the content of a model's file to compare, or None.

    Raises:
      Refused: something is not as it was signed.
    """
    for name in (ATTESTATION, EVIDENCE, SCHEMA, LEDGER, KEY):
        if name not in files:
            raise Refused(f"{name} is missing")
    found = statements(files)
    statement = found[0][0]
    check_files(files, statement["predicate"]["files"])
    public = public_key(files[KEY])
    evidence, schema = parsed(files[EVIDENCE], EVIDENCE), parsed(files[SCHEMA], SCHEMA)
    if why := unfit(evidence, schema, schema):
        raise Refused(f"{EVIDENCE} does not fit its schema: {why}")
    whole = check_ledger(files[LEDGER])
    check_same(files, statement, evidence, whole)
    if len(found) > 1:
        check_tests(found[1][0], evidence)
    check_signed(found, public)
    if key is not None and key.lower() != sha256(public):
        raise Refused(f"it was signed with another key, whose fingerprint is {sha256(public)}")
    if model is not None and sha256(model) not in evidence["subject"].values():
        raise Refused("the model is not the one that the evidence is about")
    return told(evidence, whole, public, key, model, files)


def told(evidence, whole, public, key, model, files):
    """Sentences on what was verified, and on what was not."""
    shown = len(files[LEDGER].split(b"\n")) - 1
    lines = [
        f"The {len(files)} files are as they were signed on {evidence['made']}.",
        f"The request is {evidence['request']['text']}.",
        f"{len(whole)} of {shown} lines of the ledger are shown; they follow one another.",
        f"The ledger's head is {whole[-1]['hash']}.",
    ]
    for name, digest in evidence["subject"].items():
        same = " It is the file that you gave." if model and sha256(model) == digest else ""
        lines.append(f"The evidence is about {name} with SHA-256 {digest}.{same}")
    for audit in evidence["audits"]:
        for name, entry in audit["methods"].items():
            said = ", ".join(f"{q}: {verdict}" for q, verdict in entry["verdicts"].items())
            lines.append(f"Audit ({audit['of']}) of {name}: {said}.")
    known = "the one that you gave" if key else "not compared with anything (--key)"
    lines.append(f"The key's fingerprint is {sha256(public)}, {known}.")
    if STAMP in files:
        time = evidence["ledger"]["timestamp"]["time"]
        lines.append(f"{STAMP} says that the head existed at {time}; VERIFY.md has the command")
        lines.append("that checks the signature of the time-stamping service.")
    return lines


def read(folder):
    """The content of every file of a folder."""
    files = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > MOST:
            raise Refused(f"{name} is not a plain file of this folder")
        with open(path, "rb") as file:
            files[name] = file.read()
    return files


def main(words):
    given = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    places = [word for word in words if not word.startswith("--")]
    if len(places) > 1 or given.keys() - {"key", "model"}:
        print(__doc__)
        return 2
    try:
        model = None
        if "model" in given:
            with open(given["model"], "rb") as file:
                model = file.read()
        folder = places[0] if places else os.path.dirname(os.path.abspath(__file__))
        for line in check(read(folder), given.get("key"), model):
            print(line)
    except Refused as error:
        print(f"REFUSED: {error}")
        return 1
    except OSError as error:
        print(f"REFUSED: {error}")
        return 1
    except Exception as error:  # whatever else a folder makes of it, it is not as it was signed
        print(f"REFUSED: a file has not the form in which it was written ({error!r})")
        return 1
    print("VERIFIED")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
