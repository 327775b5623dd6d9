"""A comparison: every method on every seed, and the table of what is finished."""

import time
from typing import Any

from absl import flags

import jfu
from launch.shell import entry
from launch.shell.config import resolve, workdir_for
from launch.shell.printing import listed, show
from launch.shell.say import say
from launch.shell.typed import said

FLAGS = flags.FLAGS


def compare() -> None:
    began = time.perf_counter()
    work, config, rows = run()
    from jfu import tables
    from launch.records import records
    from launch.report import figures, report
    from launch.running import table
    from launch.setup import private
    from launch.shell import hosts
    from launch.workdir import places

    if not hosts.first():
        return

    summary, text = table.write(work.path, table.read([work.path]))
    many = len(summary["seeds"])
    title = f"{config.dataset}, {config.model}: forget {config.forget}, mean of {many} seeds"
    title += private.title(config)
    plots = [(figures.curves, rows, "curves.png"), (figures.costs, summary, "costs.png")]
    named = [n for draw, of, n in plots if figures.drawn(draw, of, str(work.path / n), title)]
    records.compared(work, config, rows, [*report.contents(summary, text), places.PLAN, *named])
    show(f"\n{text}\n{tables.legend(summary)}")
    took = f"{time.perf_counter() - began:.0f} s"
    show(f"{took}; {listed(['results', 'table', *named])} are in {work.path}/")


def run() -> tuple:
    """Runs what is not done yet of every cell that the flags ask for.

    Returns:
      ``(work, config, rows)``: all rows that the work directory holds, on the first host.

    Raises:
      OutOfTime: cells are left; the table of those that are not is printed and written.
    """
    from launch.records import ledgers, records
    from launch.running.programs import Programs
    from launch.running.progress import announce
    from launch.setup import federation
    from launch.setup.methods import budget, build_methods, remembered, remembering
    from launch.setup.study import prepare_study
    from launch.setup.trial import prepare_trial
    from launch.shell import devices, hosts, joining
    from launch.workdir import outcome, runs, workdir

    until = entry.deadline(FLAGS.max_minutes)
    joining.join(FLAGS, FLAGS.clients)
    names = asked(FLAGS.methods, FLAGS.forget)
    config = resolve(names)

    keep = list(FLAGS.keep_history or remembered(names))
    if config.init_params:
        if FLAGS.keep_history:
            raise ValueError(
                "--keep_history does nothing with --init_params; leave one of them out"
            )
        keep = []  # nobody remembers how that model was trained
    hosts.together(lambda: federation.check(config, names, keep, **said()))
    where = workdir_for(config, "compare", **({"keep_history": keep} if keep else {}))
    work = workdir.open_workdir(where, config, "compare")
    hosts.agreed(lambda: ledgers.check(work.path))
    if work.layout is not None:
        keep = workdir.same_history(work, keep, names)
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    seeds = list(range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds))
    with devices.on_devices(layout):
        taken = workdir.taken(work, seeds)
        made = runs.of_model(config) | {work.path: work.data}
        study = hosts.together(lambda: prepare_study(config, layout, seeds, taken, made))
        methods = build_methods(study, names)
        trial = prepare_trial(study, seeds[0])
        for name, method in methods.items():
            jfu.unlearn.check_request(method, trial.request, keep, name)
        study = remembering(study, keep, trial)
        work = workdir.begin(work, config, "compare", study.layout, study.data, keep_history=keep)
        hosts.agreed(lambda: records.reopen(work))
        hosts.agreed(lambda: records.begun(work, config))
        doing = f"methods {', '.join(methods)}; seeds {seeds[0]} to {seeds[-1]}"
        again = ["retrain_again"] if "retrain" in methods else []
        outcome.write_plan(work, ["original", *methods, *again], seeds)
        plan = {name: budget(config, name) for name in methods}
        announce(study, trial, doing, work, plan)
        programs, rows = Programs(), []
        try:
            for seed in seeds:
                if seed != trial.seed:
                    del trial  # its images go before the next seed's come
                    trial = prepare_trial(study, seed)
                work = workdir.keep_draws(work, seed, trial.draws)
                rows += run_seed(work, study, trial, methods, programs, until)
                outcome.write_results(work, rows)
        except entry.OutOfTime as stop:
            names = ["original", *methods, *again]
            if left := hosts.agreed(lambda: so_far(work, names, seeds)):
                raise entry.OutOfTime(f"{stop}; {left}") from None
    if hosts.first():
        rows = outcome.read_results(work)
    return work, config, rows


def so_far(work, names: list[str], seeds: list[int]) -> str:
    """Writes what is finished and prints its table; says what is left, if anything is."""
    from launch.running import table
    from launch.workdir import outcome

    held = table.read([work.path])
    outcome.write_results(work, table.rows(held))
    many, rounds = table.left(held, names, seeds)
    if not many:
        return ""
    show(f"\n{table.write(work.path, held)[1]}")
    return f"of {len(names) * len(seeds)} cells {many} are not finished, {rounds} rounds"


def asked(given: list[str], forget: str) -> list[str]:
    """The methods of --methods, with ``all`` as the published ones that can answer the request."""
    names: dict[str, None] = {}
    for name in given:
        several = jfu.unlearn.COMPARED if name == "all" else (name,)
        for one in several:
            whole = one in jfu.unlearn.UNLEARNERS and jfu.unlearn.needs_of(one).whole_clients
            needs = one in jfu.unlearn.UNLEARNERS and jfu.unlearn.needs_of(one)
            if name == "all" and whole and not forget.startswith("client:"):
                say(f"left out: {one} takes whole clients out, and --forget={forget} is less")
            elif name == "all" and FLAGS.init_params and needs.history:
                say(f"left out: {one} needs a history, and --init_params has none")
            else:
                names[one] = None
    return list(names)


def run_seed(work, study, trial, methods, programs, until) -> list[dict[str, Any]]:
    """All cells of one seed; rows in the order of results.jsonl."""
    from launch.running import cells
    from launch.setup.methods import budget

    cell = cells.runner(work, study, trial, programs, FLAGS.checkpoint_every, until)
    trained, row, _ = cells.original(study, trial, cell)
    rows = [row]
    for name, method in methods.items():
        rounds = budget(study.config, name)
        rows += cell(name, method, trained, trial.request, rounds)[1]
    if "retrain" in methods:  # the noise floor
        again = cell(
            "retrain_again",
            methods["retrain"],
            trained,
            trial.request,
            study.config.rounds,
            quiet=True,
        )
        rows += again[1]
    return rows
