"""The frozen configuration that flags make, and what a data set is trained with by default."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from absl import flags

# What a data set is trained with unless flags say otherwise. The settings of "digits" were
# chosen on a seed outside the reported ones (BUILD.md, "Settings").
RECIPES: dict[str, dict[str, Any]] = {
    "digits": dict(model="small", rounds=80, batch_size=16, lr=0.15, backdoor=True),
    "synthetic": dict(model="small", rounds=20, batch_size=16, lr=0.1, backdoor=True),
    "": dict(model="cnn", rounds=200, batch_size=32, lr=0.05, backdoor=False),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment, all defaults resolved."""

    dataset: str
    data_dir: str | None
    image_size: int | None
    train_size: int | None
    test_size: int | None
    proxy: float
    resplit: float | None
    drop_labels: tuple[str, ...]
    clients: int
    partition: str
    min_examples: int
    backdoor: bool
    backdoor_forget: str
    backdoor_clients: tuple[str, ...]
    backdoor_fraction: float
    backdoor_label: int
    backdoor_size: int | None
    model: str
    norm: str | None
    augment: str
    rounds: int
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
    init_params: str | None
    forget: str
    layers: tuple[str, ...]
    weights_only: bool
    follow_means: bool
    recovery_rounds: int
    recovery_lr: float
    options: tuple[str, ...]
    eval_every: int
    attack_every: int
    past: tuple[str, ...] = ()  # what came before: "-client:0" was answered, "+client:0" returned
    # Of the federation, before the model that a request meets; None where nobody knows.
    rounds_before: int | None = 0
    precision: str | None = None
    max_grad_norm: float | None = None
    recovery_warmup_rounds: int = 0
    dp_noise_from_seed: bool = False


# What is said of a backdoor.
BACKDOOR = ("backdoor_client", "backdoor_fraction", "backdoor_label", "backdoor_size")


def resolve(methods: Sequence[str] = ()) -> Config:
    """The configuration that the flags ask for, defaults filled in."""
    given = flags.FLAGS
    proxy = 0.1 if "fukd" in methods else 0.0
    recipe = RECIPES.get(given.dataset, RECIPES[""])
    own = lambda name: getattr(given, name) if getattr(given, name) is not None else recipe[name]
    rounds, lr = own("rounds"), own("lr")
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
    recovery = given.recovery_rounds
    derived = dict(
        model=own("model"),
        rounds=rounds,
        batch_size=own("batch_size"),
        lr=lr,
        backdoor=backdoor,
        backdoor_clients=targets if backdoor else (),
        backdoor_forget=given.forget if backdoor else "",
        recovery_rounds=max(1, rounds // 2) if recovery is None else recovery,
        recovery_lr=lr if given.recovery_lr is None else given.recovery_lr,
        layers=tuple(given.layers),
        drop_labels=tuple(given.drop_labels),
        proxy=proxy if given.proxy is None else given.proxy,
        options=tuple(sorted(given.options)),
        faults=tuple(sorted(given.faults)),
        past=(),
        rounds_before=0,
    )
    names = [field.name for field in dataclasses.fields(Config)]
    return Config(**{n: derived[n] if n in derived else getattr(given, n) for n in names})


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
