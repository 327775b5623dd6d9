"""From a configuration to the functions and arrays that an experiment runs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jfu
import jfu.history
import jfu.io
from jfu.costs import entries
from jfu.unlearn import UNLEARNERS, Setting
from launch.setup import federation, identity, private, requests
from launch.setup.exam import Exam, examine, white
from launch.setup.options import read_options
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.devices import Layout, compiled, place
from launch.shell.say import say

# Independent streams of randomness, folded into a seed's key.
TRAIN, REQUEST, RECOVER, RETRAIN, RETRAIN_AGAIN = range(1, 6)
RETRAIN_THIRD = 8  # 6 and 7 are launch.running.evidence's and launch.running.shadows'


class Study(NamedTuple):
    """What all seeds of an experiment share: functions, not data."""

    config: Config
    layout: Layout  # settled
    dataset: Any
    model: jfu.Model
    setting: Setting  # federation with the recovery rate
    fed: jfu.FederatedAlgorithm  # at the training rate
    fresh: jfu.Unlearner  # training from scratch: retraining
    train: jfu.Unlearner  # the same with everybody, and with what it must remember
    further: jfu.FederatedAlgorithm  # with everybody at the recovery rate: training that goes on
    given: Any  # variables of --init_params, or None
    logits: Callable  # (variables, x) -> [B, C]
    judge: Callable  # (variables, x, y) -> (loss, correct)
    per_client: tuple[int, int]  # bytes down and up for a client in a round
    per_step: float  # FLOPs of a local step
    per_forward: float  # FLOPs of passing a batch forward
    slots: int  # example slots a client, over all seeds
    data: Mapping[str, str | None]  # digests of what was read
    taken: Mapping[int, identity.Draws]  # by seed, what was drawn before and is not drawn again


class Trial(NamedTuple):
    """One seed: its split of the data, its request, and what the model is judged on."""

    seed: int
    key: jax.Array
    everything: jfu.Split  # nothing forgotten
    request: jfu.Split
    exam: Exam
    fewest: int = 0  # clients that there ever were before, with --dp_clip
    draws: identity.Draws | None = None  # what its data were made into


class Drawn(NamedTuple):
    """A seed's clients in host memory, and what was drawn to make them."""

    clients: jfu.ClientData
    forget: Any  # [K, N] bool, or None
    poisoned: np.ndarray  # [M] bool
    draws: identity.Draws


# ---------------------------------------------------------------- what all seeds share


def study(
    config: Config,
    layout: Layout,
    seeds: list[int],
    taken: Mapping[int, identity.Draws] | None = None,
    made: Mapping[Any, Any] = MappingProxyType({}),
) -> Study:
    """Loads the data, builds model and federation, and reads costs off them.

    Args:
      taken: what seeds' requests took out before, which is not drawn again.
      made: work directories, with the digests of the data that they were made of.

    Raises:
      ValueError: the data is not that of one of these, or is divided otherwise.
    """
    from jfu import data

    given = hosts.opened(config.init_params) if config.init_params else None
    dataset = hosts.together(lambda: loaded(config))
    known, dataset = identity.of_read(dataset)
    for where, kept in made.items():
        identity.same_data(kept, known, where)
    for text in data.oddities(dataset):
        say(f"note: {text}")
    dataset, proxy = set_aside(dataset, config.proxy)
    each = hosts.together(lambda: divided(config, dataset, seeds, taken or {}))
    identity.same_draws_on_hosts({seed: each[seed].draws for seed in seeds})
    with hosts.aside():
        made_of = dict(data=known, taken=taken or {})
        return prepared(config, layout, each, given, dataset, proxy)._replace(**made_of)


def loaded(config: Config) -> Any:
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


def divided(
    config: Config, dataset: Any, seeds: list[int], taken: Mapping[int, identity.Draws]
) -> dict[int, Drawn]:
    """Every seed's clients and request, read before anything is run or written."""
    _check_sizes(config, dataset)
    with hosts.aside():
        each = {seed: clients_of(config, dataset, seed, taken=taken.get(seed)) for seed in seeds}
    for seed in seeds:
        identity.same_draws(taken.get(seed), each[seed].draws)
    return each


def prepared(
    config: Config,
    layout: Layout,
    each: Mapping[int, Drawn],
    given: Any,
    dataset: Any,
    proxy: np.ndarray | None,
) -> Study:
    """The study; ``given`` is the file of --init_params."""
    from jfu import models

    shape = dataset.x_train.shape[1:]
    sizes = dict(classes=len(dataset.labels), image_shape=shape, norm=config.norm)
    model = models.build(config.model, **sizes, precision=config.precision)
    stock = models.build(config.model, **sizes, convolution=jax.lax.conv_general_dilated)
    loss = jfu.classification(model.apply)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    one, forget, *_ = next(iter(each.values()))
    if layout.chunk is None:
        cohort = min(config.sample or len(one.id), len(one.id))
        share = -(-cohort // layout.devices)
        size = entries(variables)
        layout = layout._replace(chunk=jfu.clients_at_once(layout.backend, share, size))
    chunk = layout.chunk
    # Who is there to divide noisy sums by: before the request everybody, then those who stay.
    gone = one.mask & (False if forget is None else forget)
    everybody, staying = private.holding(one), private.holding(one._replace(mask=one.mask & ~gone))
    for note in federation.bearing(config, (everybody, staying), entries(variables)):
        say(note)

    @functools.cache  # the same federation for the same choices, so that programs are shared
    def made(config, rate, clients):
        return federation.build(config, loss, rate, chunk, clients)

    build = lambda config, rate, clients: made(
        config, rate, 0 if config.dp_clip is None else clients
    )
    calm = recovering(config)
    fed, local, _ = build(config, config.lr, everybody)
    again, own, around = build(calm, config.recovery_lr, staying)
    trained = dataclasses.replace(config, warmup_rounds=0)
    further = build(trained, config.recovery_lr, everybody)[0]
    setting = Setting(
        again,
        model,
        federation.selector(config.layers, model, config.weights_only),
        model.follows if config.follow_means else (),
        config.weights_only,
        local=own,
        around=around,
        epochs=config.epochs,
        batch_size=config.batch_size,
        chunk=chunk,
        within=config.recovery_rounds,
        proxy=proxy,
        options=read_options(config.options),
    )
    jfu.select(variables["params"], setting.selector)  # refuses before any work is done
    train = fresh = jfu.unlearn.retrain(fed, model.init)
    if (anew := build(config, config.lr, staying)[0]) is not fed:
        fresh = jfu.unlearn.retrain(anew, model.init)
    # Every request is read before anything is run or written, so that a bad one costs nothing.
    longest = [drawn.clients.index.shape[1] for drawn in each.values()]
    slots = max(config.batch_size, *longest)
    abstract = jax.ShapeDtypeStruct
    size = min(config.batch_size, slots)
    batch = jfu.Batch(
        abstract((size, *shape), dataset.x_train.dtype),
        abstract((size,), jnp.int32),
        abstract((size,), jnp.float32),
    )
    return Study(
        config=config,
        layout=layout,
        dataset=dataset,
        model=model,
        setting=setting,
        fed=fed,
        fresh=fresh,
        train=train,
        further=further,
        given=jfu.io.adopt(given, variables) if given else None,
        logits=compiled(lambda variables, x: model.apply(variables, x)[0]),
        judge=compiled(jfu.per_example(lambda variables, x: model.apply(variables, x)[0])),
        per_client=jfu.wire(
            jfu.sender(local(), federation.aggregator(config, everybody)), variables, one
        ),
        per_step=jfu.step_flops(jfu.classification(stock.apply), variables, batch),
        per_forward=jfu.step_flops(jfu.classification(stock.apply), variables, batch, forward=True),
        slots=slots,
        data={},
        taken={},
    )


def _check_sizes(config: Config, dataset: Any) -> None:
    """Refuses what cannot be with as many images of such a shape."""
    shape, many = dataset.x_train.shape[1:], len(dataset.y_train)
    if config.backdoor and config.backdoor_label >= len(dataset.labels):
        raise ValueError(
            f"--backdoor_label={config.backdoor_label} is none of the {len(dataset.labels)} "
            "classes; labels count from 0"
        )
    if config.batch_size > max(many, 1024):
        raise ValueError(
            f"--batch_size={config.batch_size} is more than all {many} training images, and a "
            "batch is of one client's; give a smaller one"
        )
    if config.augment != "none" and len(shape) != 3:
        raise ValueError(
            f"--augment={config.augment} moves images [H, W, C], and the examples of "
            f"{config.dataset} are {list(shape)}; leave it out"
        )


def set_aside(dataset: Any, share: float) -> tuple[Any, np.ndarray | None]:
    """The data set without a share of its test images, and those, without their labels."""
    if not share:
        return dataset, None
    order = np.random.default_rng(0).permutation(len(dataset.y_test))
    proxy, rest = np.split(order, [int(share * len(order))])
    x, y = dataset.x_test, dataset.y_test
    return dataset._replace(x_test=x[np.sort(rest)], y_test=y[np.sort(rest)]), x[np.sort(proxy)]


# ---------------------------------------------------------------- one seed


def clients_of(
    config: Config,
    dataset: Any,
    seed: int,
    slots: int = 0,
    taken: identity.Draws | None = None,
) -> Drawn:
    """A seed's clients, what is to be forgotten of them, and which rows are poisoned.

    Requests mean true labels: they are read before any image is poisoned.

    Args:
      taken: what its requests took out before, as rows; they are not drawn again.
    """
    from jfu.data import partition, poison

    x, y = dataset.x_train, dataset.y_train
    if dataset.client is not None:
        if config.partition != "iid":
            raise ValueError(
                f"{config.dataset} says which client holds what, and so does --partition="
                f"{config.partition}; leave the flag out, or the array `client`"
            )
        lists, names = partition.from_ids(dataset.client)
    elif config.partition.startswith("file:"):
        lists, names = partition.from_file(config.partition.removeprefix("file:"), len(y))
    else:
        lists = partition.partition(
            config.partition, y, config.clients, seed, minimum=config.min_examples
        )
        names = list(range(len(lists)))
    clients = jfu.stack(x, y, lists, classes=len(dataset.labels), host=True)
    poisoned = np.zeros(len(y), bool)
    key = request_key(seed)
    named = lambda text, held: requests.parse(text, held, names, key).forget.mask
    left, past = requests.standing(config.past, clients, names, key, taken.past if taken else ())
    forget = request = None
    if config.forget and taken and taken.request is not None:
        forget = jnp.asarray(identity.as_mask(taken.request, left, names))
    elif config.forget:
        forget = named(config.forget, left)
    if config.forget and not config.forget.startswith("client:"):
        request = identity.as_rows(forget, left, names)
    if config.backdoor:
        chosen = np.asarray(named(config.backdoor_forget, clients))
        for target in requests.rows(config.backdoor_clients, names):
            # What is to be forgotten of the target, or all of it if the request spares it: poison
            # that stays with the federation would be learnt by the retrained model too.
            mine = chosen[target] if chosen[target].any() else np.asarray(clients.mask[target])
            rows = np.asarray(clients.index[target])[mine]
            if any(np.isin(rows, lists[k]).any() for k in range(len(lists)) if k != target):
                raise ValueError(
                    f"client {names[target]} shares images with other clients, who would train on "
                    "the trigger too; use --nobackdoor, or lists that do not overlap"
                )
            draw = np.random.SeedSequence([seed, 1, target]).generate_state(1)[0]
            x, y, stamped = poison.poison(
                x,
                y,
                rows,
                label=config.backdoor_label,
                fraction=config.backdoor_fraction,
                size=config.backdoor_size,
                value=white(dataset),
                seed=int(draw),
            )
            poisoned[stamped] = True
        clients = clients._replace(x=x, y=y.astype(np.int32))
    clients = clients._replace(mask=left.mask)
    stamps = identity.of_rows(np.flatnonzero(poisoned)) if config.backdoor else None
    draws = identity.Draws(identity.of_lists(names, lists), stamps, past, request)
    missing = slots - clients.index.shape[1]
    if missing > 0:  # the same shape for every seed, so that they share compiled programs
        grow = lambda a: jnp.pad(a, ((0, 0), (0, missing)))
        clients = clients._replace(index=grow(clients.index), mask=grow(clients.mask))
        forget = None if forget is None else grow(forget)
    return Drawn(clients, forget, poisoned, draws)


def recovering(config: Config) -> Config:
    """A model that is trained already needs no warming up; one that was negated may need it."""
    return dataclasses.replace(config, warmup_rounds=config.recovery_warmup_rounds)


def names_the_poison(study: Study, trial: Trial) -> bool:
    """Whether images with the trigger are named by the request, and none stays without it."""
    if not study.config.backdoor:
        return False
    with hosts.aside():
        taken = study.taken.get(trial.seed)
        poisoned = clients_of(study.config, study.dataset, trial.seed, taken=taken).poisoned
    exam = trial.exam
    return bool((poisoned & exam.forget).any()) and not (poisoned & exam.retain).any()


def trial(study: Study, seed: int) -> Trial:
    """A seed's data on the devices; on several hosts each holds its own clients' examples."""
    config, dataset = study.config, study.dataset
    with hosts.aside():
        taken = study.taken.get(seed)
        drawn = clients_of(config, dataset, seed, study.slots, taken)
        clients, forget, poisoned = drawn.clients, drawn.forget, drawn.poisoned
        everything = jfu.split(clients, np.zeros(clients.mask.shape, bool))
        request = everything if forget is None else jfu.split(clients, forget)
        fewest = fewest_before(config, dataset, seed, taken) if config.dp_clip is not None else 0
    # Before all else that reads: on several hosts one may find that its examples are others.
    spread = lambda: jfu.spread(clients) if hosts.several() else place(clients)
    pool = hosts.together(spread)  # once for all four sides
    exam = examine(config, dataset, clients, request, poisoned, seed)
    mine = lambda side: pool._replace(mask=place(side.mask))
    everything, request = (jfu.Split(*map(mine, split)) for split in (everything, request))
    return Trial(seed, jax.random.key(seed), everything, request, exam, fewest, drawn.draws)


def fewest_before(
    config: Config, dataset: Any, seed: int, taken: identity.Draws | None = None
) -> int:
    """The fewest clients with examples after any of what is past, and before all of it."""
    plain = dataclasses.replace(config, forget="", backdoor=False)
    after = lambda n: dataclasses.replace(plain, past=config.past[:n])
    there = lambda n: private.holding(clients_of(after(n), dataset, seed, taken=taken).clients)
    return min(there(n) for n in range(len(config.past) + 1))


def request_key(seed: int) -> jax.Array:
    """Draws the fraction that a request names."""
    return jax.random.fold_in(jax.random.key(seed), REQUEST)


def methods(study: Study, names: list[str]) -> dict[str, jfu.Unlearner]:
    if unknown := [n for n in names if n not in UNLEARNERS]:
        raise ValueError(
            f"there is no method {', '.join(unknown)}; the methods are {', '.join(UNLEARNERS)}"
        )
    if "fukd" in names and study.setting.proxy is None:
        raise ValueError(
            "fukd distils on unlabelled images at the server; set some aside with --proxy=0.1"
        )
    config = study.config
    federation.check(config, names)
    averaging = config.server == "sgd" and config.server_lr == 1 and config.aggregator == "mean"
    for name in names:
        if name in ("pgd", "fukd") and not averaging:
            raise ValueError(
                f"{name} takes the model for the mean of what clients sent, which it is with "
                "--server=sgd, --server_lr=1 and --aggregator=mean only; leave it out, or these "
                "flags"
            )
    made = {name: UNLEARNERS[name](study.setting) for name in names}
    for name, method in made.items():
        if method.own and method.own >= budget(config, name):
            say(
                f"note: {name} works {method.own} rounds of its own, and there are "
                f"{budget(config, name)}: none is left for recovery"
            )
    # FedEraser replays in place of rounds of its own before recovery.
    apart = [n for n, m in made.items() if (m.own and m.needs.target) or n == "federaser"]
    if apart and config.aggregator != "mean":
        say(
            f"note: --aggregator={config.aggregator} is for ordinary rounds; {', '.join(apart)} "
            "combine clients by their own formulas in the rounds that are their own"
        )
    made = bounded(config, made)
    return made | ({"retrain": study.fresh} if "retrain" in made else {})


def bounded(config: Config, made: dict[str, jfu.Unlearner]) -> dict[str, jfu.Unlearner]:
    """The methods as they are run: their own rounds within ``--max_update_norm``."""
    limit = config.max_update_norm
    if limit is None:
        return made
    return {name: jfu.faults.bounded(method, limit) for name, method in made.items()}


def remembered(names: Sequence[str]) -> tuple[str, ...]:
    """What training must keep for these methods."""
    known = [name for name in names if name in UNLEARNERS]
    wanted = {kind for name in known for kind in jfu.unlearn.needs_of(name).history}
    return tuple(kind for kind in jfu.history.KEPT if kind in wanted)


def remembering(study: Study, keep: Sequence[str], trial: Trial) -> Study:
    """The study with training that records a history."""
    if not keep:
        return study
    clients, rounds = trial.everything.retain, study.config.rounds
    fed = jfu.recorded(study.fed, keep, clients=clients, rounds=rounds)
    return study._replace(train=jfu.unlearn.retrain(fed, study.model.init))


def budget(config: Config, name: str) -> int:
    """Rounds that a cell may use: retraining has as many as training had."""
    trained = 0 if config.init_params else config.rounds
    known = dict(original=trained, retrain=config.rounds, retrain_again=config.rounds, none=0)
    return known.get(name, config.recovery_rounds)
