"""Differential privacy of a run: the epsilon of its rounds, and what epsilon does not cover.

``COVERED`` lists the fields of a row that depend only on models, test images and settings. Every
other field is named in ``outside_epsilon``. So a new measure counts as not covered, until it is
added to that list.

Epsilon is composed of phases. A round reveals more if it draws from fewer clients. So training and
the rounds after a request count with the clients that each has. Rounds of earlier work directories
count with the smallest number of clients in any of them. This is a bound, and exact if no client
had left yet.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jfu
from launch.shell.config import FIELDS, Config, having
from launch.shell.devices import near

# Fields of a row that depend only on the model, test images and settings; all others are exact.
COVERED = ("method", "seed", "round", "own", "test", "test_kept", "test_forgotten", "asr")
COVERED += ("bytes_down", "bytes_up", "storage", "not_applied", "epsilon")
# Fields that are left out, because they could reveal a single client.
HIDDEN = ("loss_retain", "loss_forget", "guess", "left_out", *jfu.faults.REASONS)
MUCH = 10.0  # above this, an epsilon promises very little


def hides_clients(config: Config) -> str:
    """Why accuracies of single clients are not shown; empty if they may be shown."""
    return _hides_clients(config.dp_clip, config.sum_only)


def _hides_clients(dp_clip: float | None, sum_only: bool) -> str:
    if dp_clip is not None:
        return (
            "accuracies of single clients are exact, and --dp_clip hides what a single client has"
        )
    if sum_only:
        return "accuracies of single clients would show what --sum_only hides"
    return ""


# ---------------------------------------------------------------- epsilon of rounds


def holding(clients: jfu.ClientData) -> int:
    """The number of clients with live examples, from which a round draws."""
    return int(near(clients.mask).any(-1).sum())


def epsilon(config: Config, phases: Sequence[tuple[int, int]]) -> float:
    """Epsilon of ``phases`` of ``(rounds, clients)``, for a client that is in all of them."""
    given = dict(present=1 - config.absent, drawn=config.sample or None)
    return jfu.privacy.composed(config.dp_noise, phases, config.dp_delta, **given)


def before(config: Config, trial: Any, name: str) -> list[tuple[int, int]] | None:
    """The phases before a run's first round; None for a model from elsewhere (unknown).

    Rounds of earlier work directories count with the smallest number of clients in any of them.
    This is a bound if some had more.
    """
    if config.rounds_before is None or unknown(config):
        return None
    if config.init_params:
        return [(config.rounds_before, trial.fewest)]
    if name in ("original", "train"):
        return []
    return [(config.rounds, holding(trial.everything.retain))]


def unknown(config: Config) -> bool:
    """Whether a run builds on a model whose epsilon is unknown."""
    return config.rounds_before is None or bool(config.init_params and not config.rounds_before)


def is_secret(config: Config) -> bool:
    """Whether keys of rounds come from a secret."""
    return config.dp_clip is not None and not config.dp_noise_from_seed


def boundless(config: Config) -> str:
    """Why there is no epsilon, in words; empty if there is one."""
    if unknown(config):
        return "not known: the epsilon of the model that it began with is unknown"
    if config.dp_noise_from_seed:
        return "none: with --dp_noise_from_seed anyone can compute the noise and subtract it"
    return "" if config.dp_noise else "none: there is no noise"


def account(
    config: Config, trial: Any, name: str, request: jfu.Split
) -> Callable[[int], dict[str, float | None]]:
    """``number -> {"epsilon": ...}`` for a run's rows, of a client that stays; {} without DP.

    Epsilon is None if it is unknown or unbounded (``boundless``).
    """
    if config.dp_clip is None:
        return lambda number: {}
    earlier, now = before(config, trial, name), holding(request.retain)
    if earlier is None or boundless(config):
        return lambda number: dict(epsilon=None)

    def spent(number: int) -> dict[str, float | None]:
        found = epsilon(config, [*earlier, (number, now)])
        return dict(epsilon=found if np.isfinite(found) else None)

    return spent


def outlook(config: Config, trial: Any, plan: Mapping[str, int]) -> list[str]:
    """Messages about a private run before its first round.

    Args:
      plan: rounds by method.
    """
    if config.dp_clip is None:
        return []
    ends = [
        account(config, trial, name, trial.everything if name == "train" else trial.request)(rounds)
        for name, rounds in plan.items()
    ]
    values, many = [end["epsilon"] for end in ends], holding(trial.everything.retain)
    why, delta = boundless(config), f"delta {config.dp_delta:g}"
    bounded = [value for value in values if value is not None]
    if not bounded or len(bounded) < len(values):
        lines = [f"privacy: epsilon is {why or 'not finite: there is too little noise'}"]
    else:
        most = max(bounded)
        lines = [
            f"privacy: epsilon {most:.3g} at {delta} after the last round, for each model alone"
        ]
        if most > MUCH:
            lines.append(
                f"note: an epsilon above {MUCH:g} promises very little; use more clients (with "
                "--sample or --absent), a larger --dp_noise or fewer rounds"
            )
    if config.dp_delta > 1 / many:
        lines.append(
            f"note: --dp_delta={config.dp_delta:g} is more than 1 / {many}, for {many} clients: it "
            f"allows to reveal one of them completely; give less than {1 / many:.2g}"
        )
    return [*lines, f"privacy: {OUTSIDE}"]


# ---------------------------------------------------------------- what lies outside epsilon

OUTSIDE = (
    "Epsilon is for one model alone; for several models, add their epsilons. It does not cover "
    "accuracies on clients' examples, attacks on them, times, the clients' rows and their numbers, "
    "and digests of data; these are exact. Losses on clients' examples and the clients that were "
    "left out are not published. Costs are expected values."
)


def page_note(config: Config) -> str:
    """The note on the page of a private run's audit, and on its shadows; empty without DP."""
    if config.dp_clip is None:
        return ""
    return (
        "Epsilon does not cover this page, nor the outputs of shadow federations. They come from "
        "clients' examples without noise, and are only for people who may see these examples."
    )


def title(config: Config) -> str:
    """The end of titles of a private run's plots."""
    return "" if config.dp_clip is None else " (on clients' examples: not covered by epsilon)"


def published(config: Config, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is written; a private run's without hidden fields, and with notes on epsilon."""
    if config.dp_clip is None:
        return dict(row)
    row = {name: value for name, value in row.items() if name not in HIDDEN}
    exact = [name for name in row if name not in COVERED and row[name] is not None]
    why = dict(epsilon_is=boundless(config)) if boundless(config) else {}
    return row | dict(outside_epsilon=", ".join(exact), **why)


def marked(config: Config, line: Mapping[str, Any], exact: Sequence[str]) -> dict[str, Any]:
    """A line that is made from rows, with the names of its fields that epsilon does not cover."""
    more = {} if config.dp_clip is None else dict(outside_epsilon=", ".join(exact))
    return dict(line) | more


def config_notes(config: Config) -> dict[str, str]:
    """Notes in the config.json of a private run; {} without DP."""
    return {} if config.dp_clip is None else dict(outside_epsilon=OUTSIDE)


def footnote(config: Mapping[str, Any] | None, each: Mapping[str, float | None] = {}) -> str:
    """A paragraph below the tables of a private run; empty without DP.

    Args:
      config: its configuration as a dictionary, or None.
      each: epsilon of models by name.
    """
    if not config or config.get("dp_clip") is None:
        return ""
    shown = lambda value: "not bounded" if value is None else f"{value:.3g}"
    values = ", ".join(f"{name} {shown(value)}" for name, value in each.items())
    at = f"Privacy: epsilon at delta {config['dp_delta']:g}: {values}. " if values else ""
    return f"\n{at}{OUTSIDE}\n"


def no_clients(config: Mapping[str, Any] | None) -> str:
    """A paragraph below a table on why it does not show single clients; empty if it may.

    >>> no_clients(dict(dp_clip=None, sum_only=True)).strip()
    'Not shown: worst client and spread, since accuracies of single clients would show what \
--sum_only hides.'
    """
    config = config or {}
    why = _hides_clients(config.get("dp_clip"), config.get("sum_only", False))
    return f"\nNot shown: worst client and spread, since {why}.\n" if why else ""


def planned(
    config: Config, study: Any, clients: jfu.ClientData, name: str
) -> Callable[[int], dict[str, float]] | None:
    """``number -> {"bytes_down", "bytes_up", "flops"}``, expected costs; None without DP.

    They are costs of all clients, or of the share that takes part. Exact costs would reveal which
    clients took part and which were left out. Without chance and faults both are equal.
    """
    if config.dp_clip is None:
        return None
    sizes = np.asarray(jfu.weights(clients), np.float64)
    there = int((sizes > 0).sum())
    cohort = min(config.sample, there) or there * (1 - config.absent)
    steps = config.epochs * np.ceil(sizes / min(config.batch_size, clients.index.shape[1])).sum()
    steps *= cohort / max(there, 1)
    down, up = study.per_client
    traits = jfu.unlearn.traits_of(name)
    taught = traits.teaches
    flops = float(steps * ((1 + traits.doubles) * study.per_step + taught * study.per_forward))

    def of(number: int) -> dict[str, float]:
        models = cohort * (1 + (taught and number == 1))
        return dict(bytes_down=round(models * down), bytes_up=round(cohort * up), flops=flops)

    return of


# ---------------------------------------------------------------- sums of one


def lonely(config: Config, trial: Any, plan: Mapping[str, int]) -> list[str]:
    """With ``--sum_only``: sentences about sums that will be a single client's update."""
    if not config.sum_only:
        return []
    lines, leaving = [], holding(trial.request.forget)
    if leaving == 1 and (alone := [n for n in plan if jfu.unlearn.traits_of(n).lonely]):
        lines.append(
            f"note: a single client leaves, and works alone in the own round of "
            f"{', '.join(alone)}: the sum is its update, which --sum_only does not hide then"
        )
    least = holding(trial.request.retain)
    if min(config.sample or least, least) == 1:
        lines.append(
            "note: only one client takes part in a round, and the sum is its update: --sum_only "
            "hides nothing"
        )
    elif config.absent:
        chance = least * (1 - config.absent) * config.absent ** (least - 1)
        if chance > 1e-3:
            lines.append(
                f"note: with --absent={config.absent:g} only one of the {least} clients takes part "
                f"in {100 * chance:.2g} % of rounds: --sum_only does not hide its update then"
            )
    return lines


# ---------------------------------------------------------------- keys that are not secret


def apart(stream: jax.Array, config: Config, name: str) -> jax.Array:
    """A run's key; under ``--dp_clip`` one that no other method, request or setting has.

    Noise from the seed (``--dp_noise_from_seed``) hides nothing, but at least no two models share
    it. Without noise all methods share their draws, so that they are easier to compare.
    """
    if config.dp_clip is None:
        return stream
    training = name in ("original", "train")
    without = having("keyless", "request") if training else having("keyless")
    same = [name for name in having("quiet") if getattr(config, name) == FIELDS[name].default]
    what = {k: v for k, v in dataclasses.asdict(config).items() if k not in (*without, *same)}
    text = json.dumps([what, "train" if training else name], sort_keys=True)
    for word in np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32):
        stream = jax.random.fold_in(stream, word)
    return stream
