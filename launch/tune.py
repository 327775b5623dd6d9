"""Tunes the methods on seeds that are not reported, with equal effort for each.

Every method gets four settings of the options that its paper leaves to be tuned. One of them is
its published value. The setting with the smallest gap to retraining after the budget wins. Methods
without such options, NoT among them, stay as they are. Prints a table of all settings and the
--options to give to launch.compare. Writes tuning.jsonl, tuning.md and options.flags into the work
directory.

  python -m launch.tune --first_seed=1000 --seeds=1
  python -m launch.compare --methods=all --flagfile=runs/tune-digits-.../options.flags
"""

from absl import flags

from launch.shell import entry
from launch.shell import flags as shared


def define() -> None:
    shared.define_comparison()
    shared.define()
    flags.FLAGS.set_default("methods", ["all"])
    flags.FLAGS.set_default("first_seed", 1000)
    flags.FLAGS.set_default("seeds", 1)


def tune() -> None:
    from launch.studies import tuning

    tuning.tune()


if __name__ == "__main__":
    define()
    entry.run(tune)
