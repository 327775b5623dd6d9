"""What the system refuses, in a sentence."""

import errno

from launch.shell.say import sentence


def test_what_the_system_refuses_is_a_sentence():
    plain = ValueError("as it is"), FileNotFoundError("there is no file x")
    assert [sentence(error) for error in plain] == ["as it is", "there is no file x"]
    full = OSError(errno.ENOSPC, "a could not be written (No space left on device)")
    assert sentence(full).startswith(
        "a could not be written (No space left on device); free some space"
    )
    assert sentence(IsADirectoryError(errno.EISDIR, "Is a directory", "/a")) == "/a: Is a directory"
