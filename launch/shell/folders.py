"""Folders that the scripts write into."""

import pathlib

import jfu.io


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder, if it does not exist, and checks that files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"the folder {folder} cannot be made ({error.strerror})"
        ) from error
    jfu.io.check_writable(folder)
