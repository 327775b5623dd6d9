"""What an experiment is made of: requests as text, poison, evaluations, work directories."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.workdirs import CONFIG, LAYOUT, rows
from jfu import tables
from jfu.evaluation import measures_of
from launch.report import advice, report
from launch.setup import federation, requests
from launch.setup.clients import draw, images
from launch.setup.evaluation import evaluation_of
from launch.setup.options import read_options
from launch.setup.study import set_aside
from launch.setup.trial import prepare_trial
from launch.workdir import locks, runs, workdir


def poisoned(config, dataset, seed=0):
    changes = dict(backdoor=True, backdoor_clients=("1",), backdoor_forget=config.forget)
    config = dataclasses.replace(config, **changes)
    drawn = draw(config, dataset, seed)
    clients = images(config, dataset, drawn)
    return config, clients, jfu.split(clients, drawn.forget), drawn.poisoned


@pytest.mark.parametrize("backdoor", [False, True])
def test_a_trials_images_are_brought_to_the_devices_once(dataset, backdoor):
    """Reading a request places nothing, and all four sides of a trial share one pool."""
    changes = dict(backdoor=backdoor, backdoor_clients=("1",), backdoor_forget="client:1")
    config = dataclasses.replace(CONFIG, forget="client:1", **changes)
    drawn = draw(config, dataset, 0)
    assert drawn.clients.x is dataset.x_train  # reading a request copies none
    clients = images(config, dataset, drawn)
    assert isinstance(clients.x, np.ndarray) and isinstance(clients.y, np.ndarray)
    assert clients.y.dtype == np.int32
    trial = prepare_trial(SimpleNamespace(config=config, dataset=dataset, drawn={0: drawn}), 0)
    sides = [*trial.everything, *trial.request]
    assert len({id(side.x) for side in sides}) == len({id(side.y) for side in sides}) == 1
    assert isinstance(sides[0].x, jax.Array)


@pytest.mark.parametrize("forget", ["client:1", "fraction:0.3@client:1", "class:2@client:1"])
def test_poison_lies_in_what_will_be_forgotten(dataset, forget):
    """Poison that stayed would be learnt by the retrained model too."""
    config = dataclasses.replace(CONFIG, forget=forget)
    _, clients, _, rows = poisoned(config, dataset)
    clean, forgotten, *_ = draw(config, dataset, 0)
    request = jfu.split(clean, forgotten)
    gone = np.asarray(request.forget.index)[np.asarray(request.forget.mask)]
    assert sorted(gone) == np.flatnonzero(rows).tolist()
    assert (np.asarray(clients.x)[rows, -2:, -2:] == 255).all()
    assert (np.asarray(clients.y)[rows] == 0).all()
    untouched = ~rows
    np.testing.assert_array_equal(np.asarray(clients.x)[untouched], dataset.x_train[untouched])


def test_poison_elsewhere_than_the_request_is_all_of_the_client(dataset):
    config = dataclasses.replace(CONFIG, forget="client:0")
    _, clients, _, rows = poisoned(config, dataset)
    assert rows.sum() == int(clients.mask[1].sum())
    assert rows[np.asarray(clients.index[1])].all()


def test_shared_images_cannot_be_poisoned(dataset, tmp_path):
    (tmp_path / "lists.json").write_text(json.dumps([[0, 1, 2], [2, 3, 4], [5]]))
    config = dataclasses.replace(
        CONFIG, partition=f"file:{tmp_path / 'lists.json'}", forget="client:1"
    )
    with pytest.raises(ValueError, match="shares images with other clients"):
        poisoned(config, dataset)


@pytest.mark.parametrize(("fraction", "size"), [(1.0, None), (0.5, 4)])
def test_the_matched_attack_pairs_class_and_poison(dataset, fraction, size):
    config = dataclasses.replace(
        CONFIG, forget="client:1", backdoor_fraction=fraction, backdoor_size=size
    )
    config, clients, request, rows = poisoned(config, dataset)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    x, y = np.asarray(made.x), np.asarray(made.y)
    pool, tests = len(rows), len(dataset.y_test)
    assert len(x) == pool + 2 * tests
    members, others = made.members, made.others
    assert len(members) == len(set(members)) == len(set(others)) > 0
    assert made.forget[members].all()
    side = size or 2
    stamped = (x[:, -side:, -side:] == 255).all((1, 2, 3))
    assert stamped[: len(rows)].sum() == rows.sum() and stamped[-tests:].all()
    np.testing.assert_array_equal(stamped[members], stamped[others])
    np.testing.assert_array_equal(y[members], y[others])
    true = np.concatenate([dataset.y_train, dataset.y_test, dataset.y_test])
    np.testing.assert_array_equal(true[members], true[others])
    assert 0 < rows[members].mean() <= 1


def test_measures_by_hand(dataset):
    config = dataclasses.replace(CONFIG, forget="class:1")
    clients, forget, rows, *_ = draw(config, dataset, 0)
    request = jfu.split(clients, forget)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    right = np.zeros(90, bool)
    right[:60] = dataset.y_train != 1  # knows all it retains, nothing of what it forgot
    right[60:] = dataset.y_test == 0
    measures = measures_of(made, np.zeros(90), right, attack=False)
    assert measures["retain"] == 100
    assert measures["forget"] == 0
    assert measures["test"] == pytest.approx(100 / 3)
    assert measures["test_kept"] == 50
    assert measures["test_forgotten"] == 0
    assert measures["asr"] is None
    assert measures["mia"] is None


@pytest.mark.parametrize("shared", [[2], [0, 1, 2]])
def test_what_a_staying_client_holds_too_is_not_forgotten(dataset, tmp_path, shared):
    """Of client 0's images, 0 to 2, client 1 holds some as well, which nobody unlearns."""
    (tmp_path / "lists.json").write_text(json.dumps([[0, 1, 2], [*shared, 3, 4], [5]]))
    config = dataclasses.replace(CONFIG, partition=f"file:{tmp_path / 'lists.json'}")
    clients, forget, rows, *_ = draw(config, dataset, 0)
    request = jfu.split(clients, forget)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    alone = sorted({0, 1, 2} - set(shared))
    assert np.flatnonzero(made.forget).tolist() == alone
    assert np.flatnonzero(made.retain).tolist() == sorted({*shared, 3, 4, 5})
    assert set(made.members) <= set(alone)
    right = np.isin(np.arange(90), shared)
    assert measures_of(made, np.zeros(90), right, attack=False)["forget"] == (0 if alone else None)


def test_attack_success_leaves_out_the_triggers_own_class(dataset):
    config = dataclasses.replace(CONFIG, forget="client:1")
    config, clients, request, rows = poisoned(config, dataset)
    made = evaluation_of(config, dataset, clients, request, rows, seed=0)
    calls_all_zero = np.asarray(made.y) == 0
    assert measures_of(made, np.zeros(120), calls_all_zero, attack=False)["asr"] == 100
    obeys_none = np.concatenate([np.ones(90, bool), dataset.y_test == 0])
    assert measures_of(made, np.zeros(120), obeys_none, attack=False)["asr"] == 0


def test_ids_may_hold_an_at(dataset):
    ids = np.repeat(["ann@x.org", "bob@x.org", "cy"], 20)
    own = dataset._replace(client=ids)
    for text, who in (
        ("client:bob@x.org", [False, True, False]),
        ("class:2@client:ann@x.org,cy", [True, False, True]),
    ):
        config = dataclasses.replace(CONFIG, forget=text)
        forget = draw(config, own, 0).forget
        assert forget.any(1).tolist() == who


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00broken"])
def test_masks_that_are_none(tmp_path, content, dataset):
    (tmp_path / "m.npy").write_bytes(content)
    clients = draw(CONFIG, dataset, 0).clients
    names = [0, 1, 2]
    with pytest.raises(ValueError, match=r"m\.npy is not a \.npy file of bools"):
        requests.parse(f"mask:{tmp_path / 'm.npy'}", clients, names, jax.random.key(0))
    np.savez(tmp_path / "m.npz", a=np.ones(60, bool))
    with pytest.raises(ValueError, match="is not a .npy file of bools"):
        requests.parse(f"mask:{tmp_path / 'm.npz'}", clients, names, jax.random.key(0))


# ---------------------------------------------------------------- work directories


def test_a_directory_killed_before_it_had_begun_is_new(tmp_path):
    (tmp_path / ".config.json.abc.part").write_text("half")  # as it was named once
    (tmp_path / ".config.json.abc_d3fg.jfu-part").write_text("half")
    assert workdir.open_workdir(str(tmp_path), CONFIG, "compare").layout is None


THEIRS = [".mine.part", "cells/.mine.part", ".config.json.x.part", "notes/.0-not.jfu-part"]
THEIRS += [
    "notes/.config.json.abcdefgh.jfu-part",
    ".thesis.abcdefgh.jfu-part",
    ".config.json.jfu-part",
]
THEIRS += [
    "inner/.config.json.abcdefgh.jfu-part",
    "inner/cells/.0-not.safetensors.abcdefgh.jfu-part",
]
THEIRS += ["shadows/.config.json.abcdefgh.jfu-part", "cells/.0-not.safetensors.ABCDEFGH.jfu-part"]
OURS = [".config.json.abcdefgh.jfu-part", "cells/.0-not.safetensors.a_3defgh.jfu-part"]
OURS += [
    "shadows/.0-8-0-7.safetensors.abcdefgh.jfu-part",
    "cells/.0-pgd[lr=0.1].safetensors.abcdefgh.jfu-part",
]


def test_what_half_a_write_left_is_swept_and_nothing_else(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    for name in THEIRS + OURS:
        (tmp_path / "w" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "w" / name).write_text("half")
    (tmp_path / "w" / ".plan.json.abcdefgh.jfu-part").mkdir()
    again = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(again, CONFIG, "compare", LAYOUT)
    left = {str(p.relative_to(tmp_path / "w")) for p in (tmp_path / "w").rglob(".*")}
    assert left == {*THEIRS, ".plan.json.abcdefgh.jfu-part"}


@pytest.mark.parametrize("name", ["cells", "shadows"])
def test_halves_of_others_folders_are_left(tmp_path, name):
    """A folder that a link leads to, or that is a work directory of its own."""
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    half = tmp_path / "away" / (".0-not.safetensors" if name == "cells" else ".0-8-0-7.safetensors")
    half = half.with_name(f"{half.name}.abcdefgh.jfu-part")
    half.parent.mkdir()
    half.write_text("half")
    (tmp_path / "w" / "cells").rmdir()
    (tmp_path / "w" / name).symlink_to(half.parent)
    locks.take(tmp_path / "w").close()
    assert half.exists()
    (tmp_path / "w" / name).unlink()
    shutil.copytree(half.parent, tmp_path / "w" / name)
    (tmp_path / "w" / name / "config.json").write_text("{}")
    locks.take(tmp_path / "w").close()
    assert (tmp_path / "w" / name / half.name).exists()


def test_a_named_file_that_changed_is_noticed(tmp_path):
    own = tmp_path / "own.npz"
    own.write_bytes(b"one")
    config = dataclasses.replace(CONFIG, dataset=str(own))
    work = workdir.open_workdir(str(tmp_path / "w"), config, "compare")
    workdir.begin(work, config, "compare", LAYOUT)
    own.write_bytes(b"two")
    with pytest.raises(ValueError, match=r"own\.npz has changed since"):
        workdir.open_workdir(str(tmp_path / "w"), config, "compare")


def test_where_data_lies_is_no_other_configuration(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT)
    moved = dataclasses.replace(CONFIG, data_dir="elsewhere")
    assert workdir.open_workdir(str(tmp_path / "w"), moved, "compare").layout == LAYOUT


def test_a_directory_older_than_a_flag_was_run_with_its_default(tmp_path):
    work = workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare")
    workdir.begin(work, CONFIG, "compare", LAYOUT).lock.close()
    notes = tmp_path / "w" / "config.json"
    kept = json.loads(notes.read_text())
    del kept["config"]["precision"]
    notes.write_text(json.dumps(kept))
    assert workdir.open_workdir(str(tmp_path / "w"), CONFIG, "compare").layout == LAYOUT
    assert runs.read_run(str(tmp_path / "w")).config == CONFIG
    half = dataclasses.replace(CONFIG, precision="bf16")
    with pytest.raises(ValueError, match="with precision=None, and the flags say precision=bf16"):
        workdir.open_workdir(str(tmp_path / "w"), half, "compare")


# ---------------------------------------------------------------- the table


def test_the_table_by_hand():
    every = [
        *rows("retrain", 10.0, 80.0, 90.0, seed=0),
        *rows("retrain", 10.0, 91.6, 92.0, seed=1),
        *rows("not", 10.0, 89.6, 88.0, seed=0),
        *rows("not", 10.0, 80.0, 96.0, seed=1),
        *rows("retrain_again", 10.0, 80.0, 91.0, seed=0)[-1:],
        *rows("retrain_again", 10.0, 80.0, 89.0, seed=1)[-1:],
    ]
    table = report.summarise(every)
    method = table["methods"]["not"]
    assert method["retain"] == dict(mean=92.0, std=pytest.approx(np.sqrt(32)))
    assert method["gap"] == pytest.approx((92 - 91) / 4)  # of the means
    assert method["gap_per_seed"]["mean"] == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert method["rounds_to_recover"]["mean"] == 1.5  # 89.6 >= 89.5, then 96 >= 91.5
    assert method["bytes_to_recover"]["mean"] == 30
    assert table["methods"]["retrain"]["rounds_to_recover"]["mean"] == 1.5
    assert table["floor"]["gap"] == pytest.approx(abs(90 - 91) / 4)
    assert table["floor"]["rounds_to_recover"] is None
    assert "retrain_again" not in table["methods"]
    text = report.markdown(table)
    assert len({len(line) for line in text.splitlines()}) == 1
    assert json.loads(report.to_json(table)) == table


def test_a_run_that_diverged_is_not_said_to_be_back():
    """Everybody names one class, which is 12.9 % of the retained data."""
    diverged = lambda name, *retains: [r | dict(guess=12.9) for r in rows(name, *retains, asr=0.0)]
    every = [*diverged("retrain", 7.6, 12.9), *diverged("not", 9.0, 12.9)]
    table = report.summarise(every)
    assert table["methods"]["not"]["rounds_to_recover"]["mean"] == 1
    text = tables.legend(table)
    assert "retraining has learnt nothing: it retains 12.9 %, which naming one class gets" in text
    assert " is back after" not in text and "not:        after 1 rounds the backdoor" in text
    # Retraining has learnt, a method has not, one was back and has lost it, and one is back.
    every = [*diverged("retrain", 7.6, 90.0), *diverged("ga", 90.0, 90.0, 12.9)]
    every += [*diverged("not", 9.0, 90.0, 70.0), *diverged("finetune", 9.0, 90.0)]
    lines = {
        x.split(":")[0].strip(): x for x in tables.legend(report.summarise(every)).splitlines()
    }
    assert lines["ga"].endswith(
        "it has learnt nothing: naming one class gets as much of the retained data right"
    )
    assert lines["not"].endswith("was back after 1.0 rounds, and is not at the end")
    assert lines["finetune"].endswith("retained accuracy is back after 1.0 rounds")
    # A loss that is not finite, in rows that do not say what guessing gets.
    every = [r | dict(loss_retain=None) for r in rows("retrain", 1.0, 90.0)]
    assert not report.summarise(every)["methods"]["retrain"]["sound"]
    assert report.summarise(rows("retrain", 1.0, 90.0))["methods"]["retrain"]["sound"]


def test_advice_knows_a_model_that_has_learnt_nothing():
    config, row = (
        dict(recovery_rounds=4, forget="client:0", recovery_warmup_rounds=0),
        dict(retain=12.9, guess=12.9, forget=0.0, test=10.0, asr=None),
    )
    (line,) = advice.outlook(config, row, [row | dict(round=1)], False)
    assert "retains 12.9 % and has learnt nothing: naming one class gets as much right" in line
    (line,) = advice.behind(config, row, row | dict(round=4))
    assert line.startswith("not back: the model retains 12.9 % and has learnt nothing")


def test_where_each_rule_stops_by_hand():
    """Two seeds of four rounds; gaps are (|retain - 90| + |mia - 50|) / 4."""
    attacked = lambda lines, mias: [r | dict(mia=m) for r, m in zip(lines, mias, strict=True)]
    every = [
        *rows("original", 85.0, seed=0),
        *rows("original", 88.0, seed=1),
        *rows("retrain", 10.0, 90.0, seed=0),
        *rows("retrain", 10.0, 90.0, seed=1),
        *attacked(rows("not", 90.0, 84.0, 84.5, 89.6, 91.0), [50.0, 50.0, 52.0, 54.0, 58.0]),
        *attacked(rows("not", 9.0, 70.0, 80.0, 87.0, 89.5, seed=1), [50.0, 90.0, 80.0, 70.0, 60.0]),
    ]
    at = report.summarise(every)["methods"]["not"]["stopped"]
    assert at["budget"]["rounds"]["mean"] == 4
    assert at["budget"]["gap_per_seed"]["mean"] == pytest.approx(((1 + 8) + (0.5 + 10)) / 8)
    assert at["recovered"]["rounds"]["mean"] == (3 + 4) / 2  # 89.5 is within half a point of 90
    assert at["regained"]["rounds"]["mean"] == (2 + 4) / 2  # 84.5 of 85; 87.5 of 88; not round 0
    assert at["oracle"]["rounds"]["mean"] == (3 + 4) / 2  # 6, 7.5, 4.4, 9 quarters; round 0 is none
    assert at["oracle"]["gap_per_seed"]["mean"] == pytest.approx(((0.4 + 4) + (0.5 + 10)) / 8)
    assert set(report.summarise(every)["methods"]["retrain"]) & {"stopped"} == set()
    assert "| not " in tables.stopping(report.summarise(every))

    # A method's own rounds do not count.
    marked = [r | dict(own=True) if r["round"] == 3 else r for r in every if r["seed"] == 0]
    at = report.summarise(marked)["methods"]["not"]["stopped"]
    assert at["recovered"]["rounds"]["mean"] == 4

    # Regained never: it goes on to the end. Without attacks at every round: no oracle.
    short = rows("not", 9.0, 20.0, 30.0)
    short[1]["mia"] = None
    at = report.summarise([*every[:1], *every[2:4], *short])["methods"]["not"]["stopped"]
    assert at["regained"]["rounds"]["mean"] == 2
    assert at["recovered"] is None and at["oracle"] is None


def test_the_table_says_what_methods_need():
    every = [*rows("retrain", 10.0, 90.0), *rows("pgd", 10.0, 90.0), *rows("not", 10.0, 90.0)]
    table = report.summarise(every)
    assert table["methods"]["pgd"]["needs"] == ["history:last", "target", "forget_data"]
    assert table["methods"]["not"]["needs"] == []
    lines = report.markdown(table).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["-", "H T D", "-"]
    assert "H stored history, T the leaving client takes part" in tables.legend(table)


def test_options_of_methods():
    given = ["pgd.lr=0.003", "fcu.low=unlearned", "puf.alone=true", "pgd.epochs=2"]
    given += ["not_deepest.tells=0.1"]
    options = dict(pgd=dict(lr=0.003, epochs=2), fcu=dict(low="unlearned"), puf=dict(alone=True))
    options |= dict(not_deepest=dict(tells=0.1))
    assert read_options(given) == options
    for wrong, message in [
        ("pgd.lr", "is not understood; write METHOD.OPTION=VALUE"),
        ("pdg.lr=1", "no method pdg; the methods are retrain"),
        ("pgd.rate=1", "pgd has no option rate; it has lr, momentum"),
        ("finetune.lr=1", "finetune has no option lr; it has none"),
        ("pgd.batch_size=8", "pgd has no option batch_size"),
        ("puf.alone=maybe", "alone must be of the type bool"),
        ("ga.epochs=2.5", "epochs must be of the type int"),
        ("pgd.lr=fast", "lr must be of the type float"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_options([wrong])


def test_what_is_set_aside_is_not_evaluated_on(dataset):
    rest, proxy = set_aside(dataset, 0.2)
    assert len(proxy) == 6 and len(rest.x_test) == len(rest.y_test) == 24
    rows = lambda x: {a.tobytes() for a in x}
    assert rows(proxy) | rows(rest.x_test) == rows(dataset.x_test)
    assert not rows(proxy) & rows(rest.x_test)
    assert set_aside(dataset, 0.0) == (dataset, None)


def test_never_recovered_is_said():
    every = [*rows("retrain", 10.0, 90.0), *rows("not", 10.0, 80.0)]
    assert report.summarise(every)["methods"]["not"]["rounds_to_recover"] is None


def test_a_diverged_model_knows_nothing():
    judge = jfu.per_example(lambda variables, x: x * variables["params"])
    loss, correct = judge({"params": jnp.nan}, jnp.ones((4, 3)), jnp.zeros(4, jnp.int32))
    assert not correct.any()
    assert np.isnan(loss).all()
    with pytest.raises(ValueError, match="has diverged"):
        jfu.check_changed(lambda v, x: x * v, jnp.nan, -jnp.nan, jnp.ones((2, 2)))


def test_faults_and_aggregators_are_read():
    assert federation.read_faults(["late:0.1", "nan:.05", "long:1"]) == dict(
        late=0.1, nan=0.05, long=1.0
    )
    for wrong in ("late", "late=0.1", "slow:0.1", "nan:-1"):
        with pytest.raises(ValueError, match="is not understood; write late:RATE"):
            federation.read_faults([wrong])
    made = lambda name: federation.aggregator(
        dataclasses.replace(CONFIG, aggregator=name, clip=1.0, trim=0.1, byzantine=1), 3
    )
    seen = {name: made(name).stacked for name in ("mean", "clipped", "median", "trimmed", "krum")}
    assert seen == dict(mean=False, clipped=False, median=True, trimmed=True, krum=True)
