"""Trains a federation and keeps the model, for requests to come.

The work directory then holds the configuration, the model (model.safetensors), checkpoints
to go on from, and results.jsonl. Answer a request with launch.unlearn --init_from.

  python -m launch.train --workdir=A
  python -m launch.unlearn --init_from=A --workdir=B --method=not
"""

import dataclasses

from absl import flags

from launch import flags as shared
from launch import main

FLAGS = flags.FLAGS


def define() -> None:
    shared.define()
    flags.adopt_module_key_flags(shared)  # so that --help shows them
    flags.DEFINE_integer("seed", 0, "Fixes split, poison, model and training.", lower_bound=0)
    flags.DEFINE_list(
        "keep_history",
        [],
        "What to remember of training, for methods that need it: start, norms, sums, first, last, "
        "updates. Written to history.safetensors.",
    )


def train() -> None:
    from launch import hosts

    hosts.join(FLAGS, FLAGS.clients)
    config = shared.resolve()
    if not FLAGS["forget"].present and not config.backdoor:
        config = dataclasses.replace(config, forget="")  # no request is known yet
    import jfu
    import jfu.io
    from launch import cells, devices, experiment, workdir

    keep = list(FLAGS.keep_history)
    more = dict(seed=FLAGS.seed, keep_history=keep)
    if config.init_params:
        raise ValueError(
            "--init_params takes the place of training; give it to launch.unlearn or launch.compare"
        )
    where = shared.workdir(config, "train", **more)
    work = workdir.open_workdir(where, config, "train", **more)
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    with devices.on_devices(layout):
        study = hosts.together(lambda: experiment.study(config, layout, [FLAGS.seed]))
        trial = experiment.trial(study, FLAGS.seed)
        study = experiment.remembering(study, keep, trial)
        work = workdir.begin(work, config, "train", study.layout, **more)
        cells.announce(study, trial, f"training, seed {FLAGS.seed}", work)
        cell = cells.runner(work, study, trial, cells.Programs(), FLAGS.checkpoint_every)
        trained, row, rows = cells.original(study, trial, cell, "train", quiet=False)
    workdir.write_results(work, [*rows, row])
    if keep and hosts.first():
        jfu.io.save_state(work.path / workdir.HISTORY, trained.history, dict(keep=keep))
        held = jfu.nbytes(trained.history) / 1e6
        main.say(f"the history ({', '.join(keep)}, {held:.1f} MB) is {work.path / workdir.HISTORY}")
    workdir.export(work.path / workdir.MODEL, trained.variables)
    main.say(f"the model is {work.path / workdir.MODEL}")


if __name__ == "__main__":
    define()
    main.run(train)
