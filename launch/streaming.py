"""What streaming costs: time and memory of rounds whose clients stay in a file.

Every candidate is a process of its own that trains the perceptron on random images of 28x28 bytes.
All examples are on the devices, or they are streamed from one file. The candidates take turns.
The candidate with 1,000 clients on the devices also runs a round before and after each other round.
So both meet the same load.

  python -m launch.streaming --json=streaming.jsonl

Memory is the peak of the process's anonymous pages during rounds: RssAnon of /proc/self/status,
read every 5 ms. It counts Python, JAX, programs, models, and examples or pieces on the devices.
It does not count pages of the mapped file, because the system can take these back at any time.
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_integer("rounds", 3, "Timed rounds of each candidate.", lower_bound=1)
    flags.DEFINE_integer("most", 10_000, "Skip candidates with more clients.", lower_bound=1000)
    flags.DEFINE_integer("devices", 2, "Number of CPU devices.", 1, 256)
    flags.DEFINE_integer("piece", 2**24, "Bytes of examples on a device at once.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def streaming() -> None:
    from launch.timing import streaming

    streaming.streaming()


if __name__ == "__main__":
    define()
    entry.run(streaming, private=False)
