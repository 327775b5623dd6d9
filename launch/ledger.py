"""Prints a work directory's ledger and verifies it; shows what was erased.

The ledger says which requests were answered, when, by which method, from which model to which,
with what evidence. Its chain of hashes shows that no line was altered, removed or put in, as far as
the files alone can show it: who may write them may rewrite the whole chain. With --head, a hash
written down elsewhere, or --key_file, whose key the lines were written with, that is found too.
What was checked is said. Exit status 1 where something does not hold, 2 where there is nothing
to check.

  python -m launch.ledger --workdir=B
  python -m launch.ledger --workdir=B --head=5c0f...
  python -m launch.ledger --workdir=B --prove_erased=client:0
  python -m launch.ledger --workdir=B --prove_erased=client:0 --gone=/data/A
  python -m launch.ledger --workdir=B --key_file=OLD --new_key_file=NEW

The last gives the ledger another key, or without --key_file its first.
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", None, "The work directory.", required=True)
    flags.DEFINE_string("head", None, "A line's hash that was written down elsewhere.")
    flags.DEFINE_string("key_file", None, "The key that the lines were written with.")
    flags.DEFINE_string(
        "new_key_file", None, "The key from now on: adds a line that both keys vouch for."
    )
    flags.DEFINE_string(
        "prove_erased",
        None,
        "A request, such as client:0: list every file with what it depends on, and fail where one "
        "still holds it.",
    )
    flags.DEFINE_list(
        "gone",
        [],
        "Work directories, or models from elsewhere, that the model came from and that you removed "
        "with all that they came from: taken on your word, which is said.",
    )
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def ledger() -> None:
    from launch.records import inspection

    inspection.ledger()


if __name__ == "__main__":
    define()
    entry.run(ledger)
