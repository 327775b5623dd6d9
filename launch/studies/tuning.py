"""Choosing methods' settings on seeds that are not reported."""

import dataclasses
import json
from typing import Any

from absl import flags

import jfu
from jfu import results, tables
from launch.running import comparison
from launch.setup import private
from launch.shell import entry
from launch.shell.config import resolve, workdir_for
from launch.shell.printing import show
from launch.shell.typed import said

FLAGS = flags.FLAGS

# Four settings a method; the first is the published one.
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "federaser": tuple(dict(interval=n) for n in (2, 4, 8, 16)),
    "fukd": tuple(dict(lr=r) for r in (0.01, 0.1, 0.001, 0.0001)),
    "pgd": tuple(dict(lr=r) for r in (0.01, 0.1, 0.03, 0.003)),
    "mode": tuple(dict(lam=x) for x in (0.95, 0.9, 0.7, 0.5)),
    "fcu": tuple(dict(lr=r) for r in (1e-5, 1e-4, 1e-3, 1e-2)),
    "fedosd": tuple(dict(lr=r) for r in (4e-4, 4e-3, 4e-2, 4e-1)),
    "puf": tuple(dict(rate=x) for x in (20.0, 10.0, 40.0, 80.0)),
    "fedquit": tuple(dict(lr=r) for r in (1e-4, 1e-3, 1e-2, 1e-1)),
    "ga": tuple(dict(lr=r) for r in (0.01, 0.1, 0.03, 0.003)),
}


def tune() -> None:
    from launch.shell import hosts, joining

    joining.refuse(FLAGS, "tune")
    until = entry.deadline(FLAGS.max_minutes)
    asked = comparison.asked(FLAGS.methods, FLAGS.forget)
    names = [n for n in asked if n in GRID]
    if not names:
        raise ValueError(
            f"none of {', '.join(asked)} has settings to choose from; tune {', '.join(GRID)}"
        )
    if FLAGS.key_file:
        raise ValueError("--key_file does nothing here, where no ledger is written; leave it out")
    config = resolve(names)
    if config.init_params:
        raise ValueError("tuning trains its models itself; leave --init_params out")
    from launch.records import verification
    from launch.running import cells
    from launch.running.programs import Programs
    from launch.running.progress import announce
    from launch.setup import federation
    from launch.setup.methods import budget, build_methods, remembered, remembering
    from launch.setup.study import prepare_study
    from launch.setup.trial import prepare_trial
    from launch.shell import devices, outputs
    from launch.workdir import outcome, workdir

    keep = list(remembered(names))
    federation.check(config, asked, keep, **said())
    where = workdir_for(config, "tune", keep_history=keep)
    work = workdir.open_workdir(where, config, "tune", keep_history=keep)
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    seeds = list(range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds))
    rows = []
    with devices.on_devices(layout):
        taken = workdir.taken(work, seeds)
        study = prepare_study(config, layout, seeds, taken, {work.path: work.data})
        build_methods(study, asked)  # refuses what cannot be
        tried = settings(study, names)
        trial = prepare_trial(study, seeds[0])
        for text, method in tried.items():
            jfu.unlearn.check_request(method, trial.request, keep, text)
        if int(trial.request.forget.mask.sum()) < 10:
            raise ValueError(
                "fewer than ten examples are to be forgotten, too few for the membership attack "
                "that the gap is made of; tune on a larger request"
            )
        study = remembering(study, keep, trial)
        work = workdir.begin(work, config, "tune", study.layout, study.data, keep_history=keep)
        hosts.agreed(lambda: verification.believe(work.path))
        plan = {name: budget(config, name) for name in ("retrain", *names)}
        announce(study, trial, f"{len(tried)} settings", work, plan)
        programs = Programs()
        for seed in seeds:
            if seed != trial.seed:
                del trial  # its images go before the next seed's come
                trial = prepare_trial(study, seed)
            work = workdir.keep_draws(work, seed, trial.draws)
            cell = cells.runner(work, study, trial, programs, FLAGS.checkpoint_every, until)
            trained, row, _ = cells.original(study, trial, cell)
            rows.append(row)
            methods = {"retrain": study.fresh, **tried}
            for name, method in methods.items():
                rounds = budget(config, name)
                given = (name, method, trained, trial.request, rounds)
                rows += cell(*given, quiet=True)[1]
            outcome.write_results(work, rows)
    found = results.summarise(rows)["methods"]
    lines, best = choose({k: v for k, v in found.items() if k in tried}, names)
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
    """Each setting of each method, by label; bounded as a comparison bounds its methods."""
    from launch.setup.methods import bounded

    tried = {}
    for name in names:
        for options in GRID[name]:
            own = {**study.setting.options.get(name, {}), **options}
            setting = study.setting._replace(options={name: own})
            tried[label(name, options)] = jfu.unlearn.UNLEARNERS[name](setting)
    return bounded(study.config, tried)


def label(name: str, options: dict[str, Any]) -> str:
    """A setting as the name of a cell: ``pgd[lr=0.01]``."""
    return f"{name}[{','.join(f'{k}={v}' for k, v in options.items())}]"


def choose(found: dict[str, dict], names: list[str]) -> tuple[list[dict], list[str]]:
    """A line for each setting tried, and the best of each method as ``--options`` has it.

    Args:
      found: ``methods`` of a table, by label.
    """
    lines, best = [], []
    for name in names:
        gaps = {i: found[label(name, o)]["gap_per_seed"]["mean"] for i, o in enumerate(GRID[name])}
        first = min(gaps, key=gaps.get)
        for i, options in enumerate(GRID[name]):
            entry = found[label(name, options)]
            measures = {m: entry[m]["mean"] if entry[m] else None for m in results.BRIEF}
            option = ",".join(f"{k}={v}" for k, v in options.items())
            line = dict(method=name, option=option, gap=gaps[i], **measures, chosen=i == first)
            lines.append(line)
        best += [f"{name}.{k}={v}" for k, v in GRID[name][first].items()]
    return lines, best
