"""Differential privacy of a run: what its rounds tell, and noise that is never drawn twice."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import jfu
from launch.flags import Config

# What a request may choose, which training knows nothing of; and what changes no round.
ASKED = ("forget", "layers", "weights_only", "follow_means", "recovery_rounds", "recovery_lr")
ASKED += ("recovery_warmup_rounds", "options")
APART = ("data_dir", "init_params", "rounds_before", "eval_every", "attack_every", "proxy")


def holding(clients: jfu.ClientData) -> int:
    """How many clients have live examples: those that a round draws from."""
    return int((jfu.weights(clients) > 0).sum())


def epsilon(config: Config, phases: Sequence[tuple[int, int]]) -> float:
    """What ``phases`` of ``(rounds, clients)`` tell of a client that took part in all of them."""
    given = dict(present=1 - config.absent, drawn=config.sample or None)
    return jfu.privacy.composed(config.dp_noise, phases, config.dp_delta, **given)


def before(config: Config, trial: Any, name: str) -> list[tuple[int, int]] | None:
    """The phases before a cell's first round; None of a model from elsewhere, which says nothing.

    Rounds of earlier work directories count with the fewest clients that there were in any of
    them, which is a bound where some had more.
    """
    if unknown(config):
        return None
    if config.init_params:
        return [(config.rounds_before, trial.fewest)]
    if name in ("original", "train"):
        return []
    return [(config.rounds, holding(trial.everything.retain))]


def unknown(config: Config) -> bool:
    """Whether a run builds on a model of which nobody knows how it was trained."""
    return config.rounds_before is None or bool(config.init_params and not config.rounds_before)


def account(
    config: Config, trial: Any, name: str, request: jfu.Split
) -> Callable[[int], dict[str, float | None]]:
    """``number -> {"epsilon": ...}`` for a cell's rows, of a client that stays; {} without DP."""
    if config.dp_clip is None:
        return lambda number: {}
    earlier, now = before(config, trial, name), holding(request.retain)
    if earlier is None:
        return lambda number: dict(epsilon=None)
    return lambda number: dict(epsilon=epsilon(config, [*earlier, (number, now)]))


def apart(stream: jax.Array, config: Config, name: str) -> jax.Array:
    """A cell's key; under ``--dp_clip`` one that no other method, request or setting has.

    Noise that two published models share cancels in their difference. Without noise all methods
    share their draws, which makes them easier to compare.
    """
    if config.dp_clip is None:
        return stream
    training = name in ("original", "train")
    left = APART + (ASKED if training else ())
    what = {k: v for k, v in dataclasses.asdict(config).items() if k not in left}
    text = json.dumps([what, "train" if training else name], sort_keys=True)
    for word in np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32):
        stream = jax.random.fold_in(stream, word)
    return stream
