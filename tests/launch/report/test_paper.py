"""The paper's numbers, beside ours."""

import dataclasses

import pytest

from helpers.comparisons import CONFIG, all_runs, directory
from jfu import tables
from jfu.metrics import GAP_MEASURES
from launch.report import paper, report
from launch.running import table


def test_the_papers_gaps_are_those_of_its_accuracies():
    """Of every row whose accuracies or differences are known, to the last digit."""
    checked = 0
    for name, row in paper.ROWS.items():
        retrain = row.known.get("retrain")
        for method, numbers in row.known.items():
            if method == "retrain" or set(numbers) == {"gap"}:
                continue
            if retrain:
                shown = [m for m in (*GAP_MEASURES, paper.EFFICACY) if m in retrain]
                assert len(shown) == 4
                parts = [abs(numbers[m] - retrain[m]) for m in shown]
            else:
                parts = [numbers[f"d_{m}"] for m in GAP_MEASURES]
            # Printed with two digits, of sums of numbers with two digits.
            assert sum(parts) / 4 == pytest.approx(numbers["gap"], abs=0.005 + 1e-9), (name, method)
            checked += 1
    assert checked == 7 + 3 + 3 + 2


def test_the_papers_values_stand_beside_ours(tmp_path):
    summary = table.summarise(table.read([directory(tmp_path / "W", all_runs())]))
    text = table.beside(summary)
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[0][:3] == ["method", "retain %: paper", "ours"]
    of = {line[0]: " ".join(line[1:]) for line in lines if line}
    # retain, forget, test, MIA, gap, each of the paper and ours
    assert of["retrain"] == "91.66 90.50 83.05 82.50 82.32 81.50 50.23 50.00 - -"
    assert of["not"] == "91.69 91.50 83.86 83.50 82.65 82.50 50.23 50.00 0.29 0.75"
    assert of["mode"] == "92.56 - 85.25 - 82.31 - 50.70 - 0.90 -"
    assert of["not_all"] == "- - - - - - - - 0.84 -"
    assert of["retrain again"].endswith(" - 0.38")
    assert "original" not in of
    assert text.endswith(
        "\nOurs with 500 training images, 4 rounds of training, 2 of recovery, "
        "the paper's with all images.\n"
    )
    assert text in table.markdown(summary)


def test_where_the_paper_has_differences_so_have_we(tmp_path):
    changes = dict(dataset="caltech101", model="vit_base", partition="dirichlet:0.1")
    changes |= dict(image_size=224, resplit=0.1, drop_labels=("background_google",))
    config = dataclasses.replace(CONFIG, **changes, train_size=None)
    path = directory(tmp_path / "W", all_runs(), config=config)
    text = table.beside(table.summarise(table.read([path])))
    of = {x.split("|")[1].strip(): x.split("|")[2:-1] for x in text.splitlines() if "|" in x}
    numbers = [float(cell) for cell in of["finetune"]]
    assert numbers == [1.38, 2.0, 36.24, 2.0, 2.19, 2.0, 15.67, 0.0, 13.87, 1.5]
    assert " ".join(cell.strip() for cell in of["pgd"]) == "1.30 - 32.14 - 1.69 - 13.53 - 12.16 -"
    assert text.endswith("\nOurs with all images, 4 rounds of training, 2 of recovery.\n")


def test_the_centralised_row_has_no_number_for_another_attack(tmp_path):
    changes = dict(model="resnet18", norm="batch", clients=1, forget="fraction:0.1")
    config = dataclasses.replace(CONFIG, **changes, train_size=None)
    path = directory(tmp_path / "W", all_runs(), config=config)
    text = table.beside(table.summarise(table.read([path])))
    of = {x.split("|")[1].strip(): x.split("|")[2:-1] for x in text.splitlines() if "|" in x}
    stripped = lambda name: " ".join(cell.strip() for cell in of[name])
    assert stripped("method") == "retain %: paper ours forget %: paper ours test %: paper ours " + (
        "gap: paper ours"
    )
    assert stripped("retrain") == "100.00 90.50 95.19 82.50 94.67 81.50 - -"
    assert stripped("not") == "99.99 91.50 95.81 83.50 94.65 82.50 0.30 0.75"
    assert text.endswith(
        "\nOurs with all images, 4 rounds of training, 2 of recovery. The paper's gap includes "
        "another attack, ours includes MIA, of which it has no number.\n"
    )


def test_both_readings_of_the_first_layer_are_the_papers_row():
    plain = dataclasses.asdict(CONFIG)
    for changes in (dict(layers=("first_weight",)), dict(weights_only=True)):
        assert paper.known(plain | changes)["not"] == dict(
            retain=91.69, forget=83.86, test=82.65, mia=50.23, gap=0.29
        )
    assert paper.known(plain | dict(layers=("first_weight",))) == paper.known(plain)
    assert paper.known(plain | dict(layers=("last",))) == {}


def test_differences_are_over_the_seeds_that_retraining_has_and_marked(tmp_path):
    """NoT in two seeds, retraining in the second: what is compared rests on that one."""
    every = all_runs()
    for name in ("retrain", "retrain_again"):
        del every[0, name]
    changes = dict(dataset="caltech101", model="vit_base", partition="dirichlet:0.1")
    changes |= dict(image_size=224, resplit=0.1, drop_labels=("background_google",))
    config = dataclasses.replace(CONFIG, **changes)
    every[1, "not"]["rows"][-1] |= dict(retain=95.0)  # retraining: 91
    summary = table.summarise(table.read([directory(tmp_path / "W", every, config=config)]))
    assert (summary["methods"]["not"]["of"], summary["methods"]["not"]["compared"]) == (2, 1)
    assert summary["methods"]["not"]["retain"]["mean"] == 93.0  # of both, 91 and 95
    assert summary["methods"]["not"]["gap"] == (4.0 + 1.0 + 1.0 + 0.0) / 4
    of = {
        x.split("|")[1].strip(): x.split("|")[2:-1] for x in table.beside(summary).splitlines()[:-2]
    }
    assert [of["not"][i].strip() for i in (1, 3, 5, 7, 9)] == [
        *["4.00 (1 seed)", "1.00 (1 seed)", "1.00 (1 seed)", "0.00 (1 seed)", "1.50 (1 seed)"]
    ]
    assert "retrain (1 of 2 seeds)" in of
    (line,) = [x for x in report.markdown(summary).splitlines() if x.startswith("| not")]
    assert "93.0 ± 2.8 |" in line and "| 1.50 (1 seed) |" in line


def test_answers_that_were_left_out_stand_in_the_table(tmp_path):
    """A model that has diverged may have the accuracy of any other that knows nothing."""
    plain = all_runs()
    path = directory(tmp_path / "V", plain)
    assert "left out" not in report.markdown(table.summarise(table.read([path])))
    for notes in plain.values():
        for each in notes["rows"]:
            each["left_out"] = 0
    for seed, many in ((0, 18), (1, 0)):
        plain[seed, "not"]["rows"][-1]["left_out"] = many
    summary = table.summarise(table.read([directory(tmp_path / "W", plain)]))
    lines = report.markdown(summary).splitlines()
    column = [line.split("|")[-2].strip() for line in lines]
    assert column[0] == "left out" and column[2:] == ["-", "-", "-", "9.0 ± 12.7", "-"]
    assert "not:        after 2 rounds" in tables.legend(summary)
    assert "9.0 updates of clients were left out" in tables.legend(summary)
    assert "the model has diverged" in " ".join(tables.legend(summary).split())


@pytest.mark.parametrize(
    "changes",
    [
        *[dict(backdoor=True), dict(norm="group"), dict(dp_clip=1.0), dict(sample=2)],
        *[dict(faults=("nan:0.5",)), dict(init_params="m.safetensors"), dict(resplit=0.9)],
    ],
)
def test_other_configurations_are_not_compared_with_the_paper(tmp_path, changes):
    config = dataclasses.replace(CONFIG, **changes)
    summary = table.summarise(table.read([directory(tmp_path / "W", all_runs(), config=config)]))
    assert table.beside(summary) == ""
    assert table.markdown(summary) == report.markdown(summary)
