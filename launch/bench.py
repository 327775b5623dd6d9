"""Times federated rounds: jfu's ways to run clients, and other libraries beside them.

Every candidate is a process of its own, with the same data, first weights and optimizer. They
take turns, one round each in an order drawn anew, so that all meet the same load; then each
runs alone from a fresh start to 20 finished rounds, which gives memory and cold time.

  python -m launch.bench --workload=mlp
  python -m launch.bench --workload=cnn --rounds=8 --json=cnn.jsonl
  python -m launch.bench --workload=resnet18 --precision=bf16 --strategies=1x0,1x5,1x1 --nocold

A strategy is DxC: D devices, C clients at once on each, 0 being all of them; the default is what
jfu chooses by rule. DxC:product has convolutions as matrix products, DxC:stock as XLA has them.
PyTorch, FedJAX, DrJAX and Flower are measured where they are installed, for the jobs mlp and cnn
(DrJAX for mlp alone); --python=torch=PATH,flower=PATH names the interpreters that have them.
"""

from absl import flags

from launch.shell import entry
from launch.timing import workloads
from launch.timing.process import PEERS


def define() -> None:
    flags.DEFINE_enum("workload", "mlp", list(workloads.WORKLOADS), "The job.")
    flags.DEFINE_integer("rounds", 10, "Timed rounds of each candidate.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the results, one JSON object a line.")
    flags.DEFINE_list(
        "strategies", [], "DxC[:stock|:product], ...: devices x clients at once. Default: by rule."
    )
    flags.DEFINE_enum(
        "precision", "tf32", ["float32", "tf32", "bf16"], "Of products; on CPU tf32 is float32."
    )
    flags.DEFINE_list("peers", list(PEERS), "Other libraries to measure, where installed.")
    flags.DEFINE_list("python", [], "NAME=PATH, ...: the interpreters that have them.")
    flags.DEFINE_bool("central", False, "Centralised training too, where there are many devices.")
    flags.DEFINE_bool("cold", True, "Fresh starts too: memory, cold time and loss.")
    flags.DEFINE_integer("cold_runs", 3, "Fresh starts of each; medians count.", lower_bound=1)
    flags.DEFINE_integer("clients", None, "In place of the job's.", lower_bound=1)
    flags.DEFINE_integer("examples", None, "Of each client, in place of the job's.", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "In place of the job's.", lower_bound=1)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def bench() -> None:
    from launch.timing import bench

    bench.bench()


if __name__ == "__main__":
    define()
    entry.run(bench, private=False)
