"""A comparison: every method on every seed, and the table of what is finished."""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

import jfu
from jfu import tables
from jfu.results import AGAIN
from jfu.tasks import TASKS
from launch.records import ledgers, records
from launch.report import figures, report
from launch.running import ahead, cells, table
from launch.running.programs import Programs
from launch.running.progress import announce
from launch.setup import federation, private, ridge
from launch.setup.methods import budget, build_methods, remembered, remembering, rounds_to_run
from launch.setup.study import Study, prepare_study
from launch.setup.trial import Trial, prepare_trial
from launch.shell import devices, entry, hosts, joining
from launch.shell.config import Config, resolve, workdir_for
from launch.shell.printing import listed, show
from launch.shell.say import say
from launch.shell.typed import said
from launch.workdir import outcome, places, runs, workdir
from launch.workdir.places import WorkDir

FLAGS = flags.FLAGS


class Asked(NamedTuple):
    """The work that the flags of a comparison request, beside its configuration."""

    names: list[str]  # methods
    seeds: list[int]
    keep: list[str]  # the history that training keeps
    until: float  # when --max_minutes are over
    checkpoint_every: int
    tests: bool = False  # whether test examples are evaluated in every evaluated round


def compare() -> None:
    began = time.perf_counter()
    work, config, rows = run()
    if not hosts.first():
        return
    summary, text = table.write(work.path, table.read([work.path]))
    many = len(summary["seeds"])
    title = f"{config.dataset}, {config.model}: forget {config.forget}, mean of {many} seeds"
    title += private.title(config)
    curves = functools.partial(figures.curves, words=TASKS[config.task].words)
    plots = [(curves, rows, "curves.png"), (figures.costs, summary, "costs.png")]
    named = [n for draw, of, n in plots if figures.drawn(draw, of, str(work.path / n), title)]
    records.compared(work, config, rows, [*report.contents(summary, text), places.PLAN, *named])
    show(f"\n{text}\n{tables.legend(summary)}")
    took = f"{time.perf_counter() - began:.0f} s"
    show(f"{took}; {listed(['results', 'table', *named])} are in {work.path}/")


def run(*, tests: bool = False) -> tuple[WorkDir, Config, list[Any]]:
    """Runs all methods and seeds that the flags request, as far as they are not finished.

    Args:
      tests: whether test examples are evaluated in every evaluated round.

    Returns:
      ``(work, config, rows)``: all rows in the work directory, on the first host.

    Raises:
      OutOfTime: some are not finished; their table is printed and written.
    """
    until = entry.deadline(FLAGS.max_minutes)
    joining.join(FLAGS, FLAGS.clients)
    names = asked_methods()
    config = resolve(names)
    keep = kept(config, names, FLAGS.keep_history)
    hosts.together(lambda: federation.check(config, names, keep, **said()))
    where = workdir_for(config, "compare", **({"keep_history": keep} if keep else {}))
    config = workdir.as_begun(where, config)
    work = workdir.open_workdir(where, config, "compare")
    hosts.agreed(lambda: ledgers.check(work.path))
    if work.layout is not None:
        keep = workdir.same_history(work, keep, names)
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    seeds = list(range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds))
    asked = Asked(names, seeds, keep, until, FLAGS.checkpoint_every, tests)
    with devices.on_devices(layout):
        work, rows = run_seeds(work, config, layout, asked)
    if hosts.first():
        rows = outcome.read_results(work)
    return work, config, rows


def asked_methods() -> list[str]:
    """The methods that the flags name; ridge federations have a default of their own."""
    given = FLAGS.methods
    if FLAGS.federation == ridge.RIDGE:
        given = ridge.methods(given, bool(FLAGS["methods"].present), FLAGS.sum_only)
    return expand(given, FLAGS.forget, FLAGS.init_params)


def expand(given: Sequence[str], forget: str, init_params: str | None = None) -> list[str]:
    """The methods of --methods; ``all`` means the published ones that can answer the request."""
    names: dict[str, None] = {}
    for name in given:
        if name != "all":
            names[name] = None
            continue
        for one in jfu.unlearn.COMPARED:
            needs = jfu.unlearn.needs_of(one)
            if needs.whole_clients and not forget.startswith("client:"):
                say(f"left out: {one} takes whole clients out, and --forget={forget} is less")
            elif needs.history and init_params:
                say(f"left out: {one} needs a history, and --init_params has none")
            else:
                names[one] = None
    return list(names)


def kept(config: Config, names: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """The history that training keeps: the requested one, or what the methods need."""
    if ridge.chosen(config):
        return list(given or ())  # it keeps what its methods need by itself
    if not config.init_params:
        return list(given or remembered(names))
    if given:
        raise ValueError("--keep_history does nothing with --init_params; leave one of them out")
    return []  # the training of that model is not known


def begin(
    work: WorkDir, config: Config, layout: devices.Layout, asked: Asked
) -> tuple[WorkDir, Study, Trial, dict[str, jfu.Unlearner]]:
    """Opens the work directory for writing; makes what seeds share, and the first seed's trial."""
    names, seeds, keep = asked.names, asked.seeds, asked.keep
    ahead.drawing()
    taken = workdir.taken(work, seeds)
    made = runs.of_model(config) | {work.path: work.data}
    study = hosts.together(lambda: prepare_study(config, layout, seeds, taken, made))
    methods = build_methods(study, names)
    trial = prepare_trial(study, seeds[0])
    for name, method in methods.items():
        jfu.unlearn.check_request(method, trial.request, [*keep, *ridge.kept(config)], name)
    study = remembering(study, keep, trial)
    work = workdir.begin(work, config, "compare", study.layout, study.data, keep_history=keep)
    hosts.agreed(lambda: records.reopen(work))
    hosts.agreed(lambda: records.begun(work, config))
    outcome.write_plan(work, planned(methods), seeds)
    doing = f"methods {', '.join(methods)}; seeds {seeds[0]} to {seeds[-1]}"
    announce(study, trial, doing, work, {name: budget(config, name) for name in methods})
    return work, study, trial, methods


def planned(methods: dict[str, jfu.Unlearner]) -> list[str]:
    """The runs of a seed: the original model, the methods, and retraining once more."""
    return ["original", *methods, *[AGAIN] * ("retrain" in methods)]


def run_seeds(
    work: WorkDir, config: Config, layout: devices.Layout, asked: Asked
) -> tuple[WorkDir, list[dict[str, Any]]]:
    """Runs every seed, and writes the rows after each."""
    work, study, trial, methods = begin(work, config, layout, asked)
    ahead.imported(ahead.FIGURES)
    programs, rows = Programs(), []
    try:
        for seed in asked.seeds:
            if seed != trial.seed:
                del trial  # frees its images before the next seed's are made
                trial = prepare_trial(study, seed)
            work = workdir.keep_draws(work, seed, trial.draws)
            rows += run_seed(work, study, trial, methods, programs, asked)
            outcome.write_results(work, rows)
    except entry.OutOfTime as stop:
        if left := hosts.agreed(lambda: so_far(work, planned(methods), asked.seeds)):
            raise entry.OutOfTime(f"{stop}; {left}") from None
    return work, rows


def run_seed(
    work: WorkDir,
    study: Study,
    trial: Trial,
    methods: dict[str, jfu.Unlearner],
    programs: Programs,
    asked: Asked,
) -> list[dict[str, Any]]:
    """All methods on one seed; rows in the order of results.jsonl."""
    cell = cells.runner(work, study, trial, programs, asked.checkpoint_every, asked.until)
    trained, row, _ = cells.original(study, trial, cell)
    rows, request = [row], trial.request
    for name, method in methods.items():
        rounds = rounds_to_run(study.config, name, trained.history, request)
        goals = None if asked.tests else stops(name, rows, "retrain" in methods)
        rows += cell(name, method, trained, request, rounds, goals=goals)[1]
    if "retrain" in methods:  # the noise floor
        rounds = study.config.rounds
        rows += cell(AGAIN, methods["retrain"], trained, request, rounds, quiet=True)[1]
    return rows


def stops(
    name: str, rows: Sequence[Mapping[str, Any]], retrained: bool
) -> tuple[float, ...] | None:
    """The retained accuracies at which rules stop a method's run; None if not all are known.

    Args:
      rows: of the seed, so far.
      retrained: whether the comparison retrains.
    """
    if name == "retrain":  # it is what others are compared with
        return ()
    last = {row["method"]: row["retain"] for row in rows}
    if retrained and "retrain" in last:
        return (last["original"], last["retrain"])
    return None


def so_far(work: WorkDir, names: Sequence[str], seeds: Sequence[int]) -> str:
    """Writes what is finished and prints its table; returns a sentence if some is left."""
    found = table.read([work.path])
    outcome.write_results(work, table.rows(found))
    many, rounds = table.left(found, names, seeds)
    if not many:
        return ""
    show(f"\n{table.write(work.path, found)[1]}")
    return f"of {len(names) * len(seeds)} runs {many} are not finished, {rounds} rounds"
