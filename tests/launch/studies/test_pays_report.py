"""The map of when negation pays, as text."""

from launch.studies import pays_report


def row(setting, seed, recover, gap=1.0):
    methods = {name: dict(recover=r, gap=gap, half=dict(asr=50.0)) for name, r in recover.items()}
    return dict(setting=setting, seed=seed, rounds=40, methods=methods)


def test_what_never_recovers_counts_with_all_its_rounds():
    needs = dict(retrain=20, retrain_again=10, finetune=1, reinit=None)
    rows = [row("base", 0, needs | {"not": 15}), row("base", 1, needs | {"not": None})]
    assert pays_report.ratios(rows, "not") == [0.75, 2.0]
    assert pays_report.ratios(rows, "reinit") == [2.0, 2.0]
    text = pays_report.markdown(rows).splitlines()[-1]
    assert text.startswith("| base")
    assert "1.38 ± 0.88" in text  # of 0.75 and 2


def test_a_gap_that_no_attack_could_measure_is_a_dash():
    needs = dict(retrain=20, retrain_again=20, finetune=1, reinit=20) | {"not": 10}
    before = dict(took=20, excess=None)
    rows = [row("base", s, needs, gap) | before for s, gap in ((0, None), (1, 2.0))]
    assert [c.strip() for c in pays_report.markdown(rows).splitlines()[-1].split("|")][7:11] == [
        "-"
    ] * 4
    known, *kinds = [line.split("|") for line in pays_report.groups(rows).splitlines()[2:]]
    assert known[1].strip() == "training was flat" and kinds[0][1].strip() == "all"
    assert [cell.strip() for cell in known[-5:-1]] == ["-"] * 4
