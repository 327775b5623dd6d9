"""Small data sets: own arrays in a file, images of many kinds, and who learns from them."""

import io
import os
import subprocess
import sys

import numpy as np
from PIL import Image

from helpers.scripts import ROOT
from jfu.data import Dataset

# Hides TensorFlow where it is installed.
BLOCK = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def hide(name, *rest):
    return None if name == "tensorflow" else find(name, *rest)
PathFinder.find_spec = hide
"""


def python(code, *args):
    done = subprocess.run(
        [sys.executable, *(["-c", code] if code else []), *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def nearest_mean(data: Dataset) -> float:
    """Test accuracy of the simplest classifier that learns."""
    flat = [np.asarray(x, float).reshape(len(x), -1) for x in (data.x_train, data.x_test)]
    classes = range(len(data.labels))
    means = np.stack([flat[0][data.y_train == c].mean(0) for c in classes])
    guess = ((flat[1][:, None] - means) ** 2).sum(-1).argmin(1)
    return (guess == data.y_test).mean()


OWN = {
    "x_train": np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": np.zeros((2, 4, 4), np.uint8),
    "y_test": np.array([1, 3], np.uint8),
}


def save(folder, **changes):
    arrays = {k: v for k, v in {**OWN, **changes}.items() if v is not None}
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def odd_files():
    """One red image as files of many kinds, and two of other sizes."""
    red = Image.new("RGB", (9, 6), (200, 0, 0))
    return [
        encoded(red, "PNG"),
        encoded(red.convert("P"), "PNG"),
        encoded(red.convert("RGBA"), "PNG"),
        encoded(red.convert("CMYK"), "JPEG"),
        encoded(red.resize((5, 7)), "PNG"),
        encoded(red.resize((6, 9)), "GIF"),
    ]
