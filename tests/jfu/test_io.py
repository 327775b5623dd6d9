"""Files: what goes in comes out, what is broken is refused, and nothing is ever half written."""

import hashlib
import json
import os
import pickle

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import jfu
from helpers.federation import bits
from helpers.spoilt import Bomb, Killed
from jfu import io


def _shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


@pytest.fixture
def state(variables):
    """A federation's state with adaptive optimizer, bfloat16 and empty tuples inside."""
    stats = {"mean": jnp.array([1.5, -0.0, np.inf], jnp.bfloat16)}
    fed = jfu.fedavg(None, server=optax.chain(optax.adam(0.1), optax.identity()))
    return fed.init({**variables, "batch_stats": stats})._replace(round=jnp.int32(7))


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("abstract", [False, True])
def test_checkpoint_round_trip(tmp_path, state, abstract):
    """Named tuples, empty tuples, bfloat16, int32, scalars; every bit, and the notes."""
    notes = {"round": 7, "seen": [1.5, None, "ü"], "nested": {"a": True}}
    path = tmp_path / "state"
    io.save_state(path, state, notes)
    like = _shapes(state) if abstract else jax.tree.map(jnp.zeros_like, state)
    got, said = io.load_state(path, like)
    assert jax.tree.structure(got) == jax.tree.structure(state)
    assert type(got) is type(state)
    assert got.aggregator == ()
    assert _shapes(got) == _shapes(state)
    assert bits(got) == bits(state)
    assert all(isinstance(a, jax.Array) for a in jax.tree.leaves(got))
    assert said == io.load_notes(path) == notes
    assert os.listdir(tmp_path) == ["state"]


def test_arrays_of_any_layout_round_trip(tmp_path):
    """Transposed, strided, empty and scalar arrays, and no notes."""
    tree = {
        "turned": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.int32)[::3],
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.float32(2.5),
        "list": [np.ones(1, bool), (np.uint8([255]),)],
    }
    io.save_state(tmp_path / "a", tree)
    got, notes = io.load_state(tmp_path / "a", tree)
    assert notes is None
    chex.assert_trees_all_equal(got, jax.tree.map(np.asarray, tree))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, jax.tree.map(jnp.asarray, tree))


def test_a_restored_run_goes_on_to_the_same_bits(tmp_path, data, fed, variables):
    run, key = jax.jit(fed.round), jax.random.key(8)
    *_, end = jfu.rounds(run, fed.init(variables), data, key, stop=4)
    *_, half = jfu.rounds(run, fed.init(variables), data, key, stop=2)
    io.save_state(tmp_path / "half", half.state)
    again, _ = io.load_state(tmp_path / "half", jax.eval_shape(fed.init, variables))
    *_, rest = jfu.rounds(run, again, data, key, stop=4, start=2)
    assert bits(rest.state) == bits(end.state)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.9, 0.999])
def test_truncated_checkpoints_are_refused_in_one_sentence(tmp_path, state, share):
    path = tmp_path / "state"
    io.save_state(path, state, {"round": 7})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"unreadable as a checkpoint.*truncated") as caught:
        io.load_state(path, state)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if share < 0.02:
        with pytest.raises(ValueError, match="unreadable as a checkpoint"):
            io.load_notes(path)


@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint at all",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        pickle.dumps({"a": 1}),
    ],
)
def test_other_files_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    for read in (lambda: io.load_state(path, {}), lambda: io.load_notes(path)):
        with pytest.raises(ValueError, match="unreadable as a checkpoint"):
            read()


def test_safetensors_without_notes_are_no_checkpoint(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "state")
    with pytest.raises(ValueError, match="unreadable as a checkpoint"):
        io.load_state(tmp_path / "state", {"a": np.zeros(1)})


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({"w": np.zeros((2, 3), np.float32)}, r"missing \[\], not expected \['b'\]"),
        (
            {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32), "c": np.zeros(1)},
            r"missing \['c'\], not expected \[\]",
        ),
        (
            {"w": np.zeros((3, 2), np.float32), "b": np.zeros(3, np.float32)},
            r"holds w as float32 \[2, 3\], expected float32 \[3, 2\]",
        ),
        (
            {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.int32)},
            r"holds b as float32 \[3\], expected int32 \[3\]",
        ),
    ],
)
def test_checkpoints_of_another_structure_are_refused(tmp_path, like, words):
    path = tmp_path / "state"
    io.save_state(path, {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=words) as caught:
        io.load_state(path, like)
    assert str(path) in str(caught.value)


def by_hand(path):
    """The digests of a checkpoint by another computation: its own parser, hashlib, NumPy."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    notes, whole = header.pop("__metadata__")["notes"], hashlib.sha256()
    names = dict(F32="float32", BF16="bfloat16", I32="int32", F64="float64")
    for name in sorted(header):
        entry = header[name]
        start, end = entry["data_offsets"]
        whole.update(json.dumps([name, names[entry["dtype"]], entry["shape"]]).encode())
        whole.update(content[8 + length + start : 8 + length + end])
    inside = whole.hexdigest()
    return inside, hashlib.sha256(f"{inside}\n{notes}".encode()).hexdigest()


def test_a_checkpoint_names_the_digests_of_what_it_holds(tmp_path, state):
    io.save_state(tmp_path / "a", state, {"round": 7})
    inside, seal = by_hand(tmp_path / "a")
    assert io.load_seal(tmp_path / "a") == seal
    content = (tmp_path / "a").read_bytes()
    assert inside.encode() in content and content.count(seal.encode()) == 1


def test_a_checkpoint_is_the_same_bytes_each_time(tmp_path, state):
    """As its own writer has metadata in any order, a run that was killed would differ."""
    for name in "abcdefgh":
        io.save_state(tmp_path / name, state, {"ü": 7})
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1
    with safe_open(tmp_path / "a", "numpy") as file:
        assert bits({n: file.get_tensor(n) for n in file.keys() if "bfloat" not in n})  # noqa: SIM118
        assert json.loads(file.metadata()["notes"]) == {"ü": 7}


def test_any_bit_that_flips_in_a_checkpoint_is_found(tmp_path):
    """Of arrays, notes, digests, names, shapes and types: refused, or what it was."""
    state, path = {"w": np.arange(3, dtype=np.float32), "n": np.int32(1)}, tmp_path / "a"
    io.save_state(path, state, {"round": 7, "rows": [1.5]})
    content, read = path.read_bytes(), 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            got, notes = io.load_state(path, state)
        except ValueError:
            continue
        read += 1  # padding of the header
        assert bits(got) == bits(state) and notes == {"round": 7, "rows": [1.5]}
    assert read < 16


def test_arrays_and_notes_of_another_checkpoint_are_found(tmp_path):
    one, other = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
    io.save_state(tmp_path / "a", one, {"round": 1})
    io.save_state(tmp_path / "b", other, {"round": 2})
    with safe_open(tmp_path / "a", "numpy") as a, safe_open(tmp_path / "b", "numpy") as b:
        save_file({"w": b.get_tensor("w")}, tmp_path / "arrays", a.metadata())
        notes = a.metadata() | {"notes": b.metadata()["notes"]}
        save_file({"w": a.get_tensor("w")}, tmp_path / "notes", notes)
        without = {"notes": a.metadata()["notes"], "arrays": a.metadata()["arrays"]}
        save_file({"w": a.get_tensor("w")}, tmp_path / "half", without)
    for name in ("arrays", "notes", "half"):
        with pytest.raises(ValueError, match="was changed since it was written"):
            io.load_state(tmp_path / name, one)
    with pytest.raises(ValueError, match="was changed since it was written"):
        io.load_notes(tmp_path / "notes")


def test_checkpoints_from_before_digests_are_read(tmp_path):
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "a", {"notes": '{"round": 1}'})
    assert io.load_state(tmp_path / "a", {"w": np.zeros(2, np.float32)})[1] == {"round": 1}
    assert io.load_seal(tmp_path / "a") is None


HEADERS = {
    "claims gigabytes": (2**33).to_bytes(8, "little"),
    "claims all": (2**64 - 1).to_bytes(8, "little"),
    "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "deep notes": None,
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_beyond_limits_are_a_sentence(tmp_path, what):
    path = tmp_path / "a"
    if HEADERS[what] is None:
        save_file({"w": np.zeros(2)}, path, {"notes": "[" * 100_000})
    else:
        path.write_bytes(HEADERS[what])
    for read in (lambda: io.load_state(path, {}), lambda: io.load_notes(path)):
        with pytest.raises(ValueError, match="unreadable as a checkpoint") as caught:
            read()
        assert len(str(caught.value)) < 500


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    for read in (io.load_params, io.load_notes, io.load_arrays):
        with pytest.raises(ValueError, match="is a pipe, not a plain file"):
            read(tmp_path / "a.safetensors")


def test_missing_files_are_named(tmp_path):
    for read in (
        lambda path: io.load_state(path, {}),
        lambda path: io.load_params(path),
        lambda path: io.load_notes(path),
    ):
        with pytest.raises(FileNotFoundError, match=r"gone\.msgpack"):
            read(tmp_path / "gone.msgpack")


# ---------------------------------------------------------------- at once or not at all


@pytest.mark.parametrize("where", ["replace", "fsync", "chmod"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = tmp_path / "state"
    io.write_bytes(path, b"old")

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(os, where, killed)
    with pytest.raises(Killed):
        io.write_bytes(path, b"new, and longer")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]
    io.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_write_goes_through_to_the_disk_before_it_is_seen(tmp_path, monkeypatch):
    """fsync comes before replace, and by then the content is whole."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.fstat(fd).st_size), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    io.write_bytes(tmp_path / "state", b"12345")
    assert calls == [5, "replace"]


def test_written_files_have_the_usual_permissions(tmp_path):
    io.write_bytes(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_stays_as_open_as_it_was(tmp_path, mode):
    path = tmp_path / "mine.safetensors"
    io.write_bytes(path, b"old")
    path.chmod(mode)
    io.write_bytes(path, b"new")
    assert path.stat().st_mode & 0o777 == mode
    io.save_state(path, {"a": np.ones(2)})
    assert path.stat().st_mode & 0o777 == mode


# ---------------------------------------------------------------- parameters


NESTED = {
    "stem": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, "f4")},
    "blocks": {"0": {"scale": np.float32([1, -0.0])}},
    "count": np.int32(3),
}


@pytest.mark.parametrize("ending", ["safetensors", "msgpack"])
def test_params_round_trip(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    io.save_params(path, jax.tree.map(jnp.asarray, NESTED))
    got = io.load_params(path)
    assert jax.tree.structure(got) == jax.tree.structure(NESTED)
    assert bits(got) == bits(NESTED)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ["safetensors", "msgpack"])
def test_bfloat16_params_round_trip(tmp_path, ending):
    params = {"w": jnp.array([1.5, -0.0, 3e38], jnp.bfloat16)}
    io.save_params(tmp_path / f"a.{ending}", params)
    got = io.load_params(tmp_path / f"a.{ending}")
    assert got["w"].dtype == jnp.bfloat16
    assert bits(got) == bits(params)


def test_the_files_are_what_other_programs_read(tmp_path):
    io.save_params(tmp_path / "a.safetensors", NESTED)
    flat = load_file(tmp_path / "a.safetensors")
    assert set(flat) == {"stem/kernel", "stem/bias", "blocks/0/scale", "count"}
    io.save_params(tmp_path / "a.msgpack", NESTED)
    tree = flax.serialization.msgpack_restore((tmp_path / "a.msgpack").read_bytes())
    assert bits(tree) == bits(NESTED)


def test_names_joined_by_dots_become_nested(tmp_path):
    """Unless slashes join them: then a dot is part of a name."""
    one = np.ones(1, np.float32)
    save_file({"block.0.weight": one, "head": one}, tmp_path / "dots.safetensors")
    got = io.load_params(tmp_path / "dots.safetensors")
    assert got == {"block": {"0": {"weight": one}}, "head": one}
    save_file({"block/a.b": one}, tmp_path / "slashes.safetensors")
    assert io.load_params(tmp_path / "slashes.safetensors") == {"block": {"a.b": one}}


@pytest.mark.parametrize("ending", ["safetensors", "msgpack"])
def test_existing_files_are_not_overwritten(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=f"model.{ending} exists already"):
        io.save_params(path, NESTED)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["model.pkl", "model", "model.npz", "model.safetensors.bak"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.msgpack"):
        io.save_params(tmp_path / name, NESTED)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.msgpack"):
        io.load_params(tmp_path / name)


@pytest.mark.parametrize("ending", ["safetensors", "msgpack"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickles_are_refused_and_not_run(tmp_path, ending, protocol):
    path, mark = tmp_path / f"model.{ending}", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
    with pytest.raises(ValueError, match=f"unreadable as {ending}"):
        io.load_params(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("ending", ["safetensors", "msgpack"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_params_are_refused(tmp_path, ending, share):
    path = tmp_path / f"model.{ending}"
    io.save_params(path, NESTED)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"unreadable as {ending}.*may be truncated") as caught:
        io.load_params(path)
    assert "\n" not in str(caught.value)


def test_msgpack_with_a_name_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.msgpack"
    tree = {"params": {109: {"kernel": np.ones(2)}}}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    for read in (io.load_params, lambda p: io.adopt(p, tree)):
        with pytest.raises(ValueError, match=r"a\.msgpack .*a name inside is int, not text"):
            read(path)


def test_msgpack_of_no_dictionary_is_refused(tmp_path):
    path = tmp_path / "a.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize([1, 2]))
    with pytest.raises(ValueError, match="no dictionary inside"):
        io.load_params(path)


# ---------------------------------------------------------------- models from elsewhere


LIKE = {
    "params": {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)},
    "batch_stats": {"mean": jax.ShapeDtypeStruct((2,), jnp.float32)},
}
W = np.array([[1.5, 2], [3, 4]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("ending", ["safetensors", "msgpack"])
def test_adopt_converts_floating_values(tmp_path, dtype, ending):
    path = tmp_path / f"a.{ending}"
    w = np.asarray(jnp.asarray(W, dtype)) if dtype == "bfloat16" else W.astype(dtype)
    io.save_params(path, {"params": {"w": w}, "batch_stats": {"mean": np.ones(2, dtype="f4")}})
    got = io.adopt(path, LIKE)
    assert got["params"]["w"].dtype == jnp.float32
    np.testing.assert_array_equal(got["params"]["w"], W)
    assert got["batch_stats"]["mean"].tolist() == [1, 1]


def test_adopt_takes_parameters_alone(tmp_path):
    io.save_params(tmp_path / "a.safetensors", {"w": W.astype(np.float32)})
    got = io.adopt(tmp_path / "a.safetensors", {"params": LIKE["params"]})
    assert jax.tree.structure(got) == jax.tree.structure({"params": {"w": 0}})
    np.testing.assert_array_equal(got["params"]["w"], W)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"w": W}, r"missing \['batch_stats/mean'\]"),
        ({"params": {"v": W}, "batch_stats": {"mean": W[0]}}, r"missing \['params/w'\]"),
        ({"params": {"w": W[:1]}, "batch_stats": {"mean": W[0]}}, r"params/w as float32 \[1, 2\]"),
        (
            {"params": {"w": W.astype(np.int32)}, "batch_stats": {"mean": W[0]}},
            r"params/w as int32 \[2, 2\], expected float32",
        ),
        (
            {"params": {"w": W * np.nan}, "batch_stats": {"mean": W[0]}},
            "NaN or infinity in params/w",
        ),
        (
            {"params": {"w": W}, "batch_stats": {"mean": np.array([np.inf, 0])}},
            "NaN or infinity in batch_stats/mean",
        ),
    ],
)
def test_adopt_refuses(tmp_path, given, words):
    path = tmp_path / "a.safetensors"
    io.save_params(path, given)
    with pytest.raises(ValueError, match=words) as caught:
        io.adopt(path, LIKE)
    assert str(path) in str(caught.value)


def test_adopt_refuses_values_too_large_for_the_model(tmp_path):
    """1e300 is finite in float64 and not in float32."""
    io.save_params(tmp_path / "a.safetensors", {"w": np.full((2, 2), 1e300)})
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="NaN or infinity"):
        io.adopt(tmp_path / "a.safetensors", {"params": LIKE["params"]})


def test_notes_are_json_in_the_header(tmp_path):
    """So that any program can read them without the arrays."""
    io.save_state(tmp_path / "a", {"w": np.zeros(2)}, {"x": 1})
    content = (tmp_path / "a").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["notes"]) == {"x": 1}


@pytest.mark.parametrize("name", ["a.safetensors", "state"])
def test_a_file_is_not_read_that_is_larger_than_its_header_says(tmp_path, name):
    path = tmp_path / name
    io.save_state(path, {"w": np.zeros(3, np.float32)}, {"round": 1})
    os.truncate(path, 2**41)  # without content; more than any memory
    for read in [io.load_arrays, io.check_state] + [io.load_params] * (name != "state"):
        with pytest.raises(ValueError, match="claims other arrays than its"):
            read(path)
