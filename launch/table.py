"""The table of what has been run, beside the paper's numbers.

A table is a list of cells, one for each method and seed. launch.compare runs them, in slices and
on several machines if need be (--max_minutes, --methods, --seeds, --first_seed). Here whatever
cells exist become the table, those that are missing are marked, and where the paper reports the
same row its values stand beside ours. Several work directories of one configuration are read as
one, and so is one into which the files of another's folder cells/ were copied. Prints the table
and writes table.md and table.json into the first; --record also writes the rows themselves.

  python -m launch.table --workdir=W
  python -m launch.table --workdir=W,W2 --record=launch/results/cifar10_cnn_iid-h100.jsonl
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_list("workdir", None, "Work directories of launch.compare, of one configuration.")
    flags.DEFINE_string(
        "record", None, "Also write the rows of finished cells here: results/<row>-<device>.jsonl."
    )
    flags.DEFINE_string("key_file", None, "The key that the first one's ledger is kept with.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def table() -> None:
    from launch.running import table

    table.table()


if __name__ == "__main__":
    define()
    entry.run(table)
