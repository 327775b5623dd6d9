"""What others may have written is read within limits, or refused in one sentence."""

import io
import json
import os
import socket
import zipfile

import numpy as np
import pytest

from jfu import files


@pytest.fixture(params=["pipe", "folder", "device", "socket", "nothing", "nowhere"])
def unplain(request, tmp_path):
    path = tmp_path / "x"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif request.param == "nowhere":
        path.symlink_to("y")
    return path


@pytest.mark.parametrize("read", [files.read_bytes, files.read_json, files.read_npy])
def test_only_plain_files_are_read(unplain, read):
    with pytest.raises((ValueError, FileNotFoundError), match=r"not a plain file|there is no file"):
        read(unplain)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_a_name_that_is_none_is_a_sentence(name):
    with pytest.raises(ValueError, match="a"):
        files.read_bytes(name)


def test_more_than_a_limit_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"1" * 11)
    assert len(files.read_bytes(tmp_path / "x", most=11)) == 11
    with pytest.raises(ValueError, match="more than 10 bytes"):
        files.read_bytes(tmp_path / "x", most=10)
    with open(tmp_path / "y", "wb") as file:
        file.truncate(2**40)  # without content
    for read in (files.read_bytes, files.read_json):
        with pytest.raises(ValueError, match=r"more than|does not fit"):
            read(tmp_path / "y")


JSONS = {
    "deep": b"[" * 100_000,
    "deep and whole": b'{"a":' * 65 + b"1" + b"}" * 65,
    "twice": b'{"a": 1, "a": 2}',
    "nan": b"[NaN]",
    "infinity": b'{"a": -Infinity}',
    "large": b"[1e999]",
    "whole": b"[18446744073709551616]",
    "digits": b"1" * 5000,
    "half": rb'["\ud800"]',
    "bytes": b'["\xff"]',
    "cut": b'{"a": ',
    "nothing": b"",
}


@pytest.mark.parametrize("content", JSONS.values(), ids=JSONS)
def test_json_that_is_none_is_a_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    (tmp_path / "x.jsonl").write_bytes(b"1\n" + content + b"\n")
    for name, read in (("x.json", files.read_json), ("x.jsonl, line 2,", files.read_lines)):
        with pytest.raises(ValueError, match="is no JSON that jfu reads") as caught:
            read(tmp_path / name.split(",")[0])
        assert name in str(caught.value)
        assert len(str(caught.value)) < 400


def test_json_that_is_some_is_what_it_says(tmp_path):
    value = {"a": [1, -(2**63), 2**64 - 1, 0.1, None, True, 'ü"\\[[', "\U0001f600"], "": {}}
    (tmp_path / "x").write_text(json.dumps(value))
    assert files.read_json(tmp_path / "x") == value
    (tmp_path / "x").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert files.read_json(tmp_path / "x") == value
    (tmp_path / "x").write_text('{"b": 1}\n[2]\n')
    assert files.read_lines(tmp_path / "x") == [{"b": 1}, [2]]
    (tmp_path / "x").write_text("[NaN, Infinity]")
    assert files.read_json(tmp_path / "x", finite=False)[1] == np.inf
    pairs = files.parse_json(b'{"a": 1, "a": 2}', "x", objects=tuple)
    assert pairs == (("a", 1), ("a", 2))


@pytest.mark.parametrize("seed", range(20))
def test_depth_is_that_of_what_is_read(seed):
    rng = np.random.default_rng(seed)

    def value(left):
        kind = rng.integers(4 if left else 2)
        if kind == 0:
            return "".join(rng.choice(list('[]{}"\\a'), size=rng.integers(6)))
        if kind == 1:
            return 7
        inside = [value(left - 1) for _ in range(rng.integers(3))]
        return inside if kind == 2 else {f'{{"{i}': v for i, v in enumerate(inside)}

    def deep(v):
        inside = v if isinstance(v, list) else v.values() if isinstance(v, dict) else ()
        return isinstance(v, list | dict) + max(map(deep, inside), default=0)

    made = value(7)
    assert files.depth(json.dumps(made).encode()) == deep(made)


def test_names_do_not_move_a_terminal():
    hard = "\x1b]0;x\x07\0\u202e\u2066\u200b\ud800\x9b1m\r\n\t\x7f\u2028"
    assert files.shown(hard).isprintable()
    assert files.shown(hard).isascii()
    assert files.shown("Zoë 東京\n\t", lines=True) == "Zoë 東京\n\t"
    assert files.shown(7) == "7"


# ---------------------------------------------------------------- arrays


def npy(claim: str, values: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    header = claim.encode()
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header + values


def claim(shape, descr="'<f4'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


NPYS = {
    "claims much": npy(claim("(10000000000000,)")),
    "beyond 64 bits": npy(claim(f"({2**62}, {2**62})")),
    "claims little": npy(claim("(1,)"), bytes(8)),
    "negative": npy(claim("(-1,)"), bytes(4)),
    "nothing large": npy(claim("(10000000000000,)", "'<U0'")),
    "objects": npy(claim("(1,)", "'O'"), bytes(8)),
    "nested": npy("(" * 5000),
    "long": npy("{" + " " * 50_000, version=b"\x02\x00"),
    "other version": npy(claim("(1,)"), bytes(4), b"\x09\x00"),
    "cut header": npy(claim("(1,)"))[:20],
    "text": b"no array",
    "nothing": b"",
}


@pytest.mark.parametrize("content", NPYS.values(), ids=NPYS)
def test_an_array_that_is_none_is_a_sentence(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", content)
    for read, name in ((files.read_npy, "x.npy"), (files.read_npz, "x.npz")):
        with pytest.raises(ValueError, match=name) as caught:
            read(tmp_path / name)
        assert len(str(caught.value)) < 500


ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4).T,  # of Fortran's order
    "b": np.array(True),
    "c": np.array(["x", "yz"]),
    "d": np.zeros((0, 3), ">i4"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_that_are_some_are_read(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    found = files.read_npz(tmp_path / "x.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        np.save(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(files.read_npy(tmp_path / "x.npy"), array)
    assert files.read_npz(tmp_path / "x.npz", ["b", "z"]).keys() == {"b"}
    for name, header in files.npz_headers(tmp_path / "x.npz").items():
        assert (header.shape, header.dtype) == (ARRAYS[name].shape, ARRAYS[name].dtype)
        assert header.stored == (save is np.savez)
        if header.stored:
            content = (tmp_path / "x.npz").read_bytes()[header.offset :][: ARRAYS[name].nbytes]
            assert content == ARRAYS[name].tobytes("A")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("a.npy", "w") as member,
    ):
        member.write(npy(claim(f"({2**28},)")))
        for _ in range(64):
            member.write(bytes(2**24))
    assert os.path.getsize(tmp_path / "x.npz") < 2**21
    for read in (files.read_npz, files.npz_headers):
        with pytest.raises(ValueError, match="claims to unpack to"):
            read(tmp_path / "x.npz")
    np.savez_compressed(tmp_path / "y.npz", a=np.zeros(100))
    with pytest.raises(ValueError, match="claims to unpack to"):
        files.read_npz(tmp_path / "y.npz", most=800)


def test_archives_with_something_else_inside_are_refused(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", array.getvalue())
        file.writestr("b.npy", array.getvalue())
    path.write_bytes(path.read_bytes().replace(b"b.npy", b"a.npy"))
    with pytest.raises(ValueError, match="two arrays of one name"):
        files.read_npz(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "b")
    with pytest.raises(ValueError, match="which is no array"):
        files.read_npz(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.npy", array.getvalue())
    with pytest.raises(ValueError, match="packed in a way"):
        files.read_npz(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_refused_or_read_right(tmp_path, save):
    """Every byte changed in turn: each member's sum is right, or there is a sentence."""
    save(tmp_path / "x.npz", a=np.arange(9, dtype=np.int32))
    content = (tmp_path / "x.npz").read_bytes()
    flipped = lambda place: content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    read = [_read_or_refused(tmp_path / "y.npz", flipped(place)) for place in range(len(content))]
    assert sum(read) < len(content) / 2  # times, versions and attributes do not matter


def _read_or_refused(path, content):
    path.write_bytes(content)
    try:
        found = files.read_npz(path)
    except ValueError:
        return False
    for values in found.values():
        np.testing.assert_array_equal(values, np.arange(9))
    return True
