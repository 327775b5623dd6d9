"""How much remaining memory the audit notices, and how often it accuses a retrained model.

Trains small federations on the handwritten digits. One client asks to be forgotten. Planted
answers are retrained with a share of its data put back: none, 10, 50 or 100 %. The audit judges
each as it judges any answer, and the script counts what it notices. There are four requests. They
differ in what a model can remember of them:

  trigger  all images of the client have a trigger and a wrong label
  labels   half of its labels are drawn at random, and half of the test labels too
  clean    its data is like everybody's: there is hardly anything to remember
  ridge    as trigger, for ridge heads on frozen features, where an answer with nothing put back is
           exact: it equals the first retrained model

Noticed means the verdict no. A sign of memory, which forbids a yes, is counted beside it. So is the
verdict yes, which needs shadow federations. All signs of memory are measured that launch.audit
measures of such models, with as many further rounds.

  python -m launch.power --json=launch/results/power-digits-cpu.jsonl
  python -m launch.power --workdir=W    (goes on if it was stopped)
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    from launch.studies.power import REQUESTS

    flags.DEFINE_list("requests", [*REQUESTS], "The requests to make.")
    flags.DEFINE_integer("seeds", 10, "Seeds; audits use five of them, and all.", 5)
    flags.DEFINE_integer("retrained", 20, "Planted retrainings on each seed, nothing put back.", 1)
    flags.DEFINE_integer("partly", 5, "Planted answers on each seed for each share put back.", 1)
    flags.DEFINE_integer("shadows", 32, "Shadow federations; an even number from 8 on, or 0.", 0)
    flags.DEFINE_string(
        "workdir", None, "A folder that keeps what was measured; the same command goes on there."
    )
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_string("plot", None, "Where to write the picture, as PNG.")
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def power() -> None:
    from launch.studies import power

    power.power()


if __name__ == "__main__":
    define()
    entry.run(power)
