"""A ridge federation from training to the audit, as a user runs it."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import jfu.io
from helpers.forks import launch
from helpers.scripts import rows_of

SMALL = ["--federation=ridge", "--dataset=synthetic", "--train_size=200", "--clients=4"]
SMALL += ["--model=mlp1", "--devices=1"]
SENT = 4 * (201 * 202 // 2 + 201 * 10) + 4 * 5  # bytes of a client's message: 200 features and ones


def model(workdir):
    return load_file(workdir / "model.safetensors")


def same(one, other):
    return all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ridge") / "A"
    launch("train", *SMALL, f"--workdir={workdir}")
    return workdir


@pytest.mark.slow
def test_requests_one_after_the_other_and_a_return(trained, tmp_path):
    a, b, c, d, e = (tmp_path / name for name in "ABCDE")
    shutil.copytree(trained, a)
    launch("unlearn", f"--init_from={a}", f"--workdir={b}")  # client 0, by ridge
    launch("unlearn", f"--init_from={a}", f"--workdir={c}", "--method=retrain")
    assert same(model(b), model(c))
    assert not same(model(a), model(b))
    first, last = rows_of(b)[0], rows_of(b)[-1]
    assert (first["method"], last["method"], last["round"]) == ("original", "ridge", 1)
    assert last["bytes_down"] == last["bytes_up"] == last["flops"] == 0
    assert rows_of(c)[-1]["bytes_up"] == 3 * SENT
    part = ["--forget=fraction:0.5@client:2", "--erase"]
    launch("unlearn", f"--init_from={b}", f"--workdir={d}", *part)
    assert rows_of(d)[-1]["bytes_up"] == SENT  # of client 2, for what it keeps
    out, _ = launch("ledger", f"--workdir={d}")
    assert "answered fraction:0.5@client:2 by ridge" in out and "are valid" in out
    out, _ = launch("train", f"--init_from={d}", "--returns=client:0", f"--workdir={e}")
    kept = jfu.io.load_arrays(e / "history.safetensors")
    assert kept["statistics/moment"].shape == (4, 201, 10)
    assert all(np.abs(kept["statistics/moment"]).sum((1, 2)) > 0)


@pytest.mark.slow
def test_a_comparison_and_its_audit(tmp_path):
    workdir = tmp_path / "W"
    seeds = ["--seeds=2", "--sum_only"]
    launch("compare", *SMALL, *seeds, f"--workdir={workdir}")
    table = json.loads((workdir / "table.json").read_text())
    assert list(table["methods"]) == ["original", "retrain", "none", "ridge_subtract"]
    assert table["methods"]["ridge_subtract"]["gap"] < 0.5
    rows = {(r["method"], r["round"]): r for r in rows_of(workdir)}
    assert rows["ridge_subtract", 1]["bytes_up"] == SENT
    assert "own" not in rows["ridge_subtract", 1]
    assert rows["ridge_subtract", 1]["storage"] == SENT - 4 * 5
    launch("audit", f"--workdir={workdir}")
    report = json.loads((workdir / "audit.json").read_text())
    assert set(report["methods"]) >= {"none", "ridge_subtract"}
    assert report["clients"] == {}
    hidden = report["methods"]["ridge_subtract"]["reasons"]["others_unharmed"]
    assert hidden == "Accuracies of single clients would show what --sum_only hides."


@pytest.mark.slow
def test_the_audit_says_yes_to_an_exact_answer_and_no_to_the_old_model(tmp_path):
    """The control whose unlearning equals retraining by construction, on five seeds and six."""
    workdir = tmp_path / "W"
    flags = ["--federation=ridge", "--model=mlp", "--devices=1", "--seeds=6"]
    launch("compare", *flags, f"--workdir={workdir}")
    few = ["--shadows=64", "--relearn_rounds=2", "--resurfacing_rounds=1", "--draws=100"]
    launch("audit", f"--workdir={workdir}", *few)
    report = json.loads((workdir / "audit.json").read_text())
    given = {name: entry["verdicts"] for name, entry in report["methods"].items()}
    assert given["ridge"]["forgotten"] == given["retrain_third"]["forgotten"] == "yes"
    assert given["none"]["forgotten"] == "no"
    assert report["methods"]["ridge"]["compared_with"] == ["retrain"]
    assert report["methods"]["none"]["compared_with"] == ["retrain", "retrain_again"]
    for verdicts in report["by_seeds"].values():
        assert (verdicts["ridge"], verdicts["none"]) == ("yes", "no")
    assert list(report["by_seeds"]) == ["5", "6"]
    for question in ("was_it_there", "backdoor_gone", "useful", "others_unharmed"):
        assert given["ridge"][question] == "yes"


@pytest.mark.slow
def test_stopped_and_started_again_gives_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch("compare", *SMALL, "--seeds=1", f"--workdir={whole}")
    for cell in ("retrain", "ridge"):  # as if it had been killed before these
        launch("compare", *SMALL, "--seeds=1", f"--workdir={parts}")
        (parts / "cells" / f"0-{cell}.safetensors").unlink()
    launch("compare", *SMALL, "--seeds=1", f"--workdir={parts}")
    assert rows_of(parts, without=("seconds",)) == rows_of(whole, without=("seconds",))
    stored = lambda name: jfu.io.load_arrays(parts / "cells" / f"0-{name}.safetensors")
    retrain, ridge = stored("retrain"), stored("ridge")
    models = [name for name in retrain if name.startswith("variables")]
    assert models and all((retrain[name] == ridge[name]).all() for name in models)


def test_features_of_a_file_are_frozen(trained, tmp_path):
    """Of any network of the shape; here the one that is at hand."""
    features = f"--features={trained / 'model.safetensors'}"
    launch("train", *SMALL, features, "--seed=1", "--penalty=10", f"--workdir={tmp_path / 'A'}")
    mine, theirs = model(tmp_path / "A"), model(trained)
    assert (mine["params/stem/kernel"] == theirs["params/stem/kernel"]).all()
    assert (mine["params/head/kernel"] != theirs["params/head/kernel"]).any()


@pytest.mark.parametrize(
    ("script", "flags", "sentence"),
    [
        ("compare", ["--methods=not"], "not trains on from the old model, and --federation=ridge"),
        ("compare", ["--rounds=3"], "--rounds does nothing with --federation=ridge, where clients"),
        ("compare", ["--dp_clip=1"], "--dp_clip does nothing with --federation=ridge"),
        ("compare", ["--init_params=m.msgpack"], "needs features that never saw the data"),
        ("train", ["--keep_history=last"], "--keep_history does nothing with --federation=ridge"),
        ("pays", [], "--federation has no use here"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(tmp_path, script, flags, sentence):
    workdir = tmp_path / "w"
    small = [flag for flag in SMALL if script != "pays" or "federation" in flag]
    _, error = launch(script, *small, *flags, f"--workdir={workdir}", expect=2)
    assert sentence in error and error.count("\n") == 1
    assert not workdir.exists()


def test_the_same_flag_later_or_another_one(trained, tmp_path):
    where = [f"--init_from={trained}", f"--workdir={tmp_path / 'B'}"]
    _, error = launch("unlearn", *where, "--federation=fedavg", expect=2)
    assert "was trained with federation=ridge, not fedavg" in error
    _, error = launch("unlearn", *where, "--method=pgd", expect=2)
    assert "pgd trains on from the old model" in error
