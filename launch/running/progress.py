"""Messages about a run: before it begins, and after each method and seed."""

from collections.abc import Mapping

import jax

import jfu
from jfu.tasks import words_of
from launch.setup import private, ridge
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell import hosts
from launch.shell.devices import Layout, near
from launch.shell.say import say
from launch.workdir.places import WorkDir

# Measures in the lines of progress.
SHOWN = dict(retain="retain", forget="forget", test="test", asr="backdoor")


def in_words(layout: Layout) -> str:
    """How clients run."""
    how = f"{layout.devices} {layout.backend} device{'s' * (layout.devices > 1)}"
    how += f" on {jax.process_count()} hosts" if hosts.several() else ""
    many = f"{layout.chunk} client{'s' * (layout.chunk > 1)}" if layout.chunk else "all clients"
    return f"{how}, {many} at a time on each"


def announce(
    study: Study, trial: Trial, doing: str, work: WorkDir, plan: Mapping[str, int]
) -> None:
    """Prints a few lines about what will be done.

    Args:
      plan: rounds by method.
    """
    config, clients = study.config, trial.everything.retain
    words = words_of(config.task, study.dataset.x_train)
    sizes = near(clients.mask).sum(-1)  # integers: weights are float32, whose sum may be rounded
    say(
        f"{config.dataset}: {int(sizes.sum())} {words.examples} with {clients.id.shape[0]} clients "
        f"({int(sizes.min())} to {int(sizes.max())} each), model {config.model}, "
        f"{config.rounds} rounds; {in_words(study.layout)}"
    )
    if config.backdoor:
        say(
            f"backdoor: {config.backdoor_fraction:.0%} of the images of client "
            f"{', '.join(config.backdoor_clients)} have a white square and the label "
            f"{config.backdoor_label}"
        )
    if config.canary:
        say(
            f"canary: {config.canary_rows} of the texts that {config.canary_forget} names begin "
            f"with {config.canary!r}"
        )
    if config.forget:
        gone = int(near(trial.request.forget.mask).sum())
        say(f"request: forget {config.forget} ({gone} {words.examples})")
    say(head_of(study) if ridge.chosen(config) else layers_of(study))
    for line in [*private.outlook(config, trial, plan), *private.lonely(config, trial, plan)]:
        say(line)
    say(f"{doing}; work directory {work.path}")


def layers_of(study: Study) -> str:
    """Which layers methods perturb."""
    params = jax.eval_shape(study.model.init, jax.random.key(0))["params"]
    chosen = jfu.describe(params, jfu.select(params, study.setting.selector))
    return f"layers to perturb, for methods that do: {chosen}"


def head_of(study: Study) -> str:
    """What is frozen in a ridge federation, and what clients send."""
    config, model = study.config, study.model
    variables = jax.eval_shape(model.init, jax.random.key(0))
    width, classes = jax.eval_shape(lambda v: jfu.ridge.empty(model, v), variables).moment.shape
    start = "the model before" if config.init_params else "the network at its random start"
    frozen, each = config.features or start, f"{study.per_client[1]:,} bytes"
    return (
        f"frozen features of {frozen}; the last layer, {model.layers[-1]}, is a ridge head of "
        f"{width} x {classes} weights; a client sends {each} once"
    )


def say_cut(study: Study, seed: int, name: str, metrics: Mapping) -> None:
    """Prints where a method has cut the model, if its first round chose that."""
    if "cut" in metrics and study.model.cuts is not None:
        cut = ", ".join(study.model.cuts()[int(metrics["cut"])])
        share = max(0, 100 * float(metrics["told"]))
        say(
            f"  seed {seed}  {name:<10} negates {cut}: its predictions then reveal "
            f"{share:.1f} % of the labels"
        )


def say_calmed(seed: int, name: str, number: int, metrics: Mapping) -> None:
    """Says that recovery broke down in a round, and what was done about it."""
    if metrics.get("calmed", 0):
        say(
            f"  seed {seed}  {name:<10} round {number} broke down (mean loss "
            f"{float(metrics['loss']):.2f}): recovery starts again, closer to a fresh model, at "
            "half the rate"
        )


def say_done(seed: int, name: str, last: Mapping, seconds: float) -> None:
    """Prints the last measures of a method on a seed, and the time that it took."""
    shown = [
        f"{SHOWN[key]} {value:5.1f} %"
        for key, value in last.items()
        if value is not None and key in SHOWN
    ]
    say(
        f"  seed {seed}  {name:<13} {max(last['round'], 0):4d} rounds {seconds:6.1f} s  "
        + ", ".join(shown)
    )
