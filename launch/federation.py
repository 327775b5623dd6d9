"""From flags to a federation: optimizers, server, aggregator, faults, privacy, chosen layers."""

import re
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax

import jfu
from jfu.augment import AUGMENTS
from launch.flags import Config


def build(config: Config, loss, lr: float, chunk: int):
    """The federation, and what it is made of.

    Returns:
      ``(fed, local, around)``: ``local(loss=..., optimizer=..., epochs=...)`` makes a client's
      work, the usual one without arguments, and ``around(work)`` the federation of it.
    """
    makers = {
        "sgd": lambda rate: optax.chain(
            optax.add_decayed_weights(config.weight_decay)
            if config.weight_decay
            else optax.identity(),
            optax.sgd(rate, config.momentum or None),
        ),
        "adam": lambda rate: optax.chain(
            optax.add_decayed_weights(config.weight_decay)
            if config.weight_decay
            else optax.identity(),
            optax.adam(rate),
        ),
        "adamw": lambda rate: optax.adamw(rate, weight_decay=config.weight_decay),
    }
    servers = {
        "sgd": lambda rate: optax.sgd(rate),
        "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
        "adam": lambda rate: optax.adam(rate, b2=0.99, eps=1e-3),
        "yogi": lambda rate: optax.yogi(rate, b2=0.99, eps=1e-3),
    }

    def optimizer(round):
        warm = jnp.minimum(1.0, (round + 1) / config.warmup_rounds) if config.warmup_rounds else 1.0
        return makers[config.optimizer](lr * warm * config.lr_decay**round)

    constant = config.lr_decay == 1 and not config.warmup_rounds
    usual = makers[config.optimizer](lr) if constant else optimizer
    train = partial(
        jfu.local_sgd,
        batch_size=config.batch_size,
        proximal=config.proximal,
        augment=AUGMENTS[config.augment],
    )

    def local(loss=loss, optimizer=usual, epochs=config.epochs):
        return train(loss, optimizer, epochs=epochs)

    def around(work):
        work = jfu.faults.faulty(work, **faults) if (faults := read_faults(config.faults)) else work
        fed = jfu.fedavg(
            work,
            server=servers[config.server](config.server_lr),
            aggregator=aggregator(config),
            chunk=chunk,
            max_update_norm=config.max_update_norm or (np.inf if faults else None),
        )
        fed = jfu.absent(fed, config.absent) if config.absent else fed
        return jfu.sampled(fed, config.sample) if config.sample else fed

    return around(local()), local, around


def aggregator(config: Config) -> jfu.Aggregator:
    """What ``--aggregator`` names, or the noisy mean of ``--dp_clip``."""
    if config.dp_clip:
        cohort = config.sample or config.clients * (1 - config.absent)
        return jfu.privacy.private_mean(config.dp_clip, config.dp_noise, cohort)
    return {
        "mean": jfu.weighted_mean,
        "clipped": lambda: jfu.clipped_mean(config.clip),
        "median": jfu.coordinate_median,
        "trimmed": lambda: jfu.trimmed_mean(config.trim),
        "krum": lambda: jfu.krum(config.byzantine),
    }[config.aggregator]()


def epsilon(config: Config, rounds: int) -> float | None:
    """What ``rounds`` rounds tell of a client that took part, with ``--dp_clip``."""
    if not config.dp_clip:
        return None
    drawn = (config.clients, config.sample) if config.sample else None
    how = dict(sample=drawn) if drawn else dict(present=1 - config.absent)
    return jfu.privacy.spent(config.dp_noise, rounds, config.dp_delta, **how)


def check_server(config: Config, names: Sequence[str]) -> None:
    """Refuses methods and aggregators that want more of the server than it may know."""
    if config.sum_only and config.aggregator in ("median", "trimmed", "krum"):
        raise ValueError(
            f"--aggregator={config.aggregator} sees single updates, which --sum_only hides; use "
            "mean or clipped"
        )
    if config.dp_clip and config.aggregator != "mean":
        raise ValueError(
            f"--dp_clip is an aggregator of its own; leave --aggregator={config.aggregator} out"
        )
    if config.dp_clip and config.sample and config.absent:
        raise ValueError(
            "--dp_clip accounts for --sample or for --absent, not for both; leave one out"
        )
    for name in names:
        needs = jfu.unlearn.needs_of(name)
        if config.sum_only and needs.per_client:
            raise ValueError(f"{name} needs single updates at the server, which --sum_only hides")
        if config.dp_clip and (needs.history or needs.per_client or needs.target):
            raise ValueError(
                f"{name} has rounds of its own or a history, in which updates carry no noise; with "
                "--dp_clip compare methods without, such as not, finetune and retrain"
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


def selector(layers: tuple[str, ...], model: jfu.Model, weights_only: bool):
    """--layers as a selector: first, last, all, or patterns of paths."""
    positions = {"first": 0, "last": -1, "all": slice(None)}
    if len(layers) == 1 and layers[0] in positions:
        return jfu.by_layer(model, positions[layers[0]], weights_only=weights_only)
    if all(re.fullmatch(r"-?\d+", name) for name in layers):
        return jfu.by_layer(model, [int(name) for name in layers], weights_only=weights_only)
    if not weights_only:
        return jfu.by_path(*layers)
    chosen = jfu.by_path(*layers)
    return lambda path, leaf: chosen(path, leaf) and not path.endswith("/bias")
