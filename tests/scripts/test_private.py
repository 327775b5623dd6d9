"""Private runs as a user makes them: files of their owner's alone, noise that nobody takes off."""

import dataclasses
import hashlib
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.crashes import results
from helpers.scripts import rows_of
from helpers.workdirs import epsilon_by_hand
from jfu.io import flatten, load_notes, load_params
from launch.setup import keys, private
from launch.workdir import runs, secret
from launch.workdir.places import MODEL

TINY = ["--dataset=synthetic", "--train_size=60", "--test_size=40", "--clients=3", "--nobackdoor"]

TINY += ["--model=mlp1", "--rounds=2", "--recovery_rounds=1", "--devices=1"]


def mode(path):
    return path.stat().st_mode & 0o777


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
    note = f"note: other users may read or write {key} (mode 644), and with this"
    assert done.status == 0 and done.said.count(note) == 1, done.said
    key.chmod(0o600)
    flags = [f"--init_from={a}", f"--workdir={b}", f"--export_params={out}", f"--key_file={key}"]
    done = forks.run("unlearn", *flags)
    assert done.status == 0 and str(key) not in done.said, done.said
    assert mode(a) == 0o755 and mode(b) == mode(b / "cells") == mode(a / "cells") == 0o700
    made = [path for folder in (a, b) for path in folder.rglob("*") if path.is_file()]
    assert len(made) > 10 and {mode(path) for path in made} == {0o600}
    assert mode(out) == mode(usual)


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

    The seed's and its neighbours', under each run's name, as the scripts derive them; and keys
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


@pytest.mark.slow
def test_nobody_who_reads_every_file_and_flag_takes_the_noise_off(published):
    """With the seed's noise the same attack lays the sum of clipped updates bare."""
    for change in (False, True):
        left, size, tries = attack(published[True, change])
        assert tries > 80
        assert left > 0.95 * NOISE * CLIP * np.sqrt(size)  # 120 times the clip
        assert list((published[True, change]).rglob(f"{secret.FOLDER}*")) == []
        bare, _, _ = attack(published[False, change])
        assert 0 < bare < CLIENTS * CLIP + 1e-3


@pytest.mark.slow
def test_two_models_are_not_one_clients_update_apart(published):
    """The same flags, other labels of one client: noise of two secrets, or that client alone."""
    apart = lambda hidden: np.linalg.norm(
        model(published[hidden, True]) - model(published[hidden, False])
    )
    size = len(model(published[True, False]))
    assert 0 < apart(False) < 2 * CLIP / CLIENTS + 1e-4
    assert apart(True) == pytest.approx(NOISE * CLIP * np.sqrt(2 * size) / CLIENTS, rel=0.05)


@pytest.mark.slow
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
                    epsilon_by_hand(row["round"], NOISE), rel=1e-3
                )


STOPPED = ["train", *TINY, "--dp_clip=1", "--rounds=3", "--checkpoint_every=1"]

STOPPED += ["--absent=0.4", "--faults=nan:0.5"]


@pytest.mark.slow
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
