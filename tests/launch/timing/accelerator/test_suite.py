"""The runner: order, limits, what is begun, what is kept, and what the next start does."""

import itertools
import json
import os

import pytest

from helpers.scripts import ROOT
from launch.report import paper, recorded
from launch.studies import documents
from launch.timing.accelerator import files, jobs, processes, row, steps, suite, tables
from launch.timing.accelerator.steps import Setting, Step

# Writes a row, says so, and waits; then writes another one.
SLOW = """
import json, sys, time
with open(sys.argv[1], "w") as file:
    file.write(json.dumps(dict(what="facts", precision=None, device="none")) + chr(10))
time.sleep(30)
"""


def made(out, *steps_):
    for folder in ("rows", "logs"):
        (out / folder).mkdir(exist_ok=True)
    return Setting(out, True, None), list(steps_)


def quick(name, code="", seconds=1.0, limit=20.0, **more):
    return Step(name, "a test", seconds, limit, ("-S", "-c", code), **more)


def states(out):
    return {row["step"]: row["state"] for row in files.read(out / "steps.jsonl")}


def test_steps_run_in_order_and_a_done_one_is_not_run_again(tmp_path):
    line = f"open({str(tmp_path / 'order')!r}, 'a').write"
    setting, every = made(tmp_path, quick("a", f"{line}('a')"), quick("b", f"{line}('b')"))
    suite.run(every, setting, 60)
    suite.run(every, setting, 60)
    assert (tmp_path / "order").read_text() == "ab"
    assert states(tmp_path) == dict(a="done", b="done")


def test_a_step_is_ended_at_its_limit_and_what_it_has_measured_is_kept(tmp_path):
    path = tmp_path / "rows" / "device.jsonl"
    command = ("-S", "-c", SLOW, str(path))
    slow = Step("device", "a test", 1, 0.7, command, "device")
    setting, every = made(tmp_path, slow, quick("next"))
    suite.run(every, setting, 60)
    assert states(tmp_path) == dict(device="cut", next="done")
    (row,) = files.read(tmp_path / "accelerator.jsonl")
    assert row == dict(step="device", what="facts", precision=None, device="none")
    assert "# Measured on: none" in (tmp_path / "report.md").read_text()


def test_a_step_that_cannot_end_is_not_begun_and_a_shorter_one_is(tmp_path):
    setting, every = made(tmp_path, quick("long", "1/0", seconds=1000), quick("short"))
    setting = setting._replace(rehearse=False)
    found = suite.run(every, setting, 60)
    assert states(tmp_path) == dict(long="left", short="done")
    assert found["long"]["seconds"] == 1000
    text = (tmp_path / "report.md").read_text()
    assert "1 steps are not done; they would take about 17 minutes" in text


def test_a_failed_step_says_why_and_stops_no_other(tmp_path):
    setting, every = made(tmp_path, quick("bad", "raise ValueError('no such device')"), quick("ok"))
    found = suite.run(every, setting, 60)
    assert states(tmp_path) == dict(bad="failed", ok="done")
    assert found["bad"]["why"] == "ValueError: no such device"
    mended = [quick("bad"), every[1]]
    suite.run(mended, setting, 60)
    assert states(tmp_path) == dict(bad="done", ok="done")


def test_what_a_machine_lacks_is_a_sentence(tmp_path):
    setting, every = made(tmp_path, quick("a", "1/0", needs=("numpy", "no_such_module")))
    found = suite.run(every, setting, 60)
    assert found["a"]["state"] == "lacks"
    assert found["a"]["why"] == "Python's no_such_module is not installed here"


def test_a_run_that_is_cut_anywhere_leaves_whole_files(tmp_path):
    """The clock ends after each possible number of looks: before, between and after all steps."""
    for looks in range(1, 6):
        out = tmp_path / str(looks)
        out.mkdir()
        setting, every = made(out, *(quick(name) for name in "abc"))
        ticks = itertools.chain([0.0] * looks, itertools.repeat(1e9))
        suite.run(every, setting, 60, clock=lambda ticks=ticks: next(ticks))
        found = states(out)
        assert list(found) == ["a", "b", "c"] and set(found.values()) <= {"done", "left"}
        done = list(found.values()).count("done")
        assert done == min(looks - 1, 3)
        assert files.read(out / "accelerator.jsonl") == []
        assert f"{3 - done} steps are not done" in (out / "report.md").read_text() or done == 3
        suite.run(every, setting, 60)
        assert set(states(out).values()) == {"done"}


def test_a_rehearsal_and_measurements_do_not_mix(tmp_path):
    setting, every = made(tmp_path, quick("a"))
    suite.run(every, setting, 60)
    suite.refuse_other(setting)
    with pytest.raises(ValueError, match="has a rehearsal; choose another folder"):
        suite.refuse_other(setting._replace(rehearse=False))


def test_every_empty_row_of_the_documents_has_a_step(tmp_path):
    """And the rows of that step fill it."""
    every = steps.all_steps(Setting(tmp_path, False, None))
    assert len({step.name for step in every}) == len(every)
    fills = {row for step in every for row in step.fills}
    text = (ROOT / "launch" / "timing" / "accelerator" / "README.md").read_text()
    empty = [line for line in documents.blocks(text)["accelerator"].splitlines() if "|  " in line]
    rows = [line for line in empty if line.replace(" ", "").endswith("|" * 9)]
    assert len(rows) == sum(f"timing: {name}" in fills for name in jobs.JOBS)
    for name, job in jobs.JOBS.items():
        common = dict(job=name, precision="tf32", batch_size=32, large=False, device_mb=10.0)
        common |= dict(clients=job.sizes.clients, parameters=10**6, at_once_by_rule=1, at_once=1)
        made = [
            common | dict(name="central", strategy="1x1", seconds_median=1.0),
            common | dict(name="jfu", strategy="1x1", seconds_median=2.0),
            common | dict(name="jfu", strategy="1x0", seconds_median=1.6, at_once=10),
            common | dict(name="jfu", strategy="1x1", seconds_median=1.1, large=True),
        ]
        files.write(tmp_path / "accelerator-test.jsonl", made)
        lines = tables.overview(tmp_path).splitlines()
        (line,) = [line for line in lines if "tf32" in line]
        values = [value.strip() for value in line.split("|")[1:-1]]
        assert values[1:] == ["test", "tf32", "1x1", "2.000", "0.50", "10", "1x0", "1.600", "1.100"]


def test_every_row_of_the_paper_has_a_step_with_its_preset(tmp_path):
    """Rows without a record are empty; a record of the step's file fills one."""
    every = steps.all_steps(Setting(tmp_path, False, None))
    lines = recorded.overview(tmp_path).splitlines()[2:]
    for line, name in zip(lines, paper.ROWS, strict=True):
        assert f"`{name}`" in line and line.replace(" ", "").endswith("|" * 9)
        mine = [step for step in every if f"rows: {name}" in step.fills]
        assert mine and {step.data for step in mine} == {paper.ROWS[name].config["dataset"]}
        assert (ROOT / "launch" / "presets" / f"{name}.flags").exists()
        asked = [json.loads(step.command[-1]) for step in mine]
        written = {one.get("name", "cifar10_cnn_iid") for one in asked}
        assert name in written and all(one.startswith(f"{name}") for one in written)


def test_a_data_set_that_is_not_here_is_a_sentence(tmp_path, monkeypatch):
    setting = Setting(tmp_path, False, str(tmp_path))
    (step,) = [step for step in steps.all_steps(setting) if step.name == "row-seed0"]
    assert "cifar10 is not in" in suite.lacking(step, setting)
    (tmp_path / "cifar10").mkdir()
    assert suite.lacking(step, setting) is None
    found = suite.importlib.util.find_spec
    hidden = lambda name: None if name == "tensorflow_datasets" else found(name)
    monkeypatch.setattr(suite.importlib.util, "find_spec", hidden)
    assert "pack cifar10 with launch.prepare --pack" in suite.lacking(step, setting)
    (tmp_path / "cifar10").rmdir()
    (tmp_path / "cifar10.npz").write_bytes(b"")
    assert suite.lacking(step, setting) is None
    (step,) = [step for step in steps.all_steps(setting) if step.name == "row-seed0"]
    assert json.loads(step.command[-1])["packed"] is True


def test_the_minutes_of_a_command_are_those_that_are_left(tmp_path):
    (step,) = [s for s in steps.all_steps(Setting(tmp_path, True, None)) if s.name == "quickstart"]
    assert json.loads(steps.argv(step, 70)[-1])["minutes"] == 1.0
    assert json.loads(steps.argv(step, 5)[-1])["minutes"] == 0.05


def test_a_comparison_that_stopped_in_time_goes_on(tmp_path):
    setting, every = made(tmp_path, quick("a", "raise SystemExit(75)"))
    suite.run(every, setting, 60)
    assert states(tmp_path) == dict(a="cut")
    suite.run([quick("a")], setting, 60)
    assert states(tmp_path) == dict(a="done")


def test_the_best_rate_is_read_off_what_was_retrained(tmp_path):
    lines = lambda *tests: [
        dict(method="retrain", round=4 * i, test=test) for i, test in enumerate(tests, 1)
    ]
    for rate, tests in {0.03: (40.0, 45.0), 0.05: (30.0, 48.0), 0.1: (60.0,)}.items():
        folder = tmp_path / "work" / f"calibrate-{rate}"
        folder.mkdir(parents=True)
        files.write(folder / "results.jsonl", lines(*tests))
    found = row.calibrated(tmp_path)
    assert [(one["lr"], one["test"]) for one in found] == [(0.03, 45.0), (0.05, 48.0), (0.1, 60.0)]
    assert row.best_rate(found) == 0.05  # 0.1 was cut after half of its rounds


@pytest.mark.slow
def test_rehearsed_steps_write_what_the_tables_read(tmp_path):
    """The device, and one job with convolutions; killed once after its first way."""
    setting = Setting(tmp_path, True, None)
    every = {step.name: step for step in steps.all_steps(setting)}
    made(tmp_path)
    some = ["device", "rounds-resnet18-10", "row-seed0", "paper-cifar10_cnn_clients5"]
    some += ["paper-cifar10_resnet18_batch_stale", "paper-caltech101_vit_iid"]
    some = [every[name] for name in some]
    forks = processes.Forks(os.environ | suite.environment(setting), str(ROOT))
    suite.run(some, setting, 300, forks=forks)
    forks.close()
    used = [row["cpu"] for row in files.read(tmp_path / "steps.jsonl")]
    assert all(0 < cpu < 60 for cpu in used)
    assert set(states(tmp_path).values()) == {"done"}
    rows = [row for row in files.read(tmp_path / "accelerator.jsonl") if "job" in row]
    found = [(row["name"], row["strategy"], row["batch_size"]) for row in rows]
    assert found == [
        ("central", "1x1", 4),
        ("jfu", "1x0", 4),
        ("jfu", "1x0:product", 4),
        ("jfu", "1x1", 8),
        ("jfu", "1x1", 4),
    ]
    for one in rows:
        assert "error" not in one
        assert 0 < one["seconds_min"] <= one["seconds_median"] <= one["seconds_max"]
        assert one["compile_seconds"] > 0 and one["device_mb"] > 0 and one["gflop"] > 0
    line = next(line for line in tables.rounds(dict(cpu=rows)).splitlines() if "tf32" in line)
    assert "| - |" not in line.replace("  ", "")
    assert recorded.read(tmp_path / "cifar10_cnn_iid-cpu.jsonl")["seeds"] == [0]
    device = files.read(tmp_path / "rows" / "device.jsonl")
    assert [row for row in device if "error" in row] == []
    assert {row["what"] for row in device} >= {"facts", "product", "copy", "call"}
