"""What is nobody else's: who may read a run's files, and noise that nobody can take off."""

import dataclasses
import hashlib
import itertools
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

import jfu
from helpers.crashes import results
from helpers.scripts import rows_of
from helpers.workdirs import PLAIN, PRIVATE, changed
from jfu.io import flatten, load_notes, load_params
from launch.running import answering
from launch.setup import keys, private
from launch.workdir import runs, secret
from launch.workdir.fingerprint import fingerprint
from launch.workdir.places import MODEL

TINY = ["--dataset=synthetic", "--train_size=60", "--test_size=40", "--clients=3", "--nobackdoor"]
TINY += ["--model=mlp1", "--rounds=2", "--recovery_rounds=1", "--devices=1"]


def mode(path):
    return path.stat().st_mode & 0o777


# ---------------------------------------------------------------- who may read it


def test_a_runs_files_are_their_owners_alone(forks, tmp_path):
    """Also in a folder that others may look into; a model that was asked for is as usual."""
    (tmp_path / "A").mkdir()
    (tmp_path / "A").chmod(0o755)
    key, usual = tmp_path / "key", tmp_path / "usual"
    key.write_bytes(b"0123456789abcdef")
    usual.touch()
    key.chmod(0o644)
    a, b, out = (tmp_path / name for name in ("A", "new/B", "out.safetensors"))
    done = forks.run("train", *TINY, f"--workdir={a}", f"--key_file={key}")
    note = f"note: others than its owner may read or write {key} (mode 644), and who has the"
    assert done.status == 0 and done.said.count(note) == 1, done.said
    key.chmod(0o600)
    flags = [f"--init_from={a}", f"--workdir={b}", f"--export_params={out}", f"--key_file={key}"]
    done = forks.run("unlearn", *flags)
    assert done.status == 0 and str(key) not in done.said, done.said
    assert mode(a) == 0o755 and mode(b) == mode(b / "cells") == mode(a / "cells") == 0o700
    made = [path for folder in (a, b) for path in folder.rglob("*") if path.is_file()]
    assert len(made) > 10 and {mode(path) for path in made} == {0o600}
    assert mode(out) == mode(usual)


# ---------------------------------------------------------------- the attack


CLIP, NOISE, CLIENTS = 1.0, 1.0, 3
ONE_ROUND = ["--model=mlp1", "--rounds=1", "--devices=1", "--nobackdoor"]
ONE_ROUND += [f"--dp_clip={CLIP}", f"--dp_noise={NOISE}", "--lr=5"]


def owned(path, change):
    """Data of three clients; ``change`` gives the last client's images other labels."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (48, 8, 8, 1), dtype=np.uint8), np.arange(48) % 4
    client = np.arange(48) // 16
    labels = np.where((client == 2) & change, (y + 1) % 4, y)
    np.savez(path, x_train=x, y_train=labels, x_test=x, y_test=y, client=client)


@pytest.fixture(scope="module")
def published(forks, tmp_path_factory):
    """Work directories of four trainings: noise secret or not, data one client's labels apart."""
    folder, found = tmp_path_factory.mktemp("published"), {}
    data = folder / "own.npz"
    for hidden, change in itertools.product((True, False), (False, True)):
        owned(data, change)
        path = folder / f"{hidden}-{change}"
        more = [] if hidden else ["--dp_noise_from_seed"]
        done = forks.run("train", f"--dataset={data}", *ONE_ROUND, *more, f"--workdir={path}")
        assert done.status == 0, done.said
        found[hidden, change] = path
    return found


def flat(tree):
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])


def model(path):
    """The parameters of a published model as one vector, in the order of their tree."""
    return flat(load_params(path / MODEL)["params"])


def guessed_keys(path):
    """Every key of the first round that can be made from what is written and from the code.

    The seed's and its neighbours', under each cell's name, as the scripts derive them; and keys
    of the secret's kind made of all that is public: nothing, the settings, digests, the run's name.
    """
    run = runs.read_run(str(path))
    texts = [
        (path / name).read_bytes() for name in ("config.json", "results.jsonl", "ledger.jsonl")
    ]
    ledger = [json.loads(line) for line in texts[2].splitlines()]
    for seed, name in itertools.product(range(3), ("train", "original", "retrain", "not")):
        stream = keys.run(jax.random.key(seed), name, run.config.past)
        for config in (run.config, dataclasses.replace(run.config, dp_clip=None)):
            yield jax.random.split(private.apart(stream, config, name))[1]
    words = [b"", bytes(32), run.fingerprint.encode(), *texts]
    words += [str(value).encode() for line in ledger for value in line.values()]
    purpose = hashlib.sha256(json.dumps([run.fingerprint, 0, "train"]).encode())
    for word in words:
        for made in (hashlib.sha256(word), hashlib.blake2b(word, digest_size=32)):
            yield jfu.privacy.secret_key(made.digest())
        for key in (b"", hashlib.sha256(word).digest()):
            mixed = hashlib.blake2b(purpose.digest(), key=key, digest_size=32)
            yield jfu.privacy.secret_key(mixed.digest())


def attack(path):
    """What is left of a published sum, less each noise that can be guessed: the shortest of all."""
    run = runs.read_run(str(path))
    stream = keys.run(jax.random.key(0), "train", run.config.past)
    first = jax.random.split(private.apart(stream, run.config, "train"))[0]
    from jfu import models

    net = models.build("mlp1", classes=4, image_shape=(8, 8, 1), norm=None)
    begin = flat(net.init(first)["params"])  # it is drawn by the seed: everybody knows it
    sum_ = (model(path) - begin) * CLIENTS
    length = jax.jit(lambda key: jnp.linalg.norm(sum_ - NOISE * CLIP * noise_of(key, len(sum_))))
    lengths = [float(length(key)) for key in guessed_keys(path)]
    return min(lengths), len(sum_), len(lengths)


def noise_of(key, size):
    """The noise of the first round of a run with this key, as `fedavg` draws it."""
    _, server = jax.random.split(jax.random.fold_in(key, 0))
    return jfu.privacy.gaussian(server, size, jnp.float32)


def test_nobody_who_reads_every_file_and_flag_takes_the_noise_off(published):
    """With the seed's noise the same attack lays the sum of clipped updates bare."""
    for change in (False, True):
        left, size, tries = attack(published[True, change])
        assert tries > 80
        assert left > 0.95 * NOISE * CLIP * np.sqrt(size)  # 120 times the clip
        assert list((published[True, change]).rglob(f"{secret.FOLDER}*")) == []
        bare, _, _ = attack(published[False, change])
        assert 0 < bare < CLIENTS * CLIP + 1e-3


def test_two_models_are_not_one_clients_update_apart(published):
    """The same flags, other labels of one client: noise of two secrets, or that client alone."""
    apart = lambda hidden: np.linalg.norm(
        model(published[hidden, True]) - model(published[hidden, False])
    )
    size = len(model(published[True, False]))
    assert 0 < apart(False) < 2 * CLIP / CLIENTS + 1e-4
    assert apart(True) == pytest.approx(NOISE * CLIP * np.sqrt(2 * size) / CLIENTS, rel=0.05)


def test_a_private_run_says_what_its_epsilon_is_of(published):
    for (hidden, _), path in published.items():
        rows, config = rows_of(path), json.loads((path / "config.json").read_text())
        assert config["outside_epsilon"] == private.OUTSIDE
        for row in rows:
            assert not {"loss_retain", "loss_forget", "left_out", "not_finite"} & row.keys()
            assert row["outside_epsilon"] == "retain, flops, seconds"
            assert (row["epsilon"] is None) == (not hidden) == ("epsilon_is" in row)
            if (
                row["method"] == "train"
            ):  # the Gaussian mechanism's own formula, Renyi order by order
                assert hidden is False or row["epsilon"] == pytest.approx(
                    by_hand(row["round"]), rel=1e-3
                )


def by_hand(rounds, delta=1e-3):
    """min over orders a of T a / 2 z^2 + log(1 - 1/a) - log(a delta) / (a - 1), in float64."""
    a = 1 + np.arange(1, 40000, dtype=np.float64) / 1000
    bound = rounds * a / (2 * NOISE**2) + np.log1p(-1 / a) - np.log(a * delta) / (a - 1)
    return bound.min() if rounds else 0.0


# ---------------------------------------------------------------- stopped runs


STOPPED = ["train", *TINY, "--dp_clip=1", "--rounds=3", "--checkpoint_every=1"]
STOPPED += ["--absent=0.4", "--faults=nan:0.5"]


def test_a_stopped_run_goes_on_with_its_noise_and_then_nobody_can(forks, tmp_path):
    """Killed after its first round. A copy ends with the same bits, one without its secret not."""
    paths = {name: tmp_path / name for name in ("mine", "copy", "bare")}
    cell = "0-train.safetensors"
    ended = forks.run(*STOPPED, f"--workdir={paths['mine']}", kill=("replaced", cell, 1))
    assert ended.killed, ended.said
    kept = secret.where(paths["mine"], 0, "train")
    assert mode(kept) == 0o600 and mode(kept.parent) == 0o700 and secret.is_one(kept)
    for name in ("copy", "bare"):
        shutil.copytree(paths["mine"], paths[name])
    shutil.rmtree(paths["bare"] / secret.FOLDER)
    said = {}
    for name, path in paths.items():
        done = forks.run(*STOPPED, f"--workdir={path}")
        assert done.status == 0, done.said
        said[name] = done.said
        assert not (path / secret.FOLDER).exists()
    assert "the remaining rounds get new noise" in said["bare"]
    assert "other noise" not in said["mine"] + said["copy"]
    found = {name: results(path) for name, path in paths.items()}
    for name in ("results.jsonl", "config.json", MODEL, f"cells/{cell}"):
        assert found["mine"][name] == found["copy"][name]
    first, other = (load_params(paths[name] / MODEL) for name in ("mine", "bare"))
    assert any((a != b).any() for a, b in zip(*map(flat_leaves, (first, other)), strict=True))
    # Half of what comes is NaN, and two rounds in five miss somebody: nothing of it is to be seen.
    rows = [row for row in rows_of(paths["mine"]) if row["method"] == "train"]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for cost in ("bytes_down", "bytes_up", "flops"):
        np.testing.assert_allclose(np.diff([row[cost] for row in rows]), rows[1][cost], rtol=1e-6)
    assert np.isfinite(flat(first["params"])).all()
    spent = load_notes(paths["mine"] / "cells" / cell)["spent"]
    assert not any(spent[name] for name in ("left_out", "not_finite", "late", "not_applied"))


def flat_leaves(tree):
    return list(flatten(tree).values())


# ---------------------------------------------------------------- what is said


def trial_of(data, gone):
    nothing = jfu.split(data, np.zeros(data.mask.shape, bool))
    request = jfu.split(data, jfu.forget_client(data, gone))
    return SimpleNamespace(everything=nothing, request=request, fewest=3, seed=0)


def test_no_noise_has_no_epsilon_and_says_why(data):
    """Nor has noise that everybody knows; a row stays JSON that any reader takes."""
    trial, row = trial_of(data, [5]), dict(method="not", round=1, retain=50.0, test=40.0)
    for changes, words in (
        (dict(dp_noise=0.0), "none: there is no noise"),
        (dict(dp_noise_from_seed=True), "anybody can compute the noise"),
        (dict(rounds_before=None), "not known"),
        (dict(dp_noise=1e-170), None),
        ({}, None),
    ):
        config = changed(PRIVATE, **changes)
        told = private.account(config, trial, "not", trial.request)(1)
        line = private.published(
            config, row | told | dict(loss_retain=0.5, left_out=1, seconds=2.0)
        )
        assert line["outside_epsilon"] == "retain, seconds"
        assert json.loads(json.dumps(line, allow_nan=False)) == line
        assert "loss_retain" not in line and "left_out" not in line
        assert words in line["epsilon_is"] if words else "epsilon_is" not in line
        assert (line["epsilon"] is None) == (changes != {})
        said = "\n".join(private.outlook(config, trial, {"not": 1}))
        assert (words or "epsilon") in said
    assert private.published(PLAIN, row) == row
    assert private.outlook(PLAIN, trial, {"not": 1}) == [] and private.page_note(PLAIN) == ""


def test_what_epsilon_and_delta_are_worth_is_said_before_the_first_round(data):
    """Training of four rounds and ten more at noise 1: 20.6; three clients, so delta below 1/3."""
    pytest.importorskip("dp_accounting")
    trial = trial_of(data, [5])
    first, note, outside = private.outlook(PRIVATE, trial, {"not": 2, "retrain": 10})
    assert f"epsilon {by_hand(14):.3g} at delta 0.001 after the last round" in first
    assert "above 10 promises hardly anything" in note and private.OUTSIDE in outside
    quiet = private.outlook(changed(PRIVATE, dp_noise=10.0), trial, {"not": 2, "retrain": 10})
    assert len(quiet) == 2
    *_, delta, _ = private.outlook(changed(PRIVATE, dp_noise=10.0, dp_delta=0.4), trial, {"not": 2})
    assert (
        "--dp_delta=0.4 is more than one over the 3 clients" in delta and "less than 0.33" in delta
    )


def test_what_a_round_costs_does_not_tell_who_came(data):
    """Clients of 7, 3 and 5 examples in batches of 3: 3 + 1 + 2 steps; half of them come."""
    study = SimpleNamespace(per_client=(100, 60), per_step=10.0, per_forward=4.0)
    of = lambda name, **changes: private.planned(
        changed(PRIVATE, batch_size=3, **changes), study, data, name
    )
    assert of("not")(1) == dict(bytes_down=300, bytes_up=180, flops=60.0)
    assert of("not", absent=0.5)(1) == dict(bytes_down=150, bytes_up=90, flops=30.0)
    assert of("not", sample=2)(9) == dict(bytes_down=200, bytes_up=120, flops=40.0)
    assert of("not", sample=5, epochs=2)(9) == dict(bytes_down=300, bytes_up=180, flops=120.0)
    assert of("anchored")(1) == dict(bytes_down=600, bytes_up=180, flops=84.0)
    assert of("anchored")(2) == dict(bytes_down=300, bytes_up=180, flops=84.0)
    assert private.planned(PLAIN, study, data, "not") is None


def test_exact_accuracy_chooses_no_number_of_rounds(monkeypatch):
    """Where noise is to hide it: when an answer stops would tell of the examples."""

    def stops(config, *words):
        known = flags.FlagValues()
        flags.DEFINE_enum("stop", "regained", ["regained", "budget"], "", flag_values=known)
        known(["unlearn", *words])
        monkeypatch.setattr(answering, "FLAGS", known)
        return answering.stopping(config)

    assert stops(PRIVATE) == stops(PRIVATE, "--stop=budget") == "budget"
    assert stops(PLAIN) == stops(changed(PRIVATE, dp_noise_from_seed=True)) == "regained"
    with pytest.raises(ValueError, match="exact accuracy .* which epsilon does not cover; with"):
        stops(PRIVATE, "--stop=regained")


def test_a_sum_of_one_is_told(data):
    """One of three leaves; two stay, of whom one alone comes in 2 * 0.9 * 0.1 of rounds."""
    alone, two = trial_of(data, [5]), trial_of(data, [5, 2])
    plan = dict.fromkeys(("not", "ga", "puf", "fedquit"), 2)
    sums = changed(PLAIN, sum_only=True)
    (line,) = private.lonely(sums, alone, plan)
    assert "a single client leaves" in line and "ga, fedquit: that sum is its update" in line
    assert private.lonely(sums, alone, {"not": 2}) == private.lonely(PLAIN, alone, plan) == []
    (line,) = private.lonely(sums, two, {"not": 2})
    assert "one client alone takes part" in line
    (line,) = private.lonely(changed(sums, sample=1), alone, {"not": 2})
    assert "one client alone takes part" in line
    (line,) = private.lonely(changed(sums, absent=0.9), alone, {"not": 2})
    assert "--absent=0.9 one of the 2 clients comes alone in 18 % of rounds" in line


def test_what_is_no_secret_is_left_alone(tmp_path):
    """Half of one was used by no round; anything else is the user's."""
    place = tmp_path / secret.FOLDER / "0-not"
    text = secret.write(place)
    assert secret.read(place) == text and len(text) == 65 and mode(place) == 0o600
    place.write_text(text[:20])
    assert secret.read(place) is None and secret.write(place) != text
    place.write_text("my own notes")
    with pytest.raises(ValueError, match="is not a secret that jfu wrote; move it elsewhere"):
        secret.read(place)
    assert not secret.is_one(place) and place.read_text() == "my own notes"
    secret.forget(tmp_path, 0, "not")
    secret.forget(tmp_path, 0, "not")
    assert not place.parent.exists()


def test_a_secret_beside_other_data_draws_other_noise(data, tmp_path):
    """Or beside another run's settings, another cell, model, or request."""
    request, other = (trial_of(data, gone).request for gone in ([5], [2]))
    work = lambda run: SimpleNamespace(path=tmp_path, run=run, lock=None)
    text = secret.write(secret.where(tmp_path, 0, "not"))
    for seed, name in ((1, "not"), (0, "noise")):
        secret.write(secret.where(tmp_path, seed, name))
        secret.where(tmp_path, seed, name).write_text(text)
    made = [
        secret.key(work(run), seed, name, model, side, begun=False)
        for run, seed, name, model, side in (
            ("a", 0, "not", np.ones(3), request),
            ("b", 0, "not", np.ones(3), request),
            ("a", 1, "not", np.ones(3), request),
            ("a", 0, "noise", np.ones(3), request),
            ("a", 0, "not", np.zeros(3), request),
            ("a", 0, "not", np.ones(3), other),
            ("a", 0, "not", np.ones(3), request),
        )
    ]
    words = [jax.random.key_data(key).tobytes() for key in made]
    assert len(set(words)) == 6 and words[0] == words[-1]


def test_what_is_older_had_noise_that_anybody_can_compute():
    """It is read as that, and a run of its name is another than one with a secret."""
    kept = dict(script="train", more={}, layout={}, files={}, config=dict(dp_clip=1.0, lr=0.1))
    same = dict(kept, config=dict(dp_clip=1.0, lr=0.1, dp_noise_from_seed=True))
    now = dict(kept, config=dict(dp_clip=1.0, lr=0.1, dp_noise_from_seed=False))
    assert fingerprint(kept) == fingerprint(same) != fingerprint(now)
    plain = dict(kept, config=dict(dp_clip=None, lr=0.1))
    later = dict(kept, config=dict(dp_clip=None, lr=0.1, dp_noise_from_seed=False))
    assert fingerprint(plain) == fingerprint(later)
    values = dataclasses.asdict(PRIVATE)
    del values["dp_noise_from_seed"]
    assert runs.config_of(values).dp_noise_from_seed
    assert not runs.config_of(values | dict(dp_clip=None)).dp_noise_from_seed
