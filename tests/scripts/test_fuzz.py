"""Every reader of files, fed with what anybody may have put there: one page of mutated inputs.

A reader gives a result or one sentence (a ValueError or an OSError that names the file): never
another error, more than ten seconds, more than 2 GB, or a changed file. What has a digest is read
as it was written or not at all.
"""

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jfu.io
import jfu.ledger
from helpers.federation import bits
from helpers.scripts import ROOT
from helpers.workdirs import LAYOUT, PLAIN, rows
from jfu import data, files, live
from jfu.data import npz, packed, partition
from launch.records import ledgers
from launch.report import recorded
from launch.running import shadows
from launch.setup import identity, requests
from launch.shell import door, say
from launch.shell.printing import one_line
from launch.studies import pays, power_kept
from launch.workdir import checkpoints, outcome, runs, workdir
from launch.workdir.places import WorkDir

SECONDS, BYTES = 10, 2 * 2**30
PARAMS = {"params": {"stem": {"kernel": np.ones((3, 4), np.float32)}, "b": np.zeros(2, np.float32)}}
CELL = dict(run="r", method="not", seed=0, draws="d")
LIVE = {"stem": np.ones(3, np.float32), "head": np.zeros(2, np.float32)}
ROWS = [*rows("retrain", 10.0, 90.0), *rows("not", 10.0, 80.0)]
NOTES = dict(round=1, rows=ROWS, spent=dict(seconds=1.0), finished=True, of=CELL)


class Reader(NamedTuple):
    write: Callable[[Path], Any]  # a file that is read
    read: Callable[[Path], Any]
    suffix: str  # the kind, by which contents are changed in ways of its own
    whole: bool = False  # whether a digest covers what it says


def of_arrays(path, pack=np.savez):
    x, y = np.arange(96, dtype=np.uint8).reshape(6, 4, 4), np.arange(6)
    client = np.array(["a", "b"])[y % 2]
    pack(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2], client=client)


def of_packed(path):
    x, y = np.arange(96, dtype=np.uint8).reshape(6, 4, 4, 1), np.arange(6) % 2
    path.unlink(missing_ok=True)
    packed.write(path, data.Dataset(x, y, x[:2], y[:2], ("a", "b")), 3, 2)


def of_workdir(path):
    work = workdir.open_workdir(str(path.parent), PLAIN, "compare")
    with contextlib.suppress(ValueError):
        workdir.begin(work, PLAIN, "compare", LAYOUT).lock.close()


def of_ledger(path):
    for event in ("trained", "asked"):
        jfu.ledger.append(path, dict(event=event, clients=3))


def of_draws(path):
    identity.write(path.parents[1], 0, identity.Draws("p", "q", ({"0": [1, 2]}, None), {"1": [3]}))


def of_requests(path):
    """A live server goes on beside a bad request, and says why it is none; no file is none yet."""
    found = live.read(path)
    if not found and not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    wrong = [request.wrong for request in found if request.wrong]
    if wrong:
        raise ValueError(f"{path.name}: {wrong[0]}")
    return found


def of_recorded(path):
    recorded.write(path, PLAIN, ["original", "retrain", "not"], ROWS)


def keyed(path):
    known = type("Flags", (SimpleNamespace,), dict(__contains__=lambda self, name: True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers.flags, "FLAGS", known(key_file=str(path)))
        return ledgers.key()


lines = lambda some: "".join(json.dumps(row) + "\n" for row in some)
text = lambda content: lambda path: path.write_text(content)
in_run = lambda read: lambda path: read(WorkDir(path.parent, LAYOUT))
like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), PARAMS)
RESULTS = ROOT / "launch" / "results"  # of the checkout: not installed
PAYS = RESULTS / "pays-fashion-cpu.jsonl"
READERS = {
    "model.safetensors": Reader(
        lambda p: jfu.io.save_params(p, PARAMS), lambda p: jfu.io.adopt(p, like), "safetensors"
    ),
    "model.msgpack": Reader(
        lambda p: jfu.io.save_params(p, PARAMS), lambda p: jfu.io.adopt(p, like), "msgpack"
    ),
    "state.safetensors": Reader(
        lambda p: jfu.io.save_state(p, PARAMS, NOTES),
        lambda p: bits(jfu.io.load_state(p, like)[0]),
        **dict(suffix="safetensors", whole=True),
    ),
    "history.safetensors": Reader(
        lambda p: jfu.io.save_state(p, PARAMS, NOTES),
        lambda p: bits(jfu.io.unflatten(jfu.io.load_arrays(p))),
        **dict(suffix="safetensors", whole=True),
    ),
    "cells/0-not.safetensors": Reader(
        lambda p: jfu.io.save_state(p, PARAMS, NOTES),
        lambda p: list(checkpoints.read_cells(p.parents[1], "r").values()),
        "safetensors",
    ),
    "shadows/0.safetensors": Reader(
        lambda p: jfu.io.save_state(
            p, {"not": np.ones((2, 3))}, dict(of=CELL, seconds={"not": 0.5})
        ),
        lambda p: bits(shadows.block(p, CELL, (2, 3))),
        **dict(suffix="safetensors", whole=True),
    ),
    "own.npz": Reader(of_arrays, npz.read, "npz"),
    "packed.npz": Reader(lambda p: of_arrays(p, np.savez_compressed), npz.read, "npz"),
    "cifar10.npz": Reader(
        of_packed, lambda p: packed.read(str(p), train_size=2, test_size=1), "npz"
    ),
    "by_row.npz": Reader(of_arrays, lambda p: npz.read(p, by_row=True).x_train[:2], "npz"),
    "lists.npz": Reader(
        lambda p: np.savez(p, anna=[0, 2], ben=[1]), lambda p: partition.from_file(p, 5), "npz"
    ),
    "lists.json": Reader(
        text('{"anna": [0, 2], "ben": [1]}'), lambda p: partition.from_file(p, 5), "json"
    ),
    "mask.npy": Reader(
        lambda p: np.save(p, np.eye(3, dtype=bool)[0]), lambda p: requests._mask(p, 3), "npy"
    ),
    "config.json": Reader(of_workdir, lambda p: runs.read_run(str(p.parent)), "json"),
    "began/config.json": Reader(
        of_workdir, lambda p: workdir.open_workdir(str(p.parent), PLAIN, "compare"), "json"
    ),
    "results.jsonl": Reader(text(lines(ROWS)), in_run(outcome.read_results), "jsonl"),
    "plan.json": Reader(
        text('{"cells": ["not"], "seeds": [0]}'), lambda p: outcome.read_plan(p.parent), "json"
    ),
    "draws/0.json": Reader(
        of_draws, lambda p: identity.read(p.parents[1], [0], needed=True), "json", whole=True
    ),
    "ledger.jsonl": Reader(of_ledger, jfu.ledger.read, "jsonl"),
    "requests.jsonl": Reader(text('{"id": 7, "forget": ["12"]}\n'), of_requests, "jsonl"),
    "checkpoint.safetensors": Reader(
        lambda p: live.end(live.Server(p.parent, [0]), LIVE, live.Standing(), {"1": (0.5, 9)}),
        lambda p: (lambda model, standing: (bits(model), standing))(
            *live.resume(live.Server(p.parent, [0]), LIVE)
        ),
        **dict(suffix="safetensors", whole=True),
    ),
    "kept.safetensors": Reader(
        lambda p: jfu.io.save_state(p, {"0.1/2/forget/0": np.arange(5) > 2}, dict(of=dict(seed=1))),
        lambda p: bits(power_kept.read(p, dict(seed=1))),
        **dict(suffix="safetensors", whole=True),
    ),
    "pays.jsonl": Reader(text(PAYS.read_text()), pays.known_rows, "jsonl"),
    "row-cpu.jsonl": Reader(of_recorded, recorded.read, "jsonl"),
    "key": Reader(text("sixteen bytes or more"), keyed, "bytes"),
    "a.flags": Reader(text("--lr=1\n"), lambda p: door.check_files([f"--flagfile={p}"]), "bytes"),
}


# Of jfu itself, whose errors no script makes one line of.
LIBRARY = (
    "model.safetensors",
    "model.msgpack",
    "own.npz",
    "packed.npz",
    "by_row.npz",
    "lists.npz",
    "cifar10.npz",
)
LIBRARY += ("lists.json", "state.safetensors", "history.safetensors", "checkpoint.safetensors")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A folder for each reader with the file that it reads, and what it reads from that."""
    found = {}
    for name, reader in READERS.items():
        path = tmp_path_factory.mktemp("sample") / name
        path.parent.mkdir(exist_ok=True)
        reader.write(path)
        found[name] = path, path.read_bytes(), reader.read(path)
    return found


# ---------------------------------------------------------------- what is done to a file

HOSTILE = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    1e308,
    -0.5,
    "",
    "\0",
    "\x1b[2J",
    "‮a",
    "a" * 5000,
]
HOSTILE += [[], {}, [[]], {"": {}}, [1, "a"], {"shape": [2**40]}, "../../x", "NaN", [None] * 300]
hostile = st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=9)
places = st.floats(0, 1, exclude_max=True)
lengths = st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1])


def at(content, place):
    return int(place * len(content))


def flipped(content, place, bit):
    content = bytearray(content)
    content[at(content, place)] ^= 1 << bit
    return bytes(content)


RAW = st.one_of(
    st.builds(lambda p, b: lambda c: flipped(c, p, b), places, st.integers(0, 7)),
    st.builds(lambda p: lambda c: c[: at(c, p)], places),
    st.builds(
        lambda p, b: lambda c: c[: at(c, p)] + b + c[at(c, p) :], places, st.binary(max_size=9)
    ),
    st.builds(lambda p, q: lambda c: c[: at(c, min(p, q))] + c[at(c, max(p, q)) :], places, places),
    st.builds(lambda p, q: lambda c: c[: at(c, p)] + c[at(c, q) :], places, places),  # a splice
    st.builds(
        lambda p, n, k: lambda c: c[: at(c, p)] + struct.pack("<Q", n)[:k] + c[at(c, p) + k :],
        *(places, lengths, st.sampled_from([2, 4, 8])),
    ),
    st.builds(lambda b: lambda c: c + b, st.binary(min_size=1, max_size=9)),
    st.sampled_from([lambda c: b"", lambda c: c + c, lambda c: b"\0" * 999, lambda c: c[::-1]]),
)


def planted(tree, place, value, deep):
    """A tree of JSON in which one value is another, or lies deep within lists."""
    inner = [(tree, key) for key in (tree if isinstance(tree, dict) else range(len(tree)))]
    for parent, key in inner:
        child = parent[key]
        if isinstance(child, dict | list) and child:
            inner += [(child, k) for k in (child if isinstance(child, dict) else range(len(child)))]
    if not inner:
        return value
    parent, key = inner[at(inner, place)]
    if deep == "gone":
        del parent[key]
    elif deep == "renamed" and isinstance(parent, dict):
        parent[str(value)] = parent.pop(key)
    else:
        parent[key] = value
    return tree


def of_json(content, place, value, deep):
    written = json.dumps(planted(json.loads(content), place, value, deep)).encode()
    many = dict(lists=(b"[", b"]"), objects=(b'{"a":', b"}")).get(deep)
    return many[0] * 100_000 + written + many[1] * 100_000 if many else written


def of_lines(content, place, value, deep):
    some = content.splitlines(keepends=True)
    number = at(some, (place * 7) % 1)
    some[number] = of_json(some[number], place, value, deep) + b"\n"
    return b"".join(some)


def of_safetensors(content, place, value, deep):
    """The header with another value and the right length. A file with notes is changed in these."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if "__metadata__" in header and place > 0.5:
        notes = header["__metadata__"]["notes"]
        header["__metadata__"]["notes"] = of_json(notes, 2 * place - 1, value, deep).decode()
        head = json.dumps(header).encode()
    else:
        head = of_json(content[8:end], min(2 * place, 0.999), value, deep)
    return struct.pack("<Q", len(head)) + head + content[end:]


def of_npy(content, place, value, deep):
    """A header that claims another shape, kind or order."""
    shapes = ["(3,)", f"({2**40},)", "(-1,)", f"({2**62}, {2**62})", "()", "(3, 0)", "3", "(True,)"]
    kinds = ["|b1", "|O", "<f8", ">u2", "|V8", "<U2", "<U999999999", "<M8[s]", "[('a', '<f4')]"]
    claims = [f"{{'descr': '|b1', 'fortran_order': False, 'shape': {shape}}}" for shape in shapes]
    claims += [f"{{'descr': {k!r}, 'fortran_order': True, 'shape': (3,)}}" for k in kinds]
    claims += ["{" * 9999, "(" * 5000, repr(value), f"{{'descr': {value!r}}}", "9" * 6000]
    head = claims[at(claims, place)].encode()[:65_000] + b"\n"
    return content[:8] + struct.pack("<H", len(head)) + head + content[-3:]


def of_npz(content, place, value, deep):
    """An archive with one array changed or renamed, whose sums are right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = names[at(names, (place * 5) % 1)]
        for name in names:
            member = old.read(name)
            if name == chosen and deep == "gone":
                continue
            if name == chosen and deep == "renamed":
                name = f"{value}"[:99].replace("\0", "0") + ".npy"
            elif name == chosen:
                member = of_npy(member, place, value, deep)
            new.writestr(name, member, zipfile.ZIP_DEFLATED if place > 0.5 else zipfile.ZIP_STORED)
    return out.getvalue()


def of_msgpack(content, place, value, deep):
    import msgpack

    array = lambda shape, kind, data: msgpack.ExtType(1, msgpack.packb((shape, kind, data)))
    value = value if type(value) is not int else min(max(value, -(2**63)), 2**64 - 1)
    odd = [value, array((2**40,), "float32", b""), array((2,), "object", b"0" * 16)]
    odd += [array((-1,), "float32", b"0000"), array("x", value, 3), msgpack.ExtType(99, b"")]
    odd += [array((2, 2), "complex64", b"0" * 32), {"__msgpack_chunked_array__": True, "shape": {}}]
    if deep in ("lists", "objects"):
        return b"\x91" * 100_000 + b"\xc0"
    tree = {"params": {"stem": {"kernel": odd[at(odd, place)]}}}
    try:
        return msgpack.packb(tree if place < 0.9 else odd[at(odd, place)])
    except (ValueError, OverflowError, TypeError, UnicodeEncodeError):
        return content


BY_KIND = dict(json=of_json, jsonl=of_lines, safetensors=of_safetensors, npy=of_npy, npz=of_npz)
BY_KIND |= dict(msgpack=of_msgpack)
ways = st.sampled_from(["value", "value", "value", "gone", "renamed", "lists", "objects"])


def changed(kind, draw):
    """What a file of a kind becomes: raw bytes changed, or values inside, once or twice."""
    of = BY_KIND.get(kind)
    inside = st.builds(lambda p, v, d: lambda c: of(c, p, v, d), places, hostile, ways)
    steps = st.lists(RAW, min_size=1, max_size=2)
    if of:
        steps = st.one_of(steps, st.tuples(inside), st.tuples(inside), st.tuples(inside, RAW))
    return steps


# ---------------------------------------------------------------- what comes of it


class Slow(BaseException):
    pass


@contextlib.contextmanager
def limited():
    """Ten seconds and 2 GB more than there are."""

    def late(*_):
        raise Slow

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, old)


def state_of(folder):
    return {
        p.relative_to(folder): (p.lstat().st_mtime_ns, p.lstat().st_size, p.is_file() and digest(p))
        for p in folder.rglob("*")
    }


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < 2**20 else None


def one_sentence(error, path, library):
    """Asserts that an error is one, of a file that it names."""
    assert type(error) is ValueError or isinstance(error, OSError), repr(error)
    raw, said = str(error), one_line(say.sentence(error))
    assert said and "\n" not in said and len(said) < 1900, said
    assert path.name in said or path.parent.name in said, said
    assert said == files.shown(said), repr(said)
    assert not library or (raw == files.shown(raw) and len(raw) < 600 + 3 * len(str(path))), raw


def tried(reader, path):
    """What a reader makes of a file: a result, or None and a sentence."""
    with limited():
        try:
            return reader.read(path)
        except (ValueError, OSError, MemoryError) as error:
            one_sentence(error, path, path.name in LIBRARY)
    return None


MANY = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def check(samples, name, change):
    reader = READERS[name]
    path, content, right = samples[name]
    for step in change:
        content = step(content) if content else content
    path.write_bytes(content)
    before = state_of(path.parent)
    found = tried(reader, path)
    assert state_of(path.parent) == before
    if found is not None and reader.whole:
        assert found == right
    if found is not None and name == "ledger.jsonl":
        assert found == right[: len(found)]


def fuzzed(samples, name, how):
    """Tries a reader with changed files, as many as ``how`` says, and puts the file back."""
    path, content, _ = samples[name]

    @how
    @given(changed(READERS[name].suffix, None))
    def run(change):
        check(samples, name, change)

    try:
        run()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_a_result_or_a_sentence(samples, name):
    fuzzed(samples, name, MANY)


# ---------------------------------------------------------------- what is no such file at all


def put(kind, path):
    """Something that is no file of data, at a place where one is read."""
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "sparse":  # as large as a file may claim to be, and no block of it on the disk
            with open(path, "wb") as file:
                file.truncate(2**42)
        case "socket":
            with socket.socket(socket.AF_UNIX) as found, contextlib.chdir(path.parent):
                found.bind(path.name)
        case "closed":
            path.write_bytes(b"x" * 99)
            path.chmod(0)


KINDS = ["pipe", "device", "folder", "empty", "loop", "dangling", "sparse", "socket", "missing"]


EMPTY = "results.jsonl", "ledger.jsonl", "pays.jsonl", "requests.jsonl", "a.flags"  # may be


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(kind, samples, tmp_path):
    for name, reader in READERS.items():
        path = tmp_path / name.replace("/", "-") / name
        path.parent.mkdir(parents=True)
        put(kind, path)
        absent = "results", "plan", "ledger", "draws", "pays", "config", "0-not", "requests"
        found = tried(reader, path)
        if kind == "empty" and name in EMPTY:
            assert not found
        elif (kind, name) == ("missing", "checkpoint.safetensors"):
            assert found  # a live federation begins
        elif kind in ("missing", "dangling", "loop") and path.name.startswith(absent):
            pass  # a directory that has none, or cannot have one
        else:
            assert found is None, name


def test_a_file_of_two_gigabytes_that_says_it_holds_them(tmp_path):
    """Of which nothing is on the disk: the claim is true, and more than a mask or a key can be."""
    path = tmp_path / "mask.npy"
    np.lib.format.open_memmap(path, "w+", bool, (2**33,)).flush()
    assert tried(READERS["mask.npy"], path) is None
    head = json.dumps({"a": dict(dtype="U8", shape=[2**33], data_offsets=[0, 2**33])}).encode()
    path = tmp_path / "cells" / "0-not.safetensors"
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + 2**33)
    assert tried(READERS["cells/0-not.safetensors"], path) is None


# ---------------------------------------------------------------- as flags name them


@pytest.fixture(scope="module")
def begun(forks, tmp_path_factory):
    """A small training to go on from."""
    folder = tmp_path_factory.mktemp("begun") / "A"
    ended = forks.run("train", *SMALL, "--rounds=1", f"--workdir={folder}")
    assert ended.status == 0, ended.said
    return folder


SMALL = ["--dataset=synthetic", "--train_size=60", "--clients=2", "--model=mlp1", "--devices=1"]
FLAGS = [  # a script, its flags with the place of the file, and the file's name
    ("train", "--dataset={}", "own.npz"),
    ("train", "--dataset=synthetic --partition=file:{}", "lists.json"),
    ("train", "--dataset=synthetic --partition=file:{}", "lists.npz"),
    ("train", "--dataset=synthetic --key_file={}", "key"),
    ("train", "--flagfile={}", "a.flags"),
    ("train", "--init_from={}", "A"),
    ("train", "--dataset=synthetic --workdir={}", "W"),
    ("train", "--dataset=mnist --data_dir={}", "data"),
    ("unlearn", "--init_params={} --forget=client:0 --dataset=synthetic", "m.safetensors"),
    ("unlearn", "--init_params={} --forget=client:0 --dataset=synthetic", "m.msgpack"),
    ("unlearn", "--init_from=BEGUN --forget=mask:{}", "mask.npy"),
    ("unlearn", "--init_from=BEGUN --export_params={}", "out.msgpack"),
    ("ledger", "--workdir={}", "W"),
    ("ledger", "--workdir=BEGUN --key_file={}", "key"),
    ("audit", "--workdir={}", "W"),
    ("train", "--dataset=synthetic --compilation_cache={}", "cache"),
    ("ledger", "--workdir=BEGUN --new_key_file={}", "key"),
]
CASES = [(flag, kind) for flag in range(len(FLAGS)) for kind in [*KINDS, "closed", "odd name"]]
USUAL = [case for number, case in enumerate(CASES) if number % 11 == 3]
RARE = [pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in USUAL]


@pytest.mark.parametrize(("flag", "kind"), [*USUAL, *RARE])
def test_flags_that_name_what_is_no_file(flag, kind, forks, begun, tmp_path):
    script, flags, name = FLAGS[flag]
    odd = "\x1b[2J\u202e\n" if kind == "odd name" else ""
    path = tmp_path / "inside" / f"{odd}{name}"
    path.parent.mkdir()
    put(kind, path)
    words = flags.replace("BEGUN", str(begun)).split()
    words = [word.replace("{}", str(path)) for word in words]
    if "--workdir" not in flags:
        words.append(f"--workdir={tmp_path / 'new'}")
    if "synthetic" in flags:
        words = [*SMALL, *words, "--rounds=1"]
    before = kept(tmp_path / "inside"), kept(begun)
    ended = forks.run(script, *words, after=60, powerless=kind == "closed")
    if ended.status == 0:  # a place to write in, which a folder or nothing is
        assert "compilation_cache" in flags or kind in ("missing", "folder", "empty", "odd name")
        return
    assert ended.status in (1, 2), ended
    (said,) = [line for line in ended.said.splitlines() if not line.startswith(("note", "Pass"))]
    assert said.startswith(("error: ", "FATAL")) and len(said) < 900, said
    assert all(c.isprintable() for c in said) and "Traceback" not in said
    assert (kept(tmp_path / "inside"), kept(begun)) == before


def kept(folder):
    """What lies in a folder, without reading what never ends."""
    look = lambda p: (p.lstat().st_mode, p.lstat().st_size, p.lstat().st_mtime_ns)
    return {p: look(p) for p in folder.rglob("*") if p.name != "lock"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", READERS)
def test_many_changed_files_are_results_or_sentences(samples, name, request):
    """The same changes each time; ``--hypothesis-seed=random`` or a number tries others."""
    same = request.config.getoption("--hypothesis-seed") is None
    fuzzed(samples, name, settings(MANY, max_examples=1000, derandomize=same))
