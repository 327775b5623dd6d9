"""A run knows what it was made of, and nobody goes on from it with anything else."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

import jfu
from helpers.crashes import files
from helpers.workdirs import CONFIG, LAYOUT
from jfu.data import Dataset, digits
from launch.setup import identity, keys, requests, study
from launch.setup.clients import draw
from launch.workdir import runs, workdir

TRAIN = ["--rounds=2", "--model=mlp1", "--devices=1"]
ANSWER = ["--recovery_rounds=1", "--stop=budget", "--devices=1"]


def own(seed=0):
    """Three people's images, one row after another."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, 60)
    x = (rng.normal(size=(60, 8, 8)) * 20 + 60 + 40 * y[:, None, None]).clip(0, 255)
    people = np.array(["alice", "bob", "carol"])[np.arange(60) % 3]
    x = x.astype(np.uint8)
    return dict(x_train=x, y_train=y, x_test=x[:20], y_test=y[:20], client=people)


# ---------------------------------------------------------------- digests


def changes():
    """Data sets of which each differs from the first in one thing."""
    x = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
    y = np.array([0, 1, 0, 1, 0, 1], np.int32)
    client = np.array(["a", "b", "a", "b", "a", "b"])
    first = Dataset(x, y, x[:3], y[:3], ("0", "1"), client)
    pixel, label = x.copy(), y.copy()
    pixel[5, 1, 1, 0] += 1
    label[5] = 0
    return first, {
        "a pixel": (first._replace(x_train=pixel), ["train"]),
        "a label": (first._replace(y_train=label), ["train"]),
        "two rows": (first._replace(x_train=x[[1, 0, 2, 3, 4, 5]]), ["train"]),
        "the type": (first._replace(x_train=x.astype(np.float32)), ["train"]),
        "the shape": (first._replace(x_train=x.reshape(6, 4)), ["train"]),
        "a test label": (first._replace(y_test=1 - y[:3]), ["test"]),
        "an owner": (first._replace(client=client[::-1]), ["owners"]),
        "no owners": (first._replace(client=None), ["owners"]),
        "a class": (first._replace(labels=("0", "2")), ["classes"]),
        "nothing": (first._replace(x_train=x.copy(order="F")), []),
    }


@pytest.mark.parametrize("what", changes()[1])
def test_a_digest_is_of_everything_that_was_read(what):
    first, others = changes()
    other, wanted = others[what]
    mine, theirs = identity.of_data(first), identity.of_data(other)
    assert [name for name in mine if mine[name] != theirs[name]] == wanted
    if wanted:
        words = re.escape(f"not that of W: {identity.DATA[wanted[0]]} differ")
        with pytest.raises(ValueError, match=words):
            identity.same_data(mine, theirs, "W")
    else:
        identity.same_data(mine, theirs, "W")


def test_examples_in_files_have_the_digest_of_examples_in_memory(tmp_path):
    from jfu import data

    np.savez(tmp_path / "a.npz", **own())
    np.savez_compressed(tmp_path / "b.npz", **own())
    ways = [("a.npz", False), ("a.npz", True), ("b.npz", False)]
    read = [identity.of_data(data.load(tmp_path / name, by_row=rows)) for name, rows in ways]
    assert read[0] == read[1] == read[2]


def test_hosts_share_the_reading(monkeypatch):
    """What three hosts find of their parts is what one finds of all, also if parts are empty."""
    data = digits()
    for many in (len(data.y_train), 4, 2, 1):
        x = data.x_train[:many]
        part = -(-many // 3)
        starts = [min(many, part * host) for host in range(3)]
        found = b"".join(identity._rows(x, s, min(many, s + part)) for s in starts)
        assert found == identity._rows(x, 0, many)


def test_settings_that_change_bits_are_compared():
    kept = identity.numerics()
    identity.same_numerics(kept, "W")
    identity.same_numerics(None, "W")  # of before they were kept
    for name, value in kept.items():
        other = {bool: lambda v: not v, str: lambda v: v + "x"}.get(type(value), lambda v: "x")
        with pytest.raises(ValueError, match=f"W was made with {name}="):
            identity.same_numerics(kept | {name: other(value)}, "W")


def test_an_offset_of_every_seed_is_a_setting_that_changes_bits():
    """JAX_RANDOM_SEED_OFFSET makes all keys others, and no flag says so."""
    kept, bits = identity.numerics(), jax.random.key_data(jax.random.key(3)).tolist()
    assert None not in (kept["jax_random_seed_offset"], kept["jax_disable_most_optimizations"])
    try:
        jax.config.update("jax_random_seed_offset", 7)
        assert jax.random.key_data(jax.random.key(3)).tolist() != bits
        with pytest.raises(ValueError, match="jax_random_seed_offset=0; JAX is now set to .*=7"):
            identity.same_numerics(kept, "W")
    finally:
        jax.config.update("jax_random_seed_offset", 0)


# ---------------------------------------------------------------- draws


def test_what_a_request_took_out_is_not_drawn_again(dataset, monkeypatch, tmp_path):
    """It stays out though a draw would now come out otherwise."""
    config = dataclasses.replace(CONFIG, forget="fraction:0.3")
    first = draw(config, dataset, 0)
    rows = first.draws.request
    assert sum(map(len, rows.values())) == int(first.forget.sum()) > 0
    identity.write(tmp_path, 0, first.draws)
    assert identity.read(tmp_path, [0]) == {0: first.draws}
    later = dataclasses.replace(config, past=("-fraction:0.3",), forget="fraction:0.5@client:1")
    taken = first.draws._replace(past=(rows,), request=None)
    monkeypatch.setattr(keys, "request", lambda seed: jax.random.key(seed + 99))
    drawn = draw(later, dataset, 0)
    kept = draw(later, dataset, 0, taken=taken)
    out = lambda clients: np.asarray(clients.mask & ~np.asarray(first.forget))
    assert not np.array_equal(np.asarray(drawn.clients.mask), out(first.clients))
    np.testing.assert_array_equal(kept.clients.mask, out(first.clients))
    assert kept.draws.past == (rows,)
    # The next request, once drawn, is read as well.
    again = draw(later, dataset, 0, taken=kept.draws)
    monkeypatch.setattr(keys, "request", lambda seed: jax.random.key(seed + 7))
    once_more = draw(later, dataset, 0, taken=kept.draws)
    np.testing.assert_array_equal(again.forget, once_more.forget)


def test_classes_and_masks_that_were_taken_out_stay_what_they_were(dataset):
    """Also where a client was away then, whose examples a class did not take along."""
    past = ("-client:1", "-class:2", "+client:1")
    clients = draw(CONFIG, dataset, 0).clients
    names = list(range(len(clients.id)))
    left, taken = requests.standing(past, clients, names, jax.random.key(0))
    assert taken[0] is None and taken[2] is None and "1" not in taken[1]
    again, same = requests.standing(past, clients, names, jax.random.key(5), taken)
    np.testing.assert_array_equal(left.mask, again.mask)
    assert same == taken


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda kept: kept | dict(digest="0" * 16), "its digest differs"),
        (lambda kept: kept | dict(seed=1), "its digest differs"),
        (lambda kept: kept["draws"], "not as it was written"),
        (lambda kept: [], "not as it was written"),
    ],
)
def test_draws_that_were_changed_are_refused(content, what, tmp_path):
    draws = identity.Draws("a", None, (None, {"alice": [1]}), {"bob": [2]})
    identity.write(tmp_path, 0, draws)
    path = tmp_path / "draws" / "0.json"
    path.write_text(json.dumps(content(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=what):
        identity.read(tmp_path, [0])
    path.unlink()
    assert identity.read(tmp_path, [0]) == {}
    with pytest.raises(ValueError, match="is missing, which has the rows that requests took out"):
        identity.read(tmp_path, [0], needed=True)


def test_rows_that_nobody_holds_are_refused():
    clients = jfu.stack(np.zeros((3, 1)), np.zeros(3, int), [[0, 1], [2]], host=True)
    with pytest.raises(ValueError, match="no such client"):
        identity.as_mask({"eve": [0]}, clients, ["alice", "bob"])
    with pytest.raises(ValueError, match="that this client does not have"):
        identity.as_mask({"bob": [0]}, clients, ["alice", "bob"])


def test_a_split_that_comes_out_otherwise_is_refused(dataset):
    draws = draw(CONFIG, dataset, 0).draws
    identity.same_draws(draws, draws)
    identity.same_draws(None, draws)
    other = draw(CONFIG, dataset, 1).draws
    with pytest.raises(ValueError, match="the clients' examples are not the same"):
        identity.same_draws(draws, other)
    with pytest.raises(ValueError, match="the examples with the trigger are not"):
        identity.same_draws(draws._replace(poison="x"), draws)


# ---------------------------------------------------------------- an answer that is none


def test_an_answer_is_another_model_than_the_old_one():
    old = {"params": {"a": np.array([1.0, -2.0, np.nan]), "b": np.zeros(2)}, "stats": np.ones(1)}
    signs = {"params": {"a": -old["params"]["a"], "b": np.zeros(2)}, "stats": np.zeros(1)}
    moved = {"params": {"a": old["params"]["a"], "b": np.array([0.0, 1e-30])}}
    with pytest.raises(ValueError, match="the model of finetune equals the original model"):
        identity.changed(old, jax.tree.map(np.copy, old), "finetune")
    assert not identity.changed(old, signs, "not")
    assert identity.changed(old, moved, "finetune")


# ---------------------------------------------------------------- files that move


def test_a_file_that_has_moved_is_the_same(tmp_path, monkeypatch):
    """It is known by its content, whatever it is called by now."""
    monkeypatch.chdir(tmp_path)
    lists = dict(a=list(range(30)), b=list(range(30, 60)))
    (tmp_path / "p.json").write_text(json.dumps(lists))
    np.save("m.npy", np.ones(60, bool))
    config = dataclasses.replace(CONFIG, partition="file:p.json", forget="mask:m.npy")
    work = workdir.open_workdir("W", config, "compare")
    workdir.begin(work, config, "compare", LAYOUT, dict(train="x")).lock.close()
    mine = runs.read_run("W").fingerprint
    (tmp_path / "q").mkdir()
    shutil.move("p.json", "q/p.json")
    shutil.move("m.npy", "q/m.npy")
    moved = dataclasses.replace(config, partition="file:q/p.json", forget="mask:q/m.npy")
    assert workdir.open_workdir("W", moved, "compare").run == mine
    for folder in ("W", "q"):
        (tmp_path / "else").mkdir(exist_ok=True)
        shutil.move(folder, "else")
    # A work directory that moves together with its files finds them.
    shutil.move("else/q/p.json", "else/p.json")
    shutil.move("else/q/m.npy", "else/m.npy")
    run = runs.read_run("else/W")
    assert runs.found(run, "else/W").partition == f"file:{tmp_path}/else/p.json"
    (tmp_path / "else/p.json").write_text(json.dumps(dict(a=lists["b"], b=lists["a"])))
    with pytest.raises(ValueError, match=r"p.json has changed since else/W was made"):
        runs.found(run, "else/W")


def test_own_data_is_what_was_named_then_from_whatever_folder(tmp_path, monkeypatch):
    """Another file that goes by the same name where a later script runs is not taken for it."""
    for folder, seed in (("here", 0), ("there", 1)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "own.npz", **own(seed))
    monkeypatch.chdir(tmp_path / "here")
    config = dataclasses.replace(CONFIG, dataset="own.npz")
    read = lambda config: identity.of_data(study.load(config))
    work = workdir.open_workdir("W", config, "compare")
    workdir.begin(work, config, "compare", LAYOUT, read(config)).lock.close()
    monkeypatch.chdir(tmp_path / "there")
    run = runs.read_run(str(tmp_path / "here" / "W"))
    found = runs.found(run, str(tmp_path / "here" / "W"))
    assert found.dataset == str(tmp_path / "here" / "own.npz") and read(found) == run.data
    # Where that is gone the other is found, and is not that of W.
    (tmp_path / "here" / "own.npz").unlink()
    found = runs.found(run, str(tmp_path / "here" / "W"))
    assert found.dataset == "own.npz"
    with pytest.raises(ValueError, match="not that of W: the training examples"):
        identity.same_data(run.data, read(found), "W")


def test_another_kind_of_data_is_no_move():
    assert runs.may_move("data_dir", None, "/x")
    assert not runs.may_move("dataset", "digits", "own.npz")
    assert not runs.may_move("partition", "iid", "file:p.json")


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope="module")
def home(tmp_path_factory, forks):
    """A, which is trained, B, which answers for alice, and W, which compares."""
    home = tmp_path_factory.mktemp("home")
    np.savez(home / "own.npz", **own())
    data = f"--dataset={home / 'own.npz'}"
    trained = forks.run("train", data, *TRAIN, f"--workdir={home / 'A'}")
    assert trained.status == 0, trained.said
    answer = ["--forget=fraction:0.5@client:alice", *ANSWER]
    done = forks.run(
        "unlearn", f"--init_from={home / 'A'}", f"--workdir={home / 'B'}", *answer, "--method=not"
    )
    assert done.status == 0, done.said
    methods = ["--methods=retrain,finetune", "--seeds=1", "--forget=client:bob"]
    done = forks.run("compare", data, *TRAIN, *methods, f"--workdir={home / 'W'}")
    assert done.status == 0, done.said
    return home


@pytest.fixture
def place(home, tmp_path):
    shutil.copytree(home, tmp_path / "h")
    return tmp_path / "h"


def unlocked(folder):
    """The files of a folder except locks, which say who took it last."""
    return {name: content for name, content in files(folder).items() if "lock" not in name}


def shifted():
    """The same images, whose owners have moved by one row."""
    return own() | dict(client=np.roll(own()["client"], 1))


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("unlearn", ["--init_from={A}", "--workdir={C}", "--forget=client:bob", *ANSWER]),
        ("train", ["--init_from={B}", "--workdir={C}", "--rounds=1", "--devices=1"]),
        ("train", ["--dataset={own}", "--workdir={A}", *TRAIN]),
        ("compare", ["--dataset={own}", "--workdir={W}", *TRAIN, "--methods=retrain,finetune"]),
        ("audit", ["--workdir={W}", "--relearn_rounds=0"]),
    ],
)
def test_other_data_than_a_model_was_trained_on_is_refused(script, flags, place, forks):
    np.savez(place / "own.npz", **shifted())
    names = {name: place / name for name in "ABCW"} | dict(own=place / "own.npz")
    if script == "compare":
        flags = [*flags, "--seeds=1", "--forget=client:bob"]
    elif "--dataset={own}" not in flags:  # else it finds the home's, which is as it was
        flags = [*flags, "--dataset={own}"]
    before = unlocked(place)
    ended = forks.run(script, *[flag.format(**names) for flag in flags])
    assert ended.status == 2
    assert "the clients of the examples differ; restore the data" in ended.said, ended.said
    assert unlocked(place) == before


def test_data_that_was_moved_and_written_anew_is_the_same(place, forks):
    """And what the first request took out is what the next one builds on."""
    (place / "own.npz").unlink()
    (place / "data").mkdir()
    np.savez_compressed(place / "data" / "people.npz", **own())
    ended = forks.run(
        "unlearn",
        f"--init_from={place / 'B'}",
        f"--workdir={place / 'C'}",
        f"--dataset={place / 'data' / 'people.npz'}",
        "--forget=client:bob",
        *ANSWER,
    )
    assert ended.status == 0, ended.said
    first, then = (json.loads((place / n / "draws/0.json").read_text())["draws"] for n in "BC")
    assert then["past"] == [first["request"]] and len(first["request"]["alice"]) == 10


def test_a_model_that_forgot_is_not_taken_for_one_that_never_did(place, forks):
    """As a bare file it would be trained on everybody again."""
    flags = [f"--dataset={place / 'own.npz'}", *TRAIN, "--seeds=1", "--forget=client:bob"]
    flags += ["--methods=finetune", "--nobackdoor", "--recovery_rounds=1"]
    forgot = [f"--init_params={place / 'B' / 'model.safetensors'}", f"--workdir={place / 'V'}"]
    ended = forks.run("compare", *flags, *forgot)
    assert ended.status == 2 and "continue with launch.unlearn" in ended.said, ended.said
    np.savez(place / "own.npz", **shifted())
    known = [f"--init_params={place / 'A' / 'model.safetensors'}", f"--workdir={place / 'V'}"]
    ended = forks.run("compare", *flags, *known)
    assert ended.status == 2 and f"not that of {place / 'A'}" in ended.said, ended.said


def test_an_answer_that_changes_nothing_is_none(place, forks):
    before = unlocked(place / "A")
    flags = [f"--init_from={place / 'A'}", "--forget=client:bob", "--devices=1", "--erase"]
    for more, said in (
        (["--method=finetune", "--recovery_rounds=0"], "equals the original model"),
        (
            # A rate too small to move a float32.
            ["--method=finetune", "--recovery_rounds=1", "--recovery_lr=1e-30", "--stop=budget"],
            "equals the original model",
        ),
        (["--method=not", "--recovery_rounds=0"], "not changed only signs"),
    ):
        folder = place / f"C{len(more)}{more[0][9:]}"
        ended = forks.run("unlearn", *flags, *more, f"--workdir={folder}")
        assert ended.status == 2 and said in ended.said, ended.said
        assert not (folder / "model.safetensors").exists()
        ledger = folder / "ledger.jsonl"
        assert not ledger.exists() or "answered" not in ledger.read_text()
    after = unlocked(place / "A")  # whose ledger names what was begun from it
    assert after.pop("ledger.jsonl").startswith(before.pop("ledger.jsonl"))
    assert after == before
