"""Samples from further training: how soon the forgotten data is relearnt, and what resurfaces."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jfu.audit.answers import Answers, Tools, accuracies, answers, matched, scores
from jfu.audit.measures import OLD, Arrays, percent
from jfu.evaluation import Evaluation, sides
from jfu.types import Variables

Samples = dict[str, dict[str, Arrays]]  # method -> measure -> arrays, of one seed
# Takes a model to the models after each round of further training.
Again = Callable[[Variables], Iterator[Variables]]


def resurfacing(
    tools: Tools,
    said: Mapping[str, Answers],
    evaluation: Evaluation,
    onward: Again,
    rounds: int,
    found: Samples,
    say: Callable[[str], Any],
) -> None:
    """Adds what is known again after further rounds on retained data, of all but the old model."""
    for name, one in said.items():
        if name == OLD:
            continue
        *_, last = itertools.islice(onward(one.variables), rounds)
        later = answers(tools, last, evaluation)
        again = accuracies(evaluation, later)
        again |= matched(evaluation, later.phi, "auc_matched")
        keys = [key for key in ("forget", "asr", "auc_matched") if key in again]
        found[name] |= {f"resurfacing.{key}": again[key] for key in keys}
        say(f"{name} knows {percent(again['forget'][0]):.1f} % after {rounds} more rounds")


def relearning(
    tools: Tools,
    said: Mapping[str, Answers],
    evaluation: Evaluation,
    again: Again,
    limit: int,
    found: Samples,
    say: Callable[[str], Any],
) -> None:
    """Adds the rounds until accuracy on forgotten data is within 5 points of the old model's."""
    rows = sides(evaluation)["forget"]
    goal = percent(said[OLD].correct[rows]) - 5
    x, y = evaluation.x[rows], np.asarray(evaluation.y)[rows]
    knows = lambda variables: percent(scores(tools, variables, x, y)) >= goal
    needed: dict[str, int] = {}
    for name, one in said.items():
        if name == OLD:
            continue
        needed[name] = _rounds_until(knows, one.variables, again, limit)
        found[name]["relearn"] = np.array([needed[name]]), np.array([limit])
        many = needed[name] if needed[name] <= limit else f"more than {limit}"
        say(f"{name} relearns in {many} rounds")
    reference = needed.get("retrain", 0)
    if 0 < reference <= limit:  # otherwise the divisor is not known
        for name in needed:
            if name != "retrain":
                index = np.array([needed[name]]) / reference, np.array([limit]) / reference
                found[name]["anamnesis"] = index


def _rounds_until(
    knows: Callable[[Variables], bool], variables: Variables, again: Again, limit: int
) -> int:
    """Rounds until a model has learned the data; ``limit + 1`` if it never does."""
    if knows(variables):
        return 0
    after = zip(range(1, limit + 1), again(variables), strict=False)
    return next((number for number, now in after if knows(now)), limit + 1)
