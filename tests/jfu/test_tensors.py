"""Files of arrays with and without the package of the format: the same bytes, the same arrays."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfu import io, tensors

DTYPES = [tensors.dtype_of(name) for name in tensors.ORDER if name != "C64"]


def made(dtypes, shapes, names):
    draw = np.random.default_rng(0)
    arrays = {}
    for name, dtype, shape in zip(names, dtypes, shapes, strict=False):
        arrays[name] = np.asarray(draw.integers(0, 2, shape), dtype)
    return arrays


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=5, max_size=5),
    st.lists(st.text('ab/.é"\\', min_size=1, max_size=6), min_size=5, max_size=5, unique=True),
)
def test_both_ways_write_equal_files_and_read_equal_arrays(dtypes, shapes, names):
    arrays = made(dtypes, shapes, names)
    plain, packed = tensors.save_plainly(arrays), tensors.save(arrays)
    length = int.from_bytes(packed[:8], "little")
    assert json.loads(plain[8:].split(b"}}")[0] + b"}}") == json.loads(packed[8 : 8 + length])
    assert plain == packed
    for found in (tensors.load_plainly(packed), tensors.load(plain)):
        assert set(found) == set(arrays)
        for name, a in arrays.items():
            assert found[name].dtype == a.dtype and found[name].shape == a.shape
            assert found[name].tobytes() == a.tobytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_file_is_refused_or_has_arrays_that_fill_it(data):
    content = bytearray(tensors.save_plainly(made(DTYPES[1:4], [[2, 3], [4], []], "abc")))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content)[: data.draw(st.integers(0, len(content)))]
    try:
        found = tensors.load_plainly(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    length = int.from_bytes(content[:8], "little")
    assert sum(a.nbytes for a in found.values()) == len(content) - 8 - length


def test_claims_that_are_no_arrays_are_refused():
    def file(data, **view):
        text = json.dumps({"a": dict(dtype="F32", shape=[2], data_offsets=[0, 8]) | view}).encode()
        return len(text).to_bytes(8, "little") + text + data

    assert tensors.load_plainly(file(b"\0" * 8))["a"].tolist() == [0, 0]
    for wrong in (
        file(b"\0" * 9),
        file(b"\0" * 8, shape=[3]),
        file(b"\0" * 8, shape=[-1, -2]),
        file(b"\0" * 8, shape=[True, 2]),
        file(b"\0" * 12, data_offsets=[4, 12]),
        (2**60).to_bytes(8, "little"),
    ):
        with pytest.raises(ValueError, match=r"its|another size"):
            tensors.load_plainly(wrong)


def test_checkpoints_need_no_package(tmp_path, monkeypatch):
    state = {"w": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(3, jnp.bfloat16)}
    io.save_state(tmp_path / "with.safetensors", state, dict(round=1))
    monkeypatch.setattr(tensors.importlib.util, "find_spec", lambda name: None)
    io.save_state(tmp_path / "without.safetensors", state, dict(round=1))
    one, other = ((tmp_path / f"{name}.safetensors") for name in ("with", "without"))
    assert one.read_bytes() == other.read_bytes()
    found, notes = io.load_state(one, state)
    assert notes == dict(round=1) and found["half"].dtype == jnp.bfloat16
    assert np.asarray(found["w"]).tobytes() == np.asarray(state["w"]).tobytes()
    with pytest.raises(ValueError, match="dtype object"):
        io.save_params(tmp_path / "no.safetensors", {"w": np.array([None])})
