"""The models that an audit reads of a work directory."""

import numpy as np
import pytest

from launch.running import evidence as stored
from launch.workdir import checkpoints, places


def test_a_model_is_found_within_what_its_method_keeps_beside(tmp_path):
    """Histories of training and old models lie beside the state that is audited."""
    work = places.WorkDir(tmp_path, None, run="r")
    notes = dict(round=1, rows=[], spent={}, finished=True)
    (tmp_path / "cells").mkdir()
    state = {"variables": {"params": {"w": np.arange(2.0, dtype=np.float32)}}, "round": np.int32(1)}
    old = {"params": {"w": np.full(2, 9, np.float32)}}
    kept = dict(plain=state, beside=dict(inner=state, own=old))
    kept |= dict(deeper=dict(inner=dict(inner=state, history={"variables": old}), own=old))
    for name, each in kept.items():
        checkpoints.write_cell(work, 0, name, each, notes)
        found = stored.stored(work, 0, name)
        assert list(found) == ["params"] and found["params"]["w"].tolist() == [0, 1]
    checkpoints.write_cell(work, 0, "none", dict(own=old), notes)
    with pytest.raises(ValueError, match="has no model"):
        stored.stored(work, 0, "none")
