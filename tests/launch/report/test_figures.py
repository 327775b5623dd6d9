"""Figures, written at once or not at all."""

import os

import pytest

from helpers.crashes import files
from helpers.spoilt import Killed
from launch.report import figures


def test_a_figure_is_written_at_once_or_not_at_all(tmp_path, monkeypatch):
    from matplotlib import pyplot

    figure, place = pyplot.figure(), tmp_path / "a.png"
    place.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            figures.save(figure, str(place))
    assert files(tmp_path) == {"a.png": b"old"}
    figures.save(figure, str(place))
    assert place.read_bytes()[:4] == b"\x89PNG"
    pyplot.close(figure)
