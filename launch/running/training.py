"""Trains a federation for later requests, or continues with the model of a work directory."""

import dataclasses
import os
from typing import Any

from absl import flags

import jfu
import jfu.io
from launch.records import records
from launch.running import ahead, cells, start
from launch.running.programs import Programs
from launch.running.progress import announce
from launch.setup import federation, private, requests, ridge
from launch.setup.methods import remembering
from launch.setup.study import prepare_study
from launch.setup.trial import prepare_trial
from launch.shell import devices, hosts, joining
from launch.shell.config import FIELDS, Config, having, resolve, workdir_for
from launch.shell.say import say
from launch.shell.typed import said
from launch.workdir import checkpoints, outcome, places, runs, workdir
from launch.workdir.places import WorkDir

FLAGS = flags.FLAGS


def train(until: float) -> None:
    """Does what the flags of ``launch.train`` request.

    Args:
      until: no round begins that would end later, by ``time.perf_counter``.

    Raises:
      OutOfTime: rounds are left, and there is a checkpoint.
    """
    joining.join(FLAGS, FLAGS.clients)
    met, rounds = configuration()
    config, seed, keep = met.config, met.seed, list(FLAGS.keep_history)
    hosts.together(lambda: federation.check(config, keep=keep, **said()))
    start.check_source(FLAGS.init_from)
    if FLAGS.init_from and keep:
        raise ValueError("--keep_history needs training from its start; leave it out")
    more = dict(seed=seed, keep_history=keep, further=rounds if FLAGS.init_from else 0)
    where = workdir_for(config, "train", **more)
    config = workdir.as_begun(where, config)
    work = workdir.open_workdir(where, config, "train", **more)
    if start.erased(work):
        raise ValueError(f"files in {work.path} were erased; choose another --workdir")
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    with devices.on_devices(layout):
        taken = met.taken | workdir.taken(work, [seed])
        made = {FLAGS.init_from: met.data, work.path: work.data}
        ahead.drawing()
        study = hosts.together(lambda: prepare_study(config, layout, [seed], taken, made))
        trial = prepare_trial(study, seed)
        study = remembering(study, keep, trial)
        work = start.begin(work, config, "train", study, trial, FLAGS.init_from, more)
        announce(study, trial, f"training, seed {seed}", work, dict(train=rounds))
        cell = cells.runner(work, study, trial, Programs(), FLAGS.checkpoint_every, until, "train")
        trained, row, rows = cells.original(
            study, trial, cell, "train", quiet=False, further=more["further"]
        )
        present = private.holding(trial.everything.retain)
    outcome.write_results(work, [*rows, row])
    if keep := [*keep, *ridge.kept(config)]:
        write_history(work, keep, trained.history)
    checkpoints.write_model(work, trained.variables)
    records.trained(work, config, seed, present, rounds, history=bool(keep))
    say(f"the model is {work.path / places.MODEL}")


def configuration() -> tuple[runs.Met, int]:
    """The model to train and the number of rounds, from the flags."""
    if FLAGS.init_params:
        raise ValueError(
            "--init_params replaces training; give it to launch.unlearn or launch.compare"
        )
    return going_on(FLAGS.init_from) if FLAGS.init_from else from_scratch()


def from_scratch() -> tuple[runs.Met, int]:
    """Training from scratch."""
    if FLAGS.returns:
        raise ValueError(
            f"--returns={FLAGS.returns} needs an earlier model; give it with --init_from"
        )
    config = resolve()
    if not (FLAGS["forget"].present or config.backdoor or config.canary):
        config = dataclasses.replace(config, forget="")  # no request is known yet
    return runs.Met(config, FLAGS.seed, {}, None), config.rounds


def going_on(source: str) -> tuple[runs.Met, int]:
    """More rounds of training for a model, in its own way, with the clients of ``--returns`` back.

    Args:
      source: its work directory.
    """
    moved = {name: FLAGS[name].value for name in having("place") if FLAGS[name].present}
    met = runs.read_model(source, **moved)
    config = met.config
    if FLAGS["seed"].present and FLAGS.seed != met.seed:
        raise ValueError(f"{source} was trained with --seed={met.seed}, not {FLAGS.seed}")
    anew = having("continued", "place")
    for name in FIELDS:
        if name in FLAGS and FLAGS[name].present and name not in anew:
            raise ValueError(
                f"{source} was trained with {name}={getattr(config, name)} and continues with it; "
                f"leave --{name} out"
            )
    check_returns(FLAGS.returns or "", config)
    config = dataclasses.replace(
        config,
        past=(*config.past, f"+{FLAGS.returns or ''}"),
        init_params=os.path.join(os.path.realpath(source), runs.MODEL),
        dp_noise_from_seed=FLAGS.dp_noise_from_seed,
    )
    return met._replace(config=config), FLAGS.rounds or config.recovery_rounds


def check_returns(back: str, config: Config) -> None:
    """Refuses to bring back clients that no request has taken out."""
    gone = requests.forgotten(config.past)
    if back and not (back.startswith("client:") and requests.forgotten([f"-{back}"]) <= gone):
        raise ValueError(
            f"--returns={back} names clients that were not taken out; those taken out are: "
            f"{', '.join(sorted(gone)) or 'none'}"
        )


def write_history(work: WorkDir, keep: list[str], history: Any) -> None:
    """Writes the history of training, for methods that need it."""
    if hosts.first():
        checkpoints.write_history(work, history, keep)
        size = jfu.nbytes(history) / 1e6
        say(f"the history ({', '.join(keep)}, {size:.1f} MB) is {work.path / places.HISTORY}")
