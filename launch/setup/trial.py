"""One seed of a study: its data on the devices, and the evaluation of its models."""

from typing import NamedTuple

import jax
import numpy as np

import jfu
from jfu.evaluation import Evaluation, of_pool
from launch.setup import evaluated, identity
from launch.setup.clients import images
from launch.setup.evaluation import evaluation_of
from launch.setup.study import Study
from launch.shell import hosts
from launch.shell.devices import place


class Trial(NamedTuple):
    """One seed: its split of the data, its request, and the evaluation of its models."""

    seed: int
    key: jax.Array
    everything: jfu.Split  # nothing forgotten
    request: jfu.Split
    evaluation: Evaluation
    fewest: int = 0  # the smallest number of clients so far, with --dp_clip
    draws: identity.Draws | None = None  # its split, requests and poison
    poisoned: np.ndarray | None = None  # bool [M], rows with the trigger or the canary
    pool: Evaluation | None = None  # without test examples, for rounds that leave them out


def prepare_trial(study: Study, seed: int) -> Trial:
    """A seed's data on the devices; each of several hosts has its own clients' examples."""
    config, dataset, drawn = study.config, study.dataset, study.drawn[seed]
    with hosts.aside():
        clients = images(config, dataset, drawn)
        everything = jfu.split(clients, np.zeros(clients.mask.shape, bool))
        request = everything if drawn.forget is None else jfu.split(clients, drawn.forget)
    # First, because on several hosts one may find here that its examples differ.
    spread = lambda: jfu.spread(clients) if hosts.several() else place(clients)
    pool = hosts.together(spread)  # once for all four sides
    evaluation = evaluation_of(config, dataset, clients, request, drawn.poisoned, seed)
    few = evaluated.without_tests(config.eval_every, evaluation)
    side = lambda rows: pool._replace(mask=place(rows.mask))
    everything, request = (jfu.Split(*map(side, split)) for split in (everything, request))
    return Trial(
        seed,
        jax.random.key(seed),
        everything,
        request,
        evaluation,
        drawn.fewest,
        drawn.draws,
        drawn.poisoned,
        of_pool(evaluation) if few else None,
    )


def names_the_poison(poisoned: np.ndarray, forget: np.ndarray, retain: np.ndarray) -> bool:
    """Whether a request names images with the trigger, and no other image with the trigger stays.

    Args:
      poisoned, forget, retain: bool ``[M]``, by row of the training examples.

    >>> trigger, every = np.array([True, False]), np.array([True, True])
    >>> names_the_poison(trigger, every, ~every), names_the_poison(trigger, ~every, every)
    (True, False)
    """
    return bool((poisoned & forget).any()) and not (poisoned & retain).any()
