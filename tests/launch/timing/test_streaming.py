"""Clients that stay in host memory."""

from types import SimpleNamespace

import numpy as np
import pytest

from launch.timing import streaming


def test_streaming_by_hand():
    """Milliseconds a client, one number where all sizes are alike, a ratio that is a median."""
    row = dict(how="streamed", sizes="equal", clients=1000, smallest=100, largest=100)
    row |= dict(data_mb=74.8, seconds=2.5, ratio=0.98, peak_mb=412.4)
    ragged = row | dict(sizes="dirichlet", smallest=1, largest=4321)
    lines = streaming.markdown([row, ragged]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    shown = ["streamed", "equal", "1,000", "100", "75", "2.50", "2.50", "0.98", "412"]
    assert cells[2] == shown
    assert cells[3][1:4] == ["Dirichlet 0.1", "1,000", "1 to 4,321"]


@pytest.mark.slow
def test_streaming_measures_in_turns(tmp_path, monkeypatch):
    """A streamed worker and a resident one, with the same data and a ratio between them."""
    streaming.write(tmp_path / "x.npy", 1000)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert x.shape == (1000, 28, 28, 1) and x.dtype == np.uint8 and 120 < x.mean() < 135
    monkeypatch.setattr(streaming, "REFERENCE", ("resident", "equal", 10))
    rows = [streaming.REFERENCE, ("streamed", "equal", 10), ("streamed", "dirichlet", 10)]
    given = SimpleNamespace(rounds=2, devices=2, piece=2**18)
    monkeypatch.setattr(streaming, "FLAGS", given)
    first, second, third = streaming.taking_turns(rows, str(tmp_path / "x.npy"))
    assert first["rounds"] == 6 and second["rounds"] == third["rounds"] == 2
    assert (second["smallest"], second["largest"]) == (100, 100)
    assert third["smallest"] == 1 < 100 < third["largest"]
    assert second["data_mb"] == 1000 * 784 / 2**20
    assert second["ratio"] > 0 and second["peak_mb"] > 50
