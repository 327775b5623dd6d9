"""A certificate for the loopback address, and the keys by which SuperNodes are known."""

import datetime
import ipaddress
import pathlib
from typing import NamedTuple


class Certificate(NamedTuple):
    """Paths of the root that clients trust, and of the server's own certificate and key."""

    root: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path


def certificate(folder: pathlib.Path) -> Certificate:
    """A certificate of 127.0.0.1 that signs itself, for ten days; made anew each time."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(parents=True, exist_ok=True)
    key, now = ec.generate_private_key(ec.SECP384R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=10))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA384())
    )
    paths = Certificate(*(folder / name for name in ("root.pem", "server.pem", "server.key")))
    from cryptography.hazmat.primitives.serialization import Encoding

    for path in (paths.root, paths.certificate):
        path.write_bytes(made.public_bytes(Encoding.PEM))
    paths.key.write_bytes(_private(key, "PKCS8"))
    return paths


def of_nodes(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """A private key for each node, and beside it the public one; those that are there stay."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    paths = [folder / f"node-{number}.key" for number in range(count)]
    for path in paths:
        if not path.exists():
            key = ec.generate_private_key(ec.SECP384R1())
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            path.with_suffix(".pub").write_bytes(public)
            path.write_bytes(_private(key, "OpenSSH"))
    return paths


def _private(key, kind: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, getattr(PrivateFormat, kind), NoEncryption())
