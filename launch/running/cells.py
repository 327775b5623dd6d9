"""One run of a method on a seed: train or unlearn, evaluate, checkpoint, continue."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

import jfu
import jfu.history
from jfu.metrics import first_round_within
from jfu.results import as_original
from launch.running import ahead
from launch.running.programs import Programs
from launch.running.progress import say_calmed, say_cut, say_done
from launch.running.rows import Meter, add_costs, at_once, first_costs, meter, row
from launch.setup import evaluated, keys, private, ridge
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell import hosts
from launch.shell.devices import place
from launch.shell.entry import OutOfTime
from launch.shell.say import say
from launch.workdir import secret
from launch.workdir.checkpoints import cell_notes, read_cell, write_cell
from launch.workdir.places import WorkDir


class Shared(NamedTuple):
    """What all runs on a seed share."""

    work: WorkDir
    study: Study
    trial: Trial
    programs: Programs
    checkpoint_every: int  # rounds
    deadline: float = (
        math.inf
    )  # no round begins that would end later, if it takes as long as the last one


class Cell(NamedTuple):
    """One method's run on one seed, from perturbation to its last round."""

    name: str
    method: jfu.Unlearner
    trained: jfu.Trained  # the original model
    request: jfu.Split
    budget: int  # rounds after ``perturb``
    quiet: bool = False  # evaluate the last round only (training before the request)
    enough: float | None = None  # stop at the first evaluated round with this retained accuracy
    # Retained accuracies at which stopping rules stop; None if they are not known yet.
    goals: tuple[float, ...] | None = None


class Progress(NamedTuple):
    """The progress of a run."""

    state: Any
    rows: list[dict]  # one an evaluated round, round 0 among them
    costs: dict  # of all rounds so far
    round: int
    finished: bool


def run_cell(shared: Shared, cell: Cell) -> tuple[Any, list[dict]]:
    """Runs or continues one method on one seed to its last round.

    Returns:
      ``(state, rows)``: the last state, and one row for each evaluated round, with round 0.

    Raises:
      OutOfTime: rounds are left at the deadline, and there is a checkpoint. Each call runs at least
        one round, if there is one to run.
    """
    study, trial = shared.study, shared.trial
    cell = cell._replace(trained=as_needed(study, cell))
    frozen = ridge.chosen(study.config)
    stream = keys.run(trial.key, cell.name, study.config.past, frozen=frozen)
    stream = private.apart(stream, study.config, cell.name)
    perturb_key, rounds_key = place(keys.pair(stream))
    counts = meter(study, trial, cell.name, cell.trained.history, cell.request)
    progress = resume(shared, cell, perturb_key) or start(shared, cell, counts, perturb_key)
    if not progress.finished:
        if private.is_secret(study.config):
            given = shared.work, trial.seed, cell.name, cell.trained.variables, cell.request
            rounds_key = secret.key(*given, begun=progress.round > 0)
        progress = advance(shared, cell, counts, progress, rounds_key)
    return progress.state, progress.rows


def as_needed(study: Study, cell: Cell) -> jfu.Trained:
    """The parts of the original model that a method needs.

    Training and retraining need none, so that they are one program.
    """
    if begins_anew(study, cell.method):
        return jfu.Trained(())
    history = jfu.history.needed(cell.trained.history, cell.method.needs.history)
    return jfu.Trained(cell.trained.variables, history)


def begins_anew(study: Study, method: jfu.Unlearner) -> bool:
    return method in (study.fresh, study.train)


def resume(shared: Shared, cell: Cell, key: jax.Array) -> Progress | None:
    """The progress in a checkpoint; None without a checkpoint."""
    like = jax.eval_shape(cell.method.perturb, cell.trained, cell.request, key)
    kept = kept_cell(shared.work, shared.trial, cell.name, like)
    if kept is None:
        return None
    state, notes = kept
    finished = notes["round"] == cell.budget or bool(notes.get("finished"))
    if finished:
        secret.forget(shared.work.path, shared.trial.seed, cell.name)
    return Progress(place(state), notes["rows"], notes["spent"], notes["round"], finished)


def start(shared: Shared, cell: Cell, counts: Meter, key: jax.Array) -> Progress:
    """Perturbs the model and evaluates it as round 0; without rounds that is all."""
    study, method = shared.study, cell.method
    given = cell.trained, cell.request, key
    perturb = shared.programs(method.perturb, *given, quick=begins_anew(study, method))
    began = time.perf_counter()
    state = jax.block_until_ready(perturb(*given))
    costs = first_costs(study, method, time.perf_counter() - began)
    if jfu.unlearn.traits_of(cell.name).perturbs:  # or nothing would be forgotten
        some, old = place(study.dataset.x_test[:64]), cell.trained.variables
        if jfu.unlearn.answers_alike(study.logits, old, some):
            who = f"the model of seed {shared.trial.seed}"
            say(f"note: {who} answers {len(some)} inputs alike, so it has learnt nothing to forget")
        else:
            jfu.check_changed(study.logits, old, state.variables, some)
    rows = []
    if not cell.quiet or cell.budget == 0:
        # A model that nobody has trained yet is at chance, so its test examples may be left out.
        alike = cell.budget > 0 and begins_anew(study, method) and shared.trial.pool is not None
        rows = [row(counts, 0, state, costs, attack=not alike, tests=not alike).result()]
    progress = Progress(state, rows, costs, 0, finished=cell.budget == 0)
    if progress.finished:
        keep(shared, cell, progress)
    return progress


def advance(
    shared: Shared, cell: Cell, counts: Meter, progress: Progress, key: jax.Array
) -> Progress:
    """Runs the remaining rounds, and writes checkpoints."""
    seed, deadline, budget = shared.trial.seed, shared.deadline, cell.budget
    state, rows, costs, done, _ = progress
    step = shared.programs(cell.method.recover, state, cell.request, key, donate=(0,))
    # Attacks run on the host while an accelerator runs the next round; on a CPU this costs time.
    on_cpu = shared.study.layout.backend == "cpu"
    submit = at_once if on_cpu else ThreadPoolExecutor(1).submit
    began = said = before = time.perf_counter()
    for number, state, info, seconds in jfu.rounds(  # noqa: B020
        step, state, cell.request, key, start=done, stop=budget
    ):
        costs = add_costs(
            shared.study, costs, info, seconds, counts.planned and counts.planned(number)
        )
        if number == 1:
            say_cut(shared.study, seed, cell.name, info.metrics)
        say_calmed(seed, cell.name, number, info.metrics)
        new, final = evaluate(cell, counts, number, state, costs, submit, rows)
        rows = [*rows, *new]
        now = time.perf_counter()
        over = deadline < math.inf and hosts.agreed(lambda: 2 * now - before > deadline)
        before = now
        if final or over or number % shared.checkpoint_every == 0:
            rows = [line.result() if isinstance(line, Future) else line for line in rows]
            progress = Progress(state, rows, costs, number, final)
            keep(shared, cell, progress)
        if final:
            break
        if over:
            raise OutOfTime(
                f"--max_minutes is over at seed {seed}, {cell.name}, round {number} of {budget}"
            )
        if time.perf_counter() - said > 5:
            said = time.perf_counter()
            left = (said - began) / (number - done) * (budget - number)
            say(f"  seed {seed}  {cell.name:<10} round {number}/{budget}, {left:.0f} s left")
    return progress


def evaluate(
    cell: Cell,
    counts: Meter,
    number: int,
    state: Any,
    costs: dict,
    submit: Callable,
    before: Sequence[Any],
) -> tuple[list[Future], bool]:
    """A round's row, if it has one, and whether the round is the last."""
    config, final, trial = counts.study.config, number == cell.budget, counts.trial
    every, small = config.eval_every, evaluated.is_small(trial.evaluation)
    # A rule that stops the run here and now looks after every round.
    small = small or cell.enough is not None
    if not final and (cell.quiet or not evaluated.due(number, every, small)):
        return [], False
    attack = final or bool(config.attack_every and number % config.attack_every == 0)
    # A head in closed form needs no recovery, so its own round counts.
    own = number <= cell.method.own and not jfu.unlearn.traits_of(cell.name).solves
    common = dict(own=own, submit=submit)
    tests = final or attack or trial.pool is None or cell.goals is None
    line = row(counts, number, state, costs, attack=attack, tests=tests, **common)
    if not tests and reaches(cell.goals or (), before, line.result()):
        line = row(counts, number, state, costs, attack=attack, **common)
    if cell.enough is not None and not (final or own) and line.result()["retain"] >= cell.enough:
        return [row(counts, number, state, costs, attack=True)], True
    return [line], final


def reaches(goals: Sequence[float], before: Sequence[Any], line: Mapping[str, Any]) -> bool:
    """Whether a stopping rule stops at a row: the first with a retained accuracy.

    Args:
      goals: retained accuracies to come within half a point of.
      before: earlier rows of the run, or futures of rows.
    """
    rows = [one.result() if isinstance(one, Future) else one for one in before]
    first = lambda some, goal: first_round_within(some, goal) is not None
    return any(first([line], goal) and not first(rows, goal) for goal in goals)


def keep(shared: Shared, cell: Cell, progress: Progress) -> None:
    """Writes a checkpoint. With the last one, removes the secret of the run's noise."""
    state, rows, costs, number, finished = progress
    notes = dict(round=number, rows=rows, spent=costs, finished=finished)
    write_cell(shared.work, shared.trial.seed, cell.name, state, notes)
    if finished:
        secret.forget(shared.work.path, shared.trial.seed, cell.name)


def kept_cell(work: WorkDir, trial: Trial, name: str, like: Any) -> tuple[Any, dict] | None:
    """A checkpoint. Older histories do not say which clients took part; then all did."""
    history = getattr(like, "history", {})
    try:
        return read_cell(work, trial.seed, name, like)
    except ValueError as error:
        if "came" not in history:
            raise
        earlier = {kind: rows for kind, rows in history.items() if kind != "came"}
        try:
            found = read_cell(work, trial.seed, name, like._replace(history=earlier))
        except ValueError:
            raise error from None
    if found is None:
        return None
    state, notes = found
    everybody = jfu.weights(trial.everything.retain)
    return state._replace(history={**state.history, "came": everybody}), notes


def original(
    study: Study, trial: Trial, cell: Callable, name="original", quiet=True, further: int = 0
):
    """The original model: trained here, or elsewhere and then ``further`` rounds here.

    Returns:
      ``(trained, row, rows)``: its one line of results.jsonl, before the request has any cost, and
      the rows of its training.
    """
    if study.given is not None:
        method, budget = jfu.unlearn.finetune(study.further), further
        start = jfu.Trained(place(study.given))
    else:
        method, budget = study.train, study.config.rounds
        start = jfu.Trained(())  # retraining needs no model
    state, rows = cell(name, method, start, trial.everything, budget, quiet=quiet)
    history = getattr(state, "history", ())
    return jfu.Trained(state.variables, history), as_original(rows[-1]), rows


def runner(
    work: WorkDir,
    study: Study,
    trial: Trial,
    programs: Programs,
    checkpoint_every: int,
    deadline: float = math.inf,
    last: str | None = None,
) -> Callable[..., tuple[Any, list[dict]]]:
    """``run_cell`` for one seed, with a line of progress at its end; called like ``Cell``.

    If a deadline passes during a run, OutOfTime is raised after that run at the latest. It is not
    raised after the run called ``last``, because no other follows.
    """
    shared = Shared(work, study, trial, programs, checkpoint_every, deadline)

    @functools.cache
    def at_work():
        """``shared`` for the runs that are not finished: what they need begins now."""
        ahead.attacking(trial)
        return shared._replace(study=ahead.judging(study, trial))

    def run(*given, **options):
        cell = Cell(*given, **options)
        began = time.perf_counter()
        kept = cell_notes(work, trial.seed, cell.name)
        worked = not (kept and kept.get("finished"))
        state, rows = run_cell(at_work() if worked else shared, cell)
        say_done(trial.seed, cell.name, rows[-1], time.perf_counter() - began)
        late = deadline < math.inf and hosts.agreed(lambda: time.perf_counter() > deadline)
        if late and worked and cell.name != last:
            raise OutOfTime(f"--max_minutes is over after seed {trial.seed}, {cell.name}")
        return state, rows

    return run
