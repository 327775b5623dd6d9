"""Secrets of noise, as files in a work directory."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from helpers.workdirs import trial_of
from launch.workdir import secret


def mode(path):
    return path.stat().st_mode & 0o777


def test_what_is_no_secret_is_left_alone(tmp_path):
    """Half of one was used by no round; anything else is the user's."""
    place = tmp_path / secret.FOLDER / "0-not"
    text = secret.write(place)
    assert secret.read(place) == text and len(text) == 65 and mode(place) == 0o600
    place.write_text(text[:20])
    assert secret.read(place) is None and secret.write(place) != text
    place.write_text("my own notes")
    with pytest.raises(ValueError, match="is not a secret that jfu wrote; move it elsewhere"):
        secret.read(place)
    assert not secret.is_one(place) and place.read_text() == "my own notes"
    secret.forget(tmp_path, 0, "not")
    secret.forget(tmp_path, 0, "not")
    assert not place.parent.exists()


def test_a_secret_beside_other_data_draws_other_noise(data, tmp_path):
    """Or beside another run's settings, another method's run, model, or request."""
    request, other = (trial_of(data, gone).request for gone in ([5], [2]))
    work = lambda run: SimpleNamespace(path=tmp_path, run=run, lock=None)
    text = secret.write(secret.where(tmp_path, 0, "not"))
    for seed, name in ((1, "not"), (0, "noise")):
        secret.write(secret.where(tmp_path, seed, name))
        secret.where(tmp_path, seed, name).write_text(text)
    made = [
        secret.key(work(run), seed, name, model, side, begun=False)
        for run, seed, name, model, side in (
            ("a", 0, "not", np.ones(3), request),
            ("b", 0, "not", np.ones(3), request),
            ("a", 1, "not", np.ones(3), request),
            ("a", 0, "noise", np.ones(3), request),
            ("a", 0, "not", np.zeros(3), request),
            ("a", 0, "not", np.ones(3), other),
            ("a", 0, "not", np.ones(3), request),
        )
    ]
    words = [jax.random.key_data(key).tobytes() for key in made]
    assert len(set(words)) == 6 and words[0] == words[-1]
