"""Several hosts: the same command on each."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "coordinator",
        None,
        "Where the hosts meet: HOST:PORT, a free port of the host with --host_id=0. auto leaves "
        "this, --hosts and --host_id to JAX, which finds them under Slurm, Open MPI, Kubernetes "
        "and on Cloud TPU.",
    )
    flags.DEFINE_string(
        "coordinator_bind",
        None,
        "Where host 0 listens, ADDRESS:PORT in numbers. Default: at --coordinator where that is an "
        "address of host 0, else at all of its addresses.",
    )
    flags.DEFINE_integer("hosts", None, "How many hosts there are.", lower_bound=1)
    flags.DEFINE_integer(
        "host_id", None, "Which of them this is; 0 alone reads and writes.", lower_bound=0
    )
    flags.DEFINE_integer("host_timeout", 300, "Seconds to wait for the other hosts.", lower_bound=1)
