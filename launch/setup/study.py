"""What all seeds of an experiment share: the data set, the model, the federations, the costs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jfu
import jfu.io
from jfu import canary
from jfu.augment import AUGMENTS
from jfu.costs import entries
from jfu.stacking import aligned
from jfu.tasks import TASKS
from jfu.unlearn import Setting, received_loss
from launch.setup import federation, identity, network, private, ridge, schedules
from launch.setup.clients import Drawn, as_wide, draw, secret
from launch.setup.options import read_options
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.devices import Layout, compiled
from launch.shell.say import say


class Study(NamedTuple):
    """What all seeds of an experiment share: functions and draws, no poisoned data."""

    config: Config
    layout: Layout  # settled
    dataset: Any
    model: jfu.Model
    setting: Setting  # federation with the recovery rate
    fed: jfu.FederatedAlgorithm  # at the training rate
    fresh: jfu.Unlearner  # training from scratch: retraining
    train: jfu.Unlearner  # the same with all clients, and with a history if one is kept
    further: jfu.FederatedAlgorithm  # all clients at the recovery rate: further training
    given: Any  # variables of --init_params, or None
    logits: Callable  # (variables, x) -> [B, C]
    judge: Callable  # (variables, x, y) -> (loss, score), as jfu.tasks has them
    exposed: Callable  # variables -> measures of the canary
    per_client: tuple[int, int]  # bytes down and up for a client in a round
    per_step: float  # FLOPs of a local step
    per_forward: float  # FLOPs of a forward pass of a batch
    data: Mapping[str, str | None]  # digests of what was read
    drawn: Mapping[int, Drawn]  # by seed: clients, requests, rows with the trigger


def prepare_study(
    config: Config,
    layout: Layout,
    seeds: list[int],
    taken: Mapping[int, identity.Draws] | None = None,
    made: Mapping[Any, Any] = MappingProxyType({}),
) -> Study:
    """Loads the data, draws every seed's clients, builds model and federations, and counts costs.

    Every request is read here, before any run or file. So an impossible request costs no time.

    Args:
      taken: the rows that seeds' requests took out before, which are not drawn again.
      made: work directories, with the digests of their data.

    Raises:
      ValueError: the data or its split is not that of one of these work directories.
    """
    from jfu import data, tasks
    from jfu.data.standardise import standardised

    given = hosts.opened(config.init_params) if config.init_params else None
    frozen = hosts.opened(config.features) if config.features and given is None else None
    dataset = hosts.together(lambda: load(config))
    digests, dataset = identity.of_read(dataset)
    for where, kept in made.items():
        identity.same_data(kept, digests, where)
    for text in data.oddities(dataset):
        say(f"note: {text}")
    tasks.check(config.task, dataset)
    dataset = standardised(dataset) if config.standardise else dataset
    dataset, proxy = set_aside(dataset, config.proxy)
    if not (config.backdoor or config.canary) and isinstance(dataset.x_train, np.ndarray):
        dataset = dataset._replace(
            x_train=aligned(dataset.x_train)
        )  # the clients of all seeds share it
    drawn = hosts.together(lambda: draw_all(config, dataset, seeds, taken or {}))
    identity.same_draws_on_hosts({seed: drawn[seed].draws for seed in seeds})
    network.same_on_hosts(config)
    with hosts.aside():
        return assemble(config, layout, dataset, digests, drawn, (given, frozen), proxy)


# ---------------------------------------------------------------- data


def load(config: Config) -> Any:
    """The data set that a configuration names."""
    from jfu import data

    return data.load(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        train_size=config.train_size,
        test_size=config.test_size,
        resplit=config.resplit,
        drop_labels=config.drop_labels,
        by_row=hosts.several(),  # each reads its own clients' images
    )


def set_aside(dataset: Any, share: float) -> tuple[Any, np.ndarray | None]:
    """The data set without a share of its test images, and that share without its labels."""
    if not share:
        return dataset, None
    order = np.random.default_rng(0).permutation(len(dataset.y_test))
    proxy, rest = np.split(order, [int(share * len(order))])
    x, y = dataset.x_test, dataset.y_test
    return dataset._replace(x_test=x[np.sort(rest)], y_test=y[np.sort(rest)]), x[np.sort(proxy)]


def draw_all(
    config: Config, dataset: Any, seeds: list[int], taken: Mapping[int, identity.Draws]
) -> dict[int, Drawn]:
    """Every seed's clients and request, with the same number of slots for all seeds."""
    check_sizes(config, dataset)
    with hosts.aside():
        drawn = {seed: draw(config, dataset, seed, taken.get(seed)) for seed in seeds}
    for seed in seeds:
        identity.same_draws(taken.get(seed), drawn[seed].draws)
    slots = max(config.batch_size, *(one.clients.index.shape[1] for one in drawn.values()))
    return {seed: as_wide(one, slots) for seed, one in drawn.items()}


def check_sizes(config: Config, dataset: Any) -> None:
    """Refuses settings that are impossible with this number and shape of images."""
    shape, many = dataset.x_train.shape[1:], len(dataset.y_train)
    if config.backdoor and config.backdoor_label >= len(dataset.labels):
        raise ValueError(
            f"--backdoor_label={config.backdoor_label} is not one of the {len(dataset.labels)} "
            "classes; labels count from 0"
        )
    if config.canary:
        secret(config, dataset)  # refuses one that is no sentence of these tokens
    if config.batch_size > max(many, 1024):
        raise ValueError(
            f"--batch_size={config.batch_size} is more than all {many} training images, and a "
            "batch has images of one client only; give a smaller size"
        )
    if config.augment != "none" and len(shape) != 3:
        raise ValueError(
            f"--augment={config.augment} moves images [H, W, C], and the examples of "
            f"{config.dataset} have the shape {list(shape)}; leave the flag out"
        )


# ---------------------------------------------------------------- model and federations


def assemble(
    config: Config,
    layout: Layout,
    dataset: Any,
    digests: Mapping[str, str | None],
    drawn: Mapping[int, Drawn],
    files: tuple[Any, Any],
    proxy: np.ndarray | None,
) -> Study:
    """The study of a data set that was read and split.

    Args:
      files: those of ``--init_params`` and ``--features``, open, or None.
      proxy: unlabelled images at the server.
    """
    task, model = TASKS[config.task], network.build(config, dataset)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    given = jfu.io.adopt(files[0], variables) if files[0] else None
    if ridge.chosen(config):
        model = ridge.frozen(model, variables, given, files[1])
    one = next(iter(drawn.values()))
    layout = settled(layout, config, len(one.clients.id), entries(variables))
    feds = federations(config, model, layout.chunk, one, variables)
    setting = Setting(
        feds.recovery,
        model,
        federation.selector(config.layers, model, config.weights_only),
        model.follows if config.follow_means else (),
        config.weights_only,
        local=feds.local,
        around=feds.around,
        training=feds.retraining,
        augment=AUGMENTS[config.augment],
        epochs=config.epochs,
        batch_size=config.batch_size,
        chunk=layout.chunk,
        within=config.recovery_rounds,
        proxy=proxy,
        # Under privacy nothing may depend on exact losses of clients.
        guess=None if config.dp_clip is not None else task.guess(dataset),
        warmup=config.recovery_warmup_rounds,
        eased=feds.eased,
        penalty=config.penalty,
        judge=task.judge(dataset),
        options=read_options(config.options),
    )
    jfu.select(variables["params"], setting.selector)  # refuses unknown layers before any work
    apply = lambda variables, x: model.apply(variables, x)[0]
    train = jfu.unlearn.retrain(feds.training, model.init)
    same = feds.retraining is feds.training
    return Study(
        config=config,
        layout=layout,
        dataset=dataset,
        model=model,
        setting=setting,
        fed=feds.training,
        fresh=train if same else jfu.unlearn.retrain(feds.retraining, model.init),
        train=train,
        further=feds.further,
        given=given,
        logits=compiled(apply),
        judge=compiled(jfu.per_example(apply, judge=task.judge(dataset))),
        exposed=exposed(config, dataset, apply),
        per_client=jfu.wire(feds.sender, variables, one.clients),
        **flops(config, dataset, model, variables),
        data=digests,
        drawn=drawn,
    )


def exposed(config: Config, dataset: Any, apply: Callable) -> Callable:
    """A function of variables that measures a canary's exposure; without one it gives nothing."""
    if not config.canary:
        return lambda variables: {}
    known = secret(config, dataset)
    heard = compiled(canary.listener(apply, known, dataset.x_train.shape[1]))
    return lambda variables: canary.measures(heard(variables), known)


def settled(layout: Layout, config: Config, clients: int, size: int) -> Layout:
    """The layout with the number of clients that run at once on a device.

    Args:
      clients: the number of clients.
      size: the number of the model's parameters.
    """
    if layout.chunk is not None:
        return layout
    cohort = min(config.sample or clients, clients)
    share = -(-cohort // layout.devices)
    return layout._replace(chunk=jfu.clients_at_once(layout.backend, share, size))


class Federations(NamedTuple):
    """The federations of a study. Those with equal settings are one object, and one program."""

    training: jfu.FederatedAlgorithm
    retraining: jfu.FederatedAlgorithm  # without the clients that leave
    recovery: jfu.FederatedAlgorithm
    further: jfu.FederatedAlgorithm  # with all clients, at the recovery rate
    eased: Callable | None  # recovery that warms up and reports losses before steps, for Setting
    local: Callable | None  # a client's work in recovery, for Setting
    around: Callable | None  # the round with a method's own work, for Setting
    sender: Callable  # what a client sends in training


def federations(
    config: Config, model: jfu.Model, chunk: int, drawn: Drawn, variables: Any
) -> Federations:
    """Builds the federations, and prints notes about their flags with these clients."""
    if ridge.chosen(config):
        fed, send = ridge.federation(config, model, chunk, len(drawn.clients.id))
        return Federations(fed, fed, fed, fed, None, None, None, send)
    loss = TASKS[config.task].loss(model.apply)
    # Noisy sums are divided by the number of clients: all before the request, then those that stay.
    clients = drawn.clients
    gone = clients.mask & (False if drawn.forget is None else drawn.forget)
    everybody = private.holding(clients)
    staying = private.holding(clients._replace(mask=clients.mask & ~gone))
    for note in federation.bearing(config, (everybody, staying), entries(variables)):
        say(note)

    @functools.cache
    def made(config, rate, clients, halves):
        return federation.build(config, loss, rate, chunk, clients, halves=halves)

    def build(config, rate, clients, halves=False):
        many = len(drawn.clients.id) if config.dp_clip is None else clients
        return made(config, rate, many, halves)

    training, local, _ = build(config, config.lr, everybody)
    recovery, own, around = build(recovering(config), config.recovery_lr, staying)

    def eased(rounds):
        slower = dataclasses.replace(recovering(config), warmup_rounds=rounds)
        fed, own, around = build(slower, config.recovery_lr, staying, halves=True)
        if config.dp_clip is not None:  # clients report no exact losses
            return fed
        return around(received_loss(own(), loss, batch_size=config.batch_size))

    # Further rounds are as many as a later command says, so no schedule fits them.
    trained = dataclasses.replace(config, warmup_rounds=0, lr_schedule=schedules.CONSTANT)
    return Federations(
        training=training,
        retraining=build(config, config.lr, staying)[0],
        recovery=recovery,
        further=build(trained, config.recovery_lr, everybody)[0],
        eased=eased,
        local=own,
        around=around,
        sender=jfu.sender(local(), federation.aggregator(config, everybody)),
    )


def recovering(config: Config) -> Config:
    """The configuration of the rounds after a request: with a warm-up and schedule of their own.

    A schedule is over their own number of rounds. Without one, that number makes no difference.
    """
    changes: dict[str, Any] = dict(warmup_rounds=config.recovery_warmup_rounds)
    changes |= dict(lr_schedule=config.recovery_lr_schedule)
    if config.recovery_lr_schedule != schedules.CONSTANT:
        changes |= dict(rounds=config.recovery_rounds)
    return dataclasses.replace(config, **changes)


def flops(config: Config, dataset: Any, model: jfu.Model, variables: Any) -> dict[str, float]:
    """FLOPs of a local step and of a forward pass of a batch, ``per_step`` and ``per_forward``.

    They are those of the plain model with stock convolutions, whose operations XLA counts.
    """
    shape, size = dataset.x_train.shape[1:], config.batch_size
    stock = network.stock(config, dataset, model)
    abstract = jax.ShapeDtypeStruct
    batch = jfu.Batch(
        abstract((size, *shape), dataset.x_train.dtype),
        abstract((size, *dataset.y_train.shape[1:]), dataset.y_train.dtype),
        abstract((size,), jnp.float32),
    )
    loss = TASKS[config.task].loss(stock.apply)
    alone = ridge.block(stock) if ridge.chosen(config) else loss
    return dict(
        per_step=jfu.step_flops(loss, variables, batch),
        per_forward=jfu.step_flops(alone, variables, batch, forward=True),
    )
