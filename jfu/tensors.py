"""The format of safetensors: by its package, or without it where it is not installed.

A file is the header's length (8 bytes, little endian), the header (JSON: for each array its dtype,
shape and place), and the arrays' bytes without gaps. Arrays lie in the package's order, so that
both write equal bytes: wide dtypes first, then by name. The format is that of Hugging Face's
safetensors (Apache-2.0).
"""

import importlib.util
import json
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jfu import files

# The package's names of dtypes, in its order.
ORDER = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64")
ORDER += ("U64",)
WORDS = {"F": "float", "I": "int", "U": "uint", "BF": "bfloat", "C": "complex"}


def dtype_of(name: str) -> np.dtype:
    """The dtype of a name in a header.

    >>> dtype_of("F32"), dtype_of("BOOL"), dtype_of("BF16")
    (dtype('float32'), dtype('bool'), dtype(bfloat16))
    """
    letters = name.rstrip("0123456789")
    return jnp.dtype("bool" if name == "BOOL" else WORDS[letters] + name[len(letters) :])


def save(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file's bytes; the arrays are contiguous.

    Raises:
      ValueError: an array has a dtype that the format lacks.
    """
    if importlib.util.find_spec("safetensors") is not None:
        from safetensors.numpy import save

        return save(dict(arrays))
    return save_plainly(arrays)


def save_plainly(arrays: Mapping[str, np.ndarray]) -> bytes:
    """``save`` without the package.

    >>> load_plainly(save_plainly({"w": np.arange(3, dtype=np.int16)}))["w"].tolist()
    [0, 1, 2]
    """
    names = {dtype_of(name): name for name in ORDER}
    if wrong := [path for path, a in arrays.items() if a.dtype not in names]:
        raise ValueError(f"{wrong[0]} has the dtype {arrays[wrong[0]].dtype}, which files lack")
    rank = lambda path: (-ORDER.index(names[arrays[path].dtype]), path)
    header, parts, end = {}, [], 0
    for path in sorted(arrays, key=rank):
        a = arrays[path]
        begin, end = end, end + a.nbytes
        header[path] = dict(dtype=names[a.dtype], shape=list(a.shape), data_offsets=[begin, end])
        parts.append(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def load(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, with bfloat16, which the package's own reader of NumPy lacks.

    Raises:
      Exception: the content is not a file's. The package has errors of its own.
    """
    if importlib.util.find_spec("safetensors") is None:
        return load_plainly(content)
    from safetensors import deserialize

    array = lambda view: np.frombuffer(view["data"], dtype_of(view["dtype"])).reshape(view["shape"])
    return {name: array(view) for name, view in deserialize(content)}


def load_plainly(content: bytes) -> dict[str, np.ndarray]:
    """``load`` without the package.

    Raises:
      ValueError: the arrays that the header claims are not those that the file has bytes for.
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise ValueError(f"its header claims {length} bytes")
    header = files.parse_json(content[8 : 8 + length], "its header")
    data, views = memoryview(content)[8 + length :], []
    for name, view in header.items():
        if name != "__metadata__":
            views.append((*_place(view), name, dtype_of(view["dtype"]), view["shape"]))
    found, last = {}, 0
    for begin, end, name, dtype, shape in sorted(views, key=lambda view: view[:2]):
        if begin != last or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has another size than its dtype and shape")
        found[name], last = np.frombuffer(data[begin:end], dtype).reshape(shape), end
    if last != len(data):
        raise ValueError(f"its arrays have {last} bytes, and it has {len(data)}")
    return found


def _place(view: Mapping[str, Any]) -> tuple[int, int]:
    begin, end = view["data_offsets"]
    numbers = [begin, end, *view["shape"]]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("its header has places or shapes that are no counts")
    return begin, end
