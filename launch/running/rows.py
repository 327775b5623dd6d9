"""The rows of ``results.jsonl``: costs of rounds, and a line for each evaluated round."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax

import jfu
from jfu.evaluation import measures_of
from jfu.faults import REASONS
from jfu.results import Row
from jfu.tasks import TASKS
from launch.setup import private
from launch.setup.study import Study
from launch.setup.trial import Trial

# Reasons for leaving clients out, and rounds whose mean was not finite; in rows that have any.
FAILURES = (*REASONS, "not_applied")
CALMED = "calmed"  # rounds after which recovery started again; in rows where there are any


class Meter(NamedTuple):
    """What all rows of a method on a seed share, and how its rounds are counted."""

    study: Study
    trial: Trial
    name: str  # of the method
    storage: int  # bytes of the history that it reads
    epsilon: Callable[[int], dict[str, float | None]]  # round -> {"epsilon": ...}; {} without DP
    planned: Callable[[int], dict[str, float]] | None  # round -> expected costs, with DP


def meter(study: Study, trial: Trial, name: str, history: Any, request: jfu.Split) -> Meter:
    return Meter(
        study,
        trial,
        name,
        jfu.nbytes(history),
        private.account(study.config, trial, name, request),
        private.planned(study.config, study, request.retain, name),
    )


def first_costs(study: Study, method: jfu.Unlearner, seconds: float) -> dict:
    """The costs of ``perturb``, which is the server's work."""
    server = method.server
    flops = 0.0 + server.steps * study.per_step
    flops += server.forwards * study.per_forward
    costs = dict(bytes_down=0, bytes_up=0, flops=flops, seconds=seconds, left_out=0)
    return costs | dict.fromkeys((*FAILURES, CALMED), 0)


def add_costs(
    study: Study, costs: dict, info: jfu.RoundInfo, seconds: float, planned: dict | None = None
) -> dict:
    """The costs so far plus those of one more round.

    Args:
      planned: the expected costs of the round, if exact costs and counts must stay private.
    """
    metrics = jax.device_get(info.metrics)  # in one go
    count = lambda name: int(metrics.get(name, 0))
    if planned is not None:
        more = planned | dict(seconds=seconds, not_applied=count("not_applied"))
        return costs | {name: costs[name] + value for name, value in more.items()}
    down, up = study.per_client
    flops = count("steps") * study.per_step + count("forwards") * study.per_forward
    return dict(
        bytes_down=costs["bytes_down"] + round(float(metrics["down"]) * down),
        bytes_up=costs["bytes_up"] + round(float(metrics["up"]) * up),
        flops=costs["flops"] + flops,
        seconds=costs["seconds"] + seconds,
        left_out=costs["left_out"] + sum(map(count, REASONS)),
        **{name: costs.get(name, 0) + count(name) for name in (*FAILURES, CALMED)},
    )


def at_once(fn: Callable, *args) -> Future:
    """``submit`` of an executor that does not wait."""
    done = Future()
    done.set_result(fn(*args))
    return done


def row(
    meter: Meter,
    number: int,
    state: Any,
    costs: dict,
    *,
    attack: bool,
    own: bool = False,
    tests: bool = True,
    submit: Callable[[Callable], Future] = at_once,
) -> Future[Row]:
    """One line of results.jsonl. The model runs now; ``submit`` decides when the rest is measured.

    Args:
      number: of the round.
      costs: of all rounds so far.
      attack: whether membership attacks are run.
      own: whether it is one of the method's own rounds, before recovery.
      tests: whether test examples are evaluated, which attacks need.
    """
    study, trial = meter.study, meter.trial
    data = trial.evaluation if tests or trial.pool is None else trial.pool
    outcomes = jax.block_until_ready(study.judge(state.variables, data.x, data.y))
    canary = study.exposed(state.variables) if attack else {}

    def line():
        more = TASKS[study.config.task].more
        measures = measures_of(data, *outcomes, attack=attack, more=more)
        looked = study.config.faults or study.config.max_update_norm is not None
        hidden = {"seconds", *(k for k in FAILURES if not (looked or costs.get(k)))}
        hidden |= set() if costs.get(CALMED) else {CALMED}
        shown = {k: v for k, v in costs.items() if k not in hidden}
        shown |= dict(storage=meter.storage, seconds=round(costs["seconds"], 6))
        place = dict(method=meter.name, seed=trial.seed, round=number)
        line = (
            place
            | measures
            | canary
            | shown
            | meter.epsilon(number)
            | (dict(own=True) if own else {})
        )
        return private.published(study.config, line)

    return submit(line)
