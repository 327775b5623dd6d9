"""Checkpoints, results and ledgers that were changed are not believed."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest

import jfu.io
from helpers.comparisons import CONFIG, LAYOUT, all_runs, whole, written
from helpers.spoilt import flip, resaved
from jfu import ledger
from launch.records import ledgers, records, verification
from launch.running import audit_notes, auditing, table
from launch.workdir import checkpoints, outcome, runs, workdir


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.setattr(ledgers, "key", lambda: None)


@pytest.fixture(params=[True, False], ids=["ended", "going on"])
def work(request, tmp_path):
    return written(tmp_path / "W", ended=request.param)


def edited(path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_a_run_wrote_is_believed(work):
    verification.believe(work.path)
    verification.settle(work.path)
    records.reopen(work)
    lines = ledger.read(work.path / "ledger.jsonl")
    for line in lines:
        assert line["cells"].keys() == {f"{seed}-{name}" for seed, name in all_runs()}
        assert line["cells"]["0-not"] == jfu.io.load_seal(work.cell(0, "not"))
    assert len(lines) <= 1


EDITS = {
    "a number": lambda rows: rows[3].update(test=99.0),
    "a row less": lambda rows: rows.pop(3),
    "a row twice": lambda rows: rows.append(rows[-1]),
    "another method": lambda rows: rows[3].update(method="fedosd"),
}


@pytest.mark.parametrize("change", [lambda rows: rows.clear(), lambda rows: rows.pop(0)])
def test_results_of_whole_runs_that_are_missing_are_refused(tmp_path, change):
    """A run that goes on adds to them; before the ledger has a line it may not have come so far."""
    edited(written(tmp_path / "W").path / "results.jsonl", change)
    with pytest.raises(ValueError, match=r"results.jsonl was changed; neither its ledger nor the"):
        verification.believe(tmp_path / "W")
    edited(written(tmp_path / "V", ended=False).path / "results.jsonl", change)
    verification.believe(tmp_path / "V")


def test_a_ledger_that_was_emptied_is_refused(tmp_path):
    work = written(tmp_path / "W")
    (work.path / "ledger.jsonl").write_text("")
    for read in (verification.believe, verification.settle, ledgers.check, verification.read):
        with pytest.raises(ValueError, match="ledger.jsonl is empty: its lines were removed"):
            read(work.path)


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_results_that_were_edited_are_refused(work, change):
    """By whoever reads them, also before a line of the ledger says what they are."""
    edited(work.path / "results.jsonl", change)
    with pytest.raises(ValueError, match=r"results.jsonl was changed; neither its ledger nor the"):
        verification.believe(work.path)
    with pytest.raises(ValueError, match=r"results.jsonl (is not what|was changed; neither)"):
        verification.settle(work.path)
    with pytest.raises(ValueError, match=r"results.jsonl (is not what|was changed; neither)"):
        records.reopen(work)


def test_the_scripts_ask(tmp_path, monkeypatch):
    """launch.table and launch.audit end before anything is written."""
    work = written(tmp_path / "W")
    edited(work.path / "results.jsonl", EDITS["a number"])
    before = sorted(tmp_path.rglob("*"))
    flags = dict(workdir=[str(work.path)], record=None, data_dir=None)
    flags |= dict(__getattr__=lambda _, name: 0)  # what else there may be is not given
    monkeypatch.setattr(table, "FLAGS", type("Flags", (), flags)())
    with pytest.raises(ValueError, match=r"results.jsonl (is not what|was changed; neither)"):
        table.table()
    with pytest.raises(ValueError, match=r"results.jsonl (is not what|was changed; neither)"):
        auditing.auditable(work.path, audit_notes.Options())
    assert sorted(tmp_path.rglob("*")) == before


def arrays(path):
    return {name: np.asarray(a) for name, a in jfu.io.load_arrays(path).items()}


CHANGES = {
    "a flipped bit of the arrays": lambda file, _: flip(file, file.stat().st_size - 1),
    "arrays of retraining": lambda file, other: resaved(file, arrays(other)),
    "arrays and digest of retraining": lambda file, other: jfu.io.save_state(
        file, arrays(other), jfu.io.load_notes(file)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_checkpoints_that_were_changed_are_refused(tmp_path, change):
    work = written(tmp_path / "W")
    change(work.cell(0, "not"), work.cell(0, "retrain"))
    with pytest.raises(ValueError, match=r"0-not.safetensors (is not what line 1|was changed)"):
        verification.settle(work.path)


def test_a_checkpoint_that_is_put_beside_is_refused_by_an_audit(tmp_path):
    work = written(tmp_path / "W")
    checkpoints.write_cell(work, 2, "not", {"variables": {"w": np.zeros(3)}}, whole("not", 2))
    verification.believe(work.path)  # a run that goes on writes such
    with pytest.raises(ValueError, match="2-not, which its ledger does not name"):
        verification.settle(work.path)


def test_checkpoints_that_are_made_anew_are_noted_and_believed_again(tmp_path):
    """Twice: each time the ledger says that they were gone."""
    work = written(tmp_path / "W")
    for seconds in (2.0, 3.0):
        work.cell(0, "not").unlink()
        records.reopen(work)
        state = {"variables": {"w": np.zeros(3, np.float32)}}
        checkpoints.write_cell(work, 0, "not", state, whole("not", 0, seconds))
        verification.believe(work.path)  # killed here, it goes on
        records.reopen(work)
        outcome.write_results(work, whole("not", 0, seconds)["rows"])
        verification.believe(work.path)
        with pytest.raises(ValueError, match=r"is not what|does not name"):
            verification.settle(work.path)
        records.compared(work, CONFIG, outcome.read_results(work))
        verification.settle(work.path)
    events = [line["event"] for line in ledger.read(work.path / "ledger.jsonl")]
    assert events == ["compared", "missing", "compared", "missing", "compared"]


def test_directories_from_before_digests_still_open(tmp_path):
    work = written(tmp_path / "W")
    for path in (work.path / "cells").iterdir():
        resaved(path, None, "sha256", "arrays")
    notes = work.path / "config.json"
    kept = json.loads(notes.read_text())
    del kept["sealed"], kept["sha256"]
    notes.write_text(json.dumps(kept))
    (work.path / "ledger.jsonl").unlink()
    older = dict(event="compared", results=ledger.digest(work.path / "results.jsonl"))
    ledger.append(work.path / "ledger.jsonl", older)
    verification.believe(work.path)
    verification.settle(work.path)
    assert table.read([work.path]).notes.keys() == all_runs().keys()


@pytest.mark.parametrize(
    "content", [b"[" * 90_000, b'{"cells": [3], "seeds": []}', b'{"cells": []}']
)
def test_a_plan_that_is_none_is_a_sentence(tmp_path, content):
    work = written(tmp_path / "W")
    (work.path / "plan.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"plan.json is unreadable .*; remove it"):
        table.read([work.path])


def test_a_plan_that_was_changed_is_refused(tmp_path):
    work = written(tmp_path / "W")
    outcome.write_plan(work, ["original", "not"], [0, 1])
    assert outcome.read_plan(work.path) == (["original", "not"], [0, 1])
    path = work.path / "plan.json"
    path.write_text(path.read_text().replace("[0, 1]", "[0, 7]"))
    with pytest.raises(ValueError, match=r"plan.json is unreadable \(it was changed\)"):
        outcome.read_plan(work.path)


def test_copies_of_a_work_directory_are_believed(tmp_path):
    work = written(tmp_path / "W")
    verification.settle(shutil.copytree(work.path, tmp_path / "V"))


# ---------------------------------------------------------------- settings


ODD = [3, 2.5, "x", True, [1], ["a", 2], {"a": 1}, [[["a"]]]]


def settings(folder):
    """As they were before they had a digest, so that what is wrong with them is found by itself."""
    kept = json.loads((folder / "config.json").read_text())
    kept.pop("sha256", None)
    return kept


EDITED = {
    "a flag": lambda kept: kept["config"].update(batch_size=77),
    "a seed": lambda kept: kept["more"].update(seed=77),
    "a version": lambda kept: kept["versions"].update(jax="0.0.1"),
    "a digest": lambda kept: kept["files"].update(x="0"),
    "a place": lambda kept: kept.update(places={"own.npz": {"path": "/x", "beside": "x"}}),
    "settings of JAX": lambda kept: kept["numerics"].update(enable_x64=True),
    "one more": lambda kept: kept.update(story="another"),
}


@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED)
def test_settings_that_were_edited_are_refused(tmp_path, edit):
    """Also before the ledger has a line, and before there is any checkpoint."""
    work = workdir.open_workdir(str(tmp_path / "W"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    path = tmp_path / "W" / "config.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept))  # however it is laid out
    runs.read_run(str(work.path))
    workdir.open_workdir(str(work.path), CONFIG, "compare")
    edit(kept)
    path.write_text(json.dumps(kept))
    for read in (
        lambda: runs.read_run(str(work.path)),
        lambda: workdir.open_workdir(str(work.path), CONFIG, "compare"),
    ):
        with pytest.raises(ValueError, match=r"config.json is unreadable .*was changed since"):
            read()


def test_settings_of_another_type_are_a_sentence(tmp_path):
    """Every field in turn, with every kind of JSON that it is not: no traceback, or what it was."""
    work = written(tmp_path / "W")
    kept, refused = settings(work.path), 0
    for group in ("config", "layout", "more", "versions", "files"):
        for name in kept[group]:
            for odd in ODD:
                changed = json.loads(json.dumps(kept))
                changed[group][name] = odd
                (work.path / "config.json").write_text(json.dumps(changed))
                with contextlib.suppress(ValueError):
                    run, refused = runs.read_run(str(work.path)), refused - 1
                    value = getattr(run.config, name, odd)
                    assert value == (tuple(odd) if isinstance(odd, list) else odd)
                refused += 1
    assert refused > 300


@pytest.mark.parametrize("odd", [3, "x", [1], None, {}])
def test_parts_of_settings_that_are_none_are_a_sentence(tmp_path, odd):
    work = written(tmp_path / "W")
    for name, kept in settings(work.path).items():
        changed = settings(work.path) | {name: odd}
        if kept is None or (name, type(odd)) in (("script", str), ("sealed", type(odd))):
            continue
        text = (work.path / "config.json").read_text()
        (work.path / "config.json").write_text(json.dumps(changed))
        if odd or name in ("config", "layout", "script"):
            with pytest.raises(ValueError, match=r"config.json is unreadable"):
                runs.read_run(str(work.path))
        (work.path / "config.json").write_text(text)


@pytest.mark.parametrize("plant", ["deep", "pipe", "folder", "large", "text", "list"])
def test_settings_that_are_none_are_a_sentence(tmp_path, plant):
    work = written(tmp_path / "W")
    path = work.path / "config.json"
    path.unlink()
    if plant == "pipe":
        os.mkfifo(path)
    elif plant == "folder":
        path.mkdir()
    elif plant == "large":
        with open(path, "wb") as file:
            file.truncate(2**40)
    else:
        path.write_text({"deep": "[" * 100_000, "text": "my thesis", "list": "[]"}[plant])
    for read in (
        lambda: runs.read_run(str(work.path)),
        lambda: workdir.open_workdir(str(work.path), CONFIG, "compare"),
        lambda: table.read([work.path]),
    ):
        with pytest.raises(ValueError, match=r"config.json"):
            read()
