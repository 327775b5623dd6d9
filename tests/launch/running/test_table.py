"""Tables from whatever runs there are."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import jfu.io
from helpers.comparisons import CONFIG, LAYOUT, RUNS, all_runs, directory, half, whole
from helpers.workdirs import rewrite_settings
from jfu import tables
from launch.report import report
from launch.running import table
from launch.shell.devices import Layout
from launch.workdir import fingerprint, places, runs, workdir


def test_a_table_of_finished_runs_is_that_of_their_rows(tmp_path):
    stored = table.read([directory(tmp_path / "W", all_runs())])
    summary = table.summarise(stored)
    rows = table.rows(stored)
    assert [(r["seed"], r["method"]) for r in rows if r["round"] == 0] == [
        (seed, name) for seed in (0, 1) for name in ("original", "retrain", "finetune", "not")
    ]
    assert rows[0]["retain"] == 90.0 and rows[0]["bytes_up"] == rows[0]["seconds"] == 0
    again = report.summarise(rows, dataclasses.asdict(CONFIG))
    assert {k: v for k, v in summary.items() if k in again} == again
    assert table.markdown(summary).startswith(report.markdown(again))
    # |91.5 - 90.5|, the same in forget and test, none in MIA: (1 + 1 + 1 + 0) / 4
    assert summary["methods"]["not"]["gap"] == 0.75
    assert summary["floor"]["gap"] == 0.375
    assert table.progress(summary) == ""


def test_missing_and_unfinished_runs_are_marked(tmp_path):
    cells = all_runs(names=RUNS[:2]) | {(0, "not"): whole("not", 0), (1, "not"): half("not", 1)}
    cells |= {(0, "finetune"): half("finetune", 0)}
    stored = table.read([directory(tmp_path / "W", cells)])
    summary, text = table.write(tmp_path / "W", stored)
    kept = json.loads((tmp_path / "W" / "table.json").read_text())
    assert kept == json.loads(json.dumps(summary))
    assert (tmp_path / "W" / "table.md").read_text() == text
    done = {"round": 2, "of": 2}
    assert kept["cells"]["not"] == {"0": done, "1": {"round": 1, "of": 2}}
    assert kept["cells"]["finetune"] == {"0": {"round": 1, "of": 2}, "1": None}
    assert kept["cells"]["retrain_again"] == {"0": None, "1": None}
    assert kept["methods"]["finetune"] is None and kept["floor"] is None
    # Of seed 0 alone, and not of what seed 1 has so far.
    assert kept["methods"]["not"]["retain"] == {"mean": 91.0, "std": 0.0}
    first = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert first[2:7] == [
        *["original", "retrain", "finetune (round 1/2)", "not (1 of 2 seeds)"],
        "retrain again (missing)",
    ]
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["not", "done", "round 1/2"] in lines
    assert ["retrain again", "missing", "missing"] in lines
    assert table.left(stored, RUNS, [0, 1]) == (5, 1 + 2 + 1 + 4 + 4)
    assert table.left(stored, ["retrain"], [0, 1]) == (0, 0)
    assert tables.legend(summary)


def test_a_directory_without_any_row_yet(tmp_path):
    summary, text = table.write(tmp_path / "W", table.read([directory(tmp_path / "W", {})]))
    assert set(summary["methods"].values()) == {None}
    assert report.markdown(summary).count("(missing)") == 5
    assert table.beside(summary).count("(missing)") == 3 and text.count("(missing)") == 8


def test_runs_of_two_machines_are_one_table(tmp_path, capsys):
    """In two work directories, or with the files of one copied into the other."""
    every = all_runs()
    one = directory(tmp_path / "one", every)
    some = {key: notes for key, notes in every.items() if key[0] == 0}
    rest = {key: notes for key, notes in every.items() if key[0] == 1}
    moved = dataclasses.replace(CONFIG, data_dir="/elsewhere")
    first = directory(tmp_path / "a", some, seeds=[0])
    second = directory(tmp_path / "b", rest, seeds=[1], config=moved)
    expected = table.summarise(table.read([one]))
    assert table.summarise(table.read([first, second])) == expected
    for file in (second / "cells").iterdir():
        shutil.copy(file, first / "cells")
    assert table.summarise(table.read([first])) == expected
    assert table.summarise(table.read([first, second])) == expected
    assert capsys.readouterr().err == ""


def test_runs_of_both_that_differ_are_noted(tmp_path, capsys):
    other = whole("not", 0, seconds=2.0)  # only slower
    first = directory(tmp_path / "a", {(0, "not"): half("not", 0)})
    second = directory(tmp_path / "b", {(0, "not"): other})
    stored = table.read([first, second])
    assert stored.notes[0, "not"]["finished"] and capsys.readouterr().err == ""

    other["rows"][1]["test"] += 0.1
    third = directory(tmp_path / "c", {(0, "not"): other}, layout=Layout("gpu", 1, 5))
    stored = table.read([second, third])
    assert stored.notes[0, "not"]["rows"][1]["test"] == other["rows"][1]["test"] - 0.1
    said = capsys.readouterr().err
    assert f"{second} and {third} were run with different layout" in said
    assert (
        f"{second} and {third} have different rows of seed 0, not; the table has those of {second}"
        in said
    )
    assert table.read([first, third]).notes[0, "not"] == other  # the further one
    assert f"the table has those of {third}" in capsys.readouterr().err


def test_work_directories_that_do_not_belong_together_are_refused(tmp_path):
    first = directory(tmp_path / "a", all_runs())
    other = dataclasses.replace(CONFIG, lr=0.3, rounds=5)
    second = directory(tmp_path / "b", {}, config=other)
    with pytest.raises(
        ValueError, match=r"a run with rounds=4, lr=None, and .*/b one with rounds=5"
    ):
        table.read([first, second])
    with pytest.raises(FileNotFoundError, match="nowhere is not a work directory of jfu"):
        table.read([first, tmp_path / "nowhere"])
    work = places.WorkDir(tmp_path / "c", None)
    workdir.begin(work, CONFIG, "train", LAYOUT)
    with pytest.raises(ValueError, match=r"launch\.train; a table needs runs of launch\.compare"):
        table.read([work.path])
    (first / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is unreadable"):
        table.read([first])


def test_foreign_checkpoints_are_refused(tmp_path):
    """Copied from a work directory of other settings, or by hand under another name."""
    one = directory(tmp_path / "one", {(0, "not"): whole("not", 0)})
    other = directory(tmp_path / "two", {}, config=dataclasses.replace(CONFIG, lr=9.0))
    own = runs.read_run(str(one)).fingerprint
    assert own != runs.read_run(str(other)).fingerprint
    notes = whole("retrain", 1) | dict(of=dict(run=own, method="retrain", seed=1))
    cell = one / "cells" / "1-retrain.safetensors"
    jfu.io.save_state(cell, {"w": np.zeros(3)}, notes)
    assert (1, "retrain") in table.read([one]).notes
    shutil.copy(cell, other / "cells")
    with pytest.raises(ValueError, match="1-retrain.safetensors is the checkpoint of .* its flags"):
        table.read([other])
    shutil.copy(cell, one / "cells" / "2-retrain.safetensors")
    with pytest.raises(ValueError, match="of run .* seed 1, not of run .* seed 2; move it back"):
        table.read([one])
    (one / "cells" / "2-retrain.safetensors").unlink()
    shutil.copy(cell, one / "cells" / "1-retrain (1).safetensors")
    with pytest.raises(ValueError, match="does not have a checkpoint's name"):
        table.read([one])


def test_a_field_that_came_later_does_not_separate_runs(tmp_path):
    path = directory(tmp_path / "W", {})
    now = runs.read_run(str(path)).fingerprint
    text = json.loads((path / "config.json").read_text())
    for name in fingerprint.LATER:
        del text["config"][name]
    rewrite_settings(path, text)
    assert runs.read_run(str(path)).fingerprint == now
    text["config"]["max_grad_norm"] = 1.0
    rewrite_settings(path, text)
    assert runs.read_run(str(path)).fingerprint != now


def test_cells_of_an_older_directory_have_no_plan(tmp_path):
    path = directory(tmp_path / "W", all_runs(names=["not", "original", "retrain_again"]))
    (path / "plan.json").unlink()
    stored = table.read([path])
    assert stored.names == ["original", "not", "retrain_again"] and stored.seeds == [0, 1]
