"""From flags to a ridge federation: its frozen features, its one round, its methods.

Training is one round, in which every client sends its statistics once (``jfu.ridge``). What the
words of a comparison mean here:

original        the head of all data, on the features of the seed or of ``--features``
retrain         the head of the retained data on the same features, in one round of all who stay
retrain again   the same on other features, if they are random: all that chance decides
none            the original, passed off as unlearned
ridge           the answer from the statistics that the server keeps
ridge_subtract  the answer by subtraction, for a server that keeps a total alone

Methods that train by steps make no sense here, and neither do flags of steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

import jfu
import jfu.io
from jfu.faults import guarded
from jfu.unlearn import UNLEARNERS, traits_of
from launch.shell.config import Config

RIDGE = "ridge"  # the value of --federation
REFERENCES = ("retrain", "none")


def chosen(config: Config) -> bool:
    """Whether a configuration is that of a ridge federation."""
    return config.federation == RIDGE


def kept(config: Config) -> tuple[str, ...]:
    """What the server keeps of training by itself: histories by name."""
    if not chosen(config):
        return ()
    return ("total",) if config.sum_only else jfu.ridge.KEPT


def restored(history: dict[str, Any]) -> dict[str, Any]:
    """A history as it was before it went through a file, which keeps names and arrays."""
    typed = lambda kind, tree: jfu.ridge.Statistics(**tree) if kind in jfu.ridge.KEPT else tree
    return {kind: typed(kind, tree) for kind, tree in history.items()}


def usual(sum_only: bool) -> str:
    """The method that answers a request unless another is named."""
    return "ridge_subtract" if sum_only else "ridge"


def methods(given: Sequence[str], typed: bool, sum_only: bool) -> list[str]:
    """The methods of a comparison: without ``--methods`` the references and the usual answer.

    >>> methods(["retrain", "finetune", "not"], False, False)
    ['retrain', 'none', 'ridge']
    >>> methods(["retrain", "all"], True, False)
    ['retrain', 'none', 'ridge', 'ridge_subtract']
    """
    if not typed:
        return [*REFERENCES, usual(sum_only)]
    solving = ["ridge_subtract"] if sum_only else [n for n in UNLEARNERS if traits_of(n).solves]
    every = lambda name: [*REFERENCES, *solving] if name == "all" else [name]
    return list(dict.fromkeys(one for name in given for one in every(name)))


def shares_chance(name: str) -> bool:
    """Whether a method shares with ``retrain`` all that chance decides, by how it is made.

    What is random of ridge heads is their features, which both have from the old model.

    >>> shares_chance("ridge"), shares_chance("not")
    (True, False)
    """
    return name in UNLEARNERS and traits_of(name).solves


def check(config: Config, names: Sequence[str]) -> None:
    """Refuses a penalty of zero, and a method of another kind of federation."""
    if chosen(config) and not config.penalty:
        raise ValueError(
            "--penalty=0 is no ridge, and its matrix may have no inverse; give one above 0"
        )
    for name in names:
        if name not in UNLEARNERS:  # build_methods refuses it
            continue
        solves = traits_of(name).solves
        if solves and not chosen(config):
            raise ValueError(
                f"{name} answers requests to ridge heads on frozen features; train with "
                "--federation=ridge, or choose another method"
            )
        if chosen(config) and not (solves or name in REFERENCES):
            raise ValueError(
                f"{name} trains on from the old model, and --federation=ridge has no training by "
                "steps: each round computes the head anew; choose retrain, none, ridge or "
                "ridge_subtract"
            )


def frozen(model: jfu.Model, variables: Any, given: Any, features: Any) -> jfu.Model:
    """The model whose ``init`` gives the frozen features, and a head of zeros.

    Args:
      variables: their shapes.
      given: variables of a model that was trained before, whose features stay; or None.
      features: the file of ``--features``, open, for models that are not trained yet; or None.
        Without both, features are those of the network's random start, drawn by the key.
    """
    if given is None and features is not None:
        given = jfu.io.adopt(features, variables, without=model.layers[-1])
    if given is None:
        return model
    zeros = jnp.zeros_like(jfu.ridge.empty(model, variables).moment)
    fixed = jfu.ridge.with_head(model, given, zeros)
    return model._replace(init=lambda key: fixed)


def federation(
    config: Config, model: jfu.Model, chunk: int | None, clients: int
) -> tuple[jfu.FederatedAlgorithm, jfu.types.ClientFn]:
    """The federation, and what a client sends in its round.

    Args:
      clients: the number of clients, of each of which the server keeps the statistics.
    """
    fed = jfu.ridge.federation(
        model,
        penalty=config.penalty,
        clients=None if config.sum_only else clients,
        batch_size=config.batch_size,
        chunk=chunk,
    )
    return fed, guarded(jfu.ridge.sender(model, batch_size=config.batch_size))


def block(model: jfu.Model) -> Callable:
    """What a client computes of a batch, as a loss whose operations XLA can count."""

    seen = jfu.ridge.inputs(model)

    def numbers(variables, batch, key):
        del key
        classes = jfu.ridge.empty(model, variables).moment.shape[1]
        sums = jfu.ridge.statistics(seen(variables, batch.x), batch.y, classes)
        return sum(a.sum() for a in sums)

    return numbers
