"""A real Flower federation on this machine that answers a deletion request while it runs.

Starts a SuperLink and SuperNodes as processes of their own, on the loopback address, and trains on
scikit-learn's digits. Node 0 has planted a backdoor. In the middle of training a request to forget
node 0 comes in. The table shows accuracy and backdoor success by round: before, at and after it.
Needs Flower (pip install 'jfu[flower]').

  python -m launch.flower --workdir=W
  python -m launch.flower --workdir=W --nonegate        only fine-tunes: the backdoor stays
  python -m launch.flower --workdir=W --clients=torch   clients in PyTorch, if it is installed
  python -m launch.flower --workdir=W --simulation      Flower's engine, 'flwr[simulation]'
  python -m launch.ledger --workdir=W

The operator of a client has nothing to change. In the server's program one line is another:
jfu.flower.start in place of strategy.start (launch/live/app/server.py).
"""

from absl import flags

from launch.shell import entry


def define() -> None:
    flags.DEFINE_string("workdir", None, "The server's folder.", required=True)
    flags.DEFINE_integer("nodes", 3, "SuperNodes.", lower_bound=3)
    flags.DEFINE_integer("rounds", 7, "Rounds in all.", lower_bound=2)
    flags.DEFINE_integer("ask_after", 3, "The request comes in during this round.", lower_bound=1)
    flags.DEFINE_enum("clients", "jax", ["jax", "numpy", "torch"], "What clients train with.")
    flags.DEFINE_bool("negate", True, "Negate the first layer. Without it, only fine-tune.")
    flags.DEFINE_integer("recovery_rounds", 10, "Rounds of recovery at most.", lower_bound=1)
    flags.DEFINE_integer(
        "recovery_warmup_rounds", 0, "Rounds of recovery in which the rate rises.", lower_bound=0
    )
    flags.DEFINE_float("lr", 0.1, "The clients' learning rate.", lower_bound=0)
    flags.DEFINE_integer("epochs", 5, "A client's epochs in a round.", lower_bound=1)
    flags.DEFINE_bool("secure", True, "TLS, and SuperNodes that are known by their keys.")
    flags.DEFINE_bool("simulation", False, "Flower's simulation engine in place of processes.")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def flower() -> None:
    from launch.live import running

    running.flower()


if __name__ == "__main__":
    define()
    entry.run(flower)
