"""What streaming costs: seconds and memory of rounds whose clients stay in a file.

Every candidate is a process of its own that trains the perceptron on random images of 28x28 bytes,
with all examples on the devices or streamed from one file. They take turns; before and after every
round the resident one of 1,000 clients runs a round too, so that both meet the same load.

  python -m launch.streaming --json=streaming.jsonl

Memory is the peak of the process's anonymous pages while it runs rounds (RssAnon of
/proc/self/status, looked at every 5 ms): Python, JAX, programs, models, and resident examples or
pieces. Pages of the mapped file are not in it; the system takes them back whenever it likes.
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_integer("rounds", 3, "Turns.", lower_bound=1)
    flags.DEFINE_integer("most", 10_000, "Leaves out who has more clients.", lower_bound=1000)
    flags.DEFINE_integer("devices", 2, "CPU devices.", 1, 256)
    flags.DEFINE_integer("piece", 2**24, "Bytes of examples on a device at once.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def streaming() -> None:
    from launch.timing import streaming

    streaming.streaming()


if __name__ == "__main__":
    define()
    entry.run(streaming, private=False)
