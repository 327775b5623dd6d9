"""Audits what a work directory holds: did the model forget, and how would one know?

Reads what launch.compare (or launch.unlearn) left, attacks every model in it, measures its
distance to the retrained ones, and gives each of four questions a verdict by a rule. Writes
audit.html, one page that needs no network, and audit.json with the same.

  python -m launch.compare --workdir=W --seeds=5
  python -m launch.audit --workdir=W
  python -m launch.audit --workdir=W --shadows=64
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", None, "The work directory to audit; the report goes there too.")
    flags.DEFINE_integer(
        "shadows",
        0,
        "Shadow federations for the attacks on single examples (U-LiRA, LiRA); an even number, "
        "64 say. 0 leaves them out.",
        lower_bound=0,
        upper_bound=100_000,
    )
    flags.DEFINE_integer(
        "shadows_chunk",
        None,
        "Shadow federations that run at once on a device. Default: by the rule for clients, 1 on "
        "CPU, elsewhere as many as the size of the model allows.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "relearn_rounds",
        20,
        "Rounds in which the forgotten data may be relearnt, for each model; 0 leaves that out.",
        lower_bound=0,
        upper_bound=100_000,
    )
    flags.DEFINE_boolean(
        "control",
        None,
        "Retrain once more on every seed, as a control of which the answer is known: without it no "
        "model is called forgotten. Default: where --shadows are run.",
    )
    flags.DEFINE_integer(
        "draws", 1000, "Draws of the intervals of a single seed's examples.", 100, 1_000_000
    )
    flags.DEFINE_string("data_dir", None, "Where prepared data lies, if it has moved.")
    flags.DEFINE_string("dataset", None, "Where the own data (.npz) lies, if it has moved.")
    flags.DEFINE_string("key_file", None, "The key that the ledger is kept with, if it is.")
    flags.DEFINE_string("compilation_cache", None, "A folder in which compiled programs are kept.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def audit() -> None:
    from launch.running import auditing

    auditing.audit()


if __name__ == "__main__":
    define()
    entry.run(audit)
