"""Recorded rows give their tables again."""

import dataclasses
import json

import pytest

from helpers.comparisons import CONFIG, RUNS, all_runs, directory
from launch.report import recorded, report
from launch.running import table


def test_recorded_rows_give_the_table_again(tmp_path):
    stored = table.read([directory(tmp_path / "W", all_runs())])
    file = tmp_path / "cifar10_cnn_iid-h100.jsonl"
    recorded.write(file, stored.config, stored.names, table.rows(stored))
    known, summary = recorded.read(file), table.summarise(stored)
    assert report.markdown(known) == report.markdown(summary)
    assert table.beside(known) == table.beside(summary)
    (line,) = [x for x in recorded.overview(tmp_path).splitlines() if "`cifar10_cnn_iid`" in x]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        *["CIFAR-10, CNN, IID", "`cifar10_cnn_iid`", "91.66 / 83.05 / 82.32", "0.29", "h100"],
        *["500 training images, 4 + 2 rounds", "2", "90.50 / 82.50 / 81.50", "0.38", "0.75"],
        *["", "1.50", "4.0", "2.0", "", "NoT is 0.4 points outside the floor."],
    ]
    empty = [x for x in recorded.overview(tmp_path).splitlines() if "`cifar10_cnn_class`" in x]
    assert [cell.strip() for cell in empty[0].split("|")[3:-1]] == [""] * 14
    file.rename(tmp_path / "cifar10_cnn_dirichlet-h100.jsonl")
    with pytest.raises(ValueError, match="has partition=iid, which is not the row cifar10_cnn_d"):
        recorded.overview(tmp_path)
    for text in ("", "{}\n", "[1]\n", "table\n"):
        (tmp_path / "cifar10_cnn_iid-other.jsonl").write_text(text)
        with pytest.raises(ValueError, match="iid-other.jsonl is not a recorded table .*--record"):
            recorded.overview(tmp_path)


def test_an_ablation_stands_in_the_file_of_its_row(tmp_path):
    """Noise is one of the row's perturbations; without all of them the file is not its."""
    others = ["noise", "reinit", "permute"]
    runs = directory(tmp_path / "W", all_runs(names=RUNS + others), names=RUNS + others)
    stored = table.read([runs])
    recorded.write(
        tmp_path / "cifar10_cnn_iid-h100.jsonl", stored.config, stored.names, table.rows(stored)
    )
    of = {x.split("|")[2].strip(): x for x in recorded.overview(tmp_path).splitlines()}
    # Those three end at retraining's accuracy.
    said = "NoT is 0.4 points outside the floor, `noise` inside, `reinit` inside, `permute` inside."
    assert said in of["`cifar10_cnn_perturbations`"]
    assert "h100" in of["`cifar10_cnn_iid`"] and "h100" not in of["`cifar10_cnn_layers`"]


def test_smaller_images_and_narrower_networks_are_scale(tmp_path):
    config = dataclasses.replace(CONFIG, model="resnet18_narrow", norm="group", image_size=16)
    stored = table.read([directory(tmp_path / "W", all_runs(), config=config)])
    file = tmp_path / "cifar10_resnet18_group-cpu.jsonl"
    recorded.write(file, stored.config, stored.names, table.rows(stored))
    (line,) = [x for x in recorded.overview(tmp_path).splitlines() if "18_group`" in x]
    assert "| 500 training images in 16x16, a network a quarter as wide, 4 + 2 rounds |" in line


def test_gaps_by_round_of_a_recorded_file(tmp_path):
    """Two seeds; retraining ends at 90 and 94, so 80 and 88 are gaps of 10/4 and 6/4."""
    of = lambda method, seed, round, retain, mia=50.0: dict(
        method=method, seed=seed, round=round, retain=retain, forget=50.0, test=50.0, mia=mia
    )
    rows = [
        of("retrain", s, number, (90 + 4 * s) * number / 8) for s in (1, 0) for number in (4, 8)
    ]
    rows += [of("not", 0, 2, 80.0), of("not", 0, 4, 90.0), of("not", 1, 2, 88.0)]
    rows += [of("not", 1, 3, 70.0, mia=None), of("not", 1, 4, 90.0), of("not", 7, 2, 10.0)]
    rows += [of("retrain_again", s, 8, 90.0 + 4 * s, mia=52.0 + 2 * s) for s in (0, 1)]
    path = tmp_path / "W.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [dict(config={}, cells=[]), *rows]))
    found = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in recorded.gaps(path, (2, 3, 4)).splitlines()
    ]
    assert found[0] == ["method", "2 rounds", "3 rounds", "4 rounds", "its last"]
    assert found[2] == ["not", "2.00 ± 0.71", "-", "0.50 ± 0.71", "0.50 ± 0.71"]
    assert found[3] == ["retrain again", "-", "-", "-", "0.75 ± 0.35"]
    assert len(found) == 4


def test_recorded_rows_say_what_was_missing(tmp_path):
    every = all_runs()
    for name in ("retrain", "retrain_again"):
        del every[0, name]
    stored = table.read([directory(tmp_path / "W", every)])
    file = tmp_path / "cifar10_cnn_iid-h100.jsonl"
    recorded.write(file, stored.config, stored.names, table.rows(stored))
    known, summary = recorded.read(file), table.summarise(stored)
    assert report.markdown(known) == report.markdown(summary)
    assert table.progress(known) == table.progress(summary) != ""
    (line,) = [x for x in recorded.overview(tmp_path).splitlines() if "`cifar10_cnn_iid`" in x]
    assert "| 1 of 2 |" in line
