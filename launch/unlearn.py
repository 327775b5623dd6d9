"""Answers one request with one method, on a model that was trained before.

The model comes from launch.train or from an earlier request (--init_from=A), or from elsewhere
(--init_params=FILE, with the flags that say what it was trained on). The new work directory then
holds the unlearned model (model.safetensors), results.jsonl, table.md and the ledger; A is left
as it is, unless --erase removes what still holds the forgotten data.

  python -m launch.unlearn --init_from=A --workdir=B --method=not --forget=client:0
  python -m launch.unlearn --init_from=B --workdir=C --forget=client:3 --erase
  python -m launch.unlearn --init_params=model.msgpack --dataset=own.npz --model=cnn \\
      --forget=client:alice --export_params=unlearned.msgpack
"""

import dataclasses
import os
import pathlib

from absl import flags

from launch.shell import config as configs
from launch.shell import entry, typed
from launch.shell import flags as shared
from launch.shell.printing import show
from launch.shell.say import say

FLAGS = flags.FLAGS

# What a request may set; everything else belongs to the training that it meets.
REQUEST = configs.having("request", "renewed")


def define() -> None:
    shared.define()
    flags.DEFINE_string(
        "init_from", None, "The work directory of a finished launch.train or launch.unlearn."
    )
    flags.DEFINE_string("method", "not", "The unlearning method.")
    flags.DEFINE_integer("seed", 0, "Fixes split and draws, with --init_params.", lower_bound=0)
    flags.DEFINE_enum(
        "stop",
        "regained",
        ["regained", "budget"],
        "When to stop: regained, once retained accuracy is within 0.5 points of what it was before "
        "the request, at --recovery_rounds at the latest; or budget, only then. Retraining always "
        "uses its budget, and so do private runs (--dp_clip), whose accuracy is not to choose.",
    )
    flags.DEFINE_string(
        "export_params", None, "Also write the unlearned model here, .safetensors or .msgpack."
    )
    flags.DEFINE_boolean(
        "erase",
        False,
        "Once all results are there, remove what still holds the forgotten data, here and where "
        "the model came from: models, histories, checkpoints, shadow models.",
    )


def resolve(runs):
    """The training that the request meets, with what the request changes in its configuration."""
    if bool(FLAGS.init_from) == bool(FLAGS.init_params):
        raise ValueError(
            "unlearning starts from a trained model: give --init_from=WORKDIR of launch.train, or "
            "--init_params=FILE of a model trained elsewhere"
        )
    if not FLAGS.init_from:
        return runs.Met(configs.resolve([FLAGS.method]), FLAGS.seed, {}, None)
    moved = {name: FLAGS[name].value for name in configs.having("place") if FLAGS[name].present}
    met = runs.read_model(FLAGS.init_from, **moved)
    trained, seed = met.config, met.seed
    given = {n: getattr(FLAGS, n) for n in configs.FIELDS if n in FLAGS and FLAGS[n].present}
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    if "seed" in FLAGS and FLAGS["seed"].present and FLAGS.seed != seed:
        raise ValueError(f"{FLAGS.init_from} was trained with --seed={seed}, not {FLAGS.seed}")
    # Retraining is the training that was, without the forgotten: it clips as that did.
    own = [name for name in REQUEST if FLAGS.method != "retrain" or name != "max_grad_norm"]
    own += configs.having("place")
    for name, value in given.items():
        if name not in own and name != "init_params" and value != getattr(trained, name):
            raise ValueError(
                f"{FLAGS.init_from} was trained with {name}={getattr(trained, name)}, not "
                f"{value}; leave the flag out, or train anew"
            )
    changes = {n: v for n, v in given.items() if n in REQUEST}
    if FLAGS.method == "fukd":
        changes.setdefault("proxy", trained.proxy or 0.1)
    if not (trained.forget or "forget" in changes):
        if trained.past:
            raise ValueError(f"{FLAGS.init_from} has answered a request; name the next: --forget=")
        changes["forget"] = FLAGS.forget
    if FLAGS["backdoor_client"].present:
        raise ValueError(f"{FLAGS.init_from} is trained already; --backdoor_client comes too late")
    from launch.shell import hosts

    # The folder's own place, and the model's in it, though that be a link: so the folder is found.
    model = hosts.agreed(lambda: os.path.join(os.path.realpath(FLAGS.init_from), runs.MODEL))
    config = dataclasses.replace(trained, **changes, init_params=model)
    taken = met.taken
    if config.forget != trained.forget:  # what was drawn for another request is not this one's
        taken = {seed: draws._replace(request=None) for seed, draws in taken.items()}
    return met._replace(config=config, taken=taken)


def stopping(config) -> str:
    """When to stop: by --stop, but not by what private data say where noise is to hide them."""
    if config.dp_clip is None or config.dp_noise_from_seed:
        return FLAGS.stop
    if FLAGS["stop"].present and FLAGS.stop == "regained":
        raise ValueError(
            "--stop=regained chooses the number of rounds by exact accuracy on clients' examples, "
            "which epsilon does not cover; with --dp_clip use --stop=budget, and say how many "
            "rounds with --recovery_rounds"
        )
    return "budget"


def unlearn() -> None:
    until = entry.deadline(FLAGS.max_minutes)
    import jfu
    import jfu.io
    from launch.records import erasure, records
    from launch.report import advice, report
    from launch.running import cells
    from launch.running.programs import Programs
    from launch.running.progress import announce
    from launch.setup import federation, identity, idle
    from launch.setup.methods import budget, build_methods
    from launch.setup.study import prepare_study
    from launch.setup.trial import names_the_poison, prepare_trial
    from launch.shell import devices, hosts
    from launch.workdir import locks, runs, workdir

    hosts.join(FLAGS, FLAGS.clients)
    met = resolve(runs)
    config, seed = met.config, met.seed
    said = typed.said()
    hosts.together(lambda: federation.check(config, [FLAGS.method], alone=True, **said))
    if FLAGS.method in idle.NO_RECOVERY and FLAGS["stop"].present and FLAGS.stop == "regained":
        raise ValueError(
            f"--stop=regained does nothing with {FLAGS.method}, which uses its budget; leave it out"
        )
    if FLAGS.method == "none":
        raise ValueError(
            "--method=none passes the old model off as unlearned, which is no answer; it is a "
            "control, for launch.compare"
        )
    if FLAGS.erase and hosts.several():
        raise ValueError(
            "files are removed by one host; unlearn first, then give the same command with --erase "
            "and without --coordinator"
        )
    if FLAGS.init_from:
        source = pathlib.Path(FLAGS.init_from)
        hosts.agreed(lambda: [records.check(source), records.read(source)])
    stop = stopping(config)
    more = dict(seed=seed, method=FLAGS.method, stop=stop)
    where = configs.workdir_for(config, "unlearn", **more)
    work = workdir.open_workdir(where, config, "unlearn", **more)
    if workdir.MODEL in hosts.agreed(lambda: records.erased(work.path, records.check(work.path))):
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
        taken = met.taken | workdir.taken(work, [seed])
        source = {FLAGS.init_from: met.data} if FLAGS.init_from else runs.of_model(config)
        made = source | {work.path: work.data}
        study = hosts.together(lambda: prepare_study(config, layout, [seed], taken, made))
        (method,) = build_methods(study, [FLAGS.method]).values()
        trial = prepare_trial(study, seed)
        history = {}
        kept = pathlib.Path(FLAGS.init_from or ".") / workdir.HISTORY
        if FLAGS.init_from and hosts.agreed(kept.exists):
            history = jfu.io.unflatten(jfu.io.load_arrays(hosts.opened(kept)))
        jfu.unlearn.check_request(method, trial.request, history, FLAGS.method)
        if "last" in method.needs.history and "came" not in history:
            say(
                f"note: {FLAGS.init_from} was trained before histories said who came in the last "
                f"round; {FLAGS.method} takes it that everybody did"
            )
        work = workdir.begin(work, config, "unlearn", study.layout, study.data, **more)
        hosts.agreed(lambda: records.reopen(work))
        work = workdir.keep_draws(work, seed, trial.draws)
        records.follow(work, FLAGS.init_from)
        hosts.agreed(lambda: records.begun(work, config))
        records.asked(work, config, FLAGS.method)
        rounds = budget(config, FLAGS.method)
        doing = f"method {FLAGS.method}, seed {seed}"
        announce(study, trial, doing, work, {FLAGS.method: rounds})
        cell = cells.runner(
            work, study, trial, Programs(), FLAGS.checkpoint_every, until, FLAGS.method
        )
        trained, row, _ = cells.original(study, trial, cell)
        trained = trained._replace(history=devices.place(history))
        if FLAGS.method == "not":
            seen = workdir.WorkDir(pathlib.Path(FLAGS.init_from or work.path), None)
            rows = hosts.agreed(lambda: workdir.read_results(seen))
            training = [line for line in rows if line["method"] == "train"]
            forget, retain = trial.evaluation.forget, trial.evaluation.retain
            poisoned = names_the_poison(trial.poisoned, forget, retain)
            for line in advice.outlook(dataclasses.asdict(config), row, training, poisoned):
                say(line)
        regained = stop == "regained" and FLAGS.method != "retrain"
        enough = row["retain"] - 0.5 if regained else None
        state, rows = cell(FLAGS.method, method, trained, trial.request, rounds, enough=enough)
        if not identity.changed(trained.variables, state.variables, FLAGS.method):
            signs = (
                f"{FLAGS.method} changed signs alone, which whoever knows of it changes back: give "
                "it rounds to recover with"
            )
            if FLAGS.erase:
                raise ValueError(f"{signs}, before --erase removes anything")
            say(f"note: {signs}, here or elsewhere, before anybody is given the model")
    workdir.write_results(work, [row, *rows])
    workdir.export(work.path / workdir.MODEL, state.variables)
    if export:
        workdir.export(export, state.variables, shown=True)
    if not hosts.first():
        return
    summary = report.summarise([row, *rows], dataclasses.asdict(config))
    text = report.markdown(summary)
    names = report.write(work.path, summary, text)
    records.answered(work, config, FLAGS.method, [row, *rows], names)
    show(f"\n{text}")
    if FLAGS.method != "retrain":
        for line in advice.behind(dataclasses.asdict(config), row, rows[-1]):
            say(line)
    show(f"the unlearned model is {work.path / workdir.MODEL}")
    if FLAGS.erase:
        erasure.erase(work, config, FLAGS.method)


if __name__ == "__main__":
    define()
    entry.run(unlearn)
