"""The scripts as a user runs them: in processes of their own, end to end."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from helpers.crashes import until
from helpers.forks import launch
from helpers.scripts import ROOT, SMALL, ended, fresh_launch, rare, rows_of, started

# ---------------------------------------------------------------- the quickstart


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("quickstart")
    out = fresh_launch("compare", cwd=cwd)
    (workdir,) = (cwd / "runs").iterdir()
    return workdir, out


@pytest.mark.slow
def test_the_quickstarts_table_meets_its_claim(quickstart):
    workdir, out = quickstart
    table = json.loads((workdir / "table.json").read_text())
    methods = table["methods"]
    mean = lambda name, key: methods[name][key]["mean"]
    assert list(methods) == ["original", "retrain", "finetune", "not"]
    assert len(table["seeds"]) >= 3
    # The original obeys the trigger; half of retraining's rounds later fine-tuning still does
    # and NoT does not, and NoT recovers in fewer rounds than retraining.
    assert mean("original", "asr") > 80
    assert mean("finetune", "asr") > 40
    assert mean("not", "asr") < 5
    assert mean("retrain", "asr") < 5
    assert mean("finetune", "rounds") == mean("not", "rounds") == mean("retrain", "rounds") / 2
    assert mean("not", "rounds_to_recover") < mean("retrain", "rounds_to_recover")
    assert methods["not"]["gap"] < methods["finetune"]["gap"]
    assert methods["not"]["gap_per_seed"]["mean"] < methods["finetune"]["gap_per_seed"]["mean"] / 4
    assert table["floor"]["gap"] < 2
    assert (workdir / "table.md").read_text() in out


@pytest.mark.slow
def test_the_quickstarts_rows_add_up(quickstart):
    workdir, _ = quickstart
    rows = rows_of(workdir)
    keys = {"method", "seed", "round", "retain", "forget", "test", "mia", "mia_matched", "asr"}
    keys |= {"bytes_down", "bytes_up", "flops", "storage", "seconds"}
    keys |= {"loss_retain", "loss_forget", "left_out", "guess", "worst_client", "client_spread"}
    assert all(set(row) == keys for row in rows)
    originals = [row for row in rows if row["method"] == "original"]
    assert all(row["round"] == 0 and row["bytes_up"] == 0 for row in originals)
    # 9 clients of 143 or 144 images in batches of 16; conv 1-16, conv 16-32, 128-64, 64-10.
    parameters = (9 * 16 + 16) + (9 * 16 * 32 + 32) + (128 * 64 + 64) + (64 * 10 + 10)
    for row in rows:
        assert row["bytes_down"] == row["round"] * 9 * (4 * parameters + 4)
        assert row["bytes_up"] == row["round"] * 9 * (4 * parameters + 4 + 5 * 4)
        assert row["storage"] == row["left_out"] == 0
    # Three products a layer, forward and back, and two in the first, whose images need no slope;
    # a 3x3 kernel at the edge of n x n pixels meets (3n - 2)^2 of them in all.
    first = 22 * 22 * 16
    products = 2 * first + 3 * (10 * 10 * 16 * 32 + 128 * 64 + 64 * 10)
    last = max((row for row in rows if row["method"] == "retrain"), key=lambda row: row["round"])
    a_round = 9 * 9 * 16 * 2 * products
    assert 1 < last["flops"] / last["round"] / a_round < 1.1  # the rest is biases and the like
    # The table is made of the rows.
    table = json.loads((workdir / "table.json").read_text())["methods"]
    finals = [r["test"] for r in rows if r["method"] == "not" and r["round"] == last["round"] / 2]
    assert table["not"]["test"]["mean"] == pytest.approx(np.mean(finals))
    assert table["not"]["test"]["std"] == pytest.approx(np.std(finals, ddof=1))


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(quickstart):
    workdir, out = quickstart
    before = (workdir / "results.jsonl").read_bytes()
    again, _ = launch("compare", f"--workdir={workdir}", cwd=workdir.parent)
    assert (workdir / "results.jsonl").read_bytes() == before
    assert again.splitlines()[1:5] == out.splitlines()[1:5]


# ---------------------------------------------------------------- stopping and going on


COMPARE = [*SMALL, "--rounds=6", "--seeds=2", "--checkpoint_every=2", "--attack_every=3"]
COMPARE += ["--methods=retrain,not,none", "--sample=3", "--augment=crop", "--server=adam"]
COMPARE += ["--server_lr=0.01", "--partition=dirichlet:0.3"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "w"
    launch("compare", *COMPARE, f"--workdir={workdir}")
    return rows_of(workdir, without=("seconds",))


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 3, 6])
def test_killed_and_started_again_gives_the_same_bits(uninterrupted, forks, tmp_path, cells):
    workdir = tmp_path / "w"
    pid = forks.start("compare", *COMPARE, f"--workdir={workdir}")
    until(lambda: len(list(workdir.glob("cells/*.safetensors"))) >= cells)
    os.kill(pid, signal.SIGKILL)
    assert forks.wait(pid).killed, "it was finished before it could be killed"
    launch("compare", *COMPARE, f"--workdir={workdir}")
    assert rows_of(workdir, without=("seconds",)) == uninterrupted


def sliced(workdir: Path, *flags: str) -> list[str]:
    """Runs slices of a comparison until nothing is left; returns what they said of their stop."""
    stops = []
    while not stops or stops[-1].startswith("stopped: "):
        assert len(stops) < 100
        out, _ = launch("compare", *flags, f"--workdir={workdir}")
        stops.append(out.splitlines()[-1])
    return stops[:-1]


@pytest.mark.slow
def test_a_slice_stops_with_a_checkpoint_and_the_same_command_goes_on(uninterrupted, tmp_path):
    workdir = tmp_path / "w"
    out, _ = launch("compare", *COMPARE, f"--workdir={workdir}", "--max_minutes=0")
    # A round of the six of training, though --checkpoint_every=2; two seeds of original, three
    # methods and the second retraining; 6 + 6 + 3 + 0 + 6 rounds each.
    assert out.splitlines()[-1] == (
        "stopped: --max_minutes is over at seed 0, original, round 1 of 6; of 10 runs 10 are not "
        "finished, 41 rounds; the same command continues"
    )
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in out.splitlines()]
    assert ["original", "round 1/6", "missing"] in lines and ["none", *2 * ["missing"]] in lines
    table = json.loads((workdir / "table.json").read_text())
    assert table["cells"]["original"] == {"0": {"round": 1, "of": 6}, "1": None}
    assert rows_of(workdir) == []
    launch("compare", *COMPARE, f"--workdir={workdir}", "--max_minutes=60")
    assert rows_of(workdir, without=("seconds",)) == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_slices_of_a_round_and_runs_of_two_machines(tmp_path):
    """One round at a time; and seed by seed in two places, with checkpoints copied together."""
    flags = [f for f in COMPARE if not f.startswith(("--rounds", "--seeds", "--methods"))]
    flags += ["--rounds=2", "--methods=retrain,not"]
    whole = tmp_path / "whole"
    launch("compare", *flags, "--seeds=2", f"--workdir={whole}")
    expected = rows_of(whole, without=("seconds",))
    one, two = tmp_path / "one", tmp_path / "two"
    # Rounds of a seed: 2 of training, 2 of retraining, 1 of recovery, 2 of the second retraining;
    # the last of them leaves nothing to stop for.
    assert len(sliced(one, *flags, "--seeds=1", "--max_minutes=0")) == 6
    launch("compare", *flags, "--seeds=1", "--first_seed=1", f"--workdir={two}")
    out, _ = launch("table", f"--workdir={one},{two}", f"--record={tmp_path / 'r.jsonl'}")
    assert (one / "table.md").read_text() in out
    apart = json.loads((one / "table.json").read_text())
    for cell in (two / "cells").iterdir():
        shutil.copy(cell, one / "cells")
    launch("compare", *flags, "--seeds=2", f"--workdir={one}")
    assert rows_of(one, without=("seconds",)) == expected
    together = json.loads((one / "table.json").read_text())
    assert together["methods"] == apart["methods"] and together["cells"] == apart["cells"]
    recorded = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert recorded[0]["config"]["rounds"] == 2
    assert recorded[1:] == rows_of(one)


@pytest.mark.slow
def test_methods_and_seeds_may_grow(uninterrupted, tmp_path):
    workdir = tmp_path / "w"
    fewer = [f for f in COMPARE if not f.startswith(("--methods", "--seeds"))]
    launch("compare", *fewer, "--methods=retrain", "--seeds=1", f"--workdir={workdir}")
    launch("compare", *COMPARE, f"--workdir={workdir}")
    assert rows_of(workdir, without=("seconds",)) == uninterrupted


# ---------------------------------------------------------------- train, unlearn, export


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("train") / "A"
    launch("train", *SMALL, "--keep_history=start,norms,first,last", f"--workdir={workdir}")
    return workdir


def test_training_leaves_rows_and_a_model(trained):
    rows = rows_of(trained)
    assert [row["round"] for row in rows if row["method"] == "train"] == [0, 1, 2, 3, 4]
    assert [row["round"] for row in rows if row["method"] == "original"] == [0]
    assert (trained / "model.safetensors").is_file()
    import jfu.io

    history = jfu.io.load_arrays(trained / "history.safetensors")
    assert history["norms"].shape == (4, 4)
    assert (np.asarray(history["norms"]) > 0).all()
    assert history["last/stem/kernel"].shape == (4, 3, 3, 1, 16)


@pytest.mark.parametrize("method", ["not", "not_deepest", *rare("federaser", "retrain", "noise")])
def test_a_request_is_answered_from_a_trained_model(trained, tmp_path, method):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    workdir = tmp_path / "B"
    flags = [f"--init_from={trained}", f"--workdir={workdir}", f"--method={method}"]
    # Any share is allowed, so the last cut is chosen, not the earlier one with the least.
    flags += ["--options=not_deepest.tells=1"] * (method == "not_deepest")
    _, said = launch("unlearn", *flags, "--stop=budget")
    # Four rounds are too few here: it names one class.
    assert ("outlook: the model retains 12.0 % and has learnt nothing" in said) == (method == "not")
    assert ("negates head: its predictions then reveal" in said) == (method == "not_deepest")
    rows = rows_of(workdir)
    budget = dict(retrain=4).get(method, 2)
    assert [row["round"] for row in rows] == [0, *range(budget + 1)]
    assert rows[0]["method"] == "original"
    behind = rows[-1]["retain"] < rows[0]["retain"] - 0.5 and method != "retrain"
    why = "the model retains" if method == "not_deepest" else "retained accuracy"
    assert (f"not back: {why}" in said) == behind
    import jfu.io

    old, new = (jfu.io.load_params(w / "model.safetensors") for w in (trained, workdir))
    assert not np.array_equal(old["params"]["stem"]["kernel"], new["params"]["stem"]["kernel"])
    after = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    added = after[trained / "ledger.jsonl"].removeprefix(before[trained / "ledger.jsonl"])
    assert json.loads(added)["event"] == "begun" and str(workdir) in added.decode()
    changing = [trained / name for name in ("lock", "ledger.jsonl")]
    assert [p for p in after if after[p] != before.get(p)] == [p for p in after if p in changing]


@pytest.mark.slow
def test_two_steps_give_what_one_comparison_gives(trained, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    launch("compare", *SMALL, "--seeds=1", "--methods=not_blend", f"--workdir={one}")
    launch("unlearn", f"--init_from={trained}", f"--workdir={two}", "--stop=budget")
    assert rows_of(one, without=("seconds",)) == rows_of(two, without=("seconds",))


def test_unlearning_stops_once_the_accuracy_is_back(trained, tmp_path):
    """Fine-tuning never loses it: one round, and the rows and the model of that round."""
    flags = [f"--init_from={trained}", "--method=finetune", "--recovery_rounds=3"]
    launch("unlearn", *flags, f"--workdir={tmp_path / 'B'}")
    rows = rows_of(tmp_path / "B")
    retain = [row["retain"] for row in rows[1:]]
    assert len(retain) < 4
    assert retain[-1] >= rows[0]["retain"] - 0.5
    assert all(r < rows[0]["retain"] - 0.5 for r in retain[1:-1])
    assert rows[-1]["mia"] is not None
    launch("unlearn", *flags, f"--workdir={tmp_path / 'B'}")
    assert rows_of(tmp_path / "B") == rows


def test_a_history_that_was_not_kept_is_asked_for(trained, tmp_path):
    flags = [f"--init_from={trained}", "--method=fukd", f"--workdir={tmp_path / 'B'}"]
    _, error = launch("unlearn", *flags, expect=2)
    assert "fukd needs what training recorded of sums, and there is" in error
    assert not (tmp_path / "B").exists()


@pytest.mark.slow
def test_a_rollback_answers_from_the_states_that_training_kept(tmp_path):
    """One client a round; the last of them to come first leaves. The server sees only sums."""
    import jfu.io

    flags = [*SMALL, "--nobackdoor", "--sample=1", "--sum_only", "--keep_history=before"]
    launch("train", *flags, f"--workdir={tmp_path / 'A'}")
    history = jfu.io.load_arrays(tmp_path / "A" / "history.safetensors")
    joined, came = np.asarray(history["before/joined"]), int(history["before/used"])
    first = joined[joined < 4]
    assert came == len(set(first)) > 1
    late, number = int(np.flatnonzero(joined == max(first))[0]), int(max(first))
    answer = [f"--init_from={tmp_path / 'A'}", "--method=rollback", f"--forget=client:{late}"]
    _, said = launch("unlearn", *answer, f"--workdir={tmp_path / 'B'}")
    assert f"rollback returns to the model after round {number} of 4" in said
    rows = rows_of(tmp_path / "B")
    assert [row["round"] for row in rows] == [0, *range(4 - number + 1)]
    asked = ["--seeds=1", "--methods=rollback", answer[-1], f"--workdir={tmp_path / 'W'}"]
    launch("compare", *flags[:-1], *asked)
    timeless = dict(without=("seconds",))
    assert rows_of(tmp_path / "W", **timeless) == rows_of(tmp_path / "B", **timeless)
    assert rows[-1]["storage"] == sum(a.nbytes for a in history.values()) > 4 * 4 * 13_706
    for flag in ("--stop=regained", "--recovery_rounds=3"):
        _, error = launch("unlearn", *answer, flag, f"--workdir={tmp_path / 'C'}", expect=2)
        assert "does nothing with rollback" in error
    never = np.flatnonzero(joined == 4)
    for client in never[:1]:
        gone = [*answer[:2], f"--forget=client:{client}", f"--workdir={tmp_path / 'C'}"]
        _, error = launch("unlearn", *gone, expect=2)
        assert "its model never learned from them, and there is nothing to answer" in error


@pytest.mark.slow
def test_rivals_in_one_comparison_and_its_rounds(tmp_path):
    """A history, data at the server, single updates; then one more method, and the benchmark."""
    flags = [*SMALL, "--rounds=2", "--seeds=1", "--attack_every=1", f"--workdir={tmp_path / 'w'}"]
    out, _ = launch("compare", *flags, "--methods=retrain,federaser,fukd,puf", "--proxy=0.2")
    table = json.loads((tmp_path / "w" / "table.json").read_text())
    assert table["methods"]["federaser"]["storage"]["mean"] > 4 * 13_706 * 5
    assert table["methods"]["puf"]["storage"]["mean"] == 0
    assert table["methods"]["puf"]["stopped"]["oracle"]["rounds"]["mean"] == 1
    assert "P data at the server" in out
    for name in ("costs.png", "curves.png", "stopping.md"):
        assert (tmp_path / "w" / name).stat().st_size > 300
    before = rows_of(tmp_path / "w")

    out, _ = launch("rounds", *flags, "--methods=retrain,not", "--proxy=0.2", "--target_asr=100")
    kept = [row for row in rows_of(tmp_path / "w") if row["method"] != "not"]
    key = lambda row: (row["method"], row["round"])
    assert sorted(kept, key=key) == sorted(before, key=key)
    text = (tmp_path / "w" / "rounds.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["method"] for line in lines} == {"retrain", "federaser", "fukd", "puf", "not"}
    assert all(line["round"] == 0 for line in lines if line["measure"] == "asr")
    assert (tmp_path / "w" / "rounds.md").read_text() in out
    assert (tmp_path / "w" / "rounds.png").stat().st_size > 10_000

    _, error = launch("compare", *flags, "--methods=pgd", "--proxy=0.2", expect=2)
    assert "did not keep last, which pgd needs; begin another --workdir" in error


@pytest.mark.parametrize("ending", ["safetensors", *rare("msgpack")])
def test_a_model_from_elsewhere_enters_and_leaves(trained, tmp_path, ending):
    import jfu.io

    model = jfu.io.load_params(trained / "model.safetensors")
    file, out = tmp_path / f"model.{ending}", tmp_path / f"unlearned.{ending}"
    jfu.io.save_params(file, model["params"])
    flags = [*SMALL, f"--init_params={file}", "--forget=client:1,2", f"--export_params={out}"]
    flags += ["--nobackdoor", "--recovery_rounds=0", f"--workdir={tmp_path / 'w'}"]
    flags += ["--method=not"]
    launch("unlearn", *flags)
    unlearned = jfu.io.load_params(out)["params"]
    for path, kept in jfu.io.flatten(model["params"]).items():
        sign = -1 if path.startswith("stem/") else 1
        np.testing.assert_array_equal(jfu.io.flatten(unlearned)[path], sign * kept)
    again = [f for f in flags if not f.startswith("--workdir")]
    _, error = launch("unlearn", *again, f"--workdir={tmp_path / 'v'}", expect=2)
    assert "exists already" in error


@pytest.mark.slow
def test_own_data_with_own_client_ids(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (y[:, None, None] * 80 + rng.integers(0, 40, (120, 8, 8))).astype(np.uint8)
    ids = np.array(["alice", "bob", "carol"])[np.arange(120) // 40]
    own = tmp_path / "own.npz"
    np.savez(own, x_train=x, y_train=y, x_test=x[:30], y_test=y[:30], client=ids)
    flags = [f"--dataset={own}", "--model=small", "--rounds=4", "--batch_size=8", "--seeds=1"]
    launch("compare", *flags, "--forget=client:bob", f"--workdir={tmp_path / 'w'}")
    original = rows_of(tmp_path / "w")[0]
    assert original["method"] == "original"
    assert original["asr"] is None
    _, error = launch(
        "compare", *flags, "--forget=client:dave", f"--workdir={tmp_path / 'v'}", expect=2
    )
    assert error == "error: there is no client dave; the clients are alice, bob, carol\n"


@pytest.mark.parametrize(
    "request_flags",
    [
        ["--forget=class:7@client:0"],
        *rare(["--forget=fraction:0.3@client:1", "--backdoor"]),
        *rare(["--forget=class:7"], ["--forget=fraction:0.1"], ["--forget=client:0,3"]),
        *rare(["--forget=fraction:0.1", "--clients=1"]),  # centralised
    ],
)
def test_every_kind_of_request(tmp_path, request_flags):
    flags = [*SMALL, *request_flags, "--rounds=2", "--seeds=1", f"--workdir={tmp_path / 'w'}"]
    launch("compare", *flags)
    rows = rows_of(tmp_path / "w")
    by_class = request_flags[0].startswith("--forget=class")
    assert all(("test_forgotten" in row) == by_class for row in rows)
    clientwise = request_flags[0].startswith("--forget=client") or "--backdoor" in request_flags
    assert all((row["asr"] is not None) == clientwise for row in rows)


def test_own_mask(tmp_path):
    mask = np.zeros(200, bool)
    mask[:50] = True
    np.save(tmp_path / "mask.npy", mask)
    _, said = launch(
        "compare",
        *SMALL,
        "--rounds=2",
        "--seeds=1",
        f"--forget=mask:{tmp_path / 'mask.npy'}",
        f"--workdir={tmp_path / 'w'}",
    )
    assert "(50 images)" in said


# ---------------------------------------------------------------- bad input


BAD = [
    (["--methods=nonsense"], "there is no method nonsense; the methods are retrain"),
    (["--layers=nonsense"], "the selector picks no parameter"),
    (["--layers=["], "is not a regular expression"),
    (["--forget=client:9"], "there is no client 9; the clients are 0, 1, 2, 3"),
    (["--forget=class:77"], "no example has class [77]"),
    (["--forget=client:0,1,2,3"], "would forget everything"),
    (["--forget=everybody"], "is not understood"),
    (["--forget=fraction:2"], "must lie in (0, 1]"),
    (["--forget=fraction:x"], "is not float"),
    (["--forget=fraction:0.5,0.1"], "names several fractions"),
    (["--layers=7"], "beyond the 4 layers"),
    (["--min_examples=100"], "need 400"),
    (["--forget=mask:nowhere.npy"], "there is no file nowhere.npy"),
    (["--partition=pathological"], "partition"),
    (["--clients=5000"], "client"),
    (["--dataset=nowhere.npz"], "nowhere.npz"),
    (["--dataset=mnist", "--data_dir=nowhere"], "launch.prepare"),
    (["--model=gpt"], "gpt"),
    (["--model=cnn"], "16x16"),
    (["--norm=batch"], "has no norm"),
    (["--init_params=nowhere.msgpack"], "there is no file nowhere.msgpack"),
    (["--backdoor_label=10"], "labels count from 0"),
    (["--backdoor_size=9"], "a square of 9 pixels does not fit images of 8 x 8"),
    (["--forget=class:1", "--backdoor"], "--backdoor_client"),
    (["--forget=class:1", "--backdoor_fraction=0.5"], "--backdoor_fraction does nothing"),
    (["not"], "is not a flag"),
    (["--options=pgd.rate=3"], "pgd has no option rate; it has lr"),
    (["--methods=pgd", "--forget=class:1", "--nobackdoor"], "pgd takes whole clients out"),
    (["--test_size=999"], "test_size is 999; it must be between 1 and"),
]


@pytest.mark.parametrize(("flags", "sentence"), BAD, ids=lambda v: v[0] if type(v) is list else "")
def test_bad_input_is_one_sentence(tmp_path, flags, sentence):
    workdir = tmp_path / "w"
    out, error = launch("compare", *SMALL, f"--workdir={workdir}", *flags, expect=2)
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert out == ""
    assert not workdir.exists()


def test_an_unknown_flag_is_refused():
    _, error = launch("compare", "--roundz=3", expect=1)
    assert "Unknown command line flag 'roundz'" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("flag", ["--methods=pgd", "--seeds=2"])
def test_what_a_preset_may_name_is_refused_where_it_is_typed(tmp_path, flag):
    preset = ROOT / "launch" / "presets" / "digits.flags"
    where = [f"--init_from={tmp_path / 'a'}", f"--workdir={tmp_path / 'b'}"]
    _, error = launch("unlearn", f"--flagfile={preset}", *where, flag, expect=2)
    assert f"{flag.partition('=')[0]} is not a flag of this script" in error
    assert not (tmp_path / "b").exists()


def test_a_work_directory_of_another_configuration_is_left_alone(trained, tmp_path):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    _, error = launch("train", *SMALL, "--lr=0.7", f"--workdir={trained}", expect=2)
    assert "has a run with lr=0.1" in error and "the flags say lr=0.7" in error
    _, error = launch("compare", *SMALL, f"--workdir={trained}", expect=2)
    assert "has a run of launch.train" in error
    _, error = launch("unlearn", f"--init_from={trained}", "--lr=0.7", expect=2, cwd=tmp_path)
    assert "was trained with lr=0.1, not 0.7" in error
    again = [f"--init_from={trained}", "--method=retrain", "--max_grad_norm=1"]
    _, error = launch("unlearn", *again, expect=2, cwd=tmp_path)
    assert "was trained with max_grad_norm=None, not 1.0" in error
    assert before == {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years of work")
    _, error = launch("train", *SMALL, f"--workdir={mine}", expect=2)
    assert "not a work directory of jfu" in error
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_a_truncated_checkpoint_is_named_and_kept(tmp_path):
    workdir = tmp_path / "w"
    flags = [*SMALL, "--rounds=2", "--seeds=1", "--methods=not", f"--workdir={workdir}"]
    launch("compare", *flags)
    cell = workdir / "cells" / "0-not.safetensors"
    cell.write_bytes(cell.read_bytes()[:-100])
    half = cell.read_bytes()
    _, error = launch("compare", *flags, expect=2)
    assert error.splitlines()[-1].startswith(f"error: {cell} is unreadable as a checkpoint")
    assert cell.read_bytes() == half


@pytest.mark.slow
def test_a_model_that_has_learnt_nothing_is_refused(tmp_path):
    """Of zeros, so that no negation changes it; negations that cancel: tests/launch/setup."""
    import jax.numpy as jnp

    import jfu.io
    from jfu import models

    model = models.build("small", classes=10, image_shape=(8, 8, 1))
    import jax

    zeros = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    jfu.io.save_params(tmp_path / "zeros.safetensors", zeros)
    _, error = launch(
        "unlearn",
        *SMALL,
        "--method=not",
        f"--init_params={tmp_path / 'zeros.safetensors'}",
        f"--workdir={tmp_path / 'w'}",
        expect=2,
    )
    assert "the model answers 64 inputs alike, so it has learnt nothing to forget" in error


@pytest.mark.parametrize("script", ["train", "unlearn", "compare", "rounds", "prepare"])
def test_help_reads_well(script):
    status, out, _ = ended(started("-m", f"launch.{script}", "--help"))
    assert status == 1  # as absl's help exits
    for name in ["--dataset", "--data_dir"]:
        assert name in out
    assert f"python -m launch.{script}" in out
    if script != "prepare":
        for name in ["--workdir", "--clients", "--partition", "--rounds", "--forget", "--layers"]:
            assert name in out


@pytest.mark.slow
def test_flagfile_presets_run(tmp_path):
    preset = ROOT / "launch" / "presets" / "digits.flags"
    launch(
        "compare", f"--flagfile={preset}", "--rounds=2", "--seeds=1", f"--workdir={tmp_path / 'w'}"
    )
    assert (tmp_path / "w" / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_trained_request_is_the_default_and_a_kill_is_survived(forks, tmp_path):
    """launch.train and launch.unlearn go on too, and unlearn forgets whom train foresaw."""
    one, two = tmp_path / "one", tmp_path / "two"
    train = ["train", *SMALL, "--rounds=6", "--forget=client:2", "--checkpoint_every=1"]
    launch(*train, f"--workdir={one}")
    pid = forks.start(*train, f"--workdir={two}")
    until(lambda: list(two.glob("cells/*.safetensors")))
    os.kill(pid, signal.SIGKILL)
    assert forks.wait(pid).killed
    launch(*train, f"--workdir={two}")
    assert rows_of(one, without=("seconds",)) == rows_of(two, without=("seconds",))
    model = (one / "model.safetensors").read_bytes()
    assert model == (two / "model.safetensors").read_bytes()
    _, said = launch("unlearn", f"--init_from={two}", f"--workdir={tmp_path / 'B'}")
    assert "request: forget client:2" in said


@pytest.mark.slow
def test_asking_for_less_loses_no_rows(tmp_path):
    workdir = tmp_path / "w"
    flags = [*SMALL, "--rounds=2", f"--workdir={workdir}"]
    launch("compare", *flags, "--seeds=2", "--methods=not,retrain")
    before = rows_of(workdir)
    launch("compare", *flags, "--seeds=1", "--methods=not")
    key = lambda row: (row["seed"], row["method"], row["round"])
    assert sorted(rows_of(workdir), key=key) == sorted(before, key=key)


@pytest.mark.slow
def test_compiled_programs_are_kept(tmp_path):
    flags = [*SMALL, "--rounds=1", "--seeds=1", "--methods=none", f"--workdir={tmp_path / 'w'}"]
    launch("compare", *flags, f"--compilation_cache={tmp_path / 'compiled'}")
    assert any((tmp_path / "compiled").iterdir())


@pytest.mark.slow
def test_layout_is_kept_and_changes_little(tmp_path):
    flags = [*SMALL, "--rounds=2", "--seeds=1", "--methods=retrain", "--nobackdoor"]
    _, quiet = launch("compare", *flags, "--devices=1", f"--workdir={tmp_path / '1'}")
    _, noted = launch("compare", *flags, "--devices=2", "--chunk=2", f"--workdir={tmp_path / '2'}")
    assert "note" not in quiet and "2 groups, which XLA:CPU runs slowly" in noted
    one, two = (rows_of(tmp_path / w, without=("seconds",)) for w in "12")
    for a, b in zip(one, two, strict=True):
        assert a["flops"] == b["flops"]
        assert a["bytes_up"] == b["bytes_up"]
        assert a["retain"] == pytest.approx(b["retain"], abs=2)
    _, error = launch("compare", *flags, "--devices=2", f"--workdir={tmp_path / '1'}", expect=2)
    assert "was begun with 1 devices" in error


@pytest.mark.slow
def test_a_federation_with_faults_ends_and_says_who_was_left_out(tmp_path):
    flags = ["--aggregator=median", "--max_update_norm=50", "--faults=late:0.2,nan:0.2,long:0.2"]
    flags += ["--methods=retrain,not,ga,mode", "--seeds=1", f"--workdir={tmp_path / 'W'}"]
    _, said = launch("compare", *SMALL, *flags)
    assert (
        "note: --aggregator=median is for ordinary rounds; in their own rounds ga, mode combine"
        in said
    )
    rows = rows_of(tmp_path / "W")
    reasons = ("late", "not_finite", "too_long")
    assert all(sum(row[name] for name in reasons) == row["left_out"] for row in rows)
    (original,) = (row for row in rows if row["method"] == "original")
    assert original["left_out"] > 0 and original["not_applied"] == 0
    last = {row["method"]: row for row in rows}
    for name in ("retrain", "not", "mode"):
        assert 0 < last[name]["left_out"] < last[name]["round"] * 4
        assert last[name]["retain"] > 0 and np.isfinite(last[name]["loss_retain"])
    _, error = launch("compare", *SMALL, *flags[:2], "--methods=pgd", expect=2)
    assert "--aggregator=mean; leave out" in error


@pytest.mark.slow
def test_privacy_is_accounted_for_and_its_limits_are_told(tmp_path):
    flags = [*SMALL, "--dp_clip=1", "--dp_noise=0.5", "--sum_only", "--seeds=1"]
    launch("compare", *flags, "--methods=retrain,not", f"--workdir={tmp_path / 'W'}")
    rows = rows_of(tmp_path / "W")
    spent = lambda method, number: next(
        row["epsilon"] for row in rows if (row["method"], row["round"]) == (method, number)
    )
    # Four rounds of training, then two of recovery; more rounds give a larger epsilon.
    assert 0 < spent("original", 0) == spent("not", 0) < spent("not", 1) < spent("not", 2)
    assert spent("retrain", 4) > spent("not", 2)
    for more, words in (
        (["--methods=federaser"], "federaser needs single updates at the server"),
        (["--methods=ga"], "ga has rounds of its own or a history"),
        (["--aggregator=krum"], "--aggregator=krum needs single updates"),
        (["--aggregator=clipped"], "--dp_clip has its own aggregator"),
    ):
        _, error = launch("compare", *flags, "--methods=not", *more, expect=2)
        assert words in error.splitlines()[-1]


@pytest.mark.slow
def test_epsilon_of_a_chain_of_requests(tmp_path):
    """More are sampled than there are; then one goes, and another; and a model from elsewhere."""
    from jfu import privacy

    small = [*SMALL, "--nobackdoor", "--dp_clip=1", "--rounds=2", "--recovery_rounds=1"]
    a, b, c, d = (tmp_path / name for name in "ABCD")
    launch("train", *small, "--sample=9", f"--workdir={a}")
    launch("unlearn", f"--init_from={a}", "--forget=client:0", f"--workdir={b}")
    launch("unlearn", f"--init_from={b}", "--forget=client:1", f"--workdir={c}")
    shown = ("train", "not_blend")
    epsilons = lambda w: [row["epsilon"] for row in rows_of(w) if row["method"] in shown]
    true = lambda *phases: pytest.approx(privacy.composed(1.0, phases, 1e-3, drawn=9))
    assert epsilons(a) == [0, true((1, 4)), true((2, 4))]
    assert epsilons(b) == [true((2, 4)), true((2, 4), (1, 3))]
    assert epsilons(c) == [true((3, 3)), true((3, 3), (1, 2))]
    launch("unlearn", *small, f"--init_params={a / 'model.safetensors'}", f"--workdir={d}")
    assert epsilons(d) == [None, None]
    launch("unlearn", f"--init_from={d}", "--forget=client:1", f"--workdir={tmp_path / 'E'}")
    assert epsilons(tmp_path / "E") == [None, None]
