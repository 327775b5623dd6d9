"""Tuning: which option is chosen."""

from jfu import results


def test_tuning_chooses_the_smallest_gap():
    from launch.studies import tuning as tune

    gaps = dict(zip(("0.01", "0.1", "0.03", "0.003"), (4.0, 2.0, 1.0, 3.0), strict=True))
    entry = lambda gap: dict.fromkeys(results.BRIEF) | dict(gap_per_seed=dict(mean=gap))
    found = {f"ga[lr={r}]": entry(gap) for r, gap in gaps.items()}
    lines, best = tune.choose(found, ["ga"])
    assert best == ["ga.lr=0.03"]
    assert [line["chosen"] for line in lines] == [False, False, True, False]
    assert all(len(grid) == 4 for grid in tune.GRID.values())
