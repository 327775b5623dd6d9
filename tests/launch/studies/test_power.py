"""What the audit notices of planted answers: requests, counts and verdicts, without training."""

import json

import numpy as np
import pytest

from helpers.forks import launch
from jfu import data, shadows
from launch.studies import power


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.mark.parametrize("kind", power.REQUESTS)
def test_requests_are_what_they_say(digits, kind):
    one = power.case(kind, 3, digits)
    forget, retain = one.evaluation.forget, one.evaluation.retain
    labels = np.asarray(one.evaluation.y)[: len(forget)]
    changed = labels != digits.y_train
    assert forget.sum() in (143, 144) and not (forget & retain).any()
    assert not changed[retain].any()
    share = changed[forget].mean()
    if kind == "trigger":
        assert one.evaluation.target == 0 and (labels[forget] == 0).all()
    else:  # of labels drawn anew, a tenth is right by chance
        assert one.evaluation.target is None
        assert share == 0 if kind == "clean" else 0.35 < share < 0.5
    wrong = one.evaluation.test_y != digits.y_test
    assert wrong.any() == (kind == "labels")
    # A shadow's slots are in the order of the candidates.
    slots = np.nonzero(np.asarray(one.request.forget.mask))
    rows = np.asarray(one.request.forget.index)[slots]
    assert rows[np.argsort(rows)].tolist() == shadows.candidates(one.request).tolist()


def test_a_share_is_put_back_within_the_mask():
    mask = np.arange(40).reshape(2, 20) % 2 == 0
    draw = np.random.default_rng(0)
    for share, many in ((0.0, 0), (0.1, 2), (0.5, 10), (1.0, 20)):
        back = power.put_back(mask, share, draw)
        assert back.sum() == many and not (back & ~mask).any()


def models(known):
    """Five seeds of right answers on a hundred examples, by share of them that is known."""
    right = lambda share: (np.arange(100) < round(100 * share),)
    return {
        name: {"forget": {seed: right(share + seed / 100) for seed in range(5)}}
        for name, share in known.items()
    }


def test_verdicts_of_planted_answers():
    retrained = dict(retrain=0.5, retrain_again=0.51, retrain_third=0.505)
    found = models(dict(original=0.9, **retrained) | {"0/0": 0.5, "0.5/0": 0.7, "1/3": 0.9})
    said = power.audit(found, {}, range(5), False)
    assert list(said) == ["0/0", "0.5/0", "1/3"]
    assert said["0/0"] == ("inconclusive", (), [])
    assert said["1/3"] == said["0.5/0"] == ("no", ("forget",), [])
    assert power.audit(found, {}, range(4), False)["1/3"][0] == "inconclusive"  # too few seeds


def test_counts_and_table_by_hand():
    said = [("no", ("forget", "asr"), []), ("inconclusive", (), ["probe"])]
    said += [("inconclusive", (), []), ("no", ("forget",), ["probe"])]
    line = power.counted(said)
    assert line == dict(
        audits=4, no=0.5, noticed=0.75, detecting=dict(asr=0.25, forget=0.5), signs=dict(probe=0.5)
    )
    rows = [
        dict(request="clean", seeds=5, shadows=0, share=share, no=share / 2, noticed=share)
        for share in power.SHARES
    ]
    header, _, cells = power.markdown(rows).splitlines()
    assert [word.strip() for word in header.split("|")[4:-1]] == [
        "0 % back",
        "10 % back",
        "50 % back",
        "100 % back",
    ]
    shown = [word.strip() for word in cells.split("|")[1:-1]]
    assert shown == ["clean", "5", "0", "0 (0)", "5 (10)", "25 (50)", "50 (100)"]


@pytest.mark.parametrize(
    "given, words",
    [
        (["--shadows=9"], "--shadows=9 is too small or odd"),
        (["--requests=clean,dirty"], "there is no request dirty; choose among trigger"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(given, words):
    _, error = launch("power", *given, expect=2)
    assert words in error.splitlines()[-1]


@pytest.mark.slow
def test_the_script_writes_lines_and_a_picture(tmp_path):
    """Everything put back is noticed by its trigger, and lines are complete."""
    file, picture = tmp_path / "power.jsonl", tmp_path / "power.png"
    few = ["--requests=trigger", "--seeds=5", "--retrained=2", "--partly=1", "--shadows=8"]
    launch("power", *few, f"--json={file}", f"--plot={picture}")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["shadows"], r["share"]) for r in rows] == [
        (shadows, share) for shadows in (0, 8) for share in power.SHARES
    ]
    assert all(r["no"] == 1 for r in rows if r["share"] == 1)
    assert [r["audits"] for r in rows] == 2 * [2, 1, 1, 1]
    assert picture.read_bytes()[:4] == b"\x89PNG"
