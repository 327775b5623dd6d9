"""The one file that verifies evidence: its signatures, its forms, by published vectors."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.records import verifier

# RFC 8032, section 7.1, TEST 1 to 3 and TEST SHA(abc): public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
        "f9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
        "f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f76098"
        "4dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3"
        "feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c664"
        "31e0303dca179c138ac17ad9bef1177331a704",
    ),
]
# Of the test vectors of DSSE, all signed with the key of TEST 1 above: type, payload, signature.
ENVELOPES = [
    (
        "application/vnd.in-toto+json",
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
        "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA==",
    ),
    (
        "application/vnd.exämple+json",
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
        "xmSk/ug66ysT7ayhkCIjhAq42zgZXSsEWuzUaNL7w2eGAdF/NU6/fRXPtmfN+5DNSAs5/i2lUnHjbbjPsu0tAw==",
    ),
    (
        "application/vnd.in-toto+json",
        "",
        "gSggCAaTLTYyRH6FIDBem6meyIynsYy8RTHVzwx9tnTb7Bg/1jMWnuVgI/gffqmbsC2VX5/jHfkkDqsj7CDbDg==",
    ),
]


@pytest.mark.parametrize("public, message, signature", VECTORS)
def test_signatures_of_the_standard(public, message, signature):
    public, message, signature = map(bytes.fromhex, (public, message, signature))
    assert verifier.is_signed(public, message, signature)
    assert not verifier.is_signed(public, message + b"\0", signature)
    for place in (0, 31, 32, 63):
        other = bytearray(signature)
        other[place] ^= 1
        assert not verifier.is_signed(public, message, bytes(other))
    more = int.from_bytes(signature[32:], "little") + verifier.ORDER  # the same, modulo the order
    if more < 2**256:
        again = signature[:32] + more.to_bytes(32, "little")
        assert not verifier.is_signed(public, message, again)
    assert not verifier.is_signed(public, message, signature + b"\0")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
@settings(max_examples=10, deadline=None)
def test_it_agrees_with_another_implementation(secret, message):
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert verifier.is_signed(public, message, signature)
    assert not verifier.is_signed(public, message + b"x", signature)


@pytest.mark.parametrize(
    "public",
    [
        "01" + "00" * 31,  # the neutral element: any signature of it with R = [S]B would hold
        "00" * 32,  # of order four
        "ec" + "ff" * 30 + "7f",  # of order two
        "ee" + "ff" * 30 + "7f",  # y = 1 written as p + 1
        "02" + "00" * 31,  # no point
    ],
)
def test_keys_that_sign_everything_are_none(public):
    s = 5
    point = verifier.encoded(verifier.times(s, verifier.BASE))
    signature = point + s.to_bytes(32, "little")
    for message in (b"", b"a", b"b", b"c"):
        assert not verifier.is_signed(bytes.fromhex(public), message, signature)


@pytest.mark.parametrize("kind, payload, signature", ENVELOPES)
def test_envelopes_of_the_standard(kind, payload, signature):
    public = bytes.fromhex(VECTORS[0][0])
    body, signature = base64.b64decode(payload), base64.b64decode(signature)
    assert verifier.is_signed(public, verifier.pae(kind, body), signature)
    assert not verifier.is_signed(public, verifier.pae(kind + "x", body), signature)


def test_public_keys_have_one_form():
    public = bytes.fromhex(VECTORS[0][0])
    data = verifier.pem(public)
    assert verifier.public_key(data) == public
    for wrong in (data + b"\n", data.replace(b"MCow", b"MCox"), b"", data[:-1]):
        with pytest.raises(verifier.Refused):
            verifier.public_key(wrong)


ROOT = {
    "type": "object",
    "required": ["a"],
    "properties": {
        "a": {"type": "array", "items": {"type": "integer"}},
        "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/word"}]},
        "c": {"additionalProperties": {"const": 1}},
        "d": {"enum": ["x", "y"]},
        "e": {"properties": {}, "additionalProperties": False},
    },
    "$defs": {"word": {"type": "string", "pattern": "^[a-z]+$"}},
}


@pytest.mark.parametrize(
    "value, why",
    [
        ({"a": [1, 2.0], "b": None, "c": {"z": 1}, "d": "x", "e": {}, "more": 1}, ""),
        ({"a": [], "b": "word"}, ""),
        ([], "it is no object"),
        ({}, "it has no a"),
        ({"a": [1, True]}, "it.a[1] is no integer"),
        ({"a": [1.5]}, "it.a[0] is no integer"),
        ({"a": [], "b": "Word"}, "it.b does not have the form ^[a-z]+$"),
        ({"a": [], "c": {"z": 2}}, "it.c.z is not 1"),
        ({"a": [], "d": "z"}, "it.d is none of ['x', 'y']"),
        ({"a": [], "e": {"f": 1}}, "it.e has a field 'f', which is not known"),
    ],
)
def test_a_value_fits_a_schema_or_not(value, why):
    assert verifier.unfit(value, ROOT, ROOT) == why


def test_a_name_twice_is_refused():
    with pytest.raises(verifier.Refused, match="a name twice"):
        verifier.parsed('{"a": 1, "a": 2}', "it")
    assert verifier.parsed(json.dumps({"a": 1}), "it") == {"a": 1}
