"""When negation pays: the settings, and the measures of each federation."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import jfu
from jfu import shadows
from jfu.evaluation import Evaluation, measures_of, sides
from jfu.tasks import TASKS
from launch.report import advice
from launch.shell import entry
from launch.shell.config import Config, having, resolve, workdir_for
from launch.shell.printing import listed, show
from launch.shell.say import say
from launch.shell.typed import given, said

FLAGS = flags.FLAGS

CLEAN = dict(backdoor=False, backdoor_clients=(), backdoor_forget="")
# The changes of each setting, by factor. ``times`` multiplies rates and lengths of the base.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "optimizer and rate": {
        "base": {},
        "rate / 3": dict(times=dict(lr=1 / 3)),
        "rate x 2": dict(times=dict(lr=2.0)),
        "momentum and rate / 10": dict(momentum=0.9, times=dict(lr=0.1)),
        "momentum and rate / 30": dict(momentum=0.9, times=dict(lr=1 / 30)),
        "momentum and rate / 3": dict(momentum=0.9, times=dict(lr=1 / 3)),
        "adam 0.002": dict(optimizer="adam", lr=0.002),
        "adam 0.0005": dict(optimizer="adam", lr=0.0005),
        "adam 0.005": dict(optimizer="adam", lr=0.005),
    },
    "length of training": {
        "rounds / 8": dict(times=dict(rounds=1 / 8)),
        "rounds / 4": dict(times=dict(rounds=1 / 4)),
        "rounds / 2": dict(times=dict(rounds=1 / 2)),
        "rounds x 2": dict(times=dict(rounds=2)),
    },
    "depth": {
        "mlp of 1 hidden layer": dict(model="mlp1"),
        "mlp of 2 hidden layers": dict(model="mlp"),
        "mlp of 4 hidden layers": dict(model="mlp4"),
    },
    "normalisation": {"group norm": dict(norm="group")},
    "local work": {"2 local epochs": dict(epochs=2), "4 local epochs": dict(epochs=4)},
    "poison": {
        "half as much poison": dict(times=dict(backdoor_fraction=0.5)),
        "no poison": CLEAN,
        "no poison and few images": CLEAN | dict(train_size=300, epochs=4),
    },
}
# Flags of other scripts that have no use here.
NO_PART = {*having("not_in_pays"), "checkpoint_every", "key_file"}
METHODS = ("retrain", "retrain_again", "finetune", "reinit", "not")


def pays() -> None:
    until = entry.deadline(FLAGS.max_minutes)
    known = {name: changes for group in SETTINGS.values() for name, changes in group.items()}
    names = FLAGS.settings or list(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no setting {unknown[0]!r}; the settings are {'; '.join(known)}")
    config = resolve()
    for name in sorted(given() & NO_PART):
        raise ValueError(
            f"--{name} has no use here: every setting trains from scratch, and its methods have "
            "equal rounds, all evaluated, and the same rate; leave it out"
        )
    from launch.report import figures
    from launch.setup import federation, identity
    from launch.setup.study import load
    from launch.shell import devices, joining, outputs
    from launch.studies import pays_figure, pays_report
    from launch.workdir import workdir

    joining.refuse(FLAGS, "pays")
    federation.check(config, **said())
    if config.dp_clip is not None:
        raise ValueError("launch.pays does not compute epsilon; leave --dp_clip out")
    where = workdir_for(config, "pays")
    config = workdir.as_begun(where, config)
    work = workdir.open_workdir(where, config, "pays")
    chunk = 1 if FLAGS.chunk is None else FLAGS.chunk
    layout = devices.start(FLAGS.devices, chunk, FLAGS.seeds, work.layout, FLAGS.compilation_cache)
    say(
        f"federations on {layout.devices} {layout.backend} devices, each with {chunk or 'all'} "
        f"clients at a time; work directory {work.path}"
    )
    data = identity.of_data(load(config))
    work = workdir.begin(work, config, "pays", layout, data)
    path = work.path / "pays.jsonl"
    rows = known_rows(path)
    wanted = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
    done = lambda name: {row["seed"] for row in rows if row["setting"] == name}
    left = {name: seeds for name in names if (seeds := [s for s in wanted if s not in done(name)])}
    took = 0.0
    with devices.on_devices(layout):
        while left and (not took or time.perf_counter() + took < until):
            name, began = next(iter(left)), time.perf_counter()
            rows += measure(name, changed(config, known[name]), layout, left.pop(name))
            keep_rows(path, rows)
            took = time.perf_counter() - began
    text = f"{pays_report.markdown(rows)}\n{pays_report.groups(rows)}"
    outputs.put(work.path / "pays.md", text.encode())
    plotted = figures.drawn(pays_figure.draw, rows, str(work.path / "pays.png"))
    names = ["pays.jsonl", "pays.md", *["pays.png"] * plotted]
    show(f"\n{text}\n{listed(names)} are in {work.path}/")
    if left:
        raise entry.OutOfTime(f"--max_minutes is over; left: {'; '.join(left)}")


def known_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of earlier commands, if they are unchanged.

    Raises:
      ValueError: they were changed.
    """
    from jfu.files import read_lines
    from jfu.ledger import digest
    from launch.studies import pays_report

    if not os.path.lexists(path):
        return []
    digests = path.with_name(f"{path.name}.sha256")
    try:
        rows = read_lines(path, finite=False)
        if not all(isinstance(row, dict) and {"setting", "seed"} <= row.keys() for row in rows):
            raise ValueError("its lines are not rows of launch.pays")
        if os.path.lexists(digests) and digest(path) not in read_lines(digests):
            raise ValueError("it was changed since it was written")
        if rows:  # the tables at the end need them
            _ = pays_report.markdown(rows), pays_report.groups(rows)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = str(error) if type(error) is ValueError else f"{error!r:.200}"
        raise ValueError(f"{path} is unreadable ({why}); restore it, or remove it") from None
    return rows


def keep_rows(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces the rows. First it writes their digest, and that of the old rows, into a file."""
    from jfu.ledger import digest

    text = "".join(json.dumps(row) + "\n" for row in rows)
    now = [hashlib.sha256(text.encode()).hexdigest()]
    now += (
        [digest(path)] if path.exists() else []
    )  # the old rows stay if the process is killed between
    write(path.with_name(f"{path.name}.sha256"), "".join(f'"{one}"\n' for one in now))
    write(path, text)


def write(path: pathlib.Path, text: str) -> None:
    from jfu.io import write_bytes

    write_bytes(path, text.encode())


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """A setting's configuration; recovery has the rate and the number of rounds of training."""
    changes = dict(changes)
    for name, factor in changes.pop("times", {}).items():
        value = factor * getattr(config, name)
        changes[name] = max(2, round(value)) if name == "rounds" else value
    config = dataclasses.replace(config, **changes)
    return dataclasses.replace(config, recovery_rounds=config.rounds, recovery_lr=config.lr)


# ---------------------------------------------------------------- one program for all seeds


def measure(name: str, config: Config, layout: Any, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """All seeds of one setting; one row for each.

    Training and every method run the same rounds from other states on other data. So one compiled
    program, mapped over the seeds, does them all. Keys are those of launch.compare.
    """
    from launch.running.programs import looked_at
    from launch.setup import keys
    from launch.setup.methods import build_methods
    from launch.setup.study import prepare_study
    from launch.setup.trial import names_the_poison, prepare_trial

    began = time.perf_counter()
    study = prepare_study(config, layout, list(seeds))
    trials = [prepare_trial(study, seed) for seed in seeds]
    made = build_methods(study, ["retrain", "finetune", "reinit", "not"])
    made["retrain_again"] = made["retrain"]
    named = lambda t: names_the_poison(t.poisoned, t.evaluation.forget, t.evaluation.retain)
    poisoned = [named(trial) for trial in trials]
    masks = [_masks(trial.evaluation) for trial in trials]
    # If training and recovery have the same warm-up, they are one program.
    course = functools.cache(lambda fed: jax.jit(shadows.map_federations(_course(study, fed))))

    def run(method, fed, name, starts, splits):
        """The method on every seed: its last states, and the measures on the way."""
        perturb, rows = jax.jit(method.perturb), []
        for trial, mask, trained, split in zip(trials, masks, starts, splits, strict=True):
            first, later = jax.random.split(keys.run(trial.key, name))
            state = perturb(trained, split, first)
            key = jax.random.key_data(later)
            rows.append((state, split, key, (trial.evaluation.x, trial.evaluation.y, mask)))
        rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        looked_at(course(fed).trace((), rows))
        states, seen = course(fed)((), rows)
        return states, jax.tree.map(np.asarray, seen)

    nothing = [jfu.Trained(())] * len(trials)
    states, seen = run(study.fresh, study.fed, "train", nothing, [t.everything for t in trials])
    at = lambda tree, number: jax.tree.map(lambda a: a[number], tree)
    trained = [jfu.Trained(at(states.variables, number)) for number in range(len(trials))]
    found, requests = dict(original=seen), [trial.request for trial in trials]
    for method in METHODS:
        anew = method in ("retrain", "retrain_again")
        fed, starts = (study.fed, nothing) if anew else (study.setting.fed, trained)
        found[method] = run(made[method], fed, method, starts, requests)[1]
    took = time.perf_counter() - began
    say(f"  {name}: {len(seeds)} seeds in {took:.0f} s")
    lines = enumerate(zip(trials, poisoned, strict=True))
    return [dict(setting=name) | line(config, *who, at(found, number)) for number, who in lines]


def _masks(evaluation: Evaluation) -> np.ndarray:
    """The examples of each accuracy, among those of the evaluation, bool ``[A, E]``."""
    every = np.arange(len(evaluation.y))
    return np.stack([np.isin(every, rows) for rows in sides(evaluation).values()])


def _course(study: Any, fed: jfu.FederatedAlgorithm):
    """Rounds on retained data as one function of a seed's state, data and key.

    Returns:
      ``(last state, seen)``. Seen are every example's loss and correctness at the start, half-way
      and at the end, and the number of correct images of each mask, by round ``[R, A]``.
    """
    task = TASKS[study.config.task].judge(study.dataset)
    judge = jfu.per_example(lambda variables, x: study.model.apply(variables, x)[0], judge=task)
    rounds, half = study.config.rounds, study.config.rounds // 2

    def course(_, row):
        start, split, key, (*images, masks) = row
        key = jax.random.wrap_key_data(key)
        look = lambda state: judge(state.variables, *images)

        def step(carry, number):
            state, kept = carry
            state, _ = fed.round(state, split.retain, jax.random.fold_in(key, number))
            seen, now = look(state), number + 1 == half
            kept = jax.tree.map(lambda old, new: jnp.where(now, new, old), kept, seen)
            return (state, kept), masks @ seen[1].astype(jnp.float32)  # counts: exact

        begin = look(start)
        (state, kept), curve = jax.lax.scan(step, (start, begin), jnp.arange(rounds))
        return state, dict(begin=begin, half=kept, end=look(state), curve=curve)

    return course


def line(config: Config, trial: Any, poisoned: bool, found: dict[str, Any]) -> dict[str, Any]:
    """One seed's line of pays.jsonl, from the output of its program."""
    rows = sides(trial.evaluation)
    marks = lambda name, when: measures_of(trial.evaluation, *found[name][when])
    curve = lambda name: [
        dict(round=number, retain=round(100 * float(row[0]) / len(rows["retain"]), 10))
        for number, row in enumerate(found[name]["curve"], 1)
    ]
    original, last = marks("original", "end"), marks("retrain", "end")
    methods = {}
    for name in METHODS:
        half, ended = marks(name, "half"), marks(name, "end" if name in AT_END else "half")
        methods[name] = dict(
            recover=jfu.first_round_within(curve(name), last["retain"]),
            gap=jfu.gap([ended], [last]),
            half=half,
        )
    return dict(
        seed=trial.seed,
        rounds=config.rounds,
        original=original,
        excess=advice.excess(config.forget, original, poisoned),
        took=jfu.first_round_within(curve("original"), original["retain"]),
        negated=marks("not", "begin"),
        last=last,
        methods=methods,
    )


AT_END = ("retrain", "retrain_again")
