"""Several hosts: the same command on each."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "coordinator",
        None,
        "Where the hosts meet: HOST:PORT, with a free port of the host with --host_id=0. auto: JAX "
        "finds the address, --hosts and --host_id itself, under Slurm, Open MPI, Kubernetes and on "
        "Cloud TPU.",
    )
    flags.DEFINE_string(
        "coordinator_bind",
        None,
        "Where host 0 listens: ADDRESS:PORT, in numbers. Default: --coordinator, if that is an "
        "address of host 0; else all addresses of host 0.",
    )
    flags.DEFINE_integer("hosts", None, "The number of hosts.", lower_bound=1)
    flags.DEFINE_integer(
        "host_id",
        None,
        "The number of this host, from 0. Only host 0 reads and writes.",
        lower_bound=0,
    )
    flags.DEFINE_integer("host_timeout", 300, "Seconds to wait for the other hosts.", lower_bound=1)
