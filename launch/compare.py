"""Compares unlearning methods on one request, over several seeds.

Without any flag it is the quickstart: ten clients train a digit classifier together, client
0 carries a backdoor, the request is "forget client 0", and retraining, fine-tuning and NoT
answer it. Prints a table and writes results.jsonl, table.md, table.json and curves.png into
the work directory. A run that was stopped goes on when started again with the same flags, and
--max_minutes=8 takes it in slices; --methods and --seeds may grow, and several machines may run
them, each with its own work directory (launch.table reads all). Methods that need a history or
data at the server (--keep_history, --proxy) must be named from the start, or these flags, since
training and evaluation differ.

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
