"""Flags that do nothing, typed or in a file of flags."""

import re

import numpy as np
import pytest

from helpers.workdirs import PLAIN, changed
from launch.setup import federation, idle


@pytest.mark.parametrize(
    ("changes", "typed", "words"),
    [
        (
            dict(optimizer="adam"),
            "momentum",
            "with --optimizer=adam; add --optimizer=sgd, or leave",
        ),
        (
            dict(lr_decay=0.9, lr_schedule="step:0.1", recovery_lr_schedule="cosine:0"),
            *("lr_decay", "with --lr_schedule=step:0.1 and --recovery_lr_schedule=cosine:0; leave"),
        ),
        ({}, "trim", "with --aggregator=mean; add --aggregator=trimmed, or leave it out"),
        (dict(aggregator="krum"), "clip", "with --aggregator=krum; add --aggregator=clipped"),
        ({}, "byzantine", "with --aggregator=mean; add --aggregator=krum"),
        ({}, "dp_noise", "without --dp_clip, the length for clipping updates"),
        (
            dict(dataset="digits"),
            "data_dir",
            "for digits, which is not a set of tensorflow-datasets",
        ),
        (dict(dataset="own.npz"), "data_dir", "for own.npz, which is not a set"),
        (dict(partition="file:a.json"), "clients", "with your own lists or ids of clients"),
        (dict(partition="file:a.json"), "min_examples", "with your own lists or ids"),
        ({}, "backdoor_label", "without poisoned images; add --backdoor, or leave it out"),
        ({}, "backdoor_client", "without poisoned images"),
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
    assert said == f"note: --{typed} from the file of flags does nothing here\n"
    assert typed in idle.idle(config)


@pytest.mark.parametrize(
    ("changes", "methods", "typed", "words"),
    [
        ({}, ["retrain"], "recovery_rounds", "with retrain: nothing recovers"),
        ({}, ["retrain", "none"], "recovery_lr", "with retrain, none: nothing recovers"),
        ({}, ["none"], "recovery_warmup_rounds", "with none: nothing recovers"),
        ({}, ["finetune", "pgd"], "layers", "with finetune, pgd: no chosen layer is changed"),
        ({}, ["not_all"], "layers", "with not_all: no chosen layer is changed"),
        ({}, ["finetune"], "weights_only", "with finetune: no bias of a layer is changed"),
        ({}, ["not_first_weight"], "weights_only", "with not_first_weight: no bias of a layer is"),
        (dict(layers=("first_weight",)), ["not"], "weights_only", "with not: no bias of a layer"),
        ({}, ["none"], "recovery_lr_schedule", "with none: nothing recovers"),
        (dict(norm="group"), ["not"], "follow_means", "with not and --norm=group: no mean follows"),
        (dict(options=("pgd.lr=1",)), ["not"], "options", "with not, because no option names them"),
        ({}, ["not"], "proxy", "with not: no method needs images at the server"),
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
    with pytest.raises(ValueError, match=r"--clients does nothing with your own .*ids\.npz; leave"):
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
    with pytest.raises(
        ValueError, match=rf"names rows of own in its own order, and --{flag} changes"
    ):
        federation.check(changed(PLAIN, **changes))
