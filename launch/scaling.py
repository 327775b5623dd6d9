"""How the cost of a round grows with clients, images, parameters and devices.

Every point is a process of its own that trains the perceptron on random images. Prints a
table, writes it as JSON lines and draws one figure.

  python -m launch.scaling --json=scaling.jsonl --plot=scaling.png
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    from launch.timing.scaling import SWEEPS

    flags.DEFINE_list("sweeps", list(SWEEPS), "The quantities to vary.")
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_string("plot", None, "Where to write the figure.")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def scaling() -> None:
    from launch.timing import scaling

    scaling.scaling()


if __name__ == "__main__":
    define()
    entry.run(scaling, private=False)
