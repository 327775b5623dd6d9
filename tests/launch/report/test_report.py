"""The files of a table."""

import json

from launch.report import report

COSTS = dict(bytes_down=1, bytes_up=1, flops=1.0, storage=0, seconds=1.0)
ROWS = [
    dict(method=name, seed=0, round=1, retain=90.0, forget=80.0, test=85.0, mia=50.0)
    | dict(mia_matched=None, asr=None, left_out=0, **COSTS)
    for name in ("retrain", "not", "retrain_again")
]


def test_making_the_text_changes_nothing_of_the_summary():
    summary = report.summarise(ROWS)
    before = report.to_json(summary)
    files = report.contents(summary, report.markdown(summary))
    assert files["table.json"] == before
    # As the files of earlier versions have it, whose digests stand in ledgers.
    assert json.loads(before)["floor"]["left_out"] is None
    assert json.loads(before)["methods"]["not"]["left_out"] == dict(mean=0.0, std=0.0)
