"""The evaluation of a seed's models: ``jfu.evaluation``, with its data on the devices."""

from typing import Any

import numpy as np

import jfu
from jfu import evaluation
from jfu.data.rows import joined
from jfu.evaluation import Backdoor, Evaluation
from launch.setup import keys, private
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.devices import place


def evaluation_of(
    config: Config,
    dataset: Any,
    clients: jfu.ClientData,
    request: jfu.Split,
    poisoned: np.ndarray,
    seed: int,
) -> Evaluation:
    """The evaluation of a seed's models, with its data on the devices.

    Args:
      clients, request: with poisoned images and their poisoned labels.
      poisoned: bool ``[M]``, which training images carry the trigger.
    """
    if hosts.several():  # no example is read here: each host reads those of its own clients
        clients = clients._replace(x=joined([clients.x]))
    made = evaluation.of_request(
        clients,
        request,
        (dataset.x_test, dataset.y_test),
        backdoor=backdoor(config, dataset, poisoned),
        forgotten_classes=classes(config.forget),
        kinds=dataset.topics,
        seed=keys.match(seed),
    )
    if config.dp_clip is not None:
        # Exact shares of private data are published no more often than accuracies need.
        made = made._replace(guess=None)
    if private.hides_clients(config):
        made = made._replace(clients=None)
    where = None
    if hosts.several():
        (x, y), where = evaluation.dealt((made.x, made.y), clients)
    else:
        x, y = place((made.x, made.y))
    return made._replace(x=x, y=y, where=where)


def backdoor(config: Config, dataset: Any, poisoned: np.ndarray) -> Backdoor | None:
    """The planted backdoor, if there is one."""
    from jfu.data import poison

    if not config.backdoor:
        return None
    value = poison.white(dataset.x_train)
    triggered = poison.stamp(dataset.x_test, size=config.backdoor_size, value=value)
    return Backdoor(triggered, config.backdoor_label, poisoned, dataset.y_train)


def classes(forget: str) -> tuple[int, ...]:
    """The classes that a request names; empty for requests of other kinds.

    >>> classes("class:3,7@0.5"), classes("client:0")
    ((3, 7), ())
    """
    if not forget.startswith("class:"):
        return ()
    named = forget.removeprefix("class:").partition("@")[0]
    return tuple(int(name) for name in named.split(","))
