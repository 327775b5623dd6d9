"""Configurations and rows of made-up runs, without any training."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
from absl import flags as absl_flags

import jfu
from launch.setup.clients import draw, images
from launch.shell.config import Config
from launch.shell.devices import Layout
from launch.workdir import checkpoints, workdir
from launch.workdir.checked import with_digest

NONE = {f.name: None for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING}


CONFIG = Config(
    **NONE
    | dict(dataset="own", clients=3, partition="iid", min_examples=1, backdoor=False)
    | dict(
        backdoor_clients=(),
        backdoor_fraction=1.0,
        backdoor_label=0,
        backdoor_size=None,
        backdoor_forget="",
    )
    | dict(forget="client:0", drop_labels=(), layers=("first",))
)


LAYOUT = Layout("cpu", 1, 1)


def rows(method, *retains, seed=0, asr=None):
    rest = dict(forget=0.0, test=0.0, mia=50.0, mia_matched=50.0, asr=asr, storage=0)
    costs = lambda n: dict(bytes_down=10 * n, bytes_up=10 * n, flops=1.0 * n, seconds=0.5 * n)
    return [
        dict(method=method, seed=seed, round=n, retain=r) | rest | costs(n)
        for n, r in enumerate(retains)
    ]


PLAIN = dataclasses.replace(
    CONFIG,
    **dict(model="mlp", augment="none", rounds=4, epochs=1, batch_size=3, optimizer="sgd", lr=0.1),
    **dict(lr_decay=1.0, warmup_rounds=0, momentum=0.0, weight_decay=0.0, proximal=0.0),
    **dict(server="sgd", server_lr=1.0, aggregator="mean", trim=0.1, clip=1.0, byzantine=1),
    **dict(faults=(), dp_noise=1.0, dp_delta=1e-3, sum_only=False, sample=0, absent=0.0, proxy=0.0),
    **dict(recovery_rounds=2, recovery_lr=0.1, options=(), follow_means=True, weights_only=False),
)


PRIVATE = dataclasses.replace(PLAIN, dp_clip=1.0)


def changed(config, **changes):
    return dataclasses.replace(config, **changes)


def rewrite_settings(path, kept):
    """Writes a config.json with a digest that fits it, as whoever may write there can."""
    kept = {name: value for name, value in kept.items() if name != "sha256"}
    (path / "config.json").write_text(json.dumps(with_digest(kept)))


def trial_of(data, gone, fewest=3):
    """A trial from which these clients leave, of a run with none earlier."""
    nothing = jfu.split(data, np.zeros(data.mask.shape, bool))
    request = jfu.split(data, jfu.forget_client(data, gone))
    return SimpleNamespace(everything=nothing, request=request, fewest=fewest, seed=0)


def epsilon_by_hand(rounds, noise=1.0, delta=1e-3):
    """min over orders a of T a / 2 z^2 + log(1 - 1/a) - log(a delta) / (a - 1), in float64."""
    a = 1 + np.arange(1, 40000, dtype=np.float64) / 1000
    bound = rounds * a / (2 * noise**2) + np.log1p(-1 / a) - np.log(a * delta) / (a - 1)
    return bound.min() if rounds else 0.0


def poisoned(config, dataset, seed=0):
    changes = dict(backdoor=True, backdoor_clients=("1",), backdoor_forget=config.forget)
    config = dataclasses.replace(config, **changes)
    drawn = draw(config, dataset, seed)
    clients = images(config, dataset, drawn)
    return config, clients, jfu.split(clients, drawn.forget), drawn.poisoned


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


STATE = {"variables": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}}

NOTES = dict(round=1, rows=[], spent={}, finished=False)


def a_checkpoint(folder, *, seed=0, method="not", state=STATE, config=CONFIG):
    """The path of a checkpoint in a work directory of its own."""
    work = workdir.open_workdir(str(folder), config, "compare")
    work = workdir.begin(work, config, "compare", LAYOUT)
    checkpoints.write_cell(work, seed, method, state, NOTES)
    work.lock.close()
    return work.cell(seed, method)
