"""Files that anybody may have written: read with limits, or refused in one sentence.

jfu reads any file that others may have changed with one of these functions only:

===================  ==================================================================
``opened``           a file to read from, if it is a plain one: no folder, pipe or device
``read_bytes``       its bytes, if they are no more than a limit
``read_json``        its JSON value, after limits on size, depth and numbers
``read_lines``       the same for JSON lines: a list with a value for each line
``read_npy``         an array, if its header matches the file
``read_npz``         some arrays of an archive; ``npz_headers`` gives its headers
``shown``            a name or text that is safe to print on a terminal
===================  ==================================================================

If the file is not what it should be, they raise a ValueError of one sentence that names it. If
there is none, they raise a FileNotFoundError. An OSError of the system is passed on. Links are
followed.
"""

import io
import json
import math
import os
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Any, NamedTuple

import numpy as np

MOST = 2**24  # bytes of a text file; as Python objects they are up to 25 times as many
DEEP = 64  # lists and objects of JSON within each other
_RATIO, _UNPACKED = 100, 2**30  # an archive unpacks to so many times its size, or so many bytes
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def shown(text: Any, *, lines: bool = False) -> str:
    r"""Text as it may be printed: control, format and half characters become escapes.

    Escape sequences, NUL, marks that turn the direction of reading, those without a width, and
    lone surrogates are written as in Python. ``lines`` keeps ends of lines and tabs.

    >>> shown("client \x1b[31m\u202e"), shown("Zoë 東京")
    ('client \\x1b[31m\\u202e', 'Zoë 東京')
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or not _hidden(c) else _escaped(c) for c in text)


def _hidden(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(c: str) -> str:
    return c.encode("unicode_escape", "surrogatepass").decode()


def opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a plain file to read; what is none is never waited for.

    Raises:
      FileNotFoundError: there is nothing, or a link that leads nowhere.
      ValueError: a folder, a pipe, a device or a socket, or no name that a file can have.
    """
    name = shown(path)
    try:
        _check_plain(os.stat(path).st_mode, name)
        # A pipe that is put there in between is not waited for either.
        ways = ("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
        handle = os.open(path, sum(getattr(os, way, 0) for way in ways))
    except FileNotFoundError:
        link = os.readlink(path) if os.path.islink(path) else None
        leads = f"; it is a link to {shown(link)}" if link else ""
        raise FileNotFoundError(f"there is no file {name}{leads}") from None
    except UnicodeEncodeError:
        raise ValueError(f"{name} is no name that a file can have") from None
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(name) else f"{name}: {text}") from None
    try:
        _check_plain(os.fstat(handle).st_mode, name)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_plain(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"{name} is {kind}, not a plain file")


def read_bytes(path: str | os.PathLike[str], *, most: int | None = None) -> bytes:
    """The bytes of a plain file, if they are no more than ``most``.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no plain file, or larger.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is None:
            try:
                return file.read()
            except (MemoryError, OverflowError):
                raise ValueError(f"{shown(path)} does not fit into memory") from None
        content = file.read(most + 1) if size <= most else b""
        if size > most or len(content) > most:
            raise ValueError(f"{shown(path)} has more than {most} bytes, the most that is read")
        return content


def read_json(
    path: str | os.PathLike[str],
    *,
    most: int = MOST,
    deep: int = DEEP,
    finite: bool = True,
    objects: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """What a file of JSON says.

    Args:
      most: its bytes.
      deep: lists and objects within each other.
      finite: refuse NaN and infinities, which are no JSON.
      objects: makes a value of an object's ``(key, value)`` pairs; by default a dictionary, in
        which no key may stand twice.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no plain file, too large, too deep, or no JSON.
    """
    content = read_bytes(path, most=most)
    return parse_json(content, path, deep=deep, finite=finite, objects=objects)


def read_lines(
    path: str | os.PathLike[str], *, most: int = MOST, deep: int = DEEP, finite: bool = True
) -> list[Any]:
    """What each line of a file of JSON lines says; as ``read_json``."""
    content = read_bytes(path, most=most)
    if content.count(b"\n") > most // 64:
        raise ValueError(f"{shown(path)} has more than {most // 64} lines, the most that are read")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [
        parse_json(line, f"{path}, line {number},", deep=deep, finite=finite)
        for number, line in enumerate(lines, 1)
    ]


def parse_json(
    content: bytes,
    name: Any,
    *,
    deep: int = DEEP,
    finite: bool = True,
    objects: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """What JSON says that was read already; ``name`` is where it came from, for errors.

    >>> parse_json(b'{"a": [1, 2.5]}', "x.json")
    {'a': [1, 2.5]}
    >>> parse_json(b'{"a": 1, "a": 2}', "x.json")
    Traceback (most recent call last):
    ValueError: x.json is no JSON that jfu reads: the key 'a' stands twice
    """
    try:
        if content.count(b"[") + content.count(b"{") > deep and depth(content) > deep:
            raise ValueError(f"its values lie more than {deep} deep within each other")
        value = json.loads(
            content.decode("utf-8"),
            parse_int=_whole,
            parse_float=_number if finite else float,
            parse_constant=_constant if finite else None,
            object_pairs_hook=objects or _once,
        )
        if b"\\u" in content:  # halves of characters, which cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        half = isinstance(error, UnicodeEncodeError)
        why = "half a character stands in it" if half else reason(error)
        raise ValueError(f"{shown(name)} is no JSON that jfu reads: {why}") from None


def depth(content: bytes) -> int:
    """How deep lists and objects of JSON lie within each other, without reading it.

    >>> depth(b'{"a]": [[1], "["]}')
    3
    """
    bare = np.frombuffer(content.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    outside = ~np.logical_xor.accumulate(bare == ord('"'))
    up, down = ((bare == ord(a)) | (bare == ord(b)) for a, b in ("[{", "]}"))
    steps = np.where(up, np.int8(1), np.int8(-1))[outside & (up | down)]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {shown(repr(twice))} stands twice")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:20]} is beyond 64 bits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:20]} is beyond what a float holds")
    return float(text)


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def reason(error: Exception) -> str:
    """What a library says is wrong, which may be much of the file."""
    text = shown(error) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:100]} ..."


class Header(NamedTuple):
    """What an ``.npy`` file or member says of its array, and that is true of its size."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int  # bytes before the values
    stored: bool = True  # whether the values lie in the file as they are


def read_npy(path: str | os.PathLike[str], *, most: int | None = None) -> np.ndarray:
    """The array of an ``.npy`` file; its claimed size is checked before it is read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no plain file, no array, objects inside, or other than ``most`` bytes allow.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise ValueError(f"{shown(path)} has more than {most} bytes, the most that is read")
        npy_header(file, size, path)
        return _values(file, path)


def npy_header(file: IO[bytes], size: int, name: Any) -> Header:
    """The header of the array that a file of ``size`` bytes begins with.

    Raises:
      ValueError: it is none, has objects inside, or claims other than what is there.
    """
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        shape, fortran, dtype = read.get(version, np.lib.format.read_array_header_2_0)(file)
    except Exception as error:  # of its parser: also recursion, memory, tokens
        raise ValueError(f"{shown(name)} is no .npy array ({reason(error)})") from None
    if dtype.hasobject:
        raise ValueError(f"{shown(name)} holds Python objects, which are not read")
    claimed = math.prod(shape) * max(dtype.itemsize, 1)
    if min(shape, default=0) < 0 or claimed != size - file.tell():
        raise ValueError(
            f"{shown(name)} claims {dtype} {list(shape)}, which is {claimed} bytes, and has "
            f"{size - file.tell()}; it was cut off or changed"
        )
    return Header(shape, dtype, fortran, file.tell())


def _values(file: IO[bytes], name: Any) -> np.ndarray:
    file.seek(0)
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # NumPy's, zipfile's and zlib's, each with their own
        raise ValueError(f"{shown(name)} cannot be read ({reason(error)})") from None


def npz_headers(path: str | os.PathLike[str]) -> dict[str, Header]:
    """The header and place of each array of an ``.npz`` file by name; no values are read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no plain file, no archive, something else than arrays inside, or more than it
        may unpack to.
    """
    with opened(path) as file, _archive(file, path) as archive:
        inside = _members(archive, file, path)
        return {name: _header(archive, file, member, path) for name, member in inside}


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, *, most: int | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file by name: those of ``names`` that it has, or all.

    Args:
      most: bytes that all arrays together may have. Stored arrays cannot claim more than the
        file has; packed ones by default may be 100 times as large, or 1 GiB.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: as ``npz_headers``, or values that are damaged.
    """
    found, wanted = {}, None if names is None else set(names)
    with opened(path) as file, _archive(file, path) as archive:
        for name, member in _members(archive, file, path, most):
            if wanted is None or name in wanted:
                _header(archive, file, member, path)
                with _member(archive, member, path) as values:
                    found[name] = _values(values, f"{name} in {path}")
    return found


def _archive(file: IO[bytes], path: Any) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:
        raise ValueError(
            f"{shown(path)} is no whole .npz file ({reason(error)}); write it anew with np.savez"
        ) from None


def _members(
    archive: zipfile.ZipFile, file: IO[bytes], path: Any, most: int | None = None
) -> list[tuple[str, zipfile.ZipInfo]]:
    """Its arrays by name, if all may be unpacked."""
    inside = archive.infolist()
    names = [member.filename for member in inside]
    if len(set(names)) < len(names):
        raise ValueError(f"{shown(path)} holds two arrays of one name; write it anew with np.savez")
    if bad := [n for n in names if not n.endswith(".npy")]:
        raise ValueError(
            f"{shown(path)} holds {shown(bad[0])}, which is no array; write it anew with np.savez"
        )
    size = os.fstat(file.fileno()).st_size
    limit = max(_UNPACKED, _RATIO * size) if most is None else most
    claimed = sum(member.file_size for member in inside)
    if claimed > limit:
        raise ValueError(
            f"{shown(path)} has {size} bytes and claims to unpack to {claimed}, of which {limit} "
            "are read at most; write it with np.savez, which does not pack"
        )
    return [(member.filename.removesuffix(".npy"), member) for member in inside]


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Any) -> IO[bytes]:
    try:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is packed in a way that NumPy does not use")
        return archive.open(member)
    except Exception as error:
        name = f"{member.filename} in {path}"
        raise ValueError(f"{shown(name)} cannot be read ({reason(error)})") from None


def _header(
    archive: zipfile.ZipFile, file: IO[bytes], member: zipfile.ZipInfo, path: Any
) -> Header:
    """Of a member, with its place in the file where it is stored there as it is."""
    name = f"{member.filename} in {path}"
    stored = member.compress_type == zipfile.ZIP_STORED
    if stored and member.file_size != member.compress_size:
        raise ValueError(f"{shown(name)} claims two sizes; it was changed")
    with _member(archive, member, path) as values:
        header = npy_header(values, member.file_size, name)
    if not stored:
        return header._replace(stored=False)
    # A member lies behind a header of 30 bytes, its name, and more of a length given there.
    file.seek(member.header_offset + 26)
    lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
    start = member.header_offset + 30 + sum(lengths)
    if start + member.file_size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{shown(name)} ends behind its file; it was cut off or changed")
    return header._replace(offset=start + header.offset)
