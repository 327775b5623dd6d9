"""Compares unlearning methods on one request, over several seeds.

Without flags it is the quickstart. Ten clients train a digit classifier together, and client 0
carries a backdoor. The request is "forget client 0". Retraining, fine-tuning and NoT answer it.
Prints a table. Writes results.jsonl, table.md, table.json and curves.png into the work directory.

The same command continues a stopped run, and --max_minutes=8 runs it in slices. A later command
may add --methods and --seeds. Several machines may share the work, each with its own work
directory; launch.table reads them all. Some methods need a history or data at the server. Name
them, or --keep_history and --proxy, from the start, because these change training and evaluation.

  python -m launch.compare
  python -m launch.compare --dataset=fashion_mnist --data_dir=DIR --train_size=6000
  python -m launch.compare --flagfile=launch/presets/digits.flags --methods=not,noise
"""

from launch.shell import entry
from launch.shell import flags as shared


def define() -> None:
    shared.define_comparison()
    shared.define()


def compare() -> None:
    from launch.running import comparison

    comparison.compare()


if __name__ == "__main__":
    define()
    entry.run(compare)
