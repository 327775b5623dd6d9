"""Trains a federation and keeps the model, for requests to come.

The work directory then holds the configuration, the model (model.safetensors), checkpoints
to go on from, results.jsonl and the ledger. Answer a request with launch.unlearn --init_from.
--init_from goes on with an earlier model, without what it has been asked to forget; a client that
was taken out takes part again with --returns.

  python -m launch.train --workdir=A
  python -m launch.unlearn --init_from=A --workdir=B --method=not
  python -m launch.train --init_from=B --returns=client:0 --rounds=20 --workdir=C
"""

import dataclasses
import os
import pathlib

from absl import flags

from launch.shell import config as configs
from launch.shell import entry, typed
from launch.shell import flags as shared
from launch.shell.say import say

FLAGS = flags.FLAGS


def define() -> None:
    shared.define()
    flags.DEFINE_integer("seed", 0, "Fixes split, poison, model and training.", lower_bound=0)
    flags.DEFINE_list(
        "keep_history",
        [],
        "What to remember of training, for methods that need it: start, norms, sums, first, last, "
        "updates. Written to history.safetensors.",
    )
    flags.DEFINE_string(
        "init_from",
        None,
        "Go on with the model of a finished launch.train or launch.unlearn, for --rounds more "
        "rounds; by default for as many as recovery has.",
    )
    flags.DEFINE_string("returns", None, "Clients that take part again: client:0,3")


def resolve(runs, requests) -> tuple:
    """``(met, rounds)``: from the flags, or from what --init_from was trained with."""
    if FLAGS.init_params:
        raise ValueError(
            "--init_params takes the place of training; give it to launch.unlearn or launch.compare"
        )
    if not FLAGS.init_from:
        if FLAGS.returns:
            raise ValueError(f"--returns={FLAGS.returns} wants a model to go on with: --init_from")
        config = configs.resolve()
        if not FLAGS["forget"].present and not config.backdoor:
            config = dataclasses.replace(config, forget="")  # no request is known yet
        return runs.Met(config, FLAGS.seed, {}, None), config.rounds
    moved = {name: FLAGS[name].value for name in configs.having("place") if FLAGS[name].present}
    met = runs.read_model(FLAGS.init_from, **moved)
    if FLAGS["seed"].present and FLAGS.seed != met.seed:
        raise ValueError(f"{FLAGS.init_from} was trained with --seed={met.seed}, not {FLAGS.seed}")
    config = met.config
    anew = configs.having("continued", "place")
    for name in configs.FIELDS:
        if name in FLAGS and FLAGS[name].present and name not in anew:
            raise ValueError(
                f"{FLAGS.init_from} is trained with {name}={getattr(config, name)}, and goes on "
                f"with it; leave --{name} out"
            )
    back, gone = FLAGS.returns or "", requests.forgotten(config.past)
    if back and not (back.startswith("client:") and requests.forgotten([f"-{back}"]) <= gone):
        raise ValueError(
            f"--returns={back} names clients that were not taken out; "
            f"{', '.join(sorted(gone)) or 'nobody'} was"
        )
    model = os.path.join(os.path.realpath(FLAGS.init_from), runs.MODEL)
    config = dataclasses.replace(config, past=(*config.past, f"+{back}"), init_params=model)
    config = dataclasses.replace(config, dp_noise_from_seed=FLAGS.dp_noise_from_seed)
    return met._replace(config=config), FLAGS.rounds or config.recovery_rounds


def train() -> None:
    until = entry.deadline(FLAGS.max_minutes)
    import jfu
    import jfu.io
    from launch.records import records
    from launch.running import cells
    from launch.running.programs import Programs
    from launch.running.progress import announce
    from launch.setup import federation, requests
    from launch.setup.methods import remembering
    from launch.setup.study import prepare_study
    from launch.setup.trial import prepare_trial
    from launch.shell import devices, hosts
    from launch.workdir import runs, workdir

    hosts.join(FLAGS, FLAGS.clients)
    met, rounds = resolve(runs, requests)
    config, seed = met.config, met.seed
    keep = list(FLAGS.keep_history)
    hosts.together(lambda: federation.check(config, keep=keep, **typed.said()))
    if FLAGS.init_from:
        source = pathlib.Path(FLAGS.init_from)
        hosts.agreed(lambda: [records.check(source), records.read(source)])
        if keep:
            raise ValueError("--keep_history remembers a training from its start; leave it out")
    more = dict(seed=seed, keep_history=keep, further=rounds if FLAGS.init_from else 0)
    where = configs.workdir_for(config, "train", **more)
    work = workdir.open_workdir(where, config, "train", **more)
    if hosts.agreed(lambda: records.erased(work.path, records.check(work.path))):
        raise ValueError(f"what {work.path} held was erased; choose another --workdir")
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    with devices.on_devices(layout):
        taken = met.taken | workdir.taken(work, [seed])
        made = {FLAGS.init_from: met.data, work.path: work.data}
        study = hosts.together(lambda: prepare_study(config, layout, [seed], taken, made))
        trial = prepare_trial(study, seed)
        study = remembering(study, keep, trial)
        work = workdir.begin(work, config, "train", study.layout, study.data, **more)
        hosts.agreed(lambda: records.reopen(work))
        work = workdir.keep_draws(work, seed, trial.draws)
        records.follow(work, FLAGS.init_from)
        hosts.agreed(lambda: records.begun(work, config))
        announce(study, trial, f"training, seed {seed}", work, dict(train=rounds))
        cell = cells.runner(work, study, trial, Programs(), FLAGS.checkpoint_every, until, "train")
        trained, row, rows = cells.original(
            study, trial, cell, "train", quiet=False, further=more["further"]
        )
    workdir.write_results(work, [*rows, row])
    if keep and hosts.first():
        jfu.io.save_state(work.path / workdir.HISTORY, trained.history, dict(keep=keep))
        held = jfu.nbytes(trained.history) / 1e6
        say(f"the history ({', '.join(keep)}, {held:.1f} MB) is {work.path / workdir.HISTORY}")
    workdir.export(work.path / workdir.MODEL, trained.variables)
    present = int((jfu.weights(trial.everything.retain) > 0).sum())
    records.trained(work, config, seed, present, rounds, history=bool(keep))
    say(f"the model is {work.path / workdir.MODEL}")


if __name__ == "__main__":
    define()
    entry.run(train)
