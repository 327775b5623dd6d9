"""Trees of arrays in files: safetensors, or msgpack; neither executes code when read.

A checkpoint is one safetensors file. It has the state's leaves by their paths, and in its header
notes and digests of both. A file that was changed since is refused:

    arrays = SHA-256 over (path, dtype, shape, bytes) of each leaf, by path
    sha256 = SHA-256 over notes and arrays

It is written beside its place and then moved there, so a reader finds the old file or the new one,
never half a file. Functions that read also take an open file, whose name gives its kind.

Orbax would add asynchronous and sharded writing, which one replicated model does not need. Here a
single file that any tool can read, and that cannot execute code, is more useful. safetensors' own
writer puts the header's text in any order. ``save_state`` has a fixed order, so that equal runs
write equal bytes.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from jfu import files, tensors
from jfu.atomic import check_writable, write_bytes
from jfu.types import PyTree


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Path -> array, paths joined by ``/``.

    >>> flatten({"stem": {"kernel": jnp.ones(1)}})
    {'stem/kernel': array([1.], dtype=float32)}
    """
    return {path: np.asarray(leaf) for path, leaf in by_name(tree).items()}


def by_name(tree: PyTree) -> dict[str, Any]:
    """Path -> leaf as it is, so that trees of shapes will do."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(flat: Mapping[str, Any], *, separator: str = "/") -> dict:
    """The nested dictionary of ``flatten``.

    >>> unflatten({"stem/kernel": 1, "stem/bias": 2})
    {'stem': {'kernel': 1, 'bias': 2}}
    """
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split(separator)
        inside = tree
        for name in parents:
            inside = inside.setdefault(name, {})
            if not isinstance(inside, dict):
                raise ValueError(f"{path} lies beneath an array; names must be paths of a tree")
        if last in inside:
            raise ValueError(f"{path} is a branch and an array; names must be paths of a tree")
        inside[last] = leaf
    return tree


def save_params(path: str | os.PathLike[str], params: PyTree) -> None:
    """Writes a nested dictionary of arrays as ``.safetensors`` or ``.msgpack``.

    Raises:
      ValueError: another ending.
      FileExistsError: the file is there already; nothing is overwritten.
    """
    path = pathlib.Path(path)
    kind = check_new(path)
    if kind == ".msgpack":
        from flax import serialization

        write_bytes(path, serialization.msgpack_serialize(unflatten(flatten(params))))
    else:
        write_bytes(path, tensors.save(_contiguous(flatten(params))))


def check_new(path: str | os.PathLike[str], *, may_exist: bool = False) -> str:
    """Refuses a file that ``save_params`` could not write; returns its ending.

    Raises:
      ValueError: another ending than .safetensors or .msgpack.
      FileExistsError: it is there already.
      FileNotFoundError: its folder is not there.
      OSError: no file can be written in its folder.
    """
    path = pathlib.Path(path)
    kind = _kind(path)
    if os.path.lexists(path) and not may_exist:
        raise FileExistsError(f"{path} exists already; choose another name or remove it first")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")
    check_writable(path.parent)
    return kind


def load_params(path: str | os.PathLike[str] | BinaryIO) -> dict:
    """Reads a nested dictionary of arrays from ``.safetensors`` or ``.msgpack``.

    Names in a safetensors file are paths joined by ``/`` or, as is usual elsewhere, by ``.``.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another ending, or a file that is truncated or of another kind.
    """
    kind = _kind(_name(path))
    content = _read(path, kind[1:])
    path = _name(path)
    try:
        if kind == ".msgpack":
            from flax import serialization

            tree = serialization.msgpack_restore(content)
            if not isinstance(tree, dict):
                raise ValueError("no dictionary inside")
            return _named(tree)
        flat = tensors.load(content)
    except Exception as error:
        raise _unreadable(path, kind[1:], error) from None
    return unflatten(flat, separator="/" if any("/" in name for name in flat) else ".")


def _named(tree: dict) -> dict:
    """The dictionary itself, all of whose names are text: JAX sorts no others."""
    for key, branch in tree.items():
        if not isinstance(key, str):
            raise ValueError(f"a name inside is {type(key).__name__}, not text")
        if isinstance(branch, dict):
            _named(branch)
    return tree


def adopt(
    path: str | os.PathLike[str] | BinaryIO, like: PyTree, *, without: str | None = None
) -> dict:
    """Reads a model trained elsewhere as variables of the shapes of ``like``.

    The file has either all variables (``params/...``, ``batch_stats/...``) or, for models
    without statistics, the parameters alone. Other floating dtypes are converted.

    Args:
      without: the path of a layer whose parameters are zeros, whatever the file has for it.

    Raises:
      ValueError: names or shapes differ, or values are not finite.
    """
    tree = load_params(path)
    tree = tree if "params" in tree else {"params": tree}
    kinds = {name: leaf.dtype for name, leaf in by_name(like).items()}
    with np.errstate(over="ignore"):  # values too large for the dtype are refused below
        flat = {
            name: a.astype(kinds[name]) if name in kinds and _floating(a) else a
            for name, a in flatten(tree).items()
        }
    if without is not None:
        its = lambda name: name.startswith(f"params/{without}/")
        flat = {name: a for name, a in flat.items() if not its(name)}
        zeros = {n: np.zeros(a.shape, a.dtype) for n, a in by_name(like).items() if its(n)}
        flat |= zeros
    path = _name(path)
    variables = restore(flat, like, path)
    if bad := [name for name, a in flat.items() if not np.isfinite(a).all()]:
        raise ValueError(f"{path} holds NaN or infinity in {', '.join(bad[:5])}")
    return dict(variables)


def _floating(a: np.ndarray) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def save_state(path: str | os.PathLike[str], state: PyTree, notes: Any = None) -> None:
    """Writes a checkpoint: the arrays of ``state`` and JSON notes, in one file, at once."""
    arrays, text = _contiguous(flatten(state)), json.dumps(notes)
    inside = _digest(arrays)
    header = {"notes": text, "arrays": inside, "sha256": _seal(text, inside)}
    write_bytes(path, _headed(tensors.save(arrays), header))


def _headed(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with metadata, in this order; its own writer has them in any."""
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": metadata} | json.loads(content[8 : 8 + length])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that arrays are aligned
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[8 + length :]])


def load_state(path: str | os.PathLike[str] | BinaryIO, like: PyTree) -> tuple[PyTree, Any]:
    """Reads a checkpoint back into the structure of ``like`` (arrays or shapes).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: truncated, of another kind, changed since it was written, or of another
        structure than ``like``.
    """
    flat, notes = _checkpoint(path)
    return restore(flat, like, _name(path)), notes


def load_arrays(path: str | os.PathLike[str] | BinaryIO) -> dict[str, jax.Array]:
    """The arrays of a checkpoint by their paths.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: truncated, of another kind, or changed since it was written.
    """
    return {name: jnp.asarray(a) for name, a in _checkpoint(path)[0].items()}


def load_checkpoint(
    path: str | os.PathLike[str] | BinaryIO,
) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of a checkpoint by their paths, in NumPy and with all their bits, and its notes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: truncated, of another kind, or changed since it was written.
    """
    return _checkpoint(path)


def load_notes(path: str | os.PathLike[str]) -> Any:
    """The JSON notes of a checkpoint, without its arrays.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: truncated, of another kind, or its notes were changed since it was written.
    """
    return _notes(path, _header(path))


def check_state(path: str | os.PathLike[str]) -> None:
    """Refuses a checkpoint that ``load_state`` would not read; JAX is not started.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: truncated, of another kind, or changed since it was written.
    """
    _checkpoint(path)


def load_seal(path: str | os.PathLike[str]) -> str | None:
    """The digest of notes and arrays that a checkpoint was written with; None in older ones.

    Whether the arrays are those that it names is for who reads them: ``load_arrays``.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: as ``load_notes``.
    """
    header = _header(path)
    _notes(path, header)
    return header.get("sha256")


def _checkpoint(path: str | os.PathLike[str] | BinaryIO) -> tuple[dict[str, np.ndarray], Any]:
    path, content = _name(path), _read(path, "a checkpoint")
    try:
        flat = tensors.load(content)  # checks offsets and lengths
        length = int.from_bytes(content[:8], "little")
        header = _metadata(content[8 : 8 + length])
    except Exception as error:
        raise _unreadable(path, "a checkpoint", error) from None
    notes = _notes(path, header)
    if "arrays" in header and header["arrays"] != _digest(flat):
        raise _changed(path)
    return flat, notes


def _header(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text in a checkpoint's header."""
    with files.opened(path) as file:
        try:
            length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
            if length > min(files.MOST, size - 8):
                raise ValueError(f"its header claims {length} bytes")
            return _metadata(file.read(length))
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(path, "a checkpoint", error) from None


def _metadata(content: bytes) -> dict[str, str]:
    header = files.parse_json(content, "its header")["__metadata__"]
    if not all(isinstance(header[name], str) for name in header) or "notes" not in header:
        raise ValueError("its header has no notes")
    return header


def _notes(path: str | os.PathLike[str], header: dict[str, str]) -> Any:
    text = header["notes"]
    sealed = "sha256" in header or "arrays" in header
    if sealed and header.get("sha256") != _seal(text, header.get("arrays", "")):
        raise _changed(path)
    try:  # NaN stands where a federation diverged
        return files.parse_json(text.encode(), "its notes", finite=False)
    except ValueError as error:
        raise _unreadable(path, "a checkpoint", error) from None


def _unreadable(path: Any, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{files.shown(path)} is unreadable as {kind} ({files.reason(error)}); it may be "
        "truncated: restore it, or remove it to begin anew"
    )


def _changed(path: Any) -> ValueError:
    return ValueError(
        f"{path} was changed since it was written: it has not the digest that it names; restore "
        "it, or remove it to begin anew"
    )


def digest(tree: PyTree) -> str:
    """SHA-256 over path, dtype, shape and bytes of each leaf, as hexadecimal text.

    >>> digest({"w": np.zeros(2)}) == digest({"w": np.zeros(2, np.float32)})
    False
    """
    return _digest(flatten(tree))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    whole = hashlib.sha256()
    for path in sorted(arrays):
        a = np.ascontiguousarray(arrays[path])
        whole.update(json.dumps([path, a.dtype.name, list(arrays[path].shape)]).encode())
        whole.update(a.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def _seal(notes: str, arrays: str) -> str:
    return hashlib.sha256(f"{arrays}\n{notes}".encode()).hexdigest()


def restore(flat: Mapping[str, np.ndarray], like: PyTree, source: Any) -> PyTree:
    """Arrays by path -> the structure of ``like``; refuses other paths, shapes and dtypes."""
    wanted = by_name(like)
    if wanted.keys() != flat.keys():
        missing, extra = wanted.keys() - flat.keys(), flat.keys() - wanted.keys()
        missing, extra = ([name[:80] for name in sorted(names)] for names in (missing, extra))
        raise ValueError(
            f"{source} holds other arrays than expected (missing {missing[:5]}, not expected "
            f"{extra[:5]}); it belongs to another model or optimizer"
        )
    for path, leaf in wanted.items():
        if tuple(leaf.shape) != flat[path].shape or leaf.dtype != flat[path].dtype:
            raise ValueError(
                f"{source} holds {path} as {flat[path].dtype} {list(flat[path].shape)}, expected "
                f"{leaf.dtype} {list(leaf.shape)}; it belongs to another model"
            )
    treedef = jax.tree.structure(like)
    return treedef.unflatten(jnp.asarray(flat[path]) for path in wanted)


def _kind(path: pathlib.Path) -> str:
    if path.suffix not in (".safetensors", ".msgpack"):
        raise ValueError(f"{path} must end in .safetensors or .msgpack")
    return path.suffix


def _name(path: str | os.PathLike[str] | BinaryIO) -> pathlib.Path:
    """Where it lies; of an open file, its name."""
    return pathlib.Path(path if isinstance(path, str | os.PathLike) else path.name)


def _read(path: str | os.PathLike[str] | BinaryIO, kind: str) -> bytes:
    """The file's bytes; of safetensors none before its header says that there are as many."""
    if not isinstance(path, str | os.PathLike):
        return path.read()
    if kind == "msgpack":
        return files.read_bytes(path)
    check_size(path, kind)
    return files.read_bytes(path)


def check_size(path: str | os.PathLike[str], kind: str = "safetensors") -> None:
    """Refuses a safetensors file whose header claims other arrays than it has bytes for.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no plain file, truncated, padded or of another kind.
    """
    with files.opened(path) as file:
        try:
            length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
            if length > min(files.MOST, size - 8):
                raise ValueError(f"its header claims {length} bytes")
            header = files.parse_json(file.read(length), "its header")
            ends = [header[name]["data_offsets"][1] for name in header if name != "__metadata__"]
            if 8 + length + max(ends, default=0) != size:
                raise ValueError(f"its header claims other arrays than its {size} bytes hold")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise _unreadable(path, kind, error) from None


def _contiguous(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: np.ascontiguousarray(a).reshape(a.shape) for path, a in flat.items()}
