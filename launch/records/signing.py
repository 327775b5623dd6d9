"""Signs statements with Ed25519, so that whoever has the public key can check them.

A statement is one of the in-toto attestation framework (Statement v1): it names files by their
digests (``subject``) and says something about them (``predicate``). It is signed in an envelope of
DSSE (Dead Simple Signing Envelope 1.0), which also signs the kind of its content. ``verifier``
checks both. It needs no package, and is the file that evidence is handed over with.

A key is made with ``openssl genpkey -algorithm ed25519 -out sign.pem``. Keep it secret, and publish
its fingerprint where a reader of the evidence can find it.
"""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jfu.files import read_bytes
from launch.records import verifier
from launch.records.ledgers import warn_of_readers


def signing_key(path: str) -> Any:
    """The private key of Ed25519 in a PEM file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is another kind of file, or the package ``cryptography`` is missing.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise ValueError(
            "signing needs the package cryptography; install it with pip install 'jfu[evidence]'"
        ) from None
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"there is no key {path}; make one with: openssl genpkey -algorithm ed25519 -out {path}"
        )
    warn_of_readers(path)
    try:
        key = load_pem_private_key(read_bytes(path, most=2**16), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(
            f"{path} is no private key of Ed25519 without a password; make one with: openssl "
            "genpkey -algorithm ed25519 -out sign.pem"
        )
    return key


def public_bytes(key: Any) -> bytes:
    """The 32 bytes of a key's public half."""
    return key.public_key().public_bytes_raw()


def statement(
    subject: Mapping[str, str], kind: str, predicate: Mapping[str, Any]
) -> dict[str, Any]:
    """A statement about files.

    Args:
      subject: SHA-256 of the files, by name.
      kind: the URI that says what the predicate means.

    >>> statement({"model.safetensors": "ab"}, "urn:example", {})["subject"]
    [{'name': 'model.safetensors', 'digest': {'sha256': 'ab'}}]
    """
    return {
        "_type": verifier.STATEMENT,
        "subject": [dict(name=name, digest=dict(sha256=d)) for name, d in sorted(subject.items())],
        "predicateType": kind,
        "predicate": dict(predicate),
    }


def body(content: Mapping[str, Any]) -> bytes:
    """The bytes of a statement that are signed."""
    return verifier.canonical(dict(content)).encode()


def envelope(content: bytes, key: Any) -> str:
    """A signed statement as a line of JSON."""
    text = lambda data: base64.b64encode(data).decode()
    signed = key.sign(verifier.pae(verifier.PAYLOAD, content))
    signature = dict(keyid=verifier.sha256(public_bytes(key)), sig=text(signed))
    whole = dict(payload=text(content), payloadType=verifier.PAYLOAD, signatures=[signature])
    return verifier.canonical(whole)


def test_result(
    audits: Iterable[Mapping[str, Any]], configuration: Mapping[str, str]
) -> dict[str, Any]:
    """The verdicts of audits as a predicate of in-toto, test-result v0.1.

    A yes is a passed test, a no a failed one. All else is a test with a warning.

    Args:
      audits: as in evidence.json.
      configuration: SHA-256 of files that the audits depend on, by name.

    >>> audit = dict(of="this model", methods=dict(n=dict(verdicts=dict(forgotten="yes"))))
    >>> found = test_result([audit], {})
    >>> found["result"], found["passedTests"]
    ('PASSED', ['this model: n: forgotten'])
    """
    kinds = dict(yes="passedTests", no="failedTests")
    lists: dict[str, list[str]] = dict(passedTests=[], warnedTests=[], failedTests=[])
    for audit in audits:
        for name, entry in audit["methods"].items():
            for question, verdict in entry["verdicts"].items():
                kind = kinds.get(verdict, "warnedTests")
                lists[kind].append(f"{audit['of']}: {name}: {question}")
    failed, warned = lists["failedTests"], lists["warnedTests"]
    return dict(
        result="FAILED" if failed else "WARNED" if warned else "PASSED",
        configuration=[dict(name=n, digest=dict(sha256=d)) for n, d in configuration.items()],
        **{name: sorted(some) for name, some in lists.items()},
    )


def attestation(contents: Sequence[bytes], key: Any) -> bytes:
    """A file of signed statements, one a line."""
    return "".join(envelope(content, key) + "\n" for content in contents).encode()
