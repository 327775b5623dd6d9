"""Trains a federation and keeps the model for later requests.

The work directory gets the configuration, the model (model.safetensors), checkpoints, results.jsonl
and the ledger. Answer a request with launch.unlearn --init_from. With --init_from this script
trains an earlier model further, without the data that it has forgotten. --returns lets a
client that was taken out take part again.

  python -m launch.train --workdir=A
  python -m launch.unlearn --init_from=A --workdir=B --method=not
  python -m launch.train --init_from=B --returns=client:0 --rounds=20 --workdir=C
"""

from absl import flags

from launch.shell import entry
from launch.shell import flags as shared


def define() -> None:
    shared.define()
    flags.DEFINE_integer("seed", 0, "Seed of split, poison, model and training.", lower_bound=0)
    flags.DEFINE_list(
        "keep_history",
        [],
        "What to keep of training, for methods that need it: start, norms, sums, first, last, "
        "updates, before. Written to history.safetensors.",
    )
    flags.DEFINE_string(
        "init_from",
        None,
        "The work directory of a finished launch.train or launch.unlearn. Trains its model for "
        "--rounds more rounds. Default of --rounds here: as many as recovery has.",
    )
    flags.DEFINE_string("returns", None, "Clients that take part again, such as client:0,3")


def train() -> None:
    until = entry.deadline(flags.FLAGS.max_minutes)
    from launch.running import training

    training.train(until)


if __name__ == "__main__":
    define()
    entry.run(train)
