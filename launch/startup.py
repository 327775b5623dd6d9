"""How long the quickstart takes from its command to the end of its first round of training.

  python -m launch.startup --json=startup.jsonl

Every run is a process of its own, with its own work directory. Runs have no compilation cache
(``none``), or one that an earlier run has filled (``warm``).
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_integer("runs", 3, "Runs with a cache, and without; medians count.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def startup() -> None:
    from launch.timing import startup

    startup.startup()


if __name__ == "__main__":
    define()
    entry.run(startup, private=False)
