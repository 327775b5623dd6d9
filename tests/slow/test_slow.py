"""Minutes instead of seconds: real images, big models, kills at random moments."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from helpers.crashes import FEW, POINTS, TRAIN, kept, refused, results
from helpers.federation import bits
from helpers.forks import launch
from helpers.scripts import ROOT, SMALL, environment, rows_of
from jfu import ledger
from jfu.data import Dataset, packed
from jfu.io import load_arrays
from jfu.unlearn import COMPARED

pytestmark = pytest.mark.slow

real_data = pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR names no prepared data sets"
)


@real_data
def test_fashion_mnist_is_learnt_and_negated(tmp_path):
    workdir = tmp_path / "w"
    flags = ["--dataset=fashion_mnist", "--train_size=3000", "--rounds=8", "--seeds=1", "--lr=0.1"]
    flags += ["--partition=dirichlet:0.5", "--eval_every=4", f"--workdir={workdir}"]
    launch("compare", *flags, "--test_size=2000", "--methods=retrain,not")
    rows = rows_of(workdir)
    at = {(row["method"], row["round"]): row for row in rows}
    assert at["original", 0]["test"] > 55
    assert at["retrain", 8]["test"] > 55
    assert at["not", 0]["test"] < at["original", 0]["test"] - 15
    assert at["not", 4]["test"] > at["not", 0]["test"]
    # The CNN for 28x28x1 and ten classes, to and from at most nine clients.
    parameters = (25 + 1) * 64 + (25 * 64 + 1) * 64 + (4 * 4 * 64 + 1) * 384
    parameters += (384 + 1) * 192 + (192 + 1) * 10
    assert at["retrain", 8]["bytes_down"] == 8 * 9 * (4 * parameters + 4)


def test_seldom_evaluated_rounds_have_the_rows_that_they_have_anyway(tmp_path):
    """By rule: some rounds, of which some without test images. A run begun otherwise goes on."""
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (380, 32, 32, 3), np.uint8), draw.integers(0, 3, 380)
    x[:, :16] //= (y[:, None, None, None] + 1).astype(
        np.uint8
    )  # so that there is something to learn
    parts = dict(x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    np.savez(tmp_path / "own.npz", **parts)
    flags = [f"--dataset={tmp_path / 'own.npz'}", "--model=mlp", "--clients=3", "--devices=1"]
    flags += ["--methods=retrain,not", "--rounds=21", "--recovery_rounds=18", "--seeds=1"]
    flags += ["--batch_size=8", "--lr=0.02", "--nobackdoor"]
    every, rule = tmp_path / "every", tmp_path / "rule"
    launch("compare", *flags, "--eval_every=1", f"--workdir={every}")
    said, _ = launch("compare", *flags, f"--workdir={rule}")
    assert "counts of rounds are too large by up to" in said or "- |" in said
    known = {(row["method"], row["round"]): row for row in rows_of(every, without=("seconds",))}
    found = {(row["method"], row["round"]): row for row in rows_of(rule, without=("seconds",))}
    seen = {name: [r for n, r in found if n == name] for name in ("retrain", "not")}
    assert seen["retrain"] == [*range(5), 6, 8, 10, 12, 14, 16, 20, 21]
    assert seen["not"] == [*range(5), 6, 8, 10, 12, 14, 16, 18]
    for place, row in found.items():
        for name, value in row.items():
            assert value == known[place][name] or value is None
    whole = lambda name: [r for r in seen[name] if found[name, r]["test"] is not None]
    assert whole("retrain") == [21]
    goals = [found[name]["retain"] - 0.5 for name in (("original", 0), ("retrain", 21))]
    rounds = [r for r in seen["not"] if r]
    first = lambda goal: next((r for r in rounds if found["not", r]["retain"] >= goal), 18)
    assert whole("not") == sorted({0, 18, *map(first, goals)})
    before = (every / "results.jsonl").read_bytes()
    launch("compare", *flags, f"--workdir={every}")
    assert (every / "results.jsonl").read_bytes() == before
    assert json.loads((every / "config.json").read_text())["config"]["eval_every"] == 1


HIDDEN = """
import runpy, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def hide(name, *rest):
    return None if name in ("safetensors", "tensorflow_datasets") else find(name, *rest)
PathFinder.find_spec = hide
sys.argv = ["launch.compare", *sys.argv[1:]]
runpy.run_module("launch.compare", run_name="__main__")
"""


def test_a_comparison_of_packed_data_needs_few_packages(tmp_path):
    """Neither safetensors nor tensorflow-datasets; with them it goes on, and has the same bits."""
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (60, 8, 8, 1), np.uint8), (np.arange(60) % 3).astype(np.int32)
    tiny = Dataset(x[:40], y[:40], x[40:], y[40:], ("a", "b", "c"))
    packed.write(tmp_path / "tiny.npz", tiny, 40, 20)
    flags = [
        "--dataset=tiny",
        f"--data_dir={tmp_path}",
        "--model=mlp1",
        "--rounds=2",
        "--clients=2",
    ]
    flags += ["--methods=not", "--seeds=1", "--devices=1", "--batch_size=8"]
    command = [sys.executable, "-c", HIDDEN, *flags, f"--workdir={tmp_path / 'few'}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    launch("compare", *flags, f"--workdir={tmp_path / 'all'}")
    for name in ("0-original", "0-not"):
        cells = (tmp_path / w / "cells" / f"{name}.safetensors" for w in ("few", "all"))
        one, other = map(load_arrays, cells)
        assert one.keys() == other.keys()
        assert all(bits(one[path]) == bits(other[path]) for path in one)
    before = (tmp_path / "few" / "results.jsonl").read_bytes()
    launch("compare", *flags, f"--workdir={tmp_path / 'few'}")
    assert (tmp_path / "few" / "results.jsonl").read_bytes() == before


@real_data
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_resnet18_runs_on_cifar10(tmp_path, norm):
    """A quarter as wide; a preset has the whole width (tests/scripts/test_presets.py)."""
    workdir = tmp_path / "w"
    flags = [
        "--dataset=cifar10",
        "--model=resnet18_narrow",
        f"--norm={norm}",
        "--train_size=120",
        "--test_size=100",
    ]
    flags += ["--clients=3", "--rounds=2", "--recovery_rounds=1", "--seeds=1", "--methods=not"]
    launch("compare", *flags, "--augment=crop_flip", f"--workdir={workdir}")
    rows = rows_of(workdir)
    assert [row["round"] for row in rows] == [0, 0, 1]
    assert all(0 <= row["test"] <= 100 for row in rows)


@pytest.mark.parametrize("forget", ["client:0,2", "class:1", "fraction:0.3@client:0"])
def test_every_published_method_on_every_kind_of_request(tmp_path, forget):
    """Those that take whole clients out are left out, and said to be, where a client stays."""
    flags = [*SMALL, "--rounds=4", "--seeds=1", "--nobackdoor", f"--forget={forget}"]
    _, said = launch("compare", *flags, "--methods=all", f"--workdir={tmp_path / 'w'}")
    table = json.loads((tmp_path / "w" / "table.json").read_text())["methods"]
    whole = {"federaser", "fukd", "pgd"} if not forget.startswith("client") else set()
    assert set(table) == {"original", *COMPARED} - whole
    assert all(f"left out: {name} takes whole clients out" in said for name in whole)
    for name, entry in table.items():
        assert 0 <= entry["retain"]["mean"] <= 100, name


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("script", "kills"), [("train", 17), ("unlearn", 16), ("compare", 17)])
def test_killed_at_random_moments_and_started_again(
    forks,
    small_training,
    tmp_path,
    script,
    kills,
):
    """Killed and started again in one work directory until it is done, then in the next.

    The moments are random times of a run and, by turns, each point of one of its first few writes.
    """
    source = shutil.copytree(small_training, tmp_path / "A")
    flags = dict(
        train=[*TRAIN[1:], "--rounds=12"],
        unlearn=[f"--init_from={source}", "--devices=1", "--recovery_rounds=12"],
        compare=[*FEW, "--rounds=6", "--seeds=2", "--methods=retrain,not"],
    )[script] + ["--checkpoint_every=1"]
    start = lambda name, **how: forks.run(script, *flags, f"--workdir={tmp_path / name}", **how)
    assert start("compiled").status == 0
    began = time.monotonic()
    assert start("whole").status == 0
    lasts, moments = time.monotonic() - began, random.Random(script)
    expected, done, halves, number = results(tmp_path / "whole"), 0, 0, 0
    while done < kills:
        forks.written()
        folder, ended, before = tmp_path / str(number), None, {}
        while ended is None or ended.killed:
            how = dict(after=moments.uniform(0, lasts))
            if done % 2:
                point = POINTS[done // 2 % len(POINTS)]
                how = dict(kill=(point, "*", moments.randint(1, 6)))
            ended = start(folder.name, **(how if done < kills else {}))
            done += ended.killed
            now = kept(folder) if folder.exists() else {}
            halves += any(name.endswith(".jfu-part") for name in now)
            for name, content in before.items():
                if not name.endswith(".jfu-part"):
                    assert name in now
                    assert not finished(name, content) or now[name] == content
            before = now
        assert ended.status == 0, ended.said
        again = [file for file, times in Counter(forks.written()).items() if times > 1]
        assert not again, "rounds that a checkpoint kept were run again"
        assert results(folder) == expected
        assert not list(folder.rglob(".*")), "a temporary file was left behind"
        number += 1
    assert done == kills and halves > 0


def finished(name: str, content: bytes) -> bool:
    """Whether a file is the checkpoint of a run that is done."""
    if not (name.startswith("cells/") and name.endswith(".safetensors")):
        return False
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["notes"])["finished"]


THREE = [*FEW, "--clients=3", "--rounds=1"]
NEXT = ["--devices=1", "--checkpoint_every=1", "--recovery_rounds=1"]


def done(forks, *flags):
    ended = forks.run(*flags)
    assert ended.status == 0, ended.said
    return ended.said


@pytest.mark.timeout(1800)
def test_a_second_requests_removal_killed_at_every_write_and_every_unlink(forks, tmp_path):
    """Its ledger begins as a copy of one that ends in an answer, which is not its own."""
    root = tmp_path / "runs"
    done(forks, "train", *THREE, f"--workdir={root / 'A'}")
    done(forks, "unlearn", f"--init_from={root / 'A'}", *NEXT, f"--workdir={root / 'B'}")
    before = shutil.copytree(root, tmp_path / "before")
    flags = ["unlearn", f"--init_from={root / 'B'}", "--forget=client:1", *NEXT, "--erase"]
    flags += [f"--workdir={root / 'C'}"]

    def outcome():
        found = {name: results(root / name) for name in "ABC"}
        for name in "ABC":  # checkpoints have seconds in them, so their digests differ
            lines = ledger.read(root / name / "ledger.jsonl")
            events = [(line["event"], sorted(line.get("files", ()))) for line in lines]
            found[name]["ledger.jsonl"] = events
        return found

    def answered():
        own = ("answered", "client:1")
        lines = ledger.read(root / "C" / "ledger.jsonl")
        answered = any((line["event"], line.get("request")) == own for line in lines)
        return answered and (root / "C" / "model.safetensors").exists()

    done(forks, *flags)
    expected = outcome()
    shutil.rmtree(root)
    shutil.copytree(before, root)
    old = {n: v for n, v in kept(before).items() if n.endswith(".safetensors")}
    tables = ["results.jsonl", "model.safetensors", "table.md", "table.json"]
    names = ["config.json", "ledger.jsonl", "ledger.jsonl"]  # a copy, then what is asked
    names += ["0-original.safetensors", "0-not_blend.safetensors", *tables]
    names += ["ledger.jsonl"] * 4  # the answer, and what is erased of three
    for name in names:
        for point in POINTS:
            ended = forks.run(*flags, kill=(point, name, 1))
            assert ended.killed, f"{point} {name}: {ended.said}"
            now = kept(root)
            assert all(now.get(n) == v for n, v in old.items())
    assert answered()
    while (root / "B" / "model.safetensors").exists():
        for point in ("unlink", "unlinked"):
            ended = forks.run(*flags, kill=(point, "*", 1))
            assert ended.killed, ended.said
            assert answered()
    assert outcome() == expected
    said = done(forks, "ledger", f"--workdir={root / 'C'}", "--prove_erased=client:1")
    assert "DEPENDS" not in said
    forks.written()


def test_a_removal_goes_on_where_the_last_one_was_refused_room(forks, tmp_path):
    """EFBIG from the kernel at the line that says what was asked: nothing was answered yet."""
    root = tmp_path
    done(forks, "train", *THREE, f"--workdir={root / 'A'}")
    done(forks, "unlearn", f"--init_from={root / 'A'}", *NEXT, f"--workdir={root / 'B'}")
    flags = ["unlearn", f"--init_from={root / 'B'}", "--forget=client:1", *NEXT, "--erase"]
    flags += [f"--workdir={root / 'C'}"]
    assert forks.run(*flags, kill=("replaced", "ledger.jsonl", 1)).killed  # the copy is there
    room = (root / "C" / "ledger.jsonl").stat().st_size + 1
    ended = forks.run(*flags, limit=room)
    assert refused(ended, "C/ledger.jsonl could not be written (File too large)")
    assert (root / "B" / "model.safetensors").exists()
    said = done(forks, *flags)
    assert "the unlearned model is" in said and (root / "C" / "model.safetensors").exists()
    forks.written()


def test_a_fraction_twice_is_erased_twice_and_a_foreign_history_is_refused(forks, tmp_path):
    a, other, b, c = (tmp_path / name for name in ("A", "other", "B", "C"))
    keep = "--keep_history=start,norms,first"
    done(forks, "train", *THREE, keep, f"--workdir={a}")
    done(forks, "train", *THREE, keep, "--seed=5", f"--workdir={other}")
    half = "--forget=fraction:0.5@client:0"
    done(forks, "unlearn", f"--init_from={a}", half, *NEXT, f"--workdir={b}")
    done(forks, "unlearn", f"--init_from={b}", half, *NEXT, f"--workdir={c}", "--erase")
    assert not (b / "model.safetensors").exists()
    prove = f"--prove_erased={half.partition('=')[2]}"
    done(forks, "ledger", f"--workdir={c}", prove)
    done(forks, "train", *THREE, keep, f"--workdir={tmp_path / 'A2'}")
    shutil.copy(other / "history.safetensors", tmp_path / "A2")
    flags = [f"--init_from={tmp_path / 'A2'}", "--method=federaser", *NEXT, "--recovery_rounds=2"]
    ended = forks.run("unlearn", *flags, f"--workdir={tmp_path / 'X'}")
    assert refused(ended, "A2/history.safetensors is not the history that line 1")
    assert not (tmp_path / "X").exists()
    forks.written()


SOAK = """
import multiprocessing, sys
import jax, numpy as np, optax
import jfu

def spin():
    while True:
        pass

if __name__ == "__main__":
    name, rounds, ahead = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
    jfu.cpu_devices(2, ahead=ahead)
    assert jfu.devices.threads() == max(4 if ahead else 2, jfu.devices.cores())
    busy = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    busy.start()
    from jfu import models
    model = models.build(name, classes=10, image_shape=(28, 28, 1))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
    rows = np.split(np.arange(200), [100, 116, 132, 148, 164, 180])  # one client far larger
    loss = jfu.classification(model.apply)
    fed = jfu.fedavg(jfu.local_sgd(loss, optax.sgd(0.01), batch_size=16))
    mesh = jfu.clients_mesh()
    with jax.set_mesh(mesh):
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        clients = jax.device_put(jfu.stack(x, rng.integers(0, 10, 200), rows), spread)
        state = jax.device_put(fed.init(model.init(jax.random.key(0))), spread)
        step = jax.jit(fed.round, donate_argnums=0, out_shardings=spread)
        for number in range(rounds):
            key = jax.device_put(jax.random.key(number), spread)  # short programs in between
            state, info = step(state, clients, key)
            if not ahead:
                jax.block_until_ready((state, info))
        jax.block_until_ready(state)
    assert all(bool(jax.numpy.isfinite(a).all()) for a in jax.tree.leaves(state.params))
    busy.kill()
    print("rounds", int(state.round))
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name, rounds, ahead",
    [("cnn", 60, True), ("mlp", 1000, True), ("cnn", 60, False), ("mlp", 1000, False)],
)
def test_devices_do_not_starve_beside_a_busy_core(tmp_path, name, rounds, ahead):
    """Rounds that are dispatched ahead hang where two devices have three threads."""
    script = tmp_path / "soak.py"
    script.write_text(SOAK)
    command = [sys.executable, str(script), name, str(rounds), str(ahead)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=850, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["rounds", str(rounds)]
