"""The flags that the scripts share: a module for each group, in the order that --help shows.

The heading of a group in ``--help`` is the first line of its module (``launch.shell.help``).
"""

from launch.shell.flags import (
    comparison,
    data,
    federation,
    hosts,
    model,
    poison,
    privacy,
    request,
    running,
    training,
)

GROUPS = (data, poison, model, training, federation, privacy, request, running, hosts)


def define() -> None:
    """Defines the flags of a run, in groups; a script calls it once, before ``entry.run``."""
    for group in GROUPS:
        group.define()


def define_comparison() -> None:
    """Defines the flags of a comparison, for the scripts that run one."""
    comparison.define()
