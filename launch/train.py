"""Trains a federation and keeps the model, for requests to come.

The work directory then holds the configuration, the model (model.safetensors), checkpoints
to go on from, results.jsonl and the ledger. Answer a request with launch.unlearn --init_from.
--init_from goes on with an earlier model, without what it has been asked to forget; a client that
was taken out takes part again with --returns.

  python -m launch.train --workdir=A
  python -m launch.unlearn --init_from=A --workdir=B --method=not
  python -m launch.train --init_from=B --returns=client:0 --rounds=20 --workdir=C
"""

from absl import flags

from launch.shell import entry
from launch.shell import flags as shared


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


def train() -> None:
    until = entry.deadline(flags.FLAGS.max_minutes)
    from launch.running import training

    training.train(until)


if __name__ == "__main__":
    define()
    entry.run(train)
