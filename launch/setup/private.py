"""Differential privacy of a run: what its rounds tell, and what lies outside that.

The fields of a row that come of models, test images and settings alone are listed here. Every other
field is named in ``outside_epsilon``, so a new measure is outside until somebody thinks about it.

Epsilon goes by phases. A round tells more the fewer clients it draws from, so training and what
follows a request are accounted for with the clients that each has. Rounds of earlier work
directories count with the fewest that there were in any of them: a bound, exact where nobody had
left yet.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jfu
from launch.shell.config import Config, having

# What of a row comes of the model, of test images and of settings alone; all else is exact.
COVERED = ("method", "seed", "round", "own", "test", "test_kept", "test_forgotten", "asr")
COVERED += ("bytes_down", "bytes_up", "storage", "not_applied", "epsilon")
# What is left out, since a single client may be read from it.
HIDDEN = ("loss_retain", "loss_forget", "guess", "left_out", *jfu.faults.REASONS)
MUCH = 10.0  # an epsilon above which hardly anything is promised


# ---------------------------------------------------------------- what rounds tell


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
    if config.rounds_before is None or unknown(config):
        return None
    if config.init_params:
        return [(config.rounds_before, trial.fewest)]
    if name in ("original", "train"):
        return []
    return [(config.rounds, holding(trial.everything.retain))]


def unknown(config: Config) -> bool:
    """Whether a run builds on a model of which nobody knows what it tells."""
    return config.rounds_before is None or bool(config.init_params and not config.rounds_before)


def is_secret(config: Config) -> bool:
    """Whether keys of rounds come from a secret."""
    return config.dp_clip is not None and not config.dp_noise_from_seed


def boundless(config: Config) -> str:
    """Why no epsilon can be told, in words; empty where one can."""
    if unknown(config):
        return "not known: nobody knows what the model tells that it began with"
    if config.dp_noise_from_seed:
        return "none: with --dp_noise_from_seed anybody can compute the noise and take it off"
    return "" if config.dp_noise else "none: there is no noise"


def account(
    config: Config, trial: Any, name: str, request: jfu.Split
) -> Callable[[int], dict[str, float | None]]:
    """``number -> {"epsilon": ...}`` for a cell's rows, of a client that stays; {} without DP.

    None where nobody can tell, or nothing bounds it (``boundless``).
    """
    if config.dp_clip is None:
        return lambda number: {}
    earlier, now = before(config, trial, name), holding(request.retain)
    if earlier is None or boundless(config):
        return lambda number: dict(epsilon=None)

    def told(number: int) -> dict[str, float | None]:
        found = epsilon(config, [*earlier, (number, now)])
        return dict(epsilon=found if np.isfinite(found) else None)

    return told


def outlook(config: Config, trial: Any, plan: Mapping[str, int]) -> list[str]:
    """What is to be said of a private run before its first round.

    Args:
      plan: rounds by cell.
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
            f"privacy: epsilon {most:.3g} at {delta} after the last round, of each model alone"
        ]
        if most > MUCH:
            lines.append(
                f"note: an epsilon above {MUCH:g} promises hardly anything; it takes more clients "
                "(with --sample or --absent), a larger --dp_noise or fewer rounds"
            )
    if config.dp_delta > 1 / many:
        lines.append(
            f"note: --dp_delta={config.dp_delta:g} is more than one over the {many} clients: it "
            f"allows to show one of them whole; give less than {1 / many:.2g}"
        )
    return [*lines, f"privacy: {OUTSIDE}"]


# ---------------------------------------------------------------- what lies outside epsilon

OUTSIDE = (
    "Epsilon is of a model by itself; whoever sees several adds them up. Outside of it, and exact, "
    "are accuracies on clients' examples, attacks on them, times, who holds how much and which "
    "rows, and digests of data. Losses on clients' examples and who was left out are not told; "
    "costs are expected ones."
)


def page_note(config: Config) -> str:
    """What the page of an audit says of a private run, and its shadows; empty without DP."""
    if config.dp_clip is None:
        return ""
    return (
        "This page is outside epsilon, and so are the answers of shadow federations: they are made "
        "of clients' examples as they are, and are for those who may see these."
    )


def title(config: Config) -> str:
    """What the titles of a private run's plots end with."""
    return "" if config.dp_clip is None else " (on clients' examples: outside epsilon)"


def published(config: Config, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is written: of a private run with what it says of itself, and not all of it."""
    if config.dp_clip is None:
        return dict(row)
    row = {name: value for name, value in row.items() if name not in HIDDEN}
    exact = [name for name in row if name not in COVERED and row[name] is not None]
    why = dict(epsilon_is=boundless(config)) if boundless(config) else {}
    return row | dict(outside_epsilon=", ".join(exact), **why)


def marked(config: Config, line: Mapping[str, Any], exact: Sequence[str]) -> dict[str, Any]:
    """A line of what is made of rows, which says that these of its fields are outside epsilon."""
    more = {} if config.dp_clip is None else dict(outside_epsilon=", ".join(exact))
    return dict(line) | more


def config_notes(config: Config) -> dict[str, str]:
    """What the config.json of a private run says of itself; {} without DP."""
    return {} if config.dp_clip is None else dict(outside_epsilon=OUTSIDE)


def footnote(config: Mapping[str, Any] | None, told: Mapping[str, float | None] = {}) -> str:
    """A paragraph for what is written of a private run; empty without DP.

    Args:
      config: its configuration as a dictionary, or None.
      told: epsilon of models by name.
    """
    if not config or config.get("dp_clip") is None:
        return ""
    shown = lambda value: "not bounded" if value is None else f"{value:.3g}"
    each = ", ".join(f"{name} {shown(value)}" for name, value in told.items())
    at = f"Privacy: epsilon at delta {config['dp_delta']:g}: {each}. " if each else ""
    return f"\n{at}{OUTSIDE}\n"


def planned(
    config: Config, study: Any, clients: jfu.ClientData, name: str
) -> Callable[[int], dict[str, float]] | None:
    """``number -> {"bytes_down", "bytes_up", "flops"}``, what a round costs by expectation.

    Of all clients, or of the share that takes part: exact costs would show who came, and who was
    left out. Without chance and without faults they are the exact ones. None without DP.
    """
    if config.dp_clip is None:
        return None
    sizes = np.asarray(jfu.weights(clients), np.float64)
    there = int((sizes > 0).sum())
    cohort = min(config.sample, there) or there * (1 - config.absent)
    steps = config.epochs * np.ceil(sizes / min(config.batch_size, clients.index.shape[1])).sum()
    steps *= cohort / max(there, 1)
    down, up = study.per_client
    taught = jfu.unlearn.traits_of(name).teaches
    flops = float(steps * (study.per_step + taught * study.per_forward))

    def of(number: int) -> dict[str, float]:
        models = cohort * (1 + (taught and number == 1))
        return dict(bytes_down=round(models * down), bytes_up=round(cohort * up), flops=flops)

    return of


# ---------------------------------------------------------------- sums of one


def lonely(config: Config, trial: Any, plan: Mapping[str, int]) -> list[str]:
    """Where, with ``--sum_only``, a sum will be what a single client sent, in sentences."""
    if not config.sum_only:
        return []
    lines, leaving = [], holding(trial.request.forget)
    if leaving == 1 and (alone := [n for n in plan if jfu.unlearn.traits_of(n).lonely]):
        lines.append(
            f"note: a single client leaves, and works alone in the own round of "
            f"{', '.join(alone)}: that sum is its update, which --sum_only does not hide then"
        )
    least = holding(trial.request.retain)
    if min(config.sample or least, least) == 1:
        lines.append(
            "note: one client alone takes part in a round, whose sum is its update: --sum_only "
            "hides nothing"
        )
    elif config.absent:
        chance = least * (1 - config.absent) * config.absent ** (least - 1)
        if chance > 1e-3:
            lines.append(
                f"note: with --absent={config.absent:g} one of the {least} clients comes alone in "
                f"{100 * chance:.2g} % of rounds: --sum_only then does not hide its update"
            )
    return lines


# ---------------------------------------------------------------- keys that are no secret


def apart(stream: jax.Array, config: Config, name: str) -> jax.Array:
    """A cell's key; under ``--dp_clip`` one that no other method, request or setting has.

    Where noise comes from the seed (``--dp_noise_from_seed``), which hides nothing, it is not
    shared by two models at least. Without noise all methods share their draws, which makes them
    easier to compare.
    """
    if config.dp_clip is None:
        return stream
    training = name in ("original", "train")
    without = having("keyless", "request") if training else having("keyless")
    what = {k: v for k, v in dataclasses.asdict(config).items() if k not in without}
    text = json.dumps([what, "train" if training else name], sort_keys=True)
    for word in np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32):
        stream = jax.random.fold_in(stream, word)
    return stream
