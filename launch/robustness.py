"""Which aggregator withstands which attack: test accuracy with 10, 20 and 30 % of bad clients.

Ten clients share the handwritten digits, evenly or with skewed labels, and one, two or three of
them, drawn anew in each seed, are bad from the first round to the last. They know what all others
send (jfu/adversaries.py has the attacks and their sources) and choose how hard they push: of the
strengths that were tried the table has the worst for each aggregator. Aggregators are set for three
bad clients, however many there are.

  python -m launch.robustness --json=robustness.jsonl

Takes about ten minutes on a core, most of it compiling.
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_integer("seeds", 3, "Runs of each, with other parts and bad clients.", 1)


def robustness() -> None:
    from launch.studies import robustness

    robustness.robustness()


if __name__ == "__main__":
    define()
    entry.run(robustness)
