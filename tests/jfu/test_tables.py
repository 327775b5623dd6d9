"""Tables of a summary, with all columns or with those that are asked for."""

import pytest

from jfu import results, tables


def rows(method, *retains, asr, seed=0):
    rest = dict(forget=90.0, test=90.0, mia=50.0, mia_matched=None, asr=asr, storage=0)
    cost = lambda n: dict(bytes_down=5e5 * n, bytes_up=5e5 * n, flops=1e9 * n, seconds=n / 2)
    return [
        dict(method=method, seed=seed, round=n, retain=retain) | rest | cost(n)
        for n, retain in enumerate(retains)
    ]


EVERY = [
    *rows("original", 98.0, asr=99.0),
    *rows("retrain", 20.0, 80.0, 98.0, asr=11.0),
    *rows("not", 10.0, 98.0, 99.0, asr=10.0),
    *rows("retrain_again", 20.0, 80.0, 97.0, asr=12.0)[-1:],
]


def test_a_table_of_chosen_columns_by_hand():
    """Those that were asked for, in that order, also where none has a value."""
    text = tables.markdown(
        results.summarise(EVERY),
        columns=("asr", "gap_per_seed", "rounds_to_recover", "mia_matched"),
    )
    assert text.splitlines() == [
        "| method        | backdoor % | gap per seed |    rounds | MIA matched % |",
        "|---------------|-----------:|-------------:|----------:|--------------:|",
        "| original      | 99.0 ± 0.0 |  0.00 ± 0.00 |         - |             - |",
        "| retrain       | 11.0 ± 0.0 |            - | 2.0 ± 0.0 |             - |",
        "| not           | 10.0 ± 0.0 |  0.25 ± 0.00 | 1.0 ± 0.0 |             - |",
        "| retrain again | 12.0 ± 0.0 |  0.25 ± 0.00 |         - |             - |",
    ]


def test_by_default_every_column_that_has_a_value():
    summary = results.summarise(EVERY)
    shown = [c.strip() for c in tables.markdown(summary).splitlines()[0].split("|")[1:-1]]
    expected = ["retain", "forget", "test", "mia", "asr", "gap", "gap_per_seed"]
    expected += [f"{cost}_to_recover" for cost in ("rounds", "bytes", "flops", "seconds")]
    expected += ["storage"]
    assert shown == ["method", *(tables.COLUMNS[key].title for key in expected)]
    assert tables.markdown(summary, columns=expected) == tables.markdown(summary)


def test_a_column_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"no column backdoor; choose among needs, retain,"):
        tables.markdown(results.summarise(EVERY), columns=["retain", "backdoor"])


def test_the_legend_says_what_became_of_each_method():
    text = tables.legend(results.summarise(EVERY))
    assert "original:   obeys the trigger on 99.0 % of test images" in text
    assert "not:        after 2 rounds the backdoor works on 10.0 % of test images; " in text
    assert "retained accuracy is back after 1.0 rounds" in text
