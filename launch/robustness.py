"""Which aggregator withstands which attack: test accuracy with 10, 20 and 30 % of bad clients.

Ten clients share the handwritten digits, either evenly or with skewed labels. One, two or three of
them are bad from the first round to the last; each seed draws them anew. Bad clients know what all
others send, and choose the strength of their attack. The table has the worst of the strengths that
were tried, for each aggregator. Attacks and their sources are in jfu/adversaries.py. Aggregators
are always set for three bad clients.

  python -m launch.robustness --json=robustness.jsonl

Takes about ten minutes on one core, mostly for compiling.
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_integer("seeds", 3, "Seeds; each has its own split and bad clients.", 1)


def robustness() -> None:
    from launch.studies import robustness

    robustness.robustness()


if __name__ == "__main__":
    define()
    entry.run(robustness)
