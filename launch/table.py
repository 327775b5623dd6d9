"""The table of what has been run, beside the paper's numbers.

A table needs one run for each method and seed. launch.compare makes these runs, if need be in
slices or on several machines (--max_minutes, --methods, --seeds, --first_seed). This script makes
the table from the runs that exist, and marks those that are missing. If the paper reports the same
row, its values stand beside ours.

Several work directories of one configuration are read as one. So is a work directory into which
the files of another's folder cells/ were copied. Prints the table and writes table.md and
table.json into the first work directory. --record also writes the rows themselves.

  python -m launch.table --workdir=W
  python -m launch.table --workdir=W,W2 --record=launch/results/cifar10_cnn_iid-h100.jsonl
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_list(
        "workdir", None, "Work directories of launch.compare, all of one configuration."
    )
    flags.DEFINE_string(
        "record", None, "Also write the rows of finished runs here: results/<row>-<device>.jsonl."
    )
    flags.DEFINE_string("key_file", None, "The key of the first one's ledger, if it has one.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def table() -> None:
    from launch.running import table

    table.table()


if __name__ == "__main__":
    define()
    entry.run(table)
