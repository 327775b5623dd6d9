"""Files that are replaced at once or not at all.

New content is written beside its place and moved there. A reader finds the old file or the new one,
never a half, and an error leaves the old one.
"""

import contextlib
import os
import pathlib
import tempfile

PART = ".jfu-part"  # ends the names of files in the making: .NAME.RANDOM.jfu-part


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces a file at once or not at all, through to the disk.

    Who may read the old file may read the new one; where there was none, the umask says who.

    Raises:
      OSError: it could not be written; the file that was there before is there still.
    """
    try:
        _replace(pathlib.Path(path), content)
    except OSError as error:
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}) and is as it was before"
        ) from error


def _replace(path: pathlib.Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            os.unlink(temporary)
        raise


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Makes a file in a folder and removes it, so that work is not done for a place that has none.

    Raises:
      OSError: no file can be made there.
    """
    try:
        tempfile.TemporaryFile(dir=folder, prefix=".", suffix=PART).close()
    except OSError as error:
        raise OSError(
            error.errno, f"no file can be written in {folder} ({error.strerror})"
        ) from error


def _mode(path: pathlib.Path) -> int:
    """The rights of the file that is there, or of a new one."""
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
