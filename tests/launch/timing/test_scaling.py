"""Time and memory against sizes."""

import numpy as np
import pytest

from launch.timing import scaling


def test_scaling_by_hand():
    assert scaling.slope([10, 100, 1000], [0.1, 1.0, 20.0]) == pytest.approx(np.log10(20))
    row = dict(clients=7, width=50, parameters=42_310)
    assert scaling.grown(dict(sweep="clients") | row) == 7
    assert scaling.grown(dict(sweep="width") | row) == 42_310


@pytest.mark.slow
def test_scaling_counts_collectives(tmp_path):
    """More devices, one all-reduce and no gathers; more clients at once, more memory."""
    point = dict(clients=4, images=8, width=64, devices=1, chunk=1)
    alone = scaling.measured(point)
    assert alone["all_reduces"] == alone["gathers"] == 0
    assert alone["parameters"] == 784 * 64 + 64 + 64 * 64 + 64 + 650
    two = scaling.measured(point | dict(devices=2))
    assert (two["all_reduces"], two["gathers"]) == (1, 0)
    many = scaling.measured(point | dict(chunk=4))
    assert many["temporary_mb"] > 2 * alone["temporary_mb"]
    rows = [dict(sweep="devices") | point | alone]
    rows.append(dict(sweep="devices") | point | two | dict(devices=2))
    scaling.draw(rows, str(tmp_path / "s.png"))
    assert (tmp_path / "s.png").stat().st_size > 5000
    assert scaling.markdown(rows).count("all-reduce") == 2
