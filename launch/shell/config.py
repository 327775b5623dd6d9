"""The frozen configuration that flags make, and the default recipe of each data set."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from absl import flags

from jfu.files import npz_headers

# Tables of numbers.
TABLE: dict[str, Any] = dict(model="mlp1", rounds=40, batch_size=16, lr=0.01, backdoor=False)
TABLE |= dict(standardise=True)
# The default recipe of each data set; "" is for all others. The settings of "digits" were chosen
# on a seed that is not reported (launch/results/README.md, "Quickstart").
RECIPES: dict[str, dict[str, Any]] = {
    "digits": dict(model="small", rounds=80, batch_size=16, lr=0.15, backdoor=True),
    "synthetic": dict(model="small", rounds=20, batch_size=16, lr=0.1, backdoor=True),
    "breast_cancer": TABLE,
    "diabetes": TABLE | dict(task="regress"),
    "pydoc_topics": dict(
        model="lm_tiny", rounds=40, batch_size=16, lr=0.3, backdoor=False, task="tokens"
    ),
    "": dict(model="cnn", rounds=200, batch_size=32, lr=0.05, backdoor=False),
}
# What --federation=ridge changes in each: one round, in blocks of many examples.
ONE_ROUND = dict(rounds=1, batch_size=256)


# Roles of fields, for code that treats some fields differently from others.
ROLES = dict(
    place="the place of data or code, which may move; the content is compared instead",
    poison="does nothing without --backdoor",
    request="set by a request; the training before it does not depend on it",
    renewed="launch.unlearn may change it for a model that was trained with another value",
    continued="launch.train --init_from may change it",
    keyless="no random draw depends on it; else the noise of a private run would, too",
    quiet="no random draw depends on its default, with which older versions ran",
    derived="follows from other flags and files, so no command repeats it",
    not_in_pays="not used by launch.pays, which trains from scratch and evaluates every round",
    later="older work directories lack it, and were run with its default",
)


def has(*roles: str, flag: str | None = None) -> dict[str, Any]:
    """Metadata of a field: its roles, and its flag where that has another name."""
    return dict(roles={role: ROLES[role] for role in roles}, flag=flag)


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment, all defaults resolved. ``launch.shell.flags`` says what each field means."""

    dataset: str = field(metadata=has("place"))
    data_dir: str | None = field(metadata=has("place", "keyless"))
    image_size: int | None
    train_size: int | None
    test_size: int | None
    proxy: float = field(metadata=has("renewed", "keyless", "not_in_pays"))
    resplit: float | None
    drop_labels: tuple[str, ...]
    clients: int
    partition: str = field(metadata=has("place"))
    min_examples: int
    backdoor: bool
    backdoor_forget: str = field(metadata=has("derived"))
    backdoor_clients: tuple[str, ...] = field(metadata=has("poison", flag="backdoor_client"))
    backdoor_fraction: float = field(metadata=has("poison"))
    backdoor_label: int = field(metadata=has("poison"))
    backdoor_size: int | None = field(metadata=has("poison"))
    model: str = field(metadata=has("place"))
    norm: str | None
    augment: str
    rounds: int = field(metadata=has("continued"))
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    lr_decay: float
    warmup_rounds: int
    momentum: float
    weight_decay: float
    proximal: float
    server: str
    server_lr: float
    aggregator: str
    trim: float
    clip: float
    byzantine: int
    max_update_norm: float | None
    faults: tuple[str, ...]
    dp_clip: float | None
    dp_noise: float
    dp_delta: float
    sum_only: bool
    sample: int
    absent: float
    init_params: str | None = field(metadata=has("keyless", "not_in_pays"))
    forget: str = field(metadata=has("request"))
    layers: tuple[str, ...] = field(metadata=has("request"))
    weights_only: bool = field(metadata=has("request"))
    follow_means: bool = field(metadata=has("request"))
    recovery_rounds: int = field(metadata=has("request", "not_in_pays"))
    recovery_lr: float = field(metadata=has("request", "not_in_pays"))
    options: tuple[str, ...] = field(metadata=has("request", "not_in_pays"))
    eval_every: int = field(metadata=has("renewed", "keyless", "not_in_pays"))
    attack_every: int = field(metadata=has("renewed", "keyless", "not_in_pays"))
    # Earlier requests: "-client:0" was answered, "+client:0" returned.
    past: tuple[str, ...] = field(default=(), metadata=has("derived"))
    # Rounds of the federation before the original model; None if they are unknown.
    rounds_before: int | None = field(default=0, metadata=has("derived", "keyless"))
    precision: str | None = field(default=None, metadata=has("later"))
    max_grad_norm: float | None = field(default=None, metadata=has("renewed", "later"))
    recovery_warmup_rounds: int = field(default=0, metadata=has("request", "later"))
    lr_schedule: str = field(default="constant", metadata=has("later", "quiet"))
    recovery_lr_schedule: str = field(default="constant", metadata=has("request", "later", "quiet"))
    # How the model comes about: steps that are averaged, or a head in closed form.
    federation: str = field(default="fedavg", metadata=has("later", "quiet", "not_in_pays"))
    penalty: float = field(default=1.0, metadata=has("later", "quiet", "not_in_pays"))
    features: str | None = field(default=None, metadata=has("later", "quiet", "not_in_pays"))
    task: str = field(default="classify", metadata=has("later", "quiet", "not_in_pays"))
    standardise: bool = field(default=False, metadata=has("later", "quiet", "not_in_pays"))
    # A sentence with a code that texts carry, how many, and the request that named their clients.
    canary: str = field(default="", metadata=has("later", "quiet", "not_in_pays"))
    canary_rows: int = field(default=8, metadata=has("later", "quiet", "not_in_pays"))
    canary_forget: str = field(default="", metadata=has("later", "quiet", "derived"))
    # The probability of each client to miss a round.
    absent_each: tuple[str, ...] = field(default=(), metadata=has("later", "quiet", "not_in_pays"))
    dp_noise_from_seed: bool = field(default=False, metadata=has("renewed", "continued", "keyless"))


FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def having(*roles: str) -> tuple[str, ...]:
    """The fields that have any of these roles, in their order.

    Raises:
      KeyError: there is no such role.

    >>> having("place")
    ('dataset', 'data_dir', 'partition', 'model')
    """
    wanted = {role: ROLES[role] for role in roles}.keys()
    return tuple(
        n for n, field in FIELDS.items() if wanted & field.metadata.get("roles", {}).keys()
    )


def flag_of(name: str) -> str:
    """The flag of a field.

    >>> flag_of("rounds"), flag_of("backdoor_clients")
    ('rounds', 'backdoor_client')
    """
    return FIELDS[name].metadata.get("flag") or name


def resolve(methods: Sequence[str] = ()) -> Config:
    """The configuration that the flags describe, with defaults filled in."""
    given = flags.FLAGS
    proxy = 0.1 if needs_proxy(methods) else 0.0
    recipe = dict(task="classify", standardise=False)
    recipe |= RECIPES.get(given.dataset, RECIPES[""]) | _of_own(given.dataset)
    recipe = recipe | (ONE_ROUND if given.federation == "ridge" else {})
    own = lambda name: getattr(given, name) if getattr(given, name) is not None else recipe[name]
    rounds, lr = own("rounds"), own("lr")
    recovery, warmup = given.recovery_rounds, given.recovery_warmup_rounds
    if given.federation == "ridge":
        rounds = recovery = 1
        if given.init_params:
            raise ValueError(
                "--federation=ridge needs features that never saw the data, and --init_params is a "
                "model that did; give a network that was trained on other data with --features"
            )
    named = _clients_of(given.forget)
    backdoor = given.backdoor
    if backdoor is None:
        backdoor = recipe["backdoor"] and given.forget.startswith("client:")
        backdoor = backdoor and not given.init_params
    targets = tuple(given.backdoor_client) or named
    if backdoor and not targets:
        raise ValueError(
            f"--backdoor poisons the clients that --forget names, and --forget={given.forget} "
            "names none; say which with --backdoor_client"
        )
    schedule = given.recovery_lr_schedule
    derived = dict(
        model=own("model"),
        task=own("task"),
        standardise=own("standardise"),
        rounds=rounds,
        batch_size=own("batch_size"),
        lr=lr,
        backdoor=backdoor,
        backdoor_clients=targets if backdoor else (),
        backdoor_forget=given.forget if backdoor else "",
        canary_forget=given.forget if given.canary else "",
        recovery_rounds=max(1, rounds // 2) if recovery is None else recovery,
        recovery_lr=lr if given.recovery_lr is None else given.recovery_lr,
        recovery_warmup_rounds=given.warmup_rounds if warmup is None else warmup,
        recovery_lr_schedule=given.lr_schedule if schedule is None else schedule,
        layers=tuple(given.layers),
        drop_labels=tuple(given.drop_labels),
        proxy=proxy if given.proxy is None else given.proxy,
        options=tuple(sorted(given.options)),
        faults=tuple(sorted(given.faults)),
        absent_each=tuple(given.absent_each),
        past=(),
        rounds_before=0,
    )
    return Config(**{n: derived[n] if n in derived else getattr(given, n) for n in FIELDS})


def _of_own(dataset: str) -> dict[str, Any]:
    """What one's own arrays change in a recipe: a table's model, and the task of its targets."""
    from jfu.data.npz import is_texts
    from jfu.targets import are_numbers

    if not dataset.endswith(".npz"):
        return {}
    with contextlib.suppress(ValueError, OSError):  # the error comes when it is read
        arrays = npz_headers(dataset)
        table = "x_train" in arrays and len(arrays["x_train"].shape) == 2
        if is_texts(dataset):
            return dict(model="lm_tiny", task="tokens")
        floats = "y_train" in arrays and are_numbers(arrays["y_train"])
        return (dict(model="mlp") if table else {}) | (dict(task="regress") if floats else {})
    return {}


def needs_proxy(methods: Sequence[str]) -> bool:
    """Whether one of these methods needs unlabelled images at the server."""
    from jfu.unlearn import UNLEARNERS

    return any(n in UNLEARNERS and UNLEARNERS[n].needs.proxy_data for n in methods)


def _clients_of(forget: str) -> tuple[str, ...]:
    """The client ids in a request, as text."""
    _, _, after = forget.rpartition("client:")
    return tuple(after.split(",")) if "client:" in forget else ()


def workdir_for(config: Config, script: str, **more: Any) -> str:
    """The work directory: --workdir, or a name that no other configuration shares."""
    text = json.dumps(dataclasses.asdict(config) | more, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = os.path.splitext(os.path.basename(config.dataset))[0]
    return flags.FLAGS.workdir or os.path.join("runs", f"{script}-{name}-{digest}")
