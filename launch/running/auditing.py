"""An audit of a work directory: looks at its models, judges them, writes the report."""

import dataclasses
import datetime
import json
import pathlib
import platform
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from launch.shell.printing import show
from launch.shell.say import say

FLAGS = flags.FLAGS


def audit() -> None:
    from launch.records import records
    from launch.report import page, terminal
    from launch.running import evidence
    from launch.shell import outputs
    from launch.workdir import locks, places

    if not FLAGS.workdir:
        raise ValueError("say what to audit: --workdir=W, a work directory of launch.compare")
    where = pathlib.Path(FLAGS.workdir)
    run = asked(where)  # before anything is written there
    lock = locks.take(where)
    report = examine(where, run, lock)
    text = json.dumps(report, indent=1, allow_nan=False)
    locks.check(where, lock)
    outputs.put(where / "audit.json", (text + "\n").encode())
    outputs.put(where / "audit.html", page.html(report).encode())
    controls = sorted((where / evidence.CONTROLS / "cells").glob("*.safetensors"))
    names = ["audit.json", "audit.html", *(str(path.relative_to(where)) for path in controls)]
    records.wrote(places.WorkDir(where, None, lock=lock), names)
    show(terminal.text(report))
    show(f"audit.html and audit.json are in {where}/")
    if lock:
        lock.close()


def asked(where: pathlib.Path) -> Any:
    """What the work directory says of itself, if it can be audited with these flags."""
    from jfu.audit.measures import RETRAINED
    from launch.records import verification
    from launch.setup import idle
    from launch.workdir import outcome, places, runs

    if FLAGS.shadows % 2 or 0 < FLAGS.shadows < 8:
        raise ValueError(
            f"--shadows={FLAGS.shadows} is too few or odd: every example is held by half of them, "
            "and an attack needs at least 4 on either side; give an even number from 8 on"
        )
    run = runs.read_run(str(where))
    if run.script not in ("compare", "unlearn", "train"):
        raise ValueError(
            f"{where} holds a run of launch.{run.script}; audit one of launch.compare, of "
            "launch.unlearn or of launch.train"
        )
    if FLAGS.data_dir and not idle.NEEDS["data_dir"].met(run.config):
        raise ValueError(
            f"--data_dir does nothing for {run.config.dataset}, which is no set of "
            "tensorflow-datasets; leave it out"
        )
    rows = outcome.read_results(places.WorkDir(where, run.layout))
    if not rows:
        raise ValueError(f"{where} holds no results yet; finish launch.{run.script} first")
    if FLAGS.control and not {*RETRAINED} <= {row["method"] for row in rows}:
        raise ValueError(
            f"--control retrains a third time, and {where} has not two retrained models for it to "
            "stand beside: run launch.compare with retrain among --methods and audit that"
        )
    verification.settle(where)
    return run


def examine(where: pathlib.Path, run: Any, lock: Any = None) -> dict[str, Any]:
    """Everything that the report says, as audit.json holds it."""
    from jfu.audit import estimates, verdicts
    from jfu.audit.measures import REFERENCES, RETRAINED, TABLE, THIRD
    from launch.setup import identity, private
    from launch.shell import devices
    from launch.workdir import outcome, places, runs

    work = places.WorkDir(where, run.layout, run.more, run.fingerprint, run.data, lock=lock)
    rows = outcome.read_results(work)
    identity.same_numerics(run.numerics, where)
    config = runs.found(run, str(where), data_dir=FLAGS.data_dir, dataset=FLAGS.dataset)
    config = dataclasses.replace(config, init_params=None)
    layout = devices.start(None, None, config.clients, run.layout, FLAGS.compilation_cache)
    # Training's own rows describe the model before the request, which is original's.
    names = [n for n in dict.fromkeys(row["method"] for row in rows) if n != "train"]
    seeds = sorted({row["seed"] for row in rows})
    with devices.on_devices(layout):
        seen = look(work, run, config, layout, names, seeds, rows)
    measures, missing, broken = estimates.estimate(seen.found, TABLE, FLAGS.draws)
    order = [*REFERENCES, *names]
    names = sorted(measures, key=order.index)
    absent = {
        name: not_shown(measures[name], missing | broken[name], names, config, FLAGS)
        for name in names
    }
    known = verdicts.controls(measures, absent, seen.asked)
    methods = {
        name: judged(name, measures, absent[name], rows, seen.asked, known) for name in names
    }
    everywhere = [entry["not_shown"] for entry in methods.values()]
    told = [note for note in [private.page_note(config)] if note]
    return dict(
        audited=datetime.datetime.now(datetime.UTC).date().isoformat(),
        asked=requested(config, seen),
        done=dict(
            rounds=config.rounds,
            recovery_rounds=config.recovery_rounds,
            retrained=[name for name in (*RETRAINED, THIRD) if name in names],
        ),
        seeds=seeds,
        notes=[*seen.notes, *partial(names, config, seeds, known), *told],
        questions=verdicts.RULES,
        controls=dict(old=known.old, third=known.third),
        methods=methods,
        not_shown={
            key: everywhere[-1][key] for key in TABLE if all(key in absent for absent in everywhere)
        },
        curves=curves(rows),
        reproduce=again(where, run, seeds, names, seen.files),
    )


class Seen(NamedTuple):
    """What was looked at."""

    found: dict[str, Any]  # samples by method, measure and seed
    trial: Any  # of the first seed
    asked: bool  # whether the request names every image with the trigger
    files: dict[str, str]  # digests of what was read
    notes: list[str]


def look(work, run, config, layout, names, seeds, rows) -> Seen:
    """The samples of every model and, if they are asked for, of shadow federations."""
    import jfu
    import jfu.ledger
    from launch.running import evidence, shadows
    from launch.running.progress import in_words
    from launch.setup.study import prepare_study
    from launch.setup.trial import names_the_poison, prepare_trial
    from launch.workdir import workdir

    notes: list[str] = []
    found: dict[str, Any] = {}
    files: dict[str, str] = {}
    first, poisoned = None, True
    taken = workdir.taken(work, seeds)
    study = prepare_study(config, layout, seeds, taken, {work.path: run.data})
    say(f"auditing {work.path}; {in_words(study.layout)}")
    undo = jfu.unlearn.UNLEARNERS["not"](study.setting) if "not" in names else None
    tools = evidence.tools(study, undo)
    for seed in seeds:
        trial = prepare_trial(study, seed)
        first = first or trial
        work = workdir.with_draws(work, seed, trial.draws)
        forget, retain = trial.evaluation.forget, trial.evaluation.retain
        poisoned = poisoned and names_the_poison(trial.poisoned, forget, retain)
        models = {}
        for name, place, cell in stored_cells(work, run, study, trial, names, tools):
            variables = evidence.stored(place, seed, cell)
            if variables is None:
                notes.append(f"The model of {name} on seed {seed} is not there or not done.")
                continue
            models[name] = variables
            path = place.cell(seed, cell)
            files[str(path.relative_to(work.path))] = jfu.ledger.digest(path)
        mine = [row for row in rows if row["seed"] == seed]
        of_models = evidence.of_seed(study, trial, models, mine, tools, FLAGS.relearn_rounds)
        for name, measured in of_models.items():
            for key, arrays in measured.items():
                found.setdefault(name, {}).setdefault(key, {})[seed] = arrays
    if FLAGS.shadows:
        more, blocks = of_shadows(work, study, first, names, found, rows, shadows)
        notes += more + (other_shadows(run) if blocks else [])
        files |= {str(path.relative_to(work.path)): jfu.ledger.digest(path) for path in blocks}
    return Seen(found, first, poisoned, files, notes)


def stored_cells(work, run, study, trial, names, tools) -> list[tuple[str, Any, str]]:
    """Where a seed's models lie: name, work directory, cell. Makes the control's, if it is due."""
    from jfu.audit.measures import RETRAINED, THIRD
    from launch.running import evidence

    asked = FLAGS.shadows > 0 if FLAGS.control is None else FLAGS.control
    first = "train" if run.script == "train" else "original"
    out = [(name, work, first if name == "original" else name) for name in names]
    due = asked and run.config.forget and set(RETRAINED) <= set(names)
    if due and all(evidence.stored(work, trial.seed, n) for n in RETRAINED):
        place = evidence.third(work, study, trial, tools.programs)
        out.append((THIRD, place, THIRD))
    return out


def judged(name, measures, absent, rows, asked, known) -> dict[str, Any]:
    """What the report says of one method."""
    from jfu.audit import verdicts
    from jfu.audit.measures import REFERENCES

    costs = verdicts.ratios(rows, name)
    given = verdicts.verdicts(name, measures[name], costs, absent, asked, known)
    if name in REFERENCES:
        anywhere = {key.partition(".")[0] for shown in measures.values() for key in shown}
        absent = absent | {k: "others are compared with it" for k in absent if k in anywhere}
    return dict(
        seeds=sorted({row["seed"] for row in rows if row["method"] == name}),
        measures=measures[name],
        not_shown=absent,
        costs=costs,
        verdicts={question: verdict for question, (verdict, _) in given.items()},
        reasons={question: why for question, (_, why) in given.items()},
    )


def requested(config, seen: Seen) -> dict[str, Any]:
    """What was asked for, of the first seed."""
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
        backdoor_named=seen.asked,
    )


def again(where, run, seeds, names, files) -> dict[str, Any]:
    """What makes the report again, and digests of what it is of."""
    import jfu
    import jfu.ledger
    from launch.report import reproduce
    from launch.shell.software import versions

    kept = {name: jfu.ledger.digest(where / name) for name in ("config.json", "results.jsonl")}
    return dict(
        command=reproduce.command(run, seeds, names),
        audit=audit_command(where),
        config=dataclasses.asdict(run.config),
        layout=run.layout._asdict(),
        versions=dict(run=run.versions, audit=versions() | dict(jfu=jfu.__version__)),
        python=platform.python_version(),
        hashes=kept | files,
    )


def of_shadows(work, study, trial, names, found, rows, shadows) -> tuple[list[str], list]:
    """Adds what shadow federations show; returns notes, and the files in which they are kept."""
    from jfu.audit import pairs
    from jfu.audit.measures import REFERENCES
    from launch.setup.methods import build_methods, remembered, remembering

    asked = [n for n in names if n not in REFERENCES]
    keep = (work.more or {}).get("keep_history") or remembered(asked)
    study = remembering(study, keep, trial)
    methods = build_methods(study, asked)
    try:
        phi, seconds, blocks = shadows.run(
            work, study, trial, methods, FLAGS.shadows, FLAGS.shadows_chunk
        )
    except shadows.TooFew as error:
        return [str(error)], []
    for name, measured in pairs.of_shadows(phi).items():
        for key, groups in measured.items():
            found.setdefault(name, {})[key] = groups
    notes = [
        f"Attacks on single examples, and the forgetting score, rest on {FLAGS.shadows} shadow "
        f"federations, which share the split of seed {trial.seed}; each held a random half of the "
        "examples to forget."
    ]
    alone = shadows.one_by_one(work, rows, trial.seed, asked)
    if seconds and alone:
        estimated = "" if alone[1] else ", its training estimated as retraining's"
        notes.append(
            f"A shadow, trained, retrained and answered by {len(asked)} methods, took "
            f"{seconds:.1f} s without compilation; the same rounds one by one took the comparison "
            f"{alone[0]:.1f} s{estimated}."
        )
    return notes, blocks


def other_shadows(run) -> list[str]:
    """In what shadows differ from the audited models, in sentences."""
    notes = []
    if run.config.init_params:
        notes.append(
            "The audited model came from a file; shadow federations are trained by this work "
            "directory's recipe, which may not be that model's."
        )
    if run.more.get("stop") == "regained":
        notes.append(
            f"Shadow federations answer with all {run.config.recovery_rounds} rounds, while "
            "launch.unlearn stopped as soon as retained accuracy was regained, maybe before."
        )
    return notes


def partial(names: list[str], config, seeds: list[int], known) -> list[str]:
    """What this report cannot say, in sentences."""
    from jfu.audit import verdicts

    notes = []
    if known.mistaken:
        notes.append(
            f"A control failed: {verdicts.titles(known.mistaken)} took a third retraining, which "
            "forgot by making, for a model that did not. It says no to nobody here, and there is "
            "no yes: compare on more seeds."
        )
    elif known.old and "retrain" in names and len(seeds) >= verdicts.FEWEST and not known.told:
        notes.append(
            f"{verdicts.TOO_SMALL}: by its own rule the old model, which forgot nothing, cannot "
            "be told from retrained ones, so no other model is called forgotten."
        )
    if "retrain" not in names:
        notes.append(
            "There is no retrained model, so nothing can be compared with what forgetting would "
            "be: run launch.compare with retrain among --methods and audit that."
        )
    if not config.forget:
        notes.append(
            "No request was made, so there is nothing to have been forgotten: answer one with "
            "launch.unlearn or launch.compare and audit that."
        )
    if len(seeds) == 1:
        notes.append("There is one seed, and one seed decides nothing: compare on five.")
    elif len(seeds) < 5:
        notes.append(f"There are {len(seeds)} seeds; below five nothing is decided.")
    return notes


def not_shown(
    shown: dict, missing: dict[str, str], names: list[str], config, given
) -> dict[str, str]:
    """Why a method's measures that are not there are not, by measure."""
    from jfu.audit.measures import GROUPS, TABLE

    kinds = {key.partition(".")[0] for key in shown}
    out = dict(missing)
    for key, measure in TABLE.items():
        if key in kinds or key in missing:
            continue
        if not config.forget:
            why = "nothing was to be forgotten"
        elif key in GROUPS["Attacks with shadow federations"]:
            why = "not run; --shadows=64 runs it"
            if given.shadows:
                why = "too few examples, or a shadow federation diverged"
        elif key == "asr":
            why = "no backdoor was planted"
        elif key.startswith("undo"):
            why = "not is not among the methods" if "not" not in names else "nothing was negated"
        elif key in ("relearn", "anamnesis") and not given.relearn_rounds:
            why = "not run; --relearn_rounds=20 runs it"
        elif key == "anamnesis":
            why = "there is no retrained model that relearnt in so many rounds"
        elif key == "relearn":
            why = "the model that the request met is not there"
        elif measure.pair or key.startswith("rmia"):
            why = "there is no retrained model, or not every answer is finite"
        else:
            why = "too few examples, or not evaluated"
        out[key] = why
    return out


def audit_command(where: pathlib.Path) -> str:
    given = ("shadows", "relearn_rounds", "draws", "shadows_chunk", "data_dir")
    words = [f"--workdir={where}"]
    if FLAGS.control is not None:
        words.append("--control" if FLAGS.control else "--nocontrol")
    words += [f"--{name}={FLAGS[name].value}" for name in given if FLAGS[name].value is not None]
    return "python -m launch.audit " + " ".join(map(shlex.quote, words))


def curves(rows: Sequence[dict]) -> dict[str, dict[str, list]]:
    """Means over seeds by method and round: accuracies, backdoor success, loss gap."""
    import numpy as np

    out: dict[str, dict[str, list]] = {}
    at: dict[tuple, list] = {}
    for row in rows:
        at.setdefault((row["method"], row["round"]), []).append(row)
    for (method, number), here in sorted(at.items(), key=lambda item: item[0][1]):
        for key in ("retain", "forget", "test", "asr", "loss_gap"):
            if key == "loss_gap":
                losses = [(row.get("loss_retain"), row.get("loss_forget")) for row in here]
                values = [None if None in pair else abs(pair[0] - pair[1]) for pair in losses]
            else:
                values = [row[key] for row in here]
            if None not in values:
                series = out.setdefault(key, {}).setdefault(method, [])
                series.append([number, float(np.mean(values))])
    return out
