"""Why an attack tells unlearned models from retrained ones: fewer rounds, or remaining training?

U-LiRA compares models that unlearned an example with models that were retrained without it. It
finds any difference. So NoT is compared with controls that differ in one thing: NoT recovers for as
long as retraining takes; retraining stops after as many rounds as NoT recovers; the first layer is
drawn again in place of negation; a fresh model is mixed in, as ``not_blend`` does. Each answer is
given by shadow federations on the handwritten digits, with a trigger in the data of the client that
leaves.

  python -m launch.apart --json=launch/results/apart-digits-cpu.jsonl
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_integer("shadows", 64, "Shadow federations, an even number.", 8)
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def apart() -> None:
    from launch.studies import apart

    apart.apart()


if __name__ == "__main__":
    define()
    entry.run(apart)
