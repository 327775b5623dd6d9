"""Times federated rounds: jfu's ways to run clients, and other libraries for comparison.

Every candidate is a process of its own, with the same data, first weights and optimizer. The
candidates take turns, one round each, in a new random order every time. So all of them meet the
same load. Then each runs alone, from a fresh start to 20 finished rounds, which gives memory and
cold time.

  python -m launch.bench --workload=mlp
  python -m launch.bench --workload=cnn --rounds=8 --json=cnn.jsonl
  python -m launch.bench --workload=resnet18 --precision=bf16 --strategies=1x0,1x5,1x1 --nocold

A strategy is DxC: D devices, and C clients at once on each; C = 0 means all clients. The default
is jfu's own rule. DxC:product computes convolutions as matrix products, DxC:stock leaves them to
XLA. PyTorch, FedJAX, DrJAX and Flower are measured where they are installed, for the jobs mlp and
cnn (DrJAX for mlp alone). --python=torch=PATH,flower=PATH names the interpreters that have them.

On an accelerator one command measures in a quarter of an hour what matters most. What does not fit
is listed, and the same command goes on. --rehearse tries all of it on CPU.

  python -m launch.bench --suite=accelerator --minutes=12 --out=DIR

Whole commands, from start to table: launch.compare with --methods=retrain, and the same job with
the same evaluations in plain PyTorch and in Flower:

  python -m launch.bench --whole --python=torch=PATH,flower=PATH

Where the time of a round goes, with a trace for TensorBoard and Perfetto:

  python -m launch.bench --workload=resnet18 --strategies=1x5 --profile=DIR
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
        "strategies",
        [],
        "DxC[:stock|:product], ...: devices x clients at once. Default: jfu's rule.",
    )
    flags.DEFINE_enum(
        "precision",
        "tf32",
        ["float32", "tf32", "bf16"],
        "Precision of products. On CPU tf32 is float32.",
    )
    flags.DEFINE_list("peers", list(PEERS), "Other libraries to measure, if installed.")
    flags.DEFINE_list("python", [], "NAME=PATH, ...: the interpreters that have these libraries.")
    flags.DEFINE_bool(
        "central", False, "Also time centralised training, if there are several devices."
    )
    flags.DEFINE_bool("cold", True, "Also measure fresh starts: memory, cold time and loss.")
    flags.DEFINE_integer(
        "cold_runs", 3, "Fresh starts of each candidate; medians count.", lower_bound=1
    )
    flags.DEFINE_integer("clients", None, "Clients. Default: the job's.", lower_bound=1)
    flags.DEFINE_integer("examples", None, "Examples a client. Default: the job's.", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "Batch size. Default: the job's.", lower_bound=1)
    flags.DEFINE_enum(
        "suite", None, ["accelerator"], "A list of steps in place of one job; see launch/timing."
    )
    flags.DEFINE_float(
        "minutes", 12.0, "How long the suite may take; what does not fit is listed.", lower_bound=0
    )
    flags.DEFINE_string(
        "out", None, "The suite's folder; the same command goes on there. Default: accelerator."
    )
    flags.DEFINE_bool("rehearse", False, "Run every step of the suite on CPU, at a small size.")
    flags.DEFINE_string("data_dir", None, "Where the suite finds data sets, packed or prepared.")
    flags.DEFINE_string(
        "profile",
        None,
        "Trace rounds of the first strategy into this folder, and show the longest operations.",
    )
    flags.DEFINE_bool(
        "whole", False, "Time a whole comparison, from start to table, in place of rounds."
    )
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def bench() -> None:
    if flags.FLAGS.suite:
        from launch.timing.accelerator import suite

        suite.suite()
    elif flags.FLAGS.whole:
        from launch.timing import whole

        whole.whole()
    else:
        from launch.timing import bench

        bench.bench()


if __name__ == "__main__":
    define()
    entry.run(bench, private=False)
