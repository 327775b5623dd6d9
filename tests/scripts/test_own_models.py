"""Runs with a network of the user's own: resumed, moved, changed."""

import json
import shutil

import numpy as np
import pytest

from helpers import own_networks
from helpers.crashes import CHECKPOINT, FEW
from helpers.scripts import rows_of

SHORT = ["--recovery_rounds=1"]
AUDIT = ["--draws=100", "--relearn_rounds=1", "--resurfacing_rounds=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two copies of a file with networks, and one of another content."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("net.py", "moved.py", "other.py"):
        shutil.copy(own_networks.__file__, folder / name)
    with (folder / "other.py").open("a") as file:
        file.write("# changed\n")
    return folder


@pytest.fixture(scope="module")
def trained(forks, folder):
    """A training that was killed after its first round; a changed file is refused; then it ends."""
    flags = ["train", *FEW, "--rounds=2", f"--workdir={folder / 'A'}"]
    named = lambda name: f"--model={folder / name}:Plain"
    killed = forks.run(*flags, named("net.py"), kill=("replaced", CHECKPOINT, 1))
    assert killed.killed, killed.said
    refused = forks.run(*flags, named("other.py"))
    assert refused.status == 2 and "the flags say model=" in refused.said
    done = forks.run(*flags, named("moved.py"))
    assert done.status == 0, done.said
    return folder / "A"


def test_a_run_goes_on_with_the_same_file_at_another_place(trained, folder):
    assert max(row["round"] for row in rows_of(trained)) == 2
    kept = json.loads((trained / "config.json").read_text())
    (digest,) = (d for name, d in kept["files"].items() if name.endswith("net.py"))
    assert len(digest) == 64 and kept["config"]["model"] == f"{folder / 'net.py'}:Plain"


def test_a_work_directory_alone_runs_no_code(forks, trained, folder):
    flags = ["unlearn", *SHORT, f"--init_from={trained}", f"--workdir={folder / 'B'}"]
    silent = forks.run(*flags)
    assert silent.status == 2 and "say that it may run with --model=" in silent.said
    changed = forks.run(*flags, f"--model={folder / 'other.py'}:Plain")
    assert changed.status == 2 and "is not the file that" in changed.said
    another = forks.run(*flags, f"--model={folder / 'net.py'}:Nnx")
    assert another.status == 2 and "leave the flag out, or train a new model" in another.said
    audited = forks.run("audit", f"--workdir={trained}")
    assert audited.status == 2 and "say that it may run with --model=" in audited.said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("breast_cancer", "Plain"),
        ("breast_cancer", "Linen"),
        ("diabetes", "Plain"),
        ("diabetes", "PlainLinen"),
    ],
)
def test_networks_of_ones_own_go_all_the_way(forks, folder, data, name):
    """Train, answer, compare, audit and verify tables of both tasks, with NNX and with Linen."""
    model = f"--model={folder / 'net.py'}:{name}"
    few = [f"--dataset={data}", "--clients=3", "--rounds=2", "--devices=1"]
    at = lambda what: f"--workdir={folder / f'{data}-{name}-{what}'}"
    start = f"--init_from={folder / f'{data}-{name}-A'}"
    for flags in (
        ["train", *few, model, at("A")],
        ["unlearn", *SHORT, model, start, at("B")],
        ["compare", *few, *SHORT, model, "--seeds=2", "--methods=retrain,not", at("C")],
        ["audit", model, *AUDIT, at("C")],
        ["ledger", at("B")],
        ["ledger", at("C")],
    ):
        done = forks.run(*flags)
        assert done.status == 0, done.said
    assert "audited" in done.said
    for what in "AB":
        row = rows_of(folder / f"{data}-{name}-{what}")[-1]
        assert np.isfinite([row["retain"], row["test"]]).all()
    last = {row["method"]: row for row in rows_of(folder / f"{data}-{name}-C")}
    assert last.keys() >= {"original", "retrain", "not"}
    found = json.loads((folder / f"{data}-{name}-C" / "audit.json").read_text())
    assert "forget" in found["methods"]["not"]["measures"]
    assert ("rmia" in found["methods"]["not"]["not_shown"]) == (data == "diabetes")
