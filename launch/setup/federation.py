"""From flags to a federation: optimizers, server, aggregator, faults, privacy, and layers."""

import importlib.util
import re
from collections.abc import Collection, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax

import jfu
import jfu.history
from jfu.augment import AUGMENTS
from jfu.faults import censored, guarded
from jfu.tasks import TASKS
from launch.setup import idle, ridge, schedules
from launch.shell.config import Config

SEEING = ("median", "trimmed", "krum")  # aggregators that see single updates


def build(config: Config, loss, lr: float, chunk: int, clients: int, *, halves: bool = False):
    """The federation, and its parts.

    Args:
      clients: the divisor of ``--dp_clip``, the number of clients with examples; without that
        flag, the number of rows of clients.
      halves: whether recovery that starts again halves the rate (``jfu.unlearn.steady``).

    Returns:
      ``(fed, own, around)``. ``own(loss=..., optimizer=..., epochs=..., augment=...)`` makes a
      client's work for a method's own rounds; without arguments, the usual work. It has the planted
      faults and the limits of every round. ``around(work)`` is the federation with such work.
    """
    usual = optimizer(config, lr, halves=halves)
    train = partial(jfu.local_sgd, batch_size=config.batch_size, proximal=config.proximal)

    def local(loss=loss, optimizer=usual, epochs=config.epochs, augment=AUGMENTS[config.augment]):
        return train(loss, optimizer, epochs=epochs, augment=augment)

    faults = read_faults(config.faults)
    with_faults = lambda work: jfu.faults.faulty(work, **faults) if faults else work
    limit = config.max_update_norm

    def own(*loss, **changes):
        work = with_faults(local(*loss, **changes))
        return guarded(work) if limit is None else censored(work, limit)

    def rounds(work, limit=None):
        fed = jfu.fedavg(
            work,
            server=server(config),
            aggregator=aggregator(config, clients),
            chunk=chunk,
            max_update_norm=limit,
        )
        if missing := read_absences(config, clients):
            fed = jfu.absent(fed, missing)
        return jfu.sampled(fed, config.sample) if config.sample else fed

    def around(work, limit=None):
        if config.aggregator != "fedau":
            return rounds(work, limit)
        # A limit is for what clients send, before it is weighed.
        return jfu.evened(work if limit is None else censored(work, limit), rounds)

    return around(with_faults(local()), limit), own, around


def optimizer(config: Config, lr: float, *, halves: bool = False):
    """A client's optimizer, or ``round -> optimizer`` if the rate changes between rounds.

    Args:
      lr: the rate at the end of the warm-up, from which it decays or follows its schedule.
      halves: as in ``build``.
    """
    weight_decay, longest = config.weight_decay, config.max_grad_norm
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    steps = {
        "sgd": lambda rate: optax.chain(decay, optax.sgd(rate, config.momentum or None)),
        "adam": lambda rate: optax.chain(decay, optax.adam(rate)),
        "adamw": lambda rate: optax.adamw(rate, weight_decay=weight_decay),
    }
    clip = optax.identity() if longest is None else optax.clip_by_global_norm(longest)
    make = lambda rate: optax.chain(clip, steps[config.optimizer](rate))

    scheduled = config.lr_schedule != schedules.CONSTANT
    at = schedules.schedule(config.lr_schedule, lr, config.rounds) if scheduled else None

    def of_round(round):
        share, round = jfu.unlearn.halved(round) if halves else (1.0, round)
        warm = jnp.minimum(1.0, (round + 1) / config.warmup_rounds) if config.warmup_rounds else 1.0
        rate = warm * at(round) if at else lr * warm * config.lr_decay**round
        return make(share * rate if halves else rate)

    constant = config.lr_decay == 1 and not config.warmup_rounds and not scheduled
    return make(lr) if constant and not halves else of_round


def server(config: Config) -> optax.GradientTransformation:
    """The optimizer of ``--server``, with ``--server_lr``."""
    return {
        "sgd": optax.sgd,
        "momentum": partial(optax.sgd, momentum=0.9),
        "adam": partial(optax.adam, b2=0.99, eps=1e-3),
        "yogi": partial(optax.yogi, b2=0.99, eps=1e-3),
        "fedadam": jfu.fedadam,
        "fedyogi": jfu.fedyogi,
    }[config.server](config.server_lr)


def aggregator(config: Config, clients: int) -> jfu.Aggregator:
    """The aggregator of ``--aggregator``, or the noisy mean of ``--dp_clip``.

    Args:
      clients: as in ``build``.
    """
    if config.dp_clip is not None:
        drawn = min(config.sample, clients)
        cohort = drawn or clients * (1 - config.absent)
        return jfu.privacy.private_mean(config.dp_clip, config.dp_noise, cohort)
    return {
        "mean": jfu.weighted_mean,
        "clipped": lambda: jfu.clipped_mean(config.clip),
        "fedau": lambda: jfu.fedau(clients),
        "median": jfu.coordinate_median,
        "trimmed": lambda: jfu.trimmed_mean(config.trim),
        "krum": lambda: jfu.krum(config.byzantine),
    }[config.aggregator]()


def bearing(config: Config, clients: Sequence[int], parameters: int) -> list[str]:
    """Notes about what an aggregator cannot do with so many clients in a round.

    Args:
      clients: the numbers of clients with examples, before the request and after it.

    Raises:
      ValueError: the comparison of each client with every other would take too long.
    """
    name, notes = config.aggregator, []
    cohorts = [min(config.sample or many, many) for many in clients]
    few, most = min(cohorts), max(cohorts)
    if name == "krum":
        jfu.aggregate.check_pairs(most, parameters)
        if few < (least := 2 * config.byzantine + 3):
            notes.append(
                f"note: krum with --byzantine={config.byzantine} needs at least {least} clients, "
                f"and there are {few} in a round"
            )
    if name == "trimmed" and int(config.trim * few + 1e-6) < 1:
        notes.append(
            f"note: --trim={config.trim:g} of {few} clients leaves out none, so this is the plain "
            f"mean; slightly more than {1 / few:.2g} leaves out one at either end"
        )
    size = 4 * most * parameters
    if name in SEEING and size > 2**30:
        notes.append(
            f"note: --aggregator={name} keeps all {most} updates of a round in memory, which are "
            f"{size / 1e9:.1f} GB; it takes a few times that during its work; use --sample for "
            "fewer clients in a round"
        )
    return notes


def check(
    config: Config,
    names: Sequence[str] = (),
    keep: Sequence[str] = (),
    given: Collection[str] = (),
    preset: Collection[str] = (),
    *,
    alone: bool = False,
) -> None:
    """Refuses flags that would do nothing, fail late, or show the server more than it may see.

    Every script calls it before it opens a work directory.

    Args:
      names: methods to run.
      keep: what to keep of training.
      given, preset, alone: as in ``launch.setup.idle``.
    """
    idle.check(config, names, given, preset, alone=alone)
    _check_limits(config)
    if config.sum_only and config.aggregator in SEEING:
        raise ValueError(
            f"--aggregator={config.aggregator} needs single updates, which --sum_only hides; use "
            "mean or clipped"
        )
    if config.dp_clip is not None:
        _check_private(config)
    _check_task(config, names)
    ridge.check(config, names)
    _check_numbers(config, names)
    for name in names:
        if name in jfu.unlearn.UNLEARNERS:  # build_methods refuses other names
            _check_method(config, name)
    _check_history(config, keep)


def _check_task(config: Config, names: Sequence[str]) -> None:
    """Refuses what is for classes, numbers or texts, if a task has others."""
    if config.canary and not TASKS[config.task].texts:
        raise ValueError(
            f"--canary is a sentence in texts, and --task={config.task} has none; leave it out, or "
            "choose --dataset=pydoc_topics"
        )
    if TASKS[config.task].classes:
        return
    if config.forget.startswith("class:"):
        examples = TASKS[config.task].words.examples
        raise ValueError(
            f"--forget={config.forget} names a class, and --task={config.task} has none; name "
            f"clients or a fraction, or mark {examples} in a file, such as those of a topic: "
            "--forget=mask:FILE.npy"
        )
    given = dict(backdoor=config.backdoor, drop_labels=config.drop_labels)
    given["federation=ridge"] = ridge.chosen(config)
    given[f"augment={config.augment}"] = config.augment != "none"
    if first := next((name for name, value in given.items() if value), None):
        raise ValueError(f"--{first} is for classes of images, and --task={config.task} has none")
    labels = [name for name in names if jfu.unlearn.traits_of(name).labels]
    if labels:
        raise ValueError(
            f"{', '.join(labels)} uses classes, and --task={config.task} has none; choose other "
            "methods, such as not, not_blend, finetune or npo"
        )


def _check_numbers(config: Config, names: Sequence[str]) -> None:
    """Refuses methods whose formulas are for targets that are numbers, if targets are others."""
    numbers = [name for name in names if jfu.unlearn.traits_of(name).numbers]
    if numbers and config.task != "regress":
        raise ValueError(
            f"{', '.join(numbers)} is for targets that are numbers, and --task={config.task} has "
            "others; choose other methods, such as not, npo or fedquit"
        )


def _check_method(config: Config, name: str) -> None:
    """Refuses a method that a limit would block, or that needs what the server may not see."""
    limit, needs = config.max_update_norm, jfu.unlearn.needs_of(name)
    traits = jfu.unlearn.traits_of(name)
    later = traits.negates and not traits.perturbs
    if later and limit is not None and limit < np.inf:
        raise ValueError(
            f"{name} negates layers in its own round, which --max_update_norm={limit:g} would "
            "mostly block; leave the flag out, or use not, which negates before its rounds"
        )
    single = needs.per_client or set(needs.history) & set(jfu.history.SINGLE)
    if config.sum_only and single:
        raise ValueError(
            f"{name} needs single updates at the server, which --sum_only hides; leave one out"
        )
    if needs.history and config.aggregator == "fedau":
        raise ValueError(
            f"{name} needs a history of training, and --aggregator=fedau keeps none; use "
            "--aggregator=mean, or methods without a history, such as not"
        )
    bare = needs.history or needs.per_client or needs.target or needs.counts
    if config.dp_clip is not None and bare:
        raise ValueError(
            f"{name} has rounds of its own or a history, and clients send these without noise; "
            "with --dp_clip use methods that have neither: not, finetune, retrain"
        )


def _check_history(config: Config, keep: Sequence[str]) -> None:
    """Refuses to keep what the server may not see, or what it does not have."""
    if keep and config.aggregator == "fedau":
        raise ValueError(
            f"--aggregator=fedau weighs updates, and no history of them is kept; leave out "
            f"--keep_history={','.join(keep)}, or use --aggregator=mean"
        )
    single = [kind for kind in keep if kind in jfu.history.SINGLE]
    if single and config.sum_only:
        raise ValueError(
            f"--keep_history={','.join(single)} keeps updates of single clients, which --sum_only "
            "hides; keep no more than start and before, or leave one of the flags out"
        )
    if single and config.dp_clip is not None:
        raise ValueError(
            f"--keep_history={','.join(keep)} keeps updates without noise; leave it or --dp_clip "
            "out"
        )
    if "before" in keep and config.dp_clip is not None:
        raise ValueError(
            "--keep_history=before keeps each client's first round, which epsilon does not cover; "
            "leave it or --dp_clip out"
        )


def _check_limits(config: Config) -> None:
    what = dict(dp_clip="an update", max_update_norm="an update", max_grad_norm="a gradient")
    for name, of in what.items():
        value = getattr(config, name)
        if value is not None and (not value > 0 or (name == "dp_clip" and value == np.inf)):
            raise ValueError(
                f"--{name}={value:g} cannot be the length of {of}; give a number above 0, or leave "
                "the flag out"
            )
    if config.momentum >= 1:
        raise ValueError(f"--momentum={config.momentum:g} never forgets a step; give one below 1")
    for name in ("lr", "server_lr", "lr_decay", "recovery_lr"):
        if not getattr(config, name):
            raise ValueError(f"--{name}=0 learns nothing; give one above 0")
    for name, rate in (("lr_schedule", config.lr), ("recovery_lr_schedule", config.recovery_lr)):
        try:
            schedules.check(getattr(config, name), rate)
        except ValueError as error:
            raise ValueError(f"--{name}={error}") from None
    if rates := read_faults(config.faults):
        jfu.faults.faulty(None, **rates)  # refuses impossible rates


def _check_private(config: Config) -> None:
    if config.aggregator != "mean":
        raise ValueError(
            f"--dp_clip has its own aggregator; leave --aggregator={config.aggregator} out"
        )
    if config.sample and config.absent:
        raise ValueError(
            "--dp_clip can account for --sample or for --absent, not for both; leave one out"
        )
    if not 0 <= config.dp_noise < np.inf:
        raise ValueError(
            f"--dp_noise={config.dp_noise:g} is not a standard deviation; give a finite number of "
            "at least 0"
        )
    if not 0 < config.dp_delta < 1:
        raise ValueError(
            f"--dp_delta={config.dp_delta:g} is not a delta; give a number between 0 and 1, "
            "usually below 1 / number of clients"
        )
    if importlib.util.find_spec("dp_accounting") is None:
        raise ValueError(
            "--dp_clip computes epsilon with the package dp-accounting, which is not installed; "
            "install it, or jfu[privacy]"
        )


def read_faults(given: Sequence[str]) -> dict[str, float]:
    """``--faults`` as keyword arguments of ``jfu.faults.faulty``."""
    rates = {}
    for text in given:
        found = re.fullmatch(r"(late|nan|long):(\d*\.?\d+)", text)
        if not found:
            raise ValueError(
                f"--faults={text} is not understood; write late:RATE, nan:RATE or long:RATE, such "
                "as late:0.1"
            )
        rates[found[1]] = float(found[2])
    return rates


def read_absences(config: Config, clients: int) -> float | list[float]:
    """``--absent``, or a probability for each client from ``--absent_each``.

    Args:
      clients: their number.

    Raises:
      ValueError: there are others than one in [0, 1) for each, or another flag of absence.
    """
    given = config.absent_each
    if not given:
        return config.absent
    said = f"--absent_each={','.join(given)}"
    others = dict(absent=config.absent, sample=config.sample, dp_clip=config.dp_clip is not None)
    if other := next((name for name, value in others.items() if value), None):
        raise ValueError(f"{said} does not go with --{other}; leave one out")
    known = [float(text) for text in given if re.fullmatch(r"0?\.\d+|0", text)]
    if not len(known) == len(given) == clients:
        raise ValueError(
            f"{said} must have {clients} numbers from 0 to below 1, one for each client"
        )
    return known


def selector(layers: tuple[str, ...], model: jfu.Model, weights_only: bool):
    """--layers as a selector: first, first_weight, last, all, or patterns of paths."""
    if layers == idle.FIRST_WEIGHT:
        return jfu.first_weight(model)
    positions = {"first": 0, "last": -1, "all": slice(None)}
    if len(layers) == 1 and layers[0] in positions:
        return jfu.by_layer(model, positions[layers[0]], weights_only=weights_only)
    if all(re.fullmatch(r"-?\d+", name) for name in layers):
        return jfu.by_layer(model, [int(name) for name in layers], weights_only=weights_only)
    if not weights_only:
        return jfu.by_path(*layers)
    chosen = jfu.by_path(*layers)
    return lambda path, leaf: chosen(path, leaf) and not path.endswith("/bias")
