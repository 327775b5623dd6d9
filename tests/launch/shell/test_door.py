"""Wrong input is met at the door: numbers, paths, files of flags, flags that do nothing."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags as absl_flags

import jfu.data
from helpers.scripts import ROOT, environment
from helpers.workdirs import PLAIN, changed
from jfu import models
from launch.report.paper import ROWS
from launch.setup import federation, idle
from launch.setup.options import read_options
from launch.setup.study import check_sizes
from launch.shell import door
from launch.shell.typed import said
from launch.studies import documents

# ---------------------------------------------------------------- numbers, texts and paths


def parsed(*words):
    """Flags of several kinds, parsed."""
    known = absl_flags.FlagValues()
    given = dict(flag_values=known)
    for name in ("lr", "target"):
        absl_flags.DEFINE_float(name, None, "", lower_bound=0.0, **given)
    for name in ("rounds", "seed", "shadows", "shadows_chunk", "host_timeout"):
        absl_flags.DEFINE_integer(name, 1 if name == "host_timeout" else None, "", **given)
    for name in ("workdir", "dataset", "forget", "partition", "coordinator"):
        absl_flags.DEFINE_string(name, None, "", **given)
    absl_flags.DEFINE_list("methods", ["not"], "", **given)
    absl_flags.DEFINE_list("faults", [], "", **given)
    absl_flags.DEFINE_list("gone", [], "", **given)
    known(["script", *words])
    return known


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr=nan"], "--lr=nan is not a finite number; give one"),
        (["--target=inf"], "--target=inf is not a finite number"),
        (["--lr=1e999"], "--lr=inf is not a finite number"),
        (
            ["--rounds=99999999999"],
            "--rounds=99999999999 is too large; it may be 2147483647 at most",
        ),
        (["--rounds=-99999999999"], "--rounds=-99999999999 is too large"),
        (["--seed=4294967296"], "--seed=4294967296 is too large; it may be 4294967295 at most"),
        (["--workdir="], "--workdir= is empty; give it a value, or leave it out"),
        (["--methods="], "--methods= is empty"),
        (["--host_timeout=3"], "--host_timeout does nothing without --coordinator; add it, or"),
        (["--shadows_chunk=3", "--shadows=0"], "--shadows_chunk does nothing without --shadows"),
        (["--dataset=a\udcff.npz"], "has bytes that are not text; write UTF-8"),
        (["--methods=a,\udcff"], "has bytes that are not text"),
        (["--gone=A"], "--gone does nothing without --prove_erased"),
        (["--workdir=~nobody at all/x"], "there is no such home folder; write the whole path"),
    ],
)
def test_what_no_flag_can_mean_is_refused(words, sentence):
    known = parsed(*words)
    absl_flags.DEFINE_string("prove_erased", None, "", flag_values=known)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        door.check(known)


def test_every_real_flag_of_every_script_is_asked():
    """The check is of all flags that there are, by their values' type and not by name."""
    known = parsed("--lr=0.5", "--seed=4294967295", "--faults=", "--rounds=2147483647")
    door.check(known)
    known.lr = np.nan
    with pytest.raises(ValueError, match="--lr=nan"):
        door.check(known)


def test_a_home_is_written_out_in_every_flag_that_names_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--workdir=~/w", "--dataset=~/own.npz", "--forget=mask:~/m.npy", "--methods=~/a"]
    known = parsed(*words, "--partition=file:~/p.json")
    door.check(known)
    assert (known.workdir, known.dataset) == (f"{tmp_path}/w", f"{tmp_path}/own.npz")
    assert known.forget == f"mask:{tmp_path}/m.npy"
    assert known.partition == f"file:{tmp_path}/p.json"
    assert known.methods == ["~/a"]
    known = parsed("--forget=client:~/a", "--workdir=a~")
    door.check(known)
    assert (known.forget, known.workdir) == ("client:~/a", "a~")


def test_files_of_flags_are_plain_text(tmp_path):
    nested = tmp_path / "nested.flags"
    (tmp_path / "good.flags").write_text(f"--lr=1\n--flagfile={nested}\n")
    nested.write_text(f"--flagfile={tmp_path}/good.flags\n")  # which absl says itself
    door.check_files(["--lr=1", f"--flagfile={tmp_path}/good.flags", "flagfile"])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / "bytes"):
        for words in ([f"--flagfile={path}"], ["-flagfile", str(path)]):
            with pytest.raises(ValueError, match="is not a file of flags"):
                door.check_files(words)
        nested.write_text(f"--flagfile={path}\n")
        with pytest.raises(ValueError, match="is not a file of flags"):
            door.check_files([f"--flagfile={tmp_path}/good.flags"])
    with pytest.raises(FileNotFoundError):
        door.check_files(["--flagfile=nowhere"])


# ---------------------------------------------------------------- flags that do nothing


@pytest.mark.parametrize(
    ("changes", "typed", "words"),
    [
        (
            dict(optimizer="adam"),
            "momentum",
            "with --optimizer=adam; add --optimizer=sgd, or leave",
        ),
        ({}, "trim", "with --aggregator=mean; add --aggregator=trimmed, or leave it out"),
        (dict(aggregator="krum"), "clip", "with --aggregator=krum; add --aggregator=clipped"),
        ({}, "byzantine", "with --aggregator=mean; add --aggregator=krum"),
        ({}, "dp_noise", "without --dp_clip, the length that updates are clipped to"),
        (dict(dataset="digits"), "data_dir", "for digits, which is no set of tensorflow-datasets"),
        (dict(dataset="own.npz"), "data_dir", "for own.npz, which is no set"),
        (dict(partition="file:a.json"), "clients", "where own ids or lists say who holds what"),
        (dict(partition="file:a.json"), "min_examples", "where own ids or lists say"),
        ({}, "backdoor_label", "where no image is poisoned; add --backdoor, or leave it out"),
        ({}, "backdoor_client", "where no image is poisoned"),
    ],
)
def test_flags_that_do_nothing_are_refused_where_they_are_typed(changes, typed, words, capsys):
    config = changed(PLAIN, **changes)
    with pytest.raises(ValueError, match=re.escape(f"--{typed} does nothing {words}")):
        federation.check(config, given=[typed])
    federation.check(config)
    assert capsys.readouterr().err == ""
    federation.check(config, preset=[typed])
    said = capsys.readouterr().err
    assert said == f"note: of what the file of flags says, --{typed} does nothing here\n"
    assert typed in idle.idle(config)


@pytest.mark.parametrize(
    ("changes", "methods", "typed", "words"),
    [
        ({}, ["retrain"], "recovery_rounds", "with retrain: nothing recovers"),
        ({}, ["retrain", "none"], "recovery_lr", "with retrain, none: nothing recovers"),
        ({}, ["none"], "recovery_warmup_rounds", "with none: nothing recovers"),
        ({}, ["finetune", "pgd"], "layers", "with finetune, pgd: no chosen layer is changed"),
        ({}, ["not_all"], "layers", "with not_all: no chosen layer is changed"),
        ({}, ["finetune"], "weights_only", "with finetune: no layer is changed"),
        (dict(norm="group"), ["not"], "follow_means", "with not and --norm=group: no mean follows"),
        (dict(options=("pgd.lr=1",)), ["not"], "options", "with not, which it does not name"),
        ({}, ["not"], "proxy", "with not: no image at the server is needed"),
    ],
)
def test_flags_that_no_method_uses(changes, methods, typed, words, capsys):
    """Refused where there is one method; in a comparison, which others may join, a note."""
    config = changed(PLAIN, **changes)
    with pytest.raises(ValueError, match=re.escape(f"--{typed} does nothing {words}")):
        federation.check(config, methods, given=[typed], alone=True)
    federation.check(config, methods, given=[typed])
    assert f"note: --{typed} does nothing {words}" in capsys.readouterr().err
    federation.check(config, given=[typed])  # training knows no method yet
    assert capsys.readouterr().err == ""


def test_flags_that_do_something_are_taken(capsys):
    for changes, typed in (
        (dict(aggregator="trimmed"), ["trim", "momentum", "clients", "min_examples"]),
        (dict(aggregator="clipped", dataset="cifar10"), ["clip", "data_dir"]),
        (dict(aggregator="krum", norm="batch"), ["byzantine", "layers", "follow_means"]),
        ({}, ["recovery_rounds", "weights_only"]),
    ):
        federation.check(changed(PLAIN, **changes), ["not", "not_deepest"], given=typed, alone=True)
    federation.check(changed(PLAIN, options=("pgd.lr=1",)), ["pgd"], given=["options"], alone=True)
    federation.check(changed(PLAIN, proxy=0.1), ["fukd"], given=["proxy"], alone=True)
    assert capsys.readouterr().err == ""


def test_own_ids_make_the_number_of_clients_nothing(tmp_path):
    own = dict(x_train=np.zeros((4, 2)), y_train=np.arange(4))
    np.savez(tmp_path / "plain.npz", **own)
    np.savez(tmp_path / "ids.npz", **own, client=np.arange(4))
    federation.check(changed(PLAIN, dataset=f"{tmp_path}/plain.npz"), given=["clients"])
    with pytest.raises(ValueError, match=r"--clients does nothing where own ids .*ids\.npz; leave"):
        federation.check(changed(PLAIN, dataset=f"{tmp_path}/ids.npz"), given=["clients"])


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (dict(forget="mask:m.npy", resplit=0.1), "resplit"),
        (dict(forget="mask:m.npy", drop_labels=("3",)), "drop_labels"),
        (dict(partition="file:p.json", drop_labels=("3",)), "drop_labels"),
        (dict(partition="file:p.json", resplit=0.1), "resplit"),
        (dict(partition="file:p.json", train_size=100), "train_size"),
    ],
)
def test_rows_that_are_numbered_anew_are_not_those_of_a_file(changes, flag):
    with pytest.raises(ValueError, match=rf"names rows of own as it is, and --{flag} puts them"):
        federation.check(changed(PLAIN, **changes))


def test_what_was_typed_is_told_from_what_a_file_says(monkeypatch, tmp_path):
    known = parsed("--lr=0.5", "--rounds=3")
    monkeypatch.setattr("absl.flags.FLAGS", known)
    monkeypatch.setattr(sys, "argv", ["script", "--flagfile=a", "-lr", "0.5"])
    assert said() == dict(given={"lr"}, preset={"rounds"})
    # A run that has begun goes on with what it was begun with.
    known = parsed("--lr=0.5", f"--workdir={tmp_path}")
    monkeypatch.setattr("absl.flags.FLAGS", known)
    (tmp_path / "config.json").write_text("")
    assert said() == dict(given=set(), preset={"lr", "workdir"})


def test_rates_that_learn_nothing_are_refused():
    for name in ("lr", "server_lr", "lr_decay", "recovery_lr"):
        with pytest.raises(ValueError, match=f"--{name}=0 learns nothing; give one above 0"):
            federation.check(changed(PLAIN, **{name: 0.0}))
    with pytest.raises(ValueError, match="--momentum=1 never forgets a step; give one below 1"):
        federation.check(changed(PLAIN, momentum=1.0))
    with pytest.raises(ValueError, match="lr must be a finite number"):
        read_options(["pgd.lr=1e999"])


COMMANDS = """
import shlex, sys
from absl import flags
from launch import {script}
from launch.running import comparison
from launch.setup import federation
from launch.shell import config as configs, typed
FLAGS = flags.FLAGS
{script}.define()
FLAGS.set_default("workdir", "nowhere")
for line in sys.stdin:
    sys.argv = ["x", *shlex.split(line)]
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    FLAGS(sys.argv)
    names = {names}
    try:
        federation.check(configs.resolve(names), names, **typed.said())
    except ValueError as error:
        print(line.strip(), error)
"""


@pytest.mark.parametrize(
    ("script", "names"),
    [("compare", "comparison.expand(flags.FLAGS.methods, flags.FLAGS.forget)"), ("pays", "[]")],
)
def test_no_command_of_the_documents_and_no_preset_is_refused(script, names):
    text = "".join(path.read_text() for path in documents.documents(ROOT))
    text = re.sub(r" *\\\n *", " ", text).replace("$F/", "--flagfile=launch/presets/")
    lines = re.findall(rf"launch\.{script}((?: +(?:--|\$)\S+)+)", text)
    (pays,) = re.findall(r'P="(.*?)"', text, re.DOTALL)
    lines = [line.replace("$P", pays).partition("`")[0] for line in lines if "<" not in line]
    lines = [re.sub(r"--\w+=(R|D|LR|\$\w+)\b|\$\w+", "", line) for line in lines]
    if script == "compare":
        lines += [f" --flagfile=launch/presets/{name}.flags" for name in ROWS]
    assert len(lines) > (2 if script == "pays" else 20)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS.format(script=script, names=names)],
        **dict(input="\n".join(lines), capture_output=True, text=True),
        **dict(env=environment(), cwd=ROOT, timeout=300),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


# ---------------------------------------------------------------- what data cannot be


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("small", (2, 8, 8), "the images are 2x8 and the network 'small' needs at least 4x4"),
        ("small", (3, 3, 1), "the images are 3x3 and the network 'small' needs at least 4x4"),
        ("small", (64,), "or choose mlp, mlp1 or mlp4, which take any shape"),
        ("mlp", (8, 8, 0), "no side of it may be 0"),
        ("resnet18", (0, 8, 1), "no side of it may be 0"),
        ("vit_tiny", (8, 8, 0), "no side of it may be 0"),
    ],
)
def test_images_that_a_network_cannot_take(name, shape, words):
    with pytest.raises(ValueError, match=words):
        models.build(name, classes=3, image_shape=shape)


def test_sizes_that_no_machine_has_are_refused_before_they_are_made():
    with pytest.raises(ValueError, match=r"200 images of 100000 x 100000 x 1 are 2e\+03 GB, and"):
        jfu.data.load("synthetic", train_size=200, image_size=100_000)
    data = jfu.data.load("synthetic", train_size=200)
    with pytest.raises(ValueError, match="--batch_size=1025 is more than all 200 training images"):
        check_sizes(changed(PLAIN, batch_size=1025), data)
    flat = data._replace(x_train=data.x_train.reshape(200, -1))
    with pytest.raises(ValueError, match=r"--augment=crop moves images .* synthetic are \[64\]"):
        check_sizes(changed(PLAIN, dataset="synthetic", augment="crop"), flat)
    check_sizes(changed(PLAIN, batch_size=1024, augment="crop"), data)


LITTLE = ["--dataset=synthetic", "--train_size=100", "--rounds=1", "--devices=1", "--model=mlp1"]


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("compare", ["--weight_decay=nan"], "--weight_decay=nan is not a finite number"),
        ("train", ["--momentum=0.9", "--optimizer=adam"], "--momentum does nothing with"),
        ("unlearn", ["--init_params=a.msgpack", "--method=none", "--stop=regained"], "--stop=reg"),
        ("compare", ["--keep_history=start", "--init_params=a.msgpack"], "--keep_history does"),
        ("audit", ["--workdir="], "--workdir= is empty"),
        ("ledger", ["--prove_erased="], "--prove_erased= is empty"),
    ],
)
def test_scripts_ask_at_the_door(forks, script, flags, words, tmp_path):
    given = [] if script == "audit" else [f"--workdir={tmp_path / 'w'}"]
    little = LITTLE if script in ("compare", "train", "unlearn") else []
    ended = forks.run(script, *little, *given, *flags, after=60)
    assert (ended.status, ended.said.count("\n")) == (2, 1), ended.said
    assert ended.said.startswith(f"error: {words}")
    assert not (tmp_path / "w").exists()


def test_a_home_is_where_the_work_goes(forks, tmp_path, monkeypatch):
    """And not into a folder of that name; a preset's flag that does nothing is a note."""
    preset = tmp_path / "my.flags"
    preset.write_text("--momentum=0.9\n--trim=0.2\n")
    inside = os.path.relpath(tmp_path, os.path.expanduser("~"))
    flags = [*LITTLE, f"--flagfile={preset}", f"--workdir=~/{inside}/w", "--clients=2"]
    ended = forks.run("train", *flags, after=120)
    assert ended.status == 0, ended.said
    assert "note: of what the file of flags says, --trim does nothing here" in ended.said
    assert (tmp_path / "w" / "model.safetensors").is_file()
    assert not (ROOT / "~").exists()
    assert forks.run("train", *flags, "--trim=0.2", after=120).status == 0  # as it was begun
