"""How often the audit says yes and no, on simulated models of which the answer is known.

The numbers that models give to examples are drawn as those of the digits' were found to lie; the
measures, intervals and rules are the audit's own. Three requests are simulated, by what the old
model knows of the forgotten examples that retrained models do not:

  poison   a trigger, learnt by every model that saw some of it: 97 % against 11
  heart    examples that retrained models get wrong are learnt by heart: 99.9 % against 98
  faint    likewise, a quarter as well: what the audit can see is near to nothing

and audited with old, exact and third models, and with ones that only look unlike the old model:
trained anew with the forgotten examples. Writes a line for each request, number of examples and
of seeds, with the shares of audits in which each model got each verdict.

  python -m launch.rates --runs=500 --json=launch/results/audit-rates.json
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    from launch.studies.rates import EXAMPLES, REQUESTS

    flags.DEFINE_integer(
        "runs", 500, "Audits of each kind; of 1,000 examples two fifths.", lower_bound=1
    )
    flags.DEFINE_list("requests", [*REQUESTS], "Which requests.")
    flags.DEFINE_list("examples", [*map(str, EXAMPLES)], "How many forgotten examples.")
    flags.DEFINE_string("json", None, "Where to write the shares: a file of JSON.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def measure() -> None:
    from launch.studies import rates

    rates.measure()


if __name__ == "__main__":
    define()
    entry.run(measure)
