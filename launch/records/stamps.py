"""Time stamps of a ledger's head from a time-stamping service (RFC 3161).

The service signs the head together with its own time. So nobody can claim later that the lines up
to the head were written at another time, whoever keeps the ledger. The service learns the head
only. Here it is checked that the answer is about this head. The service's signature is checked by
``openssl ts -verify``, with the service's certificate (VERIFY.md has the command).

C. Adams, P. Cain, D. Pinkas and R. Zuccherato. Internet X.509 public key infrastructure time-stamp
protocol (TSP). RFC 3161, 2001.
"""

import secrets
import urllib.request

from launch.records import verifier

SECONDS, MOST = 30, 2**20  # of waiting; bytes of an answer
SHA256 = bytes.fromhex("300d06096086480165030402010500")  # AlgorithmIdentifier


def der(tag: int, content: bytes) -> bytes:
    """A value in DER.

    >>> der(0x02, b"\\x01").hex(), der(0x04, bytes(200))[:3].hex()
    ('020101', '0481c8')
    """
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(length)]) + length + content


def query(head: str, nonce: int) -> bytes:
    """A request for a time stamp.

    Args:
      head: SHA-256 as hexadecimal text, which is stamped itself.
      nonce: a random number, which the answer must repeat.
    """
    imprint = der(0x30, SHA256 + der(0x04, bytes.fromhex(head)))
    number = nonce.to_bytes(nonce.bit_length() // 8 + 1, "big")
    return der(0x30, der(0x02, b"\1") + imprint + der(0x02, number) + der(0x01, b"\xff"))


def stamp(url: str, head: str) -> tuple[bytes, str]:
    """Asks a service for a time stamp.

    Returns:
      ``(answer, time)``: the answer's bytes, as ``openssl ts`` reads them, and the service's time.

    Raises:
      ValueError: the service cannot be reached, refuses, or answers about something else.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"--timestamp_url={url} is no address; give one with http:// or https://")
    nonce = secrets.randbits(63)
    kind = {"Content-Type": "application/timestamp-query"}
    asked = urllib.request.Request(url, query(head, nonce), kind)
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS) as answered:
            answer = answered.read(MOST)
    except OSError as error:
        raise ValueError(
            f"{url} gives no time stamp ({error}); try again, or leave --timestamp_url out"
        ) from None
    try:
        imprint, time, repeated = verifier.stamped(answer)
    except verifier.Refused as error:
        raise ValueError(f"{url} gives no time stamp ({error})") from None
    if (imprint, repeated) != (head, nonce):
        raise ValueError(f"{url} gives a time stamp of something else")
    return answer, time
