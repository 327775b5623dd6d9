"""What the audit notices of planted answers: requests, counts and verdicts, without training."""

import json
import types

import numpy as np
import pytest

from helpers.forks import launch
from jfu import data, shadows
from launch.studies import power, power_kept


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
    if kind in ("trigger", "ridge"):
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


@pytest.fixture
def asked(monkeypatch):
    """The flags of the script, as a namespace."""
    flags = types.SimpleNamespace(retrained=2, partly=1, seeds=5)
    monkeypatch.setattr(power, "FLAGS", flags)
    return flags


def test_exact_answers_have_the_random_draws_of_the_first_retrained_model(asked):
    plan = power.planned("trigger")
    assert [number for *_, number in plan] == [*range(9)]
    assert [(name, share) for name, share, _ in plan if share] == [
        ("original", 1.0),
        ("0.1/0", 0.1),
        ("0.5/0", 0.5),
        ("1/0", 1.0),
    ]
    numbers = {name: number for name, _, number in power.planned(power.RIDGE)}
    assert [numbers.pop(name) for name in ("retrain_again", "retrain_third")] == [2, 3]
    assert {*numbers.values()} == {1} and "0/0" in numbers and "0/1" not in numbers


def test_each_planted_retraining_is_compared_with_models_of_its_own(asked):
    names = [name for name, *_ in power.planned("trigger")]
    first, second = power.turns(names)
    assert first == dict(
        original="original",
        retrain="0/1",
        retrain_again="retrain",
        retrain_third="retrain_again",
        **{"0/0": "0/0"},
    )
    assert [second[name] for name in power.KEPT[1:]] == [
        "retrain",
        "retrain_again",
        "retrain_third",
    ]
    found = {key: {} for key in names} | {f"turn/{t}:{role}": {} for t in (0, 1) for role in first}
    *own, rest = map(list, power.by_turn(found))
    assert own == [[*first], [*first]] and "0/0" not in rest and "0.1/0" in rest
    assert list(power.by_turn(dict.fromkeys(names))[0]) == names  # exact answers have no turns


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
        audits=4,
        no=0.5,
        yes=0.0,
        noticed=0.75,
        detecting=dict(asr=0.25, forget=0.5),
        signs=dict(probe=0.5),
    )
    rows = [
        dict(
            request="clean",
            seeds=5,
            shadows=shadows,
            share=share,
            no=share / 2,
            yes=1 - share,
            noticed=share,
        )
        for shadows in (0, 16)
        for share in power.SHARES
    ]
    words = lambda line: [word.strip() for word in line.split("|")[1:-1]]
    header, _, *lines = map(words, power.markdown(rows).splitlines())
    back = ["0 % back", "10 % back", "50 % back", "100 % back"]
    assert header[3:] == [*back, *(f"yes: {share}" for share in back)]
    seen = ["0 (0)", "5 (10)", "25 (50)", "50 (100)"]
    assert lines == [
        ["clean", "5", "0", *seen, "-", "-", "-", "-"],
        ["clean", "5", "16", *seen, "100", "90", "50", "0"],
    ]


def test_what_was_measured_is_kept_with_all_its_bits(tmp_path):
    draw, made = np.random.default_rng(0), []
    own = dict(request="clean", seed=3)
    samples = {
        "0.1/2": {
            "forget": (draw.random(9) > 0.5,),
            "probe.stem": (draw.random(4), draw.random(3)),
        },
        "retrain": {"relearn": (np.array([21]), np.array([20]))},
    }

    def make():
        made.append(1)
        return samples

    for _ in range(2):
        found = power_kept.once(tmp_path / "W", own, make)
        for name, measured in samples.items():
            for key, arrays in measured.items():
                for before, after in zip(arrays, found[name][key], strict=True):
                    assert before.dtype == after.dtype and (before == after).all()
    assert len(made) == 1
    power_kept.once(None, own, make)
    assert len(made) == 2
    (path,) = (tmp_path / "W").iterdir()
    path.rename(tmp_path / "W" / "request-clean-seed-4.safetensors")
    with pytest.raises(ValueError, match="has no samples of .*'seed': 4.*remove it"):
        power_kept.once(tmp_path / "W", own | dict(seed=4), make)


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
    few = ["--requests=trigger", "--seeds=5", "--retrained=1", "--partly=1", "--shadows=8"]
    few += [f"--workdir={tmp_path / 'W'}"]
    launch("power", *few, f"--json={file}", f"--plot={picture}")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["shadows"], r["share"]) for r in rows] == [
        (shadows, share) for shadows in (0, 8) for share in power.SHARES
    ]
    assert all(r["no"] == 1 for r in rows if r["share"] == 1)
    assert not any(r["yes"] for r in rows if r["share"])
    assert [r["audits"] for r in rows] == 8 * [1]
    assert len([*(tmp_path / "W").iterdir()]) == 6  # five seeds, and shadow federations
    assert picture.read_bytes()[:4] == b"\x89PNG"
