"""Chooses settings of methods on seeds that are not reported."""

import dataclasses
import itertools
import json
from typing import Any

from absl import flags

import jfu
from jfu import results, tables
from launch.records import verification
from launch.running import cells, comparison
from launch.running.programs import Programs
from launch.running.progress import announce
from launch.setup import federation, private
from launch.setup.methods import bounded, budget, build_methods, remembered, remembering
from launch.setup.study import Study, prepare_study
from launch.setup.trial import Trial, prepare_trial
from launch.shell import devices, entry, hosts, joining, outputs
from launch.shell.config import Config, resolve, workdir_for
from launch.shell.printing import show
from launch.shell.typed import said
from launch.workdir import outcome, workdir
from launch.workdir.places import WorkDir

FLAGS = flags.FLAGS

# The settings to try for each method; the first is the published one.
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    method.name: tuple(
        dict(zip(method.tried, values, strict=True))
        for values in itertools.product(*method.tried.values())
    )
    for method in jfu.unlearn.METHODS
    if method.tried
}


def tune() -> None:
    joining.refuse(FLAGS, "tune")
    until = entry.deadline(FLAGS.max_minutes)
    asked = comparison.expand(FLAGS.methods, FLAGS.forget, FLAGS.init_params)
    names = [n for n in asked if n in GRID]
    if not names:
        raise ValueError(
            f"none of {', '.join(asked)} has settings to choose from; name some of "
            f"{', '.join(GRID)}"
        )
    if FLAGS.key_file:
        raise ValueError("--key_file does nothing here, because there is no ledger; leave it out")
    config = resolve(names)
    if config.init_params:
        raise ValueError("tuning trains its models itself; leave --init_params out")
    keep = list(remembered(names))
    federation.check(config, asked, keep, **said())
    where = workdir_for(config, "tune", keep_history=keep)
    config = workdir.as_begun(where, config)
    work = workdir.open_workdir(where, config, "tune", keep_history=keep)
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    seeds = list(range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds))
    given = comparison.Asked(asked, seeds, keep, until, FLAGS.checkpoint_every)
    with devices.on_devices(layout):
        rows = try_all(work, config, layout, given)
    report(work, config, rows, names)


def try_all(
    work: WorkDir, config: Config, layout: devices.Layout, asked: comparison.Asked
) -> list[dict[str, Any]]:
    """Runs retraining and every setting on every seed, and writes the rows after each."""
    work, study, trial, tried = begin(work, config, layout, asked)
    programs, rows = Programs(), []
    for seed in asked.seeds:
        if seed != trial.seed:
            del trial  # frees its images before the next seed's are made
            trial = prepare_trial(study, seed)
        work = workdir.keep_draws(work, seed, trial.draws)
        rows += try_on(work, study, trial, tried, programs, asked)
        outcome.write_results(work, rows)
    return rows


def begin(
    work: WorkDir, config: Config, layout: devices.Layout, asked: comparison.Asked
) -> tuple[WorkDir, Study, Trial, dict[str, jfu.Unlearner]]:
    """Opens the work directory; makes what all seeds share, the first trial and the settings."""
    seeds, keep = asked.seeds, asked.keep
    taken = workdir.taken(work, seeds)
    study = prepare_study(config, layout, seeds, taken, {work.path: work.data})
    build_methods(study, asked.names)  # refuses what is impossible
    names = [n for n in asked.names if n in GRID]
    tried = settings(study, names)
    trial = prepare_trial(study, seeds[0])
    for text, method in tried.items():
        jfu.unlearn.check_request(method, trial.request, keep, text)
    if int(trial.request.forget.mask.sum()) < 10:
        raise ValueError(
            "fewer than ten examples are to be forgotten, too few for the membership attack, "
            "which the gap needs; tune on a larger request"
        )
    study = remembering(study, keep, trial)
    work = workdir.begin(work, config, "tune", study.layout, study.data, keep_history=keep)
    hosts.agreed(lambda: verification.believe(work.path))
    plan = {name: budget(config, name) for name in ("retrain", *names)}
    announce(study, trial, f"{len(tried)} settings", work, plan)
    return work, study, trial, tried


def try_on(
    work: WorkDir,
    study: Study,
    trial: Trial,
    tried: dict[str, jfu.Unlearner],
    programs: Programs,
    asked: comparison.Asked,
) -> list[dict[str, Any]]:
    """The rows of one seed: the original model, retraining, and every setting at its end."""
    cell = cells.runner(work, study, trial, programs, asked.checkpoint_every, asked.until)
    trained, row, _ = cells.original(study, trial, cell)
    rows = [row]
    for name, method in {"retrain": study.fresh, **tried}.items():
        given = (name, method, trained, trial.request, budget(study.config, name))
        rows += cell(*given, quiet=True)[1]
    return rows


def report(work: WorkDir, config: Config, rows: list[dict[str, Any]], names: list[str]) -> None:
    """Writes and prints the result of each setting, and the options to give to a comparison."""
    found = results.summarise(rows)["methods"]
    lines, best = choose(found, names)
    lines = [private.marked(config, line, ("gap", "chosen", *results.BRIEF)) for line in lines]
    outputs.put(
        work.path / "tuning.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode()
    )
    cells_ = [["method", "option", "gap", "retain %", "forget %", "test %", "backdoor %", ""]]
    for line in lines:
        measures = [f"{line[m]:.1f}" if line[m] is not None else "-" for m in results.BRIEF]
        chosen = "chosen" if line["chosen"] else ""
        cells_.append([line["method"], line["option"], f"{line['gap']:.2f}", *measures, chosen])
    text = tables.aligned(cells_) + private.footnote(dataclasses.asdict(config))
    outputs.put(work.path / "tuning.md", text.encode())
    outputs.put(work.path / "options.flags", f"--options={','.join(best)}\n".encode())
    show(f"\n{text}\n--options={','.join(best)}\n\nThe same is in {work.path}/")


def settings(study, names: list[str]) -> dict[str, jfu.Unlearner]:
    """Each setting of each method, by label; with the same limits as in a comparison."""
    tried = {}
    for name in names:
        for options in GRID[name]:
            own = {**study.setting.options.get(name, {}), **options}
            setting = study.setting._replace(options={name: own})
            tried[label(name, options)] = jfu.unlearn.UNLEARNERS[name](setting)
    return bounded(study.config, tried)


def label(name: str, options: dict[str, Any]) -> str:
    """A setting as a name: ``pgd[lr=0.01]``."""
    return f"{name}[{','.join(f'{k}={v}' for k, v in options.items())}]"


def choose(found: dict[str, dict], names: list[str]) -> tuple[list[dict], list[str]]:
    """A line for each setting, and the best one of each method, for ``--options``.

    Args:
      found: ``methods`` of a table, by label.
    """
    lines, best = [], []
    for name in names:
        gaps = {i: found[label(name, o)]["gap_per_seed"]["mean"] for i, o in enumerate(GRID[name])}
        first = min(gaps, key=lambda i: gaps[i])
        for i, options in enumerate(GRID[name]):
            entry = found[label(name, options)]
            measures = {m: entry[m]["mean"] if entry[m] else None for m in results.BRIEF}
            option = ",".join(f"{k}={v}" for k, v in options.items())
            line = dict(method=name, option=option, gap=gaps[i], **measures, chosen=i == first)
            lines.append(line)
        best += [f"{name}.{k}={v}" for k, v in GRID[name][first].items()]
    return lines, best
