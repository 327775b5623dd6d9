"""What is nobody else's: who may read a run's files, and noise that nobody can take off."""

import os

from test_launch import launch

TINY = ["--dataset=synthetic", "--train_size=60", "--test_size=40", "--clients=3", "--nobackdoor"]
TINY += ["--model=mlp1", "--rounds=2", "--recovery_rounds=1", "--devices=1"]


def mode(path):
    return path.stat().st_mode & 0o777


# ---------------------------------------------------------------- who may read it


def test_a_runs_files_are_their_owners_alone(tmp_path):
    """Also in a folder that others may look into; a model that was asked for is as usual."""
    before = os.umask(0o022)
    try:
        (tmp_path / "A").mkdir()
        key = tmp_path / "key"
        key.write_bytes(b"0123456789abcdef")
        a, b, out = (tmp_path / name for name in ("A", "new/B", "out.safetensors"))
        _, said = launch("train", *TINY, f"--workdir={a}", f"--key_file={key}")
        note = f"note: others than its owner may read or write {key} (mode 644), and who has the"
        assert said.count(note) == 1
        key.chmod(0o600)
        flags = [f"--init_from={a}", f"--workdir={b}", f"--export_params={out}"]
        _, said = launch("unlearn", *flags, f"--key_file={key}")
        assert str(key) not in said
    finally:
        os.umask(before)
    assert mode(a) == 0o755 and mode(b) == mode(b / "cells") == mode(a / "cells") == 0o700
    made = [path for folder in (a, b) for path in folder.rglob("*") if path.is_file()]
    assert len(made) > 10 and {mode(path) for path in made} == {0o600}
    assert mode(out) == 0o644
