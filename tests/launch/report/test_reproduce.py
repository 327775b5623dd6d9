"""Commands that make a run again."""

from types import SimpleNamespace

from helpers.workdirs import PLAIN, changed
from launch.report import reproduce


def test_commands_that_make_it_again_are_one_for_each_run_of_seeds():
    run = SimpleNamespace(script="compare", config=changed(PLAIN, dataset="my set.npz"), more={})
    lines = reproduce.command(run, [0, 1, 4, 6, 7], ["original", "retrain", "retrain_again", "not"])
    begins = "python -m launch.compare '--dataset=my set.npz' "
    assert all(line.startswith(begins) for line in lines.splitlines())
    assert " --clients=3 " in lines and " --momentum=0.0 " in lines
    for name in ("dp_noise", "trim", "clip", "byzantine", "backdoor_label", "drop_labels"):
        assert f" --{name}=" not in lines  # refused, or empty
    spans = [line.partition("--methods=retrain,not ")[2] for line in lines.splitlines()]
    wanted = [(0, 2), (4, 1), (6, 2)]
    assert spans == [f"--first_seed={a} --seeds={n}" for a, n in wanted]
