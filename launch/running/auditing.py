"""An audit of a work directory: measures its models, judges them, writes the report."""

import dataclasses
import datetime
import json
import pathlib
from typing import Any, NamedTuple

from absl import flags

from launch.running.audit_notes import (
    Options,
    again,
    curves,
    negated,
    not_shown,
    other_shadows,
    partial,
)
from launch.shell.printing import show
from launch.shell.say import say

FLAGS = flags.FLAGS


def audit() -> None:
    from launch.records import records
    from launch.report import page, spoken, terminal
    from launch.running import evidence, served
    from launch.shell import outputs
    from launch.workdir import locks, places

    if not FLAGS.workdir:
        raise ValueError("--workdir is missing; give a work directory of launch.compare")
    where = pathlib.Path(FLAGS.workdir)
    if served.here(where):
        return served.audit(where)
    options = Options(*(getattr(FLAGS, name) for name in Options._fields))
    run = auditable(where, options)  # before anything is written there
    if options.shadows_part:
        return one_part(where, run, options)
    lock = locks.take(where)
    plain, words = examine(where, run, options, lock)
    report = spoken.report(plain, words)
    text = json.dumps(report, indent=1, allow_nan=False)
    locks.check(where, lock)
    outputs.put(where / "audit.json", (text + "\n").encode())
    said = lambda text: spoken.text(text, words)
    outputs.put(where / "audit.html", said(page.html(report)).encode())
    controls = sorted((where / evidence.CONTROLS / "cells").glob("*.safetensors"))
    names = ["audit.json", "audit.html", *(str(path.relative_to(where)) for path in controls)]
    records.audited(places.WorkDir(where, None, lock=lock), report, names)
    show(said(terminal.text(report)))
    show(f"audit.html and audit.json are in {where}/")
    if lock:
        lock.close()


def auditable(where: pathlib.Path, options: Options) -> Any:
    """The run in a work directory, if it can be audited with these options.

    Raises:
      ValueError: it cannot, or its files are not what its ledger says.
    """
    from jfu.audit.measures import RETRAINED
    from launch.records import verification
    from launch.setup import idle
    from launch.workdir import outcome, places, runs

    if options.shadows % 2 or 0 < options.shadows < 8:
        raise ValueError(
            f"--shadows={options.shadows} is too small or odd; half of them train on an example, "
            "half do not, and an attack needs at least 4 of each; give an even number from 8 on"
        )
    run = runs.read_run(str(where))
    if run.script not in ("compare", "unlearn", "train"):
        raise ValueError(
            f"{where} has a run of launch.{run.script}; audit a run of launch.compare, "
            "launch.unlearn or launch.train"
        )
    if options.data_dir and not idle.NEEDS["data_dir"].met(run.config):
        raise ValueError(
            f"--data_dir does nothing for {run.config.dataset}, which is not a set of "
            "tensorflow-datasets; leave it out"
        )
    rows = outcome.read_results(places.WorkDir(where, run.layout))
    if not rows:
        raise ValueError(f"{where} has no results yet; finish launch.{run.script} first")
    if options.control and not {*RETRAINED} <= {row["method"] for row in rows}:
        raise ValueError(
            f"--control compares a third retraining with two others, which {where} does not have; "
            "run launch.compare with retrain among --methods and audit that"
        )
    verification.settle(where)
    return run


def one_part(where: pathlib.Path, run: Any, options: Options) -> None:
    """Runs one part of the shadow federations, which the work directory keeps; no verdict."""
    from launch.running import shadows
    from launch.setup.study import prepare_study
    from launch.setup.trial import prepare_trial
    from launch.shell import devices
    from launch.workdir import locks, workdir

    part = shadows.part_of(str(options.shadows_part))
    with locks.take(where) as lock:
        work, config, layout, rows, names = opened(where, run, options, lock)
        first = min(row["seed"] for row in rows)
        with devices.on_devices(layout):
            study = prepare_study(
                config, layout, [first], workdir.taken(work, [first]), {work.path: run.data}
            )
            trial = prepare_trial(study, first)
            work = workdir.with_draws(work, first, trial.draws)
            study, methods = answering(work, study, trial, names)
            many, chunk = options.shadows, options.shadows_chunk
            *_, paths = shadows.run(work, study, trial, methods, many, chunk, part)
    show(
        f"part {part[0]} of {part[1]} is done: {len(paths)} files in {where}/shadows/\n"
        "with all parts in the folder shadows/ of one work directory, launch.audit without "
        "--shadows_part uses them"
    )


def opened(where: pathlib.Path, run: Any, options: Options, lock: Any) -> tuple:
    """The work directory, its configuration, its devices, its rows, and their methods."""
    from launch.setup import identity
    from launch.shell import devices
    from launch.workdir import outcome, places, runs

    work = places.WorkDir(where, run.layout, run.more, run.fingerprint, run.data, lock=lock)
    rows = outcome.read_results(work)
    identity.same_numerics(run.numerics, where)
    moved = dict(data_dir=options.data_dir, dataset=options.dataset, model=options.model)
    config = runs.found(run, str(where), **moved)
    config = dataclasses.replace(config, init_params=None)
    layout = devices.start(None, None, config.clients, run.layout, options.compilation_cache)
    # Training's own rows describe the original model too.
    names = [n for n in dict.fromkeys(row["method"] for row in rows) if n != "train"]
    return work, config, layout, rows, names


def examine(
    where: pathlib.Path, run: Any, options: Options, lock: Any = None
) -> tuple[dict[str, Any], Any]:
    """The content of the report, as in audit.json, in words for images; and the task's words."""
    from jfu.audit import estimates, fewer, rules, verdicts
    from jfu.audit.measures import CLASSES, REFERENCES, RETRAINED, TABLE, THIRD
    from jfu.tasks import TASKS
    from launch.setup import private, ridge
    from launch.shell import devices

    work, config, layout, rows, names = opened(where, run, options, lock)
    seeds = sorted({row["seed"] for row in rows})
    with devices.on_devices(layout):
        seen = look(work, run, config, layout, names, rows, options)
    coupled = [name for name in names if ridge.shares_chance(name)]
    measures, missing, broken, _ = estimates.estimate(
        seen.found, TABLE, options.draws, coupled=coupled
    )
    order = [*REFERENCES, *names]
    names = sorted(measures, key=order.index)
    absent = {
        name: not_shown(measures[name], missing | broken[name], names, config, options)
        for name in names
    }
    has_classes = TASKS[config.task].classes
    needed = [key for key in rules.NEEDED if has_classes or key not in CLASSES]
    controls = verdicts.controls(measures, absent, seen.poison_named, needed)
    how = lambda name: dict(coupled=name in coupled, needed=needed)
    methods = {
        name: judged(name, measures, absent[name], rows, seen.poison_named, controls, how(name))
        for name in names
    }
    everywhere = [entry["not_shown"] for entry in methods.values()]
    more = [note for note in [private.page_note(config)] if note]
    report = dict(
        audited=datetime.datetime.now(datetime.UTC).date().isoformat(),
        asked=requested(config, seen),
        done=dict(
            rounds=config.rounds,
            recovery_rounds=config.recovery_rounds,
            retrained=[name for name in (*RETRAINED, THIRD) if name in names],
        ),
        seeds=seeds,
        notes=[*seen.notes, *partial(names, config, seeds, controls), *more],
        questions=rules.RULES,
        controls=dict(old=controls.old, third=controls.third),
        clients=clients(seen.found),
        methods=methods,
        by_seeds=fewer.by_seeds(
            seen.found, poison_named=seen.poison_named, coupled=coupled, needed=needed
        ),
        not_shown={
            key: everywhere[-1][key] for key in TABLE if all(key in absent for absent in everywhere)
        },
        curves=curves(rows),
        reproduce=again(where, run, seeds, names, seen.files, options),
    )
    return report, seen.words


class Seen(NamedTuple):
    """The measurements of an audit."""

    found: dict[str, Any]  # samples by method, measure and seed
    trial: Any  # of the first seed
    poison_named: bool  # whether the request names every image with the trigger
    files: dict[str, str]  # digests of what was read
    notes: list[str]
    words: Any  # of the task (``jfu.tasks.Words``)


def look(work, run, config, layout, names, rows, options: Options) -> Seen:
    """The samples of every model and, on request, of shadow federations."""
    import jfu
    import jfu.ledger
    from jfu.tasks import words_of
    from launch.running import evidence
    from launch.running.progress import in_words
    from launch.setup.study import prepare_study
    from launch.setup.trial import names_the_poison, prepare_trial
    from launch.workdir import workdir

    notes: list[str] = []
    found: dict[str, Any] = {}
    files: dict[str, str] = {}
    seeds = sorted({row["seed"] for row in rows})
    first, poisoned = None, True
    taken = workdir.taken(work, seeds)
    study = prepare_study(config, layout, seeds, taken, {work.path: run.data})
    say(f"auditing {work.path}; {in_words(study.layout)}")
    undo = jfu.unlearn.UNLEARNERS["not"](study.setting) if negated(names) else None
    tools = evidence.tools(study, undo)
    control = options.shadows > 0 if options.control is None else options.control
    for seed in seeds:
        trial = prepare_trial(study, seed)
        first = first or trial
        work = workdir.with_draws(work, seed, trial.draws)
        forget, retain = trial.evaluation.forget, trial.evaluation.retain
        poisoned = poisoned and names_the_poison(trial.poisoned, forget, retain)
        models = {}
        for name, place, cell in stored_cells(work, run, study, trial, names, tools, control):
            variables = evidence.stored(place, seed, cell)
            if variables is None:
                notes.append(f"The model of {name} on seed {seed} is missing or not finished.")
                continue
            models[name] = variables
            path = place.cell(seed, cell)
            files[str(path.relative_to(work.path))] = jfu.ledger.digest(path)
        of_seed = [row for row in rows if row["seed"] == seed]
        of_models = evidence.of_seed(
            study, trial, models, of_seed, tools, options.relearn_rounds, options.resurfacing_rounds
        )
        for name, measured in of_models.items():
            for key, arrays in measured.items():
                found.setdefault(name, {}).setdefault(key, {})[seed] = arrays
    if options.shadows:
        more, blocks = of_shadows(work, study, first, names, found, rows, options)
        notes += more + (other_shadows(run) if blocks else [])
        files |= {str(path.relative_to(work.path)): jfu.ledger.digest(path) for path in blocks}
    words = words_of(config.task, study.dataset.x_train)
    return Seen(found, first, poisoned, files, notes, words)


def stored_cells(
    work, run, study, trial, names, tools, control: bool
) -> list[tuple[str, Any, str]]:
    """The places of a seed's models: name, work directory, checkpoint. Makes a control if due.

    Args:
      control: whether a third retraining is requested.
    """
    from jfu.audit.measures import RETRAINED, THIRD
    from launch.running import evidence

    first = "train" if run.script == "train" else "original"
    out = [(name, work, first if name == "original" else name) for name in names]
    due = control and run.config.forget and set(RETRAINED) <= set(names)
    if due and all(evidence.stored(work, trial.seed, n) for n in RETRAINED):
        place = evidence.third(work, study, trial, tools.programs)
        out.append((THIRD, place, THIRD))
    return out


def judged(
    name, measures, absent, rows, poison_named: bool, controls, how: dict[str, Any]
) -> dict[str, Any]:
    """The report's entry for one method."""
    from jfu.audit import verdicts
    from jfu.audit.costs import ratios
    from jfu.audit.measures import REFERENCES, RETRAINED, kind_of

    costs = ratios(rows, name)
    entries = measures[name]
    given = verdicts.verdicts(name, entries, costs, absent, poison_named, controls, **how)
    if name in REFERENCES:
        anywhere = {kind_of(key) for shown in measures.values() for key in shown}
        absent = absent | {k: "others are compared with it" for k in absent if k in anywhere}
    return dict(
        seeds=sorted({row["seed"] for row in rows if row["method"] == name}),
        measures=entries,
        compared_with=list(RETRAINED[: 1 if how["coupled"] else None]),
        not_shown=absent,
        costs=costs,
        verdicts={question: verdict for question, (verdict, _) in given.items()},
        reasons={question: why for question, (_, why) in given.items()},
    )


def clients(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The accuracy of each client that stays, mean over seeds, percent: by method and client."""
    import numpy as np

    from jfu.metrics import by_client

    out: dict[str, dict[str, float]] = {}
    for name, samples in found.items():
        each: dict[int, list[float]] = {}
        for correct, owner in samples.get("worst_client", {}).values():
            for client, share in zip(np.unique(owner), by_client(correct, owner), strict=True):
                each.setdefault(int(client), []).append(float(share))
        if each:
            out[name] = {str(c): float(np.mean(shares)) for c, shares in sorted(each.items())}
    return out


def requested(config, seen: Seen) -> dict[str, Any]:
    """The request, on the first seed."""
    request = seen.trial.request
    return dict(
        request=config.forget,
        examples=int(request.forget.mask.sum()),
        counted=int(seen.trial.evaluation.forget.sum()),
        retained=int(request.retain.mask.sum()),
        clients=len(request.retain.id),
        dataset=config.dataset,
        model=config.model,
        backdoor=config.backdoor,
        backdoor_named=seen.poison_named,
    )


def answering(work, study, trial, names) -> tuple[Any, dict[str, Any]]:
    """A study that keeps what methods need, and the methods that answer a request."""
    from jfu.audit.measures import REFERENCES
    from launch.setup.methods import build_methods, remembered, remembering

    mine = [name for name in names if name not in REFERENCES]
    keep = (work.more or {}).get("keep_history") or remembered(mine)
    study = remembering(study, keep, trial)
    return study, build_methods(study, mine)


def of_shadows(work, study, trial, names, found, rows, options: Options) -> tuple[list[str], list]:
    """Adds the samples of shadow federations; returns notes, and the files that keep them."""
    from jfu.audit import pairs
    from launch.running import shadows

    study, methods = answering(work, study, trial, names)
    try:
        phi, seconds, blocks = shadows.run(
            work, study, trial, methods, options.shadows, options.shadows_chunk
        )
    except shadows.TooFew as error:
        return [str(error)], []
    for name, measured in pairs.of_shadows(phi).items():
        for key, groups in measured.items():
            found.setdefault(name, {})[key] = groups
    notes = [
        f"Attacks on single examples, and the forgetting score, use {options.shadows} shadow "
        f"federations, which share the split of seed {trial.seed}. Each was trained on a random "
        "half of the examples to forget."
    ]
    alone = shadows.one_by_one(work, rows, trial.seed, list(methods))
    if seconds and alone:
        estimated = "" if alone[1] else ", its training estimated as retraining's"
        notes.append(
            f"A shadow took {seconds:.1f} s without compilation, for training, retraining and "
            f"{len(methods)} methods. In the comparison the same rounds, one by one, took "
            f"{alone[0]:.1f} s{estimated}."
        )
    return notes, blocks
