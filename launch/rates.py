"""How often the audit says yes and no, on simulated models with a known answer.

The simulation draws the numbers that models give to examples. Their distributions were fitted to
the digits'. Measures, intervals and rules are the audit's own. There are three simulated requests.
They differ in what the old model knows about the forgotten examples and retrained models do not:

  poison   a trigger, learnt by every model that saw part of it: 97 % against 11
  heart    examples that retrained models get wrong are memorised: 99.9 % against 98
  faint    the same, at a quarter of the strength: the audit can see almost nothing

Of the signs of memory, simulated models have rounds to relearn, the most memorised examples, sizes
of gradients and what resurfaces. Linear probes, a second negation and a canary need real models.

The audit judges old models, exact ones and third retrainings. It also judges models that only look
unlike the old one: they were trained anew with the forgotten examples. Writes a line for each
request, number of examples and number of seeds. The line has the share of audits in which each
model got each verdict.

  python -m launch.rates --runs=2000 --json=launch/results/audit-rates.json
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    from launch.studies.rates import EXAMPLES, REQUESTS

    flags.DEFINE_integer(
        "runs",
        500,
        "Audits of each kind; with 1,000 examples, two fifths of this number.",
        lower_bound=1,
    )
    flags.DEFINE_list("requests", [*REQUESTS], "The requests to simulate.")
    flags.DEFINE_list("examples", [*map(str, EXAMPLES)], "Numbers of forgotten examples.")
    flags.DEFINE_string("json", None, "Where to write the shares, as JSON.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def measure() -> None:
    from launch.studies import rates

    rates.measure()


if __name__ == "__main__":
    define()
    entry.run(measure)
