"""Work directories of before runs knew by digest what they were made of: they still serve.

``older/`` was written by jfu 0.1.0 in the folder /data: A was trained on own.npz, B answered
``fraction:0.5@client:ann``, and W is a comparison that was stopped.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers.forks import launch
from jfu.io import load_params
from launch.records import inspection, ledgers, verification
from launch.workdir import runs

OLDER = Path(__file__).parent / "older"


@pytest.fixture
def place(tmp_path, monkeypatch):
    shutil.copytree(OLDER, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


def test_an_older_ledger_verifies(place, monkeypatch):
    monkeypatch.setattr(ledgers, "key", lambda: None)
    lines = verification.read(place / "B")
    assert [line["event"] for line in lines] == ["trained", "asked", "answered"]
    assert all(inspection.in_words(line) for line in lines)
    assert runs.read_run(str(place / "B")).data is None


def test_an_older_model_answers_and_its_answer_goes_on(place, forks):
    """What it does not say is said: that rows are drawn again."""
    data = f"--dataset={place / 'own.npz'}"
    ended = forks.run(
        *("unlearn", f"--init_from={place / 'B'}", f"--workdir={place / 'C'}", "--devices=1"),
        *(data, "--forget=client:bob", "--recovery_rounds=1", "--stop=budget"),
    )
    assert ended.status == 0, ended.said
    assert "is too old to have the rows that requests took out; they are drawn again" in ended.said
    draws = json.loads((place / "C" / "draws" / "0.json").read_text())["draws"]
    assert len(draws["past"][0]["ann"]) == 8  # half of fifteen, rounded to even
    params = load_params(place / "C" / "model.safetensors")["params"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert json.loads((place / "C" / "config.json").read_text())["data"]["owners"]


def test_an_older_comparison_goes_on(place):
    """In its own words, from its own checkpoint."""
    flags = ["--dataset=own.npz", "--model=mlp1", "--rounds=2", "--devices=1", "--seeds=2"]
    out, _ = launch(
        *("compare", *flags, "--methods=retrain,not", "--forget=client:bob", "--workdir=W"),
        cwd=place,
    )
    assert "| retrain again |" in out and (place / "W" / "draws" / "1.json").exists()
    other = [*flags, "--methods=retrain,not", "--forget=client:cid", "--workdir=W"]
    assert (
        "W has a run with forget=client:bob" in launch(*("compare", *other), cwd=place, expect=2)[1]
    )
