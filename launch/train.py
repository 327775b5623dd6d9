"""Trains a federation and keeps the model, for requests to come.

The work directory then holds the configuration, the model (model.safetensors), checkpoints
to go on from, and results.jsonl. Answer a request with launch.unlearn --init_from.

  python -m launch.train --workdir=A
  python -m launch.unlearn --init_from=A --workdir=B --method=not
"""

import contextlib
import dataclasses

from absl import flags

from launch import flags as shared
from launch import main

FLAGS = flags.FLAGS


def define() -> None:
    shared.define()
    flags.adopt_module_key_flags(shared)  # so that --help shows them
    flags.DEFINE_integer("seed", 0, "Fixes split, poison, model and training.", lower_bound=0)


def train() -> None:
    config = shared.resolve()
    if not FLAGS["forget"].present and not config.backdoor:
        config = dataclasses.replace(config, forget="")  # no request is known yet
    import jax

    import jfu
    from launch import cells, experiment, workdir

    work = workdir.open_workdir(shared.workdir(config), config, "train", seed=FLAGS.seed)
    layout = experiment.start(FLAGS.devices, FLAGS.chunk, config.clients, work.layout)
    mesh = jfu.clients_mesh() if layout.devices > 1 else None
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        study = experiment.study(config, layout, [FLAGS.seed])
        trial = experiment.trial(study, FLAGS.seed)
        work = workdir.begin(work, config, "train", layout, seed=FLAGS.seed)
        cells.announce(study, trial, f"training, seed {FLAGS.seed}", layout, work)
        cell = cells.runner(work, study, trial, cells.Programs(), FLAGS.checkpoint_every)
        trained, row, rows = cells.original(study, trial, cell, "train", quiet=False)
    workdir.write_results(work, [*rows, row])
    workdir.export(work.path / workdir.MODEL, trained.variables)
    main.say(f"the model is {work.path / workdir.MODEL}")


if __name__ == "__main__":
    define()
    main.run(train)
