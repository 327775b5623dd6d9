"""Compares unlearning methods on one request, over several seeds.

Without any flag it is the quickstart: ten clients train a digit classifier together, client
0 carries a backdoor, the request is "forget client 0", and retraining, fine-tuning and NoT
answer it. Prints a table and writes results.jsonl, table.md, table.json and curves.png into
the work directory. A run that was stopped goes on when started again with the same flags;
--methods and --seeds may grow.

  python -m launch.compare
  python -m launch.compare --dataset=fashion_mnist --data_dir=DIR --train_size=6000
  python -m launch.compare --flagfile=launch/presets/digits.flags --methods=not,noise
"""

import time
from typing import Any

from absl import flags

from launch import flags as shared
from launch import main

FLAGS = flags.FLAGS


def define() -> None:
    shared.define()
    flags.adopt_module_key_flags(shared)  # so that --help shows them
    flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)
    flags.DEFINE_integer("first_seed", 0, "The first seed.", lower_bound=0)
    flags.DEFINE_list("methods", ["retrain", "finetune", "not"], "Methods to compare.")


def compare() -> None:
    config = shared.resolve()
    began = time.perf_counter()
    from launch import cells, experiment, report, workdir

    work = workdir.open_workdir(shared.workdir(config, "compare"), config, "compare")
    layout = experiment.start(FLAGS.devices, FLAGS.chunk, config.clients, work.layout)
    seeds = list(range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds))
    with experiment.on_devices(layout):
        study = experiment.study(config, layout, seeds)
        methods = experiment.methods(study, list(FLAGS.methods))
        trial = experiment.trial(study, seeds[0])
        work = workdir.begin(work, config, "compare", layout)
        doing = f"methods {', '.join(methods)}; seeds {seeds[0]} to {seeds[-1]}"
        cells.announce(study, trial, doing, layout, work)
        programs, rows = cells.Programs(), []
        for seed in seeds:
            trial = trial if seed == trial.seed else experiment.trial(study, seed)
            rows += run_seed(work, study, trial, methods, programs)
            workdir.write_results(work, rows)
        rows = workdir.read_results(work)
    summary, text = report.write(work.path, rows, config)
    many = len(summary["seeds"])
    title = f"{config.dataset}, {config.model}: forget {config.forget}, mean of {many} seeds"
    report.curves(rows, str(work.path / "curves.png"), title)
    print(f"\n{text}\n{report.legend(summary)}")
    print(f"{time.perf_counter() - began:.0f} s; results, table and curves.png are in {work.path}/")


def run_seed(work, study, trial, methods, programs) -> list[dict[str, Any]]:
    """All cells of one seed; rows in the order of results.jsonl."""
    from launch import cells, experiment

    cell = cells.runner(work, study, trial, programs, FLAGS.checkpoint_every)
    trained, row, _ = cells.original(study, trial, cell)
    rows = [row]
    for name, method in methods.items():
        budget = experiment.budget(study.config, name)
        rows += cell(name, method, trained, trial.request, budget)[1]
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


if __name__ == "__main__":
    define()
    main.run(compare)
