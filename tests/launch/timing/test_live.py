"""What jfu.flower adds to a round: the measurement, at a tiny size."""

import numpy as np
import pytest

pytest.importorskip("flwr")
from launch.timing import live

pytestmark = pytest.mark.flower


def test_no_message_and_no_byte_is_added(tmp_path):
    arrays = {"stem": np.ones(3, np.float32), "head": np.ones(2, np.float32)}
    plain, wrapped = live.taken(arrays, None), live.taken(arrays, tmp_path / "folder")
    assert plain.messages == wrapped.messages == 2 * 2 * live.NODES  # train, evaluate; both ways
    assert plain.bytes == wrapped.bytes > 0
    assert (tmp_path / "folder" / "checkpoint.safetensors").exists()


def test_the_table_shows_differences():
    row = dict(model="a", parameters=1200, ratio=1.5, ms=2.25, cpu_ms=1.0, written=2e6)
    row |= dict(messages=[12.0, 12.0], bytes=[100.0, 103.0])
    assert (
        live.markdown([row]).splitlines()[-1] == "| a | 1,200 | 1.50 | 2.2 | 1.0 | 0 | 3 | 2.00 |"
    )
