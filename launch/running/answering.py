"""Answers one request with one method, on a model that was trained before."""

import dataclasses
import os
import pathlib
from typing import Any

from absl import flags

import jfu
import jfu.io
from jfu.tasks import TASKS
from launch.records import erasure, records
from launch.report import advice, report, spoken
from launch.running import ahead, cells, start
from launch.running.programs import Programs
from launch.running.progress import announce
from launch.running.training import write_history
from launch.setup import federation, identity, ridge
from launch.setup.methods import build_methods, rounds_to_run
from launch.setup.study import prepare_study
from launch.setup.trial import Trial, names_the_poison, prepare_trial
from launch.shell import devices, hosts, joining
from launch.shell.config import FIELDS, Config, having, needs_proxy, resolve, workdir_for
from launch.shell.printing import show
from launch.shell.say import say
from launch.shell.typed import said
from launch.workdir import checkpoints, locks, outcome, places, runs, workdir
from launch.workdir.places import WorkDir

FLAGS = flags.FLAGS


def unlearn(until: float) -> None:
    """Does what the flags of ``launch.unlearn`` request.

    Args:
      until: no round begins that would end later, by ``time.perf_counter``.

    Raises:
      OutOfTime: rounds are left, and there is a checkpoint.
    """
    joining.join(FLAGS, FLAGS.clients)
    met = configuration()
    config = met.config
    check(config)
    more = dict(seed=met.seed, method=FLAGS.method, stop=stopping(config))
    where = workdir_for(config, "unlearn", **more)
    config = workdir.as_begun(where, config)
    met = met._replace(config=config)
    work = workdir.open_workdir(where, config, "unlearn", **more)
    if places.MODEL in start.erased(work):
        raise ValueError(f"the model of {work.path} was erased; choose another --workdir")
    if FLAGS.erase and records.is_answered(work, config, FLAGS.method):
        work = work._replace(lock=locks.take(work.path))
        return erasure.erase(work, config, FLAGS.method)
    export = FLAGS.export_params and pathlib.Path(FLAGS.export_params)
    if export:
        hosts.agreed(lambda: jfu.io.check_new(export, may_exist=work.layout is not None))
    layout = devices.start(
        FLAGS.devices, FLAGS.chunk, config.clients, work.layout, FLAGS.compilation_cache
    )
    with devices.on_devices(layout):
        work, state, rows = answer(work, met, layout, more, until)
    variables = state.variables
    outcome.write_results(work, rows)
    if keep := [kind for kind in ridge.kept(config) if kind in state.history]:
        write_history(work, keep, state.history)
    checkpoints.write_model(work, variables)
    if export:
        checkpoints.export(export, variables, shown=True)
    if hosts.first():
        publish(work, config, rows)
        if FLAGS.erase:
            erasure.erase(work, config, FLAGS.method)


# ---------------------------------------------------------------- the request


def configuration() -> runs.Met:
    """The original model, with the changes that the request makes in its configuration."""
    if bool(FLAGS.init_from) == bool(FLAGS.init_params):
        raise ValueError(
            "unlearning starts from a trained model: give --init_from=WORKDIR of launch.train, or "
            "--init_params=FILE of a model trained elsewhere"
        )
    if not FLAGS.init_from:
        return runs.Met(resolve([FLAGS.method]), FLAGS.seed, {}, None)
    moved = {name: FLAGS[name].value for name in having("place") if FLAGS[name].present}
    met = runs.read_model(FLAGS.init_from, **moved)
    trained = met.config
    if ridge.chosen(trained) and not FLAGS["method"].present:
        FLAGS.method = ridge.usual(trained.sum_only)
    if "seed" in FLAGS and FLAGS["seed"].present and FLAGS.seed != met.seed:
        raise ValueError(f"{FLAGS.init_from} was trained with --seed={met.seed}, not {FLAGS.seed}")
    changes = changed_by_request(trained)
    # The real path of the folder, but not of the model, which may be a link to elsewhere.
    model = hosts.agreed(lambda: os.path.join(os.path.realpath(FLAGS.init_from), runs.MODEL))
    config = dataclasses.replace(trained, **changes, init_params=model)
    taken = met.taken
    if config.forget != trained.forget:  # draws of another request do not apply
        taken = {seed: draws._replace(request=None) for seed, draws in taken.items()}
    return met._replace(config=config, taken=taken)


def changed_by_request(trained: Config) -> dict[str, Any]:
    """The fields in which a request differs from the training before it.

    Raises:
      ValueError: a flag of training has another value than in that training.
    """
    given = {n: getattr(FLAGS, n) for n in FIELDS if n in FLAGS and FLAGS[n].present}
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    settable = having("request", "renewed")
    # Retraining and rollback repeat training without the forgotten data, so they clip as it did.
    anew = not jfu.unlearn.traits_of(FLAGS.method).recovers
    free = [n for n in settable if not (anew and n == "max_grad_norm")]
    free += [*having("place"), "init_params"]
    for name, value in given.items():
        if name not in free and value != getattr(trained, name):
            raise ValueError(
                f"{FLAGS.init_from} was trained with {name}={getattr(trained, name)}, not "
                f"{value}; leave the flag out, or train a new model"
            )
    changes = {n: v for n, v in given.items() if n in settable}
    if needs_proxy([FLAGS.method]):
        changes.setdefault("proxy", trained.proxy or 0.1)
    if not (trained.forget or "forget" in changes):
        if trained.past:
            raise ValueError(
                f"{FLAGS.init_from} has answered a request; name the next one with --forget"
            )
        changes["forget"] = FLAGS.forget
    if FLAGS["backdoor_client"].present:
        raise ValueError(
            f"{FLAGS.init_from} is trained already, too late for --backdoor_client; leave it out"
        )
    return changes


def check(config: Config) -> None:
    """Refuses a request that cannot be answered, before the work directory is opened."""
    hosts.together(lambda: federation.check(config, [FLAGS.method], alone=True, **said()))
    if (
        not jfu.unlearn.traits_of(FLAGS.method).recovers
        and FLAGS["stop"].present
        and FLAGS.stop == "regained"
    ):
        raise ValueError(
            f"--stop=regained does nothing with {FLAGS.method}, which uses its budget; leave it out"
        )
    if FLAGS.method == "none":
        raise ValueError(
            "--method=none returns the old model, which is not an answer; use it as a control, in "
            "launch.compare"
        )
    if FLAGS.erase and hosts.several():
        raise ValueError(
            "--erase runs on one host; unlearn first, then start the same command with --erase and "
            "without --coordinator"
        )
    start.check_source(FLAGS.init_from)


def stopping(config: Config) -> str:
    """When to stop: by --stop, but never by accuracy on private data that noise must hide."""
    if config.dp_clip is None or config.dp_noise_from_seed:
        return FLAGS.stop
    if FLAGS["stop"].present and FLAGS.stop == "regained":
        raise ValueError(
            "--stop=regained uses exact accuracy on clients' examples, which epsilon does not "
            "cover; with --dp_clip use --stop=budget, and give the number of rounds with "
            "--recovery_rounds"
        )
    return "budget"


# ---------------------------------------------------------------- the answer


def answer(
    work: WorkDir, met: runs.Met, layout: devices.Layout, more: dict[str, Any], until: float
) -> tuple[WorkDir, Any, list[dict[str, Any]]]:
    """Runs the method on the model.

    Returns:
      ``(work, state, rows)``: the work directory open for writing, the last state, and the rows of
      the old model and of each round after it.
    """
    config, seed, name = met.config, met.seed, FLAGS.method
    taken = met.taken | workdir.taken(work, [seed])
    source = {FLAGS.init_from: met.data} if FLAGS.init_from else runs.of_model(config)
    made = source | {work.path: work.data}
    ahead.drawing()
    study = hosts.together(lambda: prepare_study(config, layout, [seed], taken, made))
    (method,) = build_methods(study, [name]).values()
    trial = prepare_trial(study, seed)
    history = devices.place(read_history(FLAGS.init_from))
    check_history(method, trial, history)
    rounds = rounds_to_run(config, name, history, trial.request)
    if name == "rollback" and not rounds:
        raise ValueError(
            f"no client that loses examples took part in the training of {FLAGS.init_from}, so its "
            "model never learned from them, and there is nothing to answer"
        )
    work = start.begin(work, config, "unlearn", study, trial, FLAGS.init_from, more)
    records.asked(work, config, name)
    announce(study, trial, f"method {name}, seed {seed}", work, {name: rounds})
    cell = cells.runner(work, study, trial, Programs(), FLAGS.checkpoint_every, until, name)
    trained, row, _ = cells.original(study, trial, cell)
    trained = trained._replace(history=history)
    if name in ("not", "not_blend"):
        say_outlook(work, config, trial, row)
    check_learnt(study, name, trained.variables)
    regained = more["stop"] == "regained" and jfu.unlearn.traits_of(name).recovers
    enough = row["retain"] - 0.5 if regained else None
    state, rows = cell(name, method, trained, trial.request, rounds, enough=enough, goals=())
    check_changed(trained.variables, state.variables)
    return work, state, [row, *rows]


def read_history(source: str | None) -> Any:
    """The history of training in a work directory, on every host; {} if there is none."""
    if not source:
        return {}
    path = pathlib.Path(source) / places.HISTORY
    if not hosts.agreed(path.exists):
        return {}
    return ridge.restored(jfu.io.unflatten(jfu.io.load_arrays(hosts.opened(path))))


def check_history(method: jfu.Unlearner, trial: Trial, history: Any) -> None:
    """Refuses a method whose history is missing; a note says what older histories lack."""
    jfu.unlearn.check_request(method, trial.request, history, FLAGS.method)
    if "last" in method.needs.history and "came" not in history:
        say(
            f"note: the history of {FLAGS.init_from} is too old to say which clients took part in "
            f"the last round; {FLAGS.method} assumes that all did"
        )


def say_outlook(work: WorkDir, config: Config, trial: Trial, row: dict[str, Any]) -> None:
    """Prints a forecast of what negation may do to this model."""
    seen = places.WorkDir(pathlib.Path(FLAGS.init_from or work.path), None)
    rows = hosts.agreed(lambda: outcome.read_results(seen))
    training = [line for line in rows if line["method"] == "train"]
    poisoned = names_the_poison(trial.poisoned, trial.evaluation.forget, trial.evaluation.retain)
    for line in advice.outlook(dataclasses.asdict(config), row, training, poisoned):
        say(spoken.text(line, TASKS[config.task].words))


def check_learnt(study: Any, name: str, variables: Any) -> None:
    """Refuses to perturb a model that answers all inputs alike: no answer could be seen in it."""
    some = devices.place(study.dataset.x_test[:64])
    perturbs = jfu.unlearn.traits_of(name).perturbs
    if perturbs and jfu.unlearn.answers_alike(study.logits, variables, some):
        raise ValueError(
            f"the model answers {len(some)} inputs alike, so it has learnt nothing to forget; give "
            "a trained model, or train it again with a smaller learning rate"
        )


def check_changed(old: Any, new: Any) -> None:
    """Notes, or with --erase refuses, a model that differs from the old one only in signs."""
    if identity.changed(old, new, FLAGS.method):
        return
    signs = (
        f"{FLAGS.method} changed only signs, and anyone who knows this can change them back: give "
        "it rounds of recovery"
    )
    if FLAGS.erase:
        raise ValueError(f"{signs}, before --erase removes anything")
    say(f"note: {signs}, here or elsewhere, before you share the model")


def publish(work: WorkDir, config: Config, rows: list[dict[str, Any]]) -> None:
    """Writes and prints the table, and notes the answer in the ledger."""
    values = dataclasses.asdict(config)
    summary = report.summarise(rows, values)
    text = report.markdown(summary)
    names = report.write(work.path, summary, text)
    records.answered(work, config, FLAGS.method, rows, names)
    show(f"\n{text}")
    if jfu.unlearn.traits_of(FLAGS.method).recovers:
        for line in advice.behind(values, rows[0], rows[-1]):
            say(spoken.text(line, TASKS[config.task].words))
    show(f"the unlearned model is {work.path / places.MODEL}")
