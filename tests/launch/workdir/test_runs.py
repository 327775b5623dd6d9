"""What a run says of the model that it left."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from helpers.workdirs import PRIVATE, changed
from launch.shell.config import FIELDS, having
from launch.workdir import places, runs
from launch.workdir.fingerprint import fingerprint, later


@pytest.mark.parametrize(
    ("changes", "before"),
    [
        ({}, 4),
        (dict(init_params="A/model", rounds_before=6), 10),
        (dict(init_params="other.msgpack"), None),
        (dict(init_params="B/model", rounds_before=None), None),
        (dict(dp_noise_from_seed=True), None),
    ],
)
def test_a_models_rounds_are_known_or_not(changes, before, tmp_path, monkeypatch):
    run = SimpleNamespace(
        script="train",
        config=changed(PRIVATE, **changes),
        more=dict(seed=1),
        **dict(files={}, data=None, numerics=None, places=None),
    )
    monkeypatch.setattr(runs, "read_run", lambda path: run)
    monkeypatch.setattr(runs, "parse_run", lambda path, text: run)
    (tmp_path / places.MODEL).write_bytes(b"")
    (tmp_path / places.CONFIG).write_text("")
    assert runs.read_model(str(tmp_path)).config.rounds_before == before


def test_what_is_older_had_noise_that_anybody_can_compute():
    """It is read as that, and a run of its name is another than one with a secret."""
    kept = dict(script="train", more={}, layout={}, files={}, config=dict(dp_clip=1.0, lr=0.1))
    same = dict(kept, config=dict(dp_clip=1.0, lr=0.1, dp_noise_from_seed=True))
    now = dict(kept, config=dict(dp_clip=1.0, lr=0.1, dp_noise_from_seed=False))
    assert fingerprint(kept) == fingerprint(same) != fingerprint(now)
    plain = dict(kept, config=dict(dp_clip=None, lr=0.1))
    later = dict(kept, config=dict(dp_clip=None, lr=0.1, dp_noise_from_seed=False))
    assert fingerprint(plain) == fingerprint(later)
    values = dataclasses.asdict(PRIVATE)
    del values["dp_noise_from_seed"]
    assert runs.config_of(values).dp_noise_from_seed
    assert not runs.config_of(values | dict(dp_clip=None)).dp_noise_from_seed


@pytest.mark.parametrize("name", having("later"))
def test_a_field_that_came_later_has_its_default_as_files_have_it(name):
    """So a run without it is the run that a command with the default continues."""
    default = json.loads(json.dumps(FIELDS[name].default))
    kept = dict(script="train", more={}, layout={}, files={}, config=dict(dp_clip=None))
    assert later(kept["config"])[name] == default
    assert fingerprint(kept) == fingerprint(
        dict(kept, config=dict(dp_clip=None, **{name: default}))
    )
