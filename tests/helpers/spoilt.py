"""What spoils a file: a bit that flips, other arrays, a pickle that acts, an end in between."""

import os

from safetensors import safe_open
from safetensors.numpy import save_file


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def resaved(path, arrays, *without):
    """A checkpoint with other arrays, or without some of what its header says."""
    with safe_open(path, "numpy") as file:
        arrays = arrays or {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = {k: v for k, v in file.metadata().items() if k not in without}
    save_file(arrays, path, notes)


class Killed(BaseException):
    """Not an Exception, as KeyboardInterrupt is none."""


class Bomb:
    """Unpickling one leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)
