"""Flags that do nothing beside others: two tables of what each flag needs.

A flag that was typed and does nothing is refused, because its user expects an effect. A flag from a
file of flags only gives a note, because other flags may override such a preset. So does a flag for
methods that may be added to a comparison later.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from jfu.data import EMBEDDED
from jfu.files import npz_headers
from jfu.unlearn import UNLEARNERS, needs_of, traits_of
from launch.setup.options import read_options
from launch.shell.config import Config, flag_of, having
from launch.shell.say import say


class Need(NamedTuple):
    """What a flag needs to have an effect."""

    met: Callable[[Config], bool]
    lacking: str  # "does nothing ...", with fields of the configuration
    mend: str = ""


def lists(config: Config) -> bool:
    """Whether the user's own lists give clients their examples, instead of a rule."""
    if config.partition.startswith("file:"):
        return True
    if not config.dataset.endswith(".npz"):
        return False
    with contextlib.suppress(ValueError, OSError):  # the error comes when it is read
        return "client" in npz_headers(config.dataset)
    return False


def _value(name: str, value: str) -> Need:
    met = lambda config: getattr(config, name) == value
    return Need(met, f"with --{name}={{{name}}}", f"add --{name}={value}")


_ruled = Need(
    lambda config: not lists(config), "with your own lists or ids of clients, as for {dataset}"
)
_prepared = Need(
    lambda config: config.dataset not in EMBEDDED and not config.dataset.endswith(".npz"),
    "for {dataset}, which is not a set of tensorflow-datasets",
)
_private = Need(
    lambda config: config.dp_clip is not None,
    "without --dp_clip, the length for clipping updates and the unit of noise",
    "add that",
)
_poison = Need(lambda config: config.backdoor, "without poisoned images", "add --backdoor")
_canary = Need(lambda config: bool(config.canary), "without a canary", "add --canary")
NEEDS: dict[str, Need] = {
    "data_dir": _prepared,
    "clients": _ruled,
    "min_examples": _ruled,
    **dict.fromkeys(map(flag_of, having("poison")), _poison),
    "canary_rows": _canary,
    "penalty": _value("federation", "ridge"),
    "features": _value("federation", "ridge"),
    "momentum": _value("optimizer", "sgd"),
    "lr_decay": Need(
        lambda c: c.lr_decay == 1 or "constant" in (c.lr_schedule, c.recovery_lr_schedule),
        "with --lr_schedule={lr_schedule} and --recovery_lr_schedule={recovery_lr_schedule}",
    ),
    "trim": _value("aggregator", "trimmed"),
    "clip": _value("aggregator", "clipped"),
    "byzantine": _value("aggregator", "krum"),
    "dp_noise": _private,
    "dp_delta": _private,
    "dp_noise_from_seed": _private,
}


# Flags of training by steps, which a ridge federation does not have.
STEPS = ("rounds", "epochs", "augment", "optimizer", "lr", "lr_decay", "lr_schedule")
STEPS += ("warmup_rounds", "momentum", "weight_decay", "proximal", "max_grad_norm", "sample")
STEPS += ("absent", "absent_each", "faults", "aggregator", "clip", "trim", "byzantine")
STEPS += ("server", "server_lr", "dp_clip", "dp_noise", "dp_delta", "dp_noise_from_seed")
STEPS += ("recovery_rounds", "recovery_lr", "recovery_lr_schedule", "recovery_warmup_rounds")
STEPS += ("max_update_norm", "keep_history")
_steps = Need(
    lambda config: config.federation == "fedavg",
    "with --federation={federation}, where clients send statistics once and take no steps",
)


class Use(NamedTuple):
    """The methods that use a flag."""

    by: Callable[[Config, str], bool]
    lacking: str


FIRST_WEIGHT = ("first_weight",)  # --layers, where no bias is chosen


def _has_biases(config: Config, name: str) -> bool:
    """Whether a method may change biases of layers."""
    traits = traits_of(name)
    if traits.weights or (traits.selects and config.layers == FIRST_WEIGHT):
        return False
    return traits.negates or traits.selects


_recovery = Use(lambda config, name: traits_of(name).recovers, "with {methods}: nothing recovers")
USES: dict[str, Use] = {
    "layers": Use(
        lambda config, name: traits_of(name).selects,
        "with {methods}: no chosen layer is changed",
    ),
    "weights_only": Use(_has_biases, "with {methods}: no bias of a layer is changed"),
    "follow_means": Use(
        lambda config, name: traits_of(name).negates and config.norm == "batch",
        "with {methods} and --norm={norm}: no mean follows a layer that is negated",
    ),
    "recovery_rounds": _recovery,
    "recovery_lr": _recovery,
    "recovery_warmup_rounds": _recovery,
    "recovery_lr_schedule": _recovery,
    "options": Use(
        lambda config, name: any(text.startswith(f"{name}.") for text in config.options),
        "with {methods}, because no option names them",
    ),
    "proxy": Use(
        lambda config, name: name in UNLEARNERS and needs_of(name).proxy_data,
        "with {methods}: no method needs images at the server",
    ),
}


def check(
    config: Config,
    names: Sequence[str] = (),
    given: Collection[str] = (),
    preset: Collection[str] = (),
    *,
    alone: bool = False,
) -> None:
    """Refuses flags that do nothing.

    Args:
      names: methods to run; empty if they are not known yet.
      given: flags that were typed.
      preset: flags from files of flags.
      alone: whether no method will be added later.

    Raises:
      ValueError: a flag that was typed does nothing.
    """
    _check_rows(config)
    read_options(config.options)  # before any note, as all that is refused
    fields = dataclasses.asdict(config) | dict(methods=", ".join(names))
    for name, lacking, mend in _idle(config, given):
        raise ValueError(_sentence(name, lacking.format(**fields), mend))
    for name, lacking in _unused(config, names, given):
        if alone:
            raise ValueError(_sentence(name, lacking.format(**fields)))
        say(f"note: --{name} does nothing {lacking.format(**fields)}")
    left = [name for name, *_ in [*_idle(config, preset), *_unused(config, names, preset)]]
    if left:
        named = ", ".join(f"--{name}" for name in left)
        say(f"note: {named} from the file of flags does nothing here")


def idle(config: Config, names: Sequence[str] = ()) -> list[str]:
    """The flags that do nothing, whether they were given or not."""
    found = [*_idle(config, (*NEEDS, *STEPS)), *_unused(config, names, USES)]
    return [name for name, *_ in found]


def _sentence(name: str, lacking: str, mend: str = "") -> str:
    """
    >>> _sentence("trim", "with --aggregator=mean", "add --aggregator=trimmed")
    '--trim does nothing with --aggregator=mean; add --aggregator=trimmed, or leave it out'
    """
    return f"--{name} does nothing {lacking}; {mend + ', or ' if mend else ''}leave it out"


def _idle(config: Config, given: Collection[str]) -> Iterator[tuple[str, str, str]]:
    for name, need in [*NEEDS.items(), *((name, _steps) for name in STEPS)]:
        if name in given and not need.met(config):
            yield name, need.lacking, need.mend


def _unused(
    config: Config, names: Sequence[str], given: Collection[str]
) -> Iterator[tuple[str, str]]:
    for name, use in USES.items():
        if names and name in given and not any(use.by(config, method) for method in names):
            yield name, use.lacking


def _check_rows(config: Config) -> None:
    """Refuses files of row numbers if other flags change the numbers of rows."""
    for what, text, flags in (
        ("mask", config.forget, ("resplit", "drop_labels")),
        ("file", config.partition, ("resplit", "drop_labels", "train_size")),
    ):
        if not text.startswith(f"{what}:"):
            continue
        for name in flags:
            if getattr(config, name):
                raise ValueError(
                    f"{text} names rows of {config.dataset} in its own order, and --{name} changes "
                    "that order; leave one out, or save the changed set as your own .npz"
                )
