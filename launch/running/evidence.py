"""What an audit reads from a work directory: its models and their outputs (``jfu.audit``)."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jfu
import jfu.io
from jfu.audit import evidence
from jfu.audit.measures import THIRD
from jfu.tasks import TASKS
from launch.running import cells
from launch.running.audit_notes import negated
from launch.running.programs import Programs
from launch.setup import keys
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell.devices import place
from launch.shell.folders import make_folder
from launch.shell.say import say
from launch.workdir.checkpoints import cell_notes
from launch.workdir.places import WorkDir

CONTROLS = "controls"  # the folder of the audit's own retrainings


class Tools(NamedTuple):
    """Compiled functions of a study, shared by seeds."""

    model: evidence.Tools
    programs: Programs


def tools(study: Study, undo: jfu.Unlearner | None) -> Tools:
    """The functions that examine models; ``undo`` negates once more."""
    back = lambda variables: undo.perturb(jfu.Trained(variables), None, None).variables
    model = study.model
    task = TASKS[study.config.task]
    functions = evidence.tools(
        model.apply,
        outputs=model.outputs,
        layers=model.layers,
        undo=back if undo else None,
        judge=None if task.classes else task.judge(study.dataset),
    )
    return Tools(functions, Programs())


def stored(work: WorkDir, seed: int, name: str) -> Any:
    """The variables of a finished run of a method on a seed, or None."""
    notes = cell_notes(work, seed, name)
    if not (notes and notes.get("finished")):
        return None
    # A method may keep more than the federation's state, which is then called inner.
    named = re.compile(r"(?:inner/)*variables/(.+)")
    arrays = jfu.io.load_arrays(work.cell(seed, name))
    flat = {match[1]: a for path, a in arrays.items() if (match := named.fullmatch(path))}
    if not flat:
        raise ValueError(f"{work.cell(seed, name)} has no model; restore it")
    return place(jfu.io.unflatten(flat))


def third(work: WorkDir, study: Study, trial: Trial, programs: Programs) -> WorkDir:
    """Retrains once more with other random numbers, unless that was done before.

    Returns:
      the work directory of its checkpoint ``retrain_third``. It is apart from the run's own
      checkpoints, which the ledger names.
    """
    apart = work._replace(path=work.path / CONTROLS)
    make_folder(apart.path / "cells")
    cell = cells.runner(apart, study, trial, programs, 10)
    cell(THIRD, study.fresh, jfu.Trained(()), trial.request, study.config.rounds, quiet=True)
    return apart


def of_seed(
    study: Study,
    trial: Trial,
    models: dict[str, Any],
    rows: Sequence[dict],
    tools: Tools,
    relearn_rounds: int,
    resurfacing_rounds: int,
) -> evidence.Samples:
    """All measures of one seed's models, by method and measure.

    Args:
      models: variables by method, with ``original`` and the retrained ones.
      rows: the seed's lines of results.jsonl.
    """
    more = functools.partial(further, study, programs=tools.programs)
    key = lambda stream: place(jax.random.fold_in(trial.key, stream))
    return evidence.of_seed(
        tools.model,
        models,
        trial.evaluation,
        np.random.default_rng([trial.seed, keys.COMPARED]),
        rows=rows,
        undone=negated([*models]),
        again=more(trial.everything.retain, key(keys.RELEARN), rounds=relearn_rounds),
        limit=relearn_rounds,
        onward=more(trial.request.retain, key(keys.RESURFACE), rounds=resurfacing_rounds),
        rounds=resurfacing_rounds,
        say=lambda line: say(f"  seed {trial.seed}  {line}"),
    )


def further(
    study: Study, clients: jfu.ClientData, key: Any, *, programs: Programs, rounds: int
) -> Callable:
    """A function that trains a model further with these clients; yields each round's model."""
    fed = study.further

    def after_each_round(variables):
        state = place(fed.init(variables))
        step = programs(fed.round, state, clients, key, donate=(0,))
        for done in jfu.rounds(step, state, clients, key, stop=rounds):
            yield done.state.variables

    return after_each_round
