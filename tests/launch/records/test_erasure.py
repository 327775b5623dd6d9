"""What erasing and its proof rest on: made-up work directories, without any training."""

import base64
import dataclasses
import json
import os
import pathlib
import shutil
import types

import numpy as np
import pytest

import jfu.io
from helpers.answers import MEASURES, NOTES, SETTINGS, begun, model, train, unlearn
from helpers.workdirs import LAYOUT, rewrite_settings
from jfu import ledger
from launch.records import erasure, inspection, ledgers, lineage, records, verification
from launch.report import report
from launch.setup import requests
from launch.workdir import checkpoints, outcome, places, runs, workdir


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.setattr(ledgers, "key", lambda: None)


@pytest.fixture
def root(tmp_path):
    """A was trained, client 0 left it for B, client 1 left that for C."""
    root = tmp_path / "runs"
    train(root / "A")
    unlearn(root / "B", root / "A", "client:0", 2.0)
    unlearn(root / "C", root / "B", "client:1", 3.0)
    return root


def opened(path):
    """A work directory and its configuration, as the same command finds them again."""
    run = runs.read_run(str(path))
    return workdir.open_workdir(str(path), run.config, run.script, **run.more), run.config


def holding(path, wanted, gone=()):
    """The files that are said to depend on the data, as ``A/model.safetensors``."""
    found = [file for file in erasure.holdings(path, wanted, gone)[0] if file.depends]
    return {str(file.path.relative_to(path.parent)) for file in found}


def proof(monkeypatch, capsys, path, *, status=0, **given):
    """What launch.ledger prints, and its error."""
    flags = dict(workdir=str(path), head=None, key_file=None, prove_erased=None, gone=[])
    flags |= dict.fromkeys(("new_key_file", "receive", "refuse", "due", "export"))
    monkeypatch.setattr(inspection, "FLAGS", types.SimpleNamespace(**flags | given))
    capsys.readouterr()
    if status:
        with pytest.raises(SystemExit) as ended:
            inspection.ledger()
        assert ended.value.code == status
    else:
        inspection.ledger()
    out, error = capsys.readouterr()
    assert error.count("\n") == error.count("error: ") == (status > 0)
    return out, error


def rewrite(path, *contents):
    """A ledger with a valid chain, as whoever may write the file can make it."""
    entries = []
    for content in contents:
        content = {k: v for k, v in content.items() if k not in ledger.CHAIN}
        entries.append(ledger.chained(content, entries, time="2026-01-01T00:00:00Z"))
    path.write_text("".join(ledger.canonical(entry) + "\n" for entry in entries))


# ---------------------------------------------------------------- whether there is an answer


@pytest.mark.parametrize("until", ["begun", "followed", "asked"])
def test_the_answer_of_the_model_that_a_request_met_is_not_its_own(root, until):
    """The ledger of a second request begins as a copy of one that ends in an answer."""
    work, config = unlearn(root / "D", root / "C", "client:2", 4.0, until)
    before = sorted(root.rglob("*"))
    assert not records.is_answered(work, config, "not")
    with pytest.raises(ValueError, match=r"has no answer to client:2 by not .* nothing was rem"):
        erasure.erase(work, config, "not")
    assert sorted(root.rglob("*")) == before


def test_an_answer_is_this_requests_with_its_model_in_place(root):
    work, config = opened(root / "C")
    assert records.is_answered(work, config, "not")
    assert not records.is_answered(work, config, "retrain")
    assert not records.is_answered(work, dataclasses.replace(config, forget="client:0"), "not")
    assert not records.is_answered(*opened(root / "C")[:1], opened(root / "B")[1], "not")
    os.rename(work.path / "model.safetensors", root / "away")
    assert not records.is_answered(work, config, "not")
    shutil.copy(root / "B" / "model.safetensors", work.path)
    with pytest.raises(ValueError, match="is not the model that"):
        erasure.erase(work, config, "not")
    assert (root / "A" / "model.safetensors").exists()


def test_a_removal_that_is_stopped_anywhere_goes_on_and_ends_alike(root, monkeypatch):
    whole = shutil.copytree(root, root.parent / "whole")
    erasure.erase(*opened(root / "C"), "not")
    left = lambda: {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and p.name not in ("lock", "ledger.jsonl")
    }
    events = lambda: [
        [(line["event"], line.get("files")) for line in ledger.read(root / n / "ledger.jsonl")]
        for n in "ABC"
    ]
    expected = left(), events()
    assert "A/model.safetensors" not in expected[0] and "C/model.safetensors" in expected[0]
    unlink, stopped = pathlib.Path.unlink, 0
    while True:
        shutil.rmtree(root)
        shutil.copytree(whole, root)
        calls = []

        def strike(path, stop=stopped, calls=calls, **options):
            calls.append(path)
            if len(calls) > stop:
                raise InterruptedError
            unlink(path, **options)

        with monkeypatch.context() as patched:
            patched.setattr(pathlib.Path, "unlink", strike)
            try:
                erasure.erase(*opened(root / "C"), "not")
                break
            except InterruptedError:
                assert (root / "B" / "model.safetensors").exists()  # so that it can go on
        stopped += 1
        erasure.erase(*opened(root / "C"), "not")
        assert (left(), events()) == expected
    assert stopped == len(calls) == 7


def test_what_came_with_a_model_was_not_erased_here(root):
    """Lines of a removal in the folder that a run began with do not stop it from going on."""
    erasure.erase(*opened(root / "C"), "not")
    work, _ = unlearn(root / "D", root / "C", "client:2", 4.0, "asked")
    lines = ledgers.check(work.path)
    assert any(line["event"] == "erased" for line in lines)
    assert ledgers.erased(work.path, lines) == {}
    assert "model.safetensors" in ledgers.erased(root / "A", ledgers.check(root / "A"))


# ---------------------------------------------------------------- every file


def test_what_holds_by_its_place(root):
    names = ("A/cells/0-train", "A/model", "B/cells/0-original", "B/cells/0-not")
    assert holding(root / "B", "client:0") == {f"{name}.safetensors" for name in names}
    erasure.erase(*opened(root / "B"), "not")
    assert holding(root / "B", "client:0") == set()


PLANTED = ["table.safetensors", "model.png", "x/results.jsonl", "table.json", "curves.png", "lock2"]
PLANTED += ["cells/0-retrain.safetensors", "shadows/0-8-0-7.safetensors", "plan.json"]


@pytest.mark.parametrize("name", PLANTED)
def test_a_model_by_another_name_holds(root, name):
    place = root / "B" / name
    place.parent.mkdir(exist_ok=True)
    shutil.copy(root / "A" / "model.safetensors", place)
    erasure.erase(*opened(root / "B"), "not")
    assert holding(root / "B", "client:0") == {f"B/{name}"}


PNG = b"\x89PNG\r\n\x1a\n ... IEND\xaeB`\x82"


def test_the_files_that_the_scripts_write_are_free(root):
    """As long as they are what the ledger says was written; a picture may contain a model, too."""
    for name in erasure.MEASURES:
        if name not in ("results.jsonl", "table.md"):
            (root / "B" / name).write_bytes(PNG if name.endswith("png") else b"{}\n")
    records.wrote(places.WorkDir(root / "B", None), erasure.MEASURES)
    erasure.erase(*opened(root / "B"), "not")
    assert holding(root / "B", "client:0") == set()
    old = base64.b64encode((root / "B" / "model.safetensors").read_bytes())
    (root / "B" / "curves.png").write_bytes(PNG[:8] + old + PNG[8:])
    (root / "B" / "table.md").write_bytes(old)
    assert holding(root / "B", "client:0") == {"B/curves.png", "B/table.md"}
    records.wrote(places.WorkDir(root / "B", None), ["curves.png", "table.md"])
    assert holding(root / "B", "client:0") == set()  # said by whoever may write the ledger


WRITTEN = [name for name in (*erasure.MEASURES, "plan.json", "lock", "lock.held")]


@pytest.mark.parametrize("name", [n for n in WRITTEN if n != "results.jsonl"])
def test_a_model_as_text_by_a_name_of_jfus_holds(root, name):
    """Also where the file says that it is of the kind; results and settings are the ledger's."""
    old = base64.b64encode((root / "A" / "model.safetensors").read_bytes()).decode()
    erasure.erase(*opened(root / "B"), "not")
    text = json.dumps(dict(cells=[old], seeds=[]) if name == "plan.json" else [old])
    content = f"process 1 on {old}" if name.startswith("lock") else text
    (root / "B" / name).write_bytes(
        PNG[:8] + text.encode() + PNG[8:] if "png" in name else content.encode()
    )
    assert holding(root / "B", "client:0") == {f"B/{name}"}


def test_tables_that_the_results_make_are_free_in_older_directories(tmp_path, monkeypatch):
    """Of before ledgers named what was written: a table is made anew and compared."""
    monkeypatch.setattr(records, "outputs", lambda *_: {})
    more = dict(mia=None, mia_matched=None, asr=None, bytes_down=0, bytes_up=0, flops=0.0)
    for name, value in (more | dict(storage=0, seconds=0.0)).items():
        monkeypatch.setitem(MEASURES, name, value)
    train(tmp_path / "A")
    work, config = unlearn(tmp_path / "B", tmp_path / "A", "client:0", 2.0)
    erasure.erase(*opened(tmp_path / "B"), "not")
    assert holding(tmp_path / "B", "client:0") == {"B/table.md"}
    summary = report.summarise(outcome.read_results(work), dataclasses.asdict(config))
    (tmp_path / "B" / "table.md").unlink()  # else it would be kept by another name
    report.write(tmp_path / "B", summary, report.markdown(summary))
    assert holding(tmp_path / "B", "client:0") == set()


def test_a_forged_checkpoint_of_retraining_holds(root):
    """One that says all that jfu's say, with the old model in it: the ledger does not name it."""
    old = jfu.io.load_params(root / "A" / "model.safetensors")
    erasure.erase(*opened(root / "B"), "not")
    checkpoints.write_cell(opened(root / "B")[0], 0, "retrain", old, NOTES)
    assert holding(root / "B", "client:0") == {"B/cells/0-retrain.safetensors"}
    checkpoints.write_cell(opened(root / "C")[0], 0, "original", old, NOTES)  # in place of another
    with pytest.raises(ValueError, match="0-original.safetensors is not what line"):
        holding(root / "C", "client:0")


def test_names_of_empty_folders_hold(root):
    erasure.erase(*opened(root / "B"), "not")
    (root / "B" / "cells" / "c3RvbGVu").mkdir()
    (root / "A" / "x" / "y").mkdir(parents=True)
    (root / "B" / "shadows").mkdir()
    assert holding(root / "B", "client:0") == {"B/cells/c3RvbGVu", "A/x/y"}


@pytest.mark.parametrize("more", [dict(event="note", text="x"), dict(event="wrote", blob="x")])
def test_a_ledger_with_more_in_it_holds(root, more):
    erasure.erase(*opened(root / "B"), "not")
    old = base64.b64encode((root / "C" / "model.safetensors").read_bytes()).decode()
    more = {k: old if v == "x" else v for k, v in more.items()}
    ledger.append(root / "B" / "ledger.jsonl", more)
    assert holding(root / "B", "client:0") == {"B/ledger.jsonl"}


@pytest.mark.parametrize("change", [lambda value: value, lambda value: -value])
def test_an_answer_that_is_the_old_model_holds(tmp_path, change):
    """To the bit, and up to signs, which are public."""
    train(tmp_path / "A", 1.0)
    unlearn(tmp_path / "B", tmp_path / "A", "client:0", change(1.0))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="was not unlearned, and nothing was removed"):
        erasure.erase(*opened(tmp_path / "B"), "not")
    assert sorted(tmp_path.rglob("*")) == before
    assert "B/model.safetensors" in holding(tmp_path / "B", "client:0")


# ---------------------------------------------------------------- what came of a model


def further(folder, source, value):
    """Trained further from a model, as launch.train --init_from does."""
    config = runs.read_model(str(source)).config
    place = os.path.join(os.path.realpath(source), "model.safetensors")
    config = dataclasses.replace(config, init_params=place, past=(*config.past, "+"))
    work, _ = begun(folder, config, "train", keep_history=[], further=1)
    records.follow(work, str(source))
    records.begun(work, config)
    model(work, value)
    records.trained(work, config, 0, 3, 1)
    return work


def test_what_was_trained_further_from_a_model_keeps_the_client(root, capsys):
    """It is found from the model's folder and named, but not removed."""
    further(root / "D", root / "A", 7.0)
    further(root / "E", root / "D", 8.0)
    names = {f"{name}/{what}.safetensors" for name in "DE" for what in ("model", "cells/0-train")}
    assert names < holding(root / "B", "client:0")
    erasure.erase(*opened(root / "B"), "not")
    said = capsys.readouterr().err
    assert (
        f"note: {root / 'D' / 'model.safetensors'} was not removed and may depend on client:0"
        in said
    )
    assert holding(root / "B", "client:0") == names
    assert holding(root / "C", "client:0") == names
    shutil.rmtree(root / "E")
    assert holding(root / "B", "client:0") == {n for n in names if n[0] == "D"} | {"E"}
    shutil.rmtree(root / "D")
    found, _ = erasure.holdings(root / "B", "client:0")
    (lost,) = [one for one in found if one.depends]
    assert lost.lost and "a run from " in lost.what and f"--gone={root / 'D'}" in lost.what
    assert holding(root / "B", "client:0", [str(root / "D")]) == set()


def test_what_came_later_and_answers_the_same_is_free(root):
    """A second answer to the request, of the same model, is looked at by its own requests."""
    unlearn(root / "F", root / "A", "client:0", 9.0)
    erasure.erase(*opened(root / "B"), "not")
    names = {f"F/cells/0-{name}.safetensors" for name in ("not", "original")}
    assert holding(root / "B", "client:0") == names


def test_a_folder_in_the_place_of_one_that_came_later_is_told(root):
    further(root / "D", root / "A", 7.0)
    erasure.erase(*opened(root / "B"), "not")
    shutil.rmtree(root / "D")
    train(root / "D", 3.0)
    (lost,) = [h for h in erasure.holdings(root / "B", "client:0")[0] if h.depends]
    assert lost.lost and "something else is there now" in lost.what


def test_what_came_later_and_has_not_finished_is_told_and_stops_no_removal(root):
    work = further(root / "D", root / "A", 7.0)
    jfu.io.write_bytes(work.path / "results.jsonl", b"")
    erasure.erase(*opened(root / "B"), "not")
    (broken,) = [h for h in erasure.holdings(root / "B", "client:0")[0] if h.depends]
    assert broken.path == root / "D" and "results.jsonl is not what line" in broken.what


def test_a_run_does_not_copy_what_else_was_begun(root):
    """Its ledger is the same whoever began before it, and goes on from the same line."""
    unlearn(root / "F", root / "A", "client:1", 9.0)
    events = [line["event"] for line in ledger.read(root / "F" / "ledger.jsonl")]
    assert events == ["trained", "asked", "answered"]
    assert [line["event"] for line in ledger.read(root / "A" / "ledger.jsonl")][1:] == ["begun"] * 2
    assert lineage.trace(root / "F", "client:1").missing == []


def test_one_that_was_moved_alone_is_not_missed(root, tmp_path):
    """Where a proof is asked of it; a second answer with the very same settings is."""
    erasure.erase(*opened(root / "B"), "not")
    moved = pathlib.Path(shutil.move(root / "B", tmp_path / "B"))
    left = [h for h in erasure.holdings(moved, "client:0")[0] if h.depends]
    assert [h.path for h in left] == []
    run = ledgers.settings(moved)
    line = {"event": "begun", "config": ledgers.settings(root / "A"), "run": run, "path": "/x/B"}
    ledger.append(root / "A" / "ledger.jsonl", line | {"from": "", "beside": "../x"})
    left = [h for h in erasure.holdings(moved, "client:0")[0] if h.depends]
    assert len(left) == 1 and left[0].lost


def test_runs_are_told_in_the_ledger_that_they_began_from(root):
    for source, name in (("A", "B"), ("B", "C")):
        lines = ledger.read(root / source / "ledger.jsonl")
        (line,) = [
            line for line in lines if line["event"] == "begun" and line["path"].endswith(name)
        ]
        assert line["run"] == ledgers.settings(root / name)
        assert line["from"] == ledger.digest(root / source / "model.safetensors")
        assert line["beside"] == f"../{name}"


def test_work_directories_that_were_moved_together_can_be_erased(root, tmp_path):
    further(root / "D", root / "A", 7.0)
    moved = pathlib.Path(shutil.move(root, tmp_path / "archive"))
    work, config = opened(moved / "B")
    place = str(moved / "A" / "model.safetensors")
    erasure.erase(work, dataclasses.replace(config, init_params=place), "not")
    names = {"D/model.safetensors", "D/cells/0-train.safetensors"}
    assert holding(moved / "B", "client:0") == names
    assert not os.path.exists(place)


def test_a_work_directory_inside_another_is_looked_at_by_itself(tmp_path, monkeypatch):
    """Of the same lineage, of other data, and of the same data with the client in it."""
    train(tmp_path / "A")
    unlearn(tmp_path / "A" / "B", tmp_path / "A", "client:0", 2.0)
    erasure.erase(*opened(tmp_path / "A" / "B"), "not")
    assert holding(tmp_path / "A" / "B", "client:0") == set()
    train(tmp_path / "A" / "other", 5.0)
    left = [h for h in erasure.holdings(tmp_path / "A" / "B", "client:0")[0] if h.depends]
    inside = tmp_path / "A" / "other"
    assert {h.path for h in left} == {
        inside / "model.safetensors",
        inside / "cells" / "0-train.safetensors",
    }
    notes = json.loads((inside / "config.json").read_text())
    shutil.rmtree(inside)
    elsewhere(tmp_path / "A" / "other", notes)
    known = lambda run: run if run.data else run._replace(data=dict(train="own"))
    monkeypatch.setattr(lineage, "read_run", lambda path: known(runs.read_run(path)))
    assert holding(tmp_path / "A" / "B", "client:0") == set()
    (inside / "x").write_text("unknown")
    assert holding(tmp_path / "A" / "B", "client:0") != set()


def elsewhere(folder, notes):
    """A training on other data, as its config.json says."""
    config = dataclasses.replace(SETTINGS, dataset="digits")
    work = workdir.open_workdir(str(folder), config, "train", seed=0, keep_history=[], further=0)
    data = dict(train="another", test=None, owners=None, classes=None)
    more = dict(seed=0, keep_history=[], further=0)
    work = workdir.begin(work, config, "train", LAYOUT, data, **more)
    work.lock.close()
    assert notes["data"] is None
    checkpoints.write_cell(work, 0, "train", {"w": np.ones(2)}, NOTES)
    outcome.write_results(work, [dict(method="train", seed=0, round=1, **MEASURES)])
    model(work, 5.0)
    records.trained(work, config, 0, 3, 1)


def test_links_hold_and_are_left(root, tmp_path, capsys):
    """Neither what a link leads to nor the link is removed; a proof fails on it."""
    for path in (root / "A" / "cells", root / "B" / "cells" / "0-original.safetensors"):
        shutil.move(path, tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    erasure.erase(*opened(root / "B"), "not")
    links = {"A/cells", "B/cells/0-original.safetensors"}
    assert holding(root / "B", "client:0") == links
    assert (tmp_path / "cells" / "0-train.safetensors").exists()
    said = capsys.readouterr().err
    assert f"note: {root / 'A' / 'cells'} was not removed" in said
    assert f"a link to {tmp_path / 'cells'}, which jfu does not follow" in said


def test_a_model_that_is_a_link_does_not_lead_away_from_its_folder(root, tmp_path):
    shutil.move(root / "A" / "model.safetensors", tmp_path / "m.safetensors")
    (root / "A" / "model.safetensors").symlink_to(tmp_path / "m.safetensors")
    unlearn(root / "X", root / "A", "client:0", 5.0)
    assert {"A/model.safetensors", "A/cells/0-train.safetensors"} <= holding(root / "X", "client:0")


def test_another_name_of_an_erased_file_is_told(root, tmp_path, capsys):
    os.link(root / "A" / "model.safetensors", tmp_path / "kept")
    erasure.erase(*opened(root / "B"), "not")
    assert "it still exists under 1 other names (hard links)" in capsys.readouterr().err


# ---------------------------------------------------------------- where a model came from


def test_work_directories_that_are_moved_together_are_found(root, tmp_path):
    shutil.move(root, tmp_path / "archive")
    assert "A/model.safetensors" in holding(tmp_path / "archive" / "C", "client:0")


def test_a_model_is_found_from_another_current_directory(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    config = dataclasses.replace(SETTINGS, forget="client:2", init_params="A/model.safetensors")
    work, _ = begun(root / "E", config, "unlearn", method="not", stop="budget")
    (root / "E" / "table.md").unlink()
    model(work, 7.0)
    row = dict(method="not", seed=0, round=0, **MEASURES)
    records.asked(work, config, "not")
    records.answered(work, config, "not", [row, row])
    monkeypatch.chdir(tmp_path)
    assert "A/model.safetensors" in holding(root / "E", "client:2")


def test_what_a_model_came_from_is_there_or_said_to_be_gone(root, tmp_path, monkeypatch, capsys):
    erasure.erase(*opened(root / "B"), "not")
    shutil.move(root / "A", tmp_path / "A")
    prove = lambda **given: proof(monkeypatch, capsys, root / "B", prove_erased="client:0", **given)
    _, error = prove(status=1)
    assert f"{root / 'B'} was begun from it, and it is missing" in error
    assert f"add --gone={root / 'A'}" in error
    out, _ = prove(gone=[str(root / "A")])
    assert f"You said that {root / 'A'} was removed; this was not checked." in out
    (root / "A").mkdir()  # another's in its place
    train(root / "A", value=9.0)
    _, error = prove(status=1)
    assert "something else is there now" in error
    shutil.rmtree(root / "A")
    shutil.move(tmp_path / "A", root / "A")
    prove()
    with pytest.raises(ValueError, match=r"--gone=/nowhere names nothing that is missing"):
        prove(gone=["/nowhere"])
    with pytest.raises(ValueError, match="--gone does nothing without --prove_erased"):
        proof(monkeypatch, capsys, root / "B", gone=["x"])


# ---------------------------------------------------------------- what the files are judged by


def edited(path, **changes):
    notes = json.loads((path / "config.json").read_text())
    notes["config"] |= changes
    rewrite_settings(path, notes)


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_settings_that_were_edited_are_found(root, monkeypatch, capsys, name):
    """They cannot make a dependent file free, in any work directory that the model came through."""
    before = sorted(root.rglob("*"))
    work, config = opened(root / "C")
    edited(root / name, past=["-client:0", "-client:1"])
    flags = dict(prove_erased="client:0", status=1)
    _, error = proof(monkeypatch, capsys, root / "C", **flags)
    assert f"{root / name / 'config.json'} is not what line" in error
    with pytest.raises(ValueError, match="is not what line|has no answer"):
        erasure.erase(work, config, "not")
    assert sorted(root.rglob("*")) == before


def test_a_ledger_that_was_rewritten_beneath_a_later_one_is_found(root):
    """A's own chain is valid; B's was begun where another A's ended."""
    edited(root / "A", past=["-client:0"])
    line, _ = ledger.read(root / "A" / "ledger.jsonl")
    rewrite(root / "A" / "ledger.jsonl", line | dict(config=ledgers.settings(root / "A")))
    assert verification.read(root / "A")
    with pytest.raises(ValueError, match="A/ledger.jsonl does not hold: no line of the ledger has"):
        lineage.trace(root / "B", "client:0")


def test_a_ledger_that_does_not_say_whose_it_is_proves_nothing(root):
    """Of before lines did: it can be read and gone on with."""
    lines = ledger.read(root / "B" / "ledger.jsonl")
    bare = [{k: v for k, v in line.items() if k != "config"} for line in lines]
    rewrite(root / "B" / "ledger.jsonl", *bare)
    assert verification.read(root / "B")
    with pytest.raises(ValueError, match="names its config.json"):
        lineage.trace(root / "B", "client:0")


# ---------------------------------------------------------------- requests that read alike


def test_a_fraction_that_is_asked_for_twice_means_both(tmp_path):
    """Each drew its own examples, and the model between them knew the second's."""
    root, half = tmp_path / "runs", "fraction:0.5@client:0"
    train(root / "A")
    unlearn(root / "B", root / "A", half, 2.0)
    assert "B/model.safetensors" not in holding(root / "B", half)
    work, config = unlearn(root / "C", root / "B", half, 3.0)
    assert "B/model.safetensors" in holding(root / "C", half)
    assert "C/model.safetensors" not in holding(root / "C", half)
    erasure.erase(work, config, "not")
    assert not (root / "B" / "model.safetensors").exists()
    assert holding(root / "C", half) == set()


@pytest.mark.parametrize(
    ("wanted", "past", "out"),
    [
        ("client:0", ["-client:0,3"], True),
        ("client:0,1", ["-client:0"], False),
        ("client:0", ["-client:0", "+client:0"], False),
        ("client:0", ["-client:0", "+client:0", "-client:0"], True),
        ("class:1", ["-class:1"], True),
        # Client 0 takes its examples of class 1 along, and brings them back.
        ("class:1", ["-client:0", "-class:1", "+client:0"], False),
        ("class:1", ["-client:0", "-class:1", "+client:0", "-class:1"], True),
        ("class:1", ["-class:1", "-client:0", "+client:0"], True),
        ("mask:m.npy", ["-client:0", "-mask:m.npy", "+client:0"], False),
        ("fraction:0.5", ["-client:0", "-fraction:0.5", "+client:0"], True),
        ("fraction:0.5", ["-fraction:0.25"], False),
        ("fraction:0.5", ["+"], False),
    ],
)
def test_what_is_out_of_a_model(wanted, past, out):
    assert (requests.identify(wanted, past) <= requests.in_force(past)) is out


def test_a_request_that_came_otherwise_than_by_init_from_does_not_count(root):
    """Who client 0 is to whoever gives --init_params, that model's own requests do not say."""
    config = dataclasses.replace(
        SETTINGS, forget="client:0", init_params=str(root / "B" / "model.safetensors")
    )
    work, rows = begun(root / "E", config, "unlearn", method="not", stop="budget")
    model(work, 7.0)
    records.answered(work, config, "not", rows)
    assert {"B/model.safetensors", "A/model.safetensors"} <= holding(root / "E", "client:0")


def test_a_mask_that_was_changed_after_its_request_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("m.npy", np.array([True, False]))
    train(tmp_path / "A")
    unlearn(tmp_path / "B", tmp_path / "A", "mask:m.npy", 2.0)
    unlearn(tmp_path / "C", tmp_path / "B", "client:1", 3.0)
    np.save("m.npy", np.array([False, True]))
    for name in "BC":
        with pytest.raises(ValueError, match="m.npy has changed since .* new mask another nam"):
            runs.read_model(str(tmp_path / name))


# ---------------------------------------------------------------- what the ledger names


def test_results_that_were_changed_are_found_whether_or_not_there_is_a_model(
    root, monkeypatch, capsys
):
    work, rows = begun(root / "W", SETTINGS, "compare", keep_history=[])
    records.compared(work, SETTINGS, rows)
    proof(monkeypatch, capsys, work.path)
    for name in ("W", "A", "B"):
        results = root / name / "results.jsonl"
        results.write_text(results.read_text().replace("90.0", "99.0"))
        _, error = proof(monkeypatch, capsys, root / name, status=1)
        assert f"{results} is not what line" in error


def test_a_history_is_the_one_of_its_run(tmp_path):
    train(tmp_path / "A", history=True)
    train(tmp_path / "B", value=2.0, history=True)
    train(tmp_path / "N")
    history = "history.safetensors"
    assert verification.read(tmp_path / "A") and verification.read(tmp_path / "N")
    for name in "AN":
        shutil.copy(tmp_path / "B" / history, tmp_path / name / history)
        with pytest.raises(ValueError, match="is not the history that line 1 of its ledger names"):
            verification.read(tmp_path / name)
    (tmp_path / "A" / history).unlink()  # to save room, say
    assert verification.read(tmp_path / "A")


# ---------------------------------------------------------------- what cannot be a ledger


@pytest.mark.parametrize("content", [b"", b"[" * 200_000 + b"\n", b"\xff\n", b"{}\n"])
def test_a_ledger_that_is_none_is_a_sentence(root, monkeypatch, capsys, content):
    (root / "B" / "model.safetensors").unlink()
    (root / "B" / "ledger.jsonl").write_bytes(content)
    _, error = proof(monkeypatch, capsys, root / "B", status=1)
    assert "ledger.jsonl" in error


def test_an_empty_ledger_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "ledger.jsonl").write_text("")
    _, error = proof(monkeypatch, capsys, tmp_path, status=1)
    assert "is empty: its lines were removed" in error


@pytest.mark.parametrize(
    "content",
    [dict(event="compared", request=3), dict(request="client:0"), dict(event="erased", files=[])],
)
def test_a_line_whose_chain_holds_and_whose_content_does_not_is_a_sentence(
    tmp_path, monkeypatch, capsys, content
):
    rewrite(tmp_path / "ledger.jsonl", content)
    _, error = proof(monkeypatch, capsys, tmp_path, status=1)
    assert f"line 1 of {tmp_path / 'ledger.jsonl'} is not one " in error


def test_a_ledger_that_was_removed_is_told_from_one_that_never_was(
    root, tmp_path, monkeypatch, capsys
):
    (root / "B" / "ledger.jsonl").unlink()
    _, error = proof(monkeypatch, capsys, root / "B", status=1)
    assert "has model.safetensors and results.jsonl but no ledger: it was removed" in error
    with pytest.raises(FileNotFoundError, match="has no ledger; launch.train"):
        proof(monkeypatch, capsys, tmp_path)


def test_what_a_key_alone_does_not_show_is_said(root, monkeypatch, capsys):
    words = "A key does not show whether lines at the end were removed; --head does."
    assert words not in proof(monkeypatch, capsys, root / "A")[0]
    key = b"a key of enough bytes"
    lines = ledger.read(root / "A" / "ledger.jsonl")
    entries = []
    for line in lines:
        content = {k: v for k, v in line.items() if k not in ledger.CHAIN}
        entries.append(ledger.chained(content, entries, time="2026-01-01T00:00:00Z", key=key))
    text = "".join(ledger.canonical(entry) + "\n" for entry in entries)
    (root / "A" / "ledger.jsonl").write_text(text)
    monkeypatch.setattr(ledgers, "key", lambda: key)
    assert words in proof(monkeypatch, capsys, root / "A")[0]
    assert words not in proof(monkeypatch, capsys, root / "A", head=entries[-1]["hash"])[0]
