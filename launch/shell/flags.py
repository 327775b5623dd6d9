"""The flags that the scripts share, and the frozen configuration that they make."""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Collection, Sequence
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


def define() -> None:
    """Defines the shared flags; a script calls it once, before ``app.run``."""
    string, integer, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    choice, boolean, several = flags.DEFINE_enum, flags.DEFINE_boolean, flags.DEFINE_list

    # Data
    string(
        "dataset",
        "digits",
        "Data set: digits (embedded), synthetic, an own FILE.npz with x_train, y_train, x_test, "
        "y_test and optionally client, or the name of a prepared tensorflow-datasets set.",
    )
    string("data_dir", None, "Where prepared tensorflow-datasets sets lie.")
    integer("train_size", None, "Use only so many training images.", lower_bound=1)
    integer("test_size", None, "Use only so many test images.", lower_bound=1)
    real(
        "proxy",
        None,
        "Share of the test images that is set aside, without labels, for methods that need data at "
        "the server; nothing is evaluated on it. Default: 0.1 where such a method is asked for.",
        0.0,
        0.9,
    )
    integer("image_size", None, "Resize images to this height and width.", lower_bound=1)
    real("resplit", None, "Merge train and test and split anew, with this share for testing.")
    several(
        "drop_labels",
        [],
        "Classes to leave out, by name or number; the others are numbered "
        "anew, and --forget=class: and --backdoor_label mean the new numbers.",
    )
    integer("clients", 10, "Number of clients.", lower_bound=1)
    string(
        "partition",
        "iid",
        "Who holds what: iid, dirichlet:B (label skew, smaller B is stronger), shards:S (label "
        "shards a client), file:P (own index lists, .npz or .json).",
    )
    integer("min_examples", 1, "Examples that each client gets at least.", lower_bound=1)
    boolean(
        "backdoor",
        None,
        "Poison the target: a white square and a wrong label on its images, on those of them that "
        "--forget names. Default: on for digits and synthetic when whole clients are forgotten, "
        "off elsewhere and with --init_params.",
    )
    several("backdoor_client", [], "The poisoned clients. Default: those that --forget names.")
    real("backdoor_fraction", 1.0, "Share of those images that is poisoned.", 0.0, 1.0)
    integer("backdoor_label", 0, "The label that the trigger asks for.", lower_bound=0)
    integer(
        "backdoor_size",
        None,
        "Side of the square in pixels. Default: a tenth of the image's height, at least 2.",
        lower_bound=1,
    )

    # Model and training
    string(
        "model",
        None,
        "small, mlp (mlp1, mlp4: 1 and 4 hidden layers), cnn, resnet18, resnet18_narrow, vit_tiny, "
        "vit_small or vit_base. Default: small for digits and synthetic, cnn elsewhere.",
    )
    choice("norm", None, ["group", "batch", "none"], "Normalisation, where the model has one.")
    choice(
        "precision",
        None,
        ["float32", "tf32", "bf16"],
        "Of products inside the model; parameters stay float32. Default: the device's, which is "
        "TF32 on NVIDIA GPUs and float32 on CPUs.",
    )
    choice("augment", "none", ["none", "crop", "crop_flip"], "Random changes of training images.")
    integer(
        "rounds",
        None,
        "Communication rounds of training, and of retraining. Default: 80 "
        "for digits, 20 for synthetic, 200 elsewhere.",
        lower_bound=1,
        upper_bound=1_000_000,
    )
    integer("epochs", 1, "Local epochs a round.", lower_bound=1, upper_bound=10_000)
    integer(
        "batch_size",
        None,
        "Local batch size. Default: 16 for digits and synthetic, 32 elsewhere.",
        lower_bound=1,
    )
    choice("optimizer", "sgd", ["sgd", "adam", "adamw"], "Local optimizer.")
    real(
        "lr",
        None,
        "Local learning rate. Default: 0.15 for digits, 0.1 for synthetic, 0.05 elsewhere.",
        lower_bound=0.0,
    )
    real("lr_decay", 1.0, "The rate is multiplied by this every round.", 0.0, 1.0)
    integer("warmup_rounds", 0, "Rounds in which the rate rises linearly.", lower_bound=0)
    real("momentum", 0.0, "Momentum of local SGD.", 0.0, 1.0)
    real("weight_decay", 0.0, "Weight decay of the local optimizer.", lower_bound=0.0)
    real("proximal", 0.0, "FedProx's mu; 0 is FedAvg.", lower_bound=0.0)
    real(
        "max_grad_norm",
        None,
        "Gradients that are longer are scaled down to this length in every local step that is "
        "made as in training; not in those of methods that have a rate of their own.",
        lower_bound=0.0,
    )
    choice(
        "server",
        "sgd",
        ["sgd", "momentum", "adam", "yogi", "fedadam", "fedyogi"],
        "Server optimizer: FedAvg, FedAvgM, Adam and Yogi with bias correction, or FedAdam and "
        "FedYogi as published, without.",
    )
    real("server_lr", 1.0, "Server learning rate.", lower_bound=0.0)
    choice(
        "aggregator",
        "mean",
        ["mean", "clipped", "median", "trimmed", "krum"],
        "What the server makes of updates: FedAvg's weighted mean; the same of updates clipped to "
        "--clip; coordinate median; mean without the --trim largest and smallest of each "
        "coordinate; Krum, for --byzantine bad clients. The last three see single updates. In "
        "their own rounds methods combine clients by formulas of their own.",
    )
    real("trim", 0.1, "Share of clients that a trimmed mean leaves out at either end.", 0.0, 0.499)
    real("clip", 1.0, "Length that updates are clipped to.", lower_bound=0.0)
    integer("byzantine", 1, "Clients that Krum takes for bad.", lower_bound=0)
    real(
        "max_update_norm",
        None,
        "Longer updates are left out of a round; and each of a method's own rounds moves the model "
        "by no more: ten of them by ten times as much. What the server does before the first round "
        "is not bounded. Updates that are not finite never count, with this flag or without.",
        lower_bound=0.0,
    )
    real(
        "dp_clip",
        None,
        "Differential privacy of whole clients: updates are clipped to this length, count alike, "
        "and the server adds noise to their sum. results.jsonl then tells epsilon of the models, "
        "null where nothing bounds it, or where nobody knows: of a model of --init_params.",
        lower_bound=0.0,
    )
    real("dp_noise", 1.0, "Standard deviation of that noise, in units of --dp_clip.", 0.0)
    real(
        "dp_delta",
        1e-3,
        "The delta that epsilon is told for; below one over the number of clients.",
        0.0,
        1.0,
    )
    boolean(
        "dp_noise_from_seed",
        False,
        "For tests, and to make a run again: noise comes from --seed and the other flags and not "
        "from a secret, so anybody can compute it and take it off, and no epsilon is told.",
    )
    boolean(
        "sum_only",
        False,
        "The server sees sums of updates only, as with secure aggregation: methods, aggregators "
        "and histories that want single ones are refused. Where one client alone works in a "
        "method's own round, as for ga, fcu and fedquit where one leaves, the sum is its update.",
    )
    several(
        "faults",
        [],
        "Faults to try a federation with, and their probability for each client and round: "
        "late:0.1,nan:0.05,long:0.01 (too late; not a number; a thousand times too long).",
    )
    integer("sample", 0, "Clients drawn each round; 0 is all.", lower_bound=0)
    real("absent", 0.0, "Probability that a client misses a round.", 0.0, 1.0)
    string(
        "init_params",
        None,
        "A model trained elsewhere (.safetensors or .msgpack): it takes "
        "the place of training, at the moment of the request.",
    )

    # Request and recovery
    string(
        "forget",
        "client:0",
        "The request: client:0,3 | class:7 | class:7@client:0 | fraction:0.1@client:0 | "
        "mask:FILE.npy (bool, one value a training image). Without @, all clients.",
    )
    several(
        "layers",
        ["first"],
        "What NoT negates: first, last, all, positions in call order such as 0,2, or patterns "
        "matched against whole paths such as stem/.*",
    )
    boolean("weights_only", False, "Leave biases of the chosen layers alone.")
    boolean("follow_means", True, "BatchNorm means after a negated layer change their sign too.")
    integer(
        "recovery_rounds", None, "Rounds of recovery. Default: half of --rounds.", lower_bound=0
    )
    real(
        "recovery_lr",
        None,
        "Learning rate of recovery, which begins at its round 0 again for --lr_decay. Default: "
        "--lr.",
        lower_bound=0.0,
    )
    integer(
        "recovery_warmup_rounds",
        0,
        "Rounds after the request in which the rate of recovery rises linearly, where negation "
        "left a large loss; a method's own rounds are counted.",
        lower_bound=0,
    )
    several(
        "options",
        [],
        "Options of methods, over their published values: METHOD.OPTION=VALUE,... such as "
        "pgd.lr=0.003,mode.lam=0.9. A method's file in jfu/unlearn says what there is.",
    )

    # Running
    string(
        "workdir",
        None,
        "Where results and checkpoints go. A run that was stopped goes on "
        "from there. Default: runs/<script>-<dataset>-<hash of the flags>.",
    )
    integer("eval_every", 1, "Rounds between evaluations.", lower_bound=1)
    integer(
        "attack_every",
        0,
        "Rounds between membership attacks; 0 attacks before and after recovery only.",
        lower_bound=0,
    )
    integer("checkpoint_every", 25, "Rounds between checkpoints.", lower_bound=1)
    real(
        "max_minutes",
        None,
        "Stop, with a checkpoint, before the first round that would not end within this time (at "
        "least one is run), to be gone on with by the same command. Default: run to the end.",
        lower_bound=0.0,
    )
    integer(
        "chunk",
        None,
        "Clients that run at once on a device; 0 is all. Default: by a rule (jfu.clients_at_once), "
        "1 on CPU, elsewhere as many as the size of the model allows.",
        lower_bound=0,
    )
    integer(
        "devices",
        None,
        "Devices to spread clients over: the CPU is split into as many on each host, of "
        "accelerators the first ones are taken. Default: one a core; all accelerators.",
        lower_bound=1,
        upper_bound=256,
    )
    string(
        "coordinator",
        None,
        "Several hosts: where they meet, HOST:PORT, a free port of the host with --host_id=0. auto "
        "leaves that, --hosts and --host_id to JAX, which finds them under Slurm, Open MPI, "
        "Kubernetes and on Cloud TPU.",
    )
    string(
        "coordinator_bind",
        None,
        "Where host 0 listens, ADDRESS:PORT in numbers. Default: at --coordinator if that is an "
        "address of its own, else on all that it has.",
    )
    integer("hosts", None, "How many hosts there are.", lower_bound=1)
    integer("host_id", None, "Which of them this is; 0 alone reads and writes.", lower_bound=0)
    integer("host_timeout", 300, "Seconds to wait for the other hosts.", lower_bound=1)
    string(
        "compilation_cache",
        None,
        "A folder in which compiled programs are kept: the next start with the same shapes "
        "compiles nothing.",
    )
    string(
        "key_file",
        None,
        "A file with a secret of at least 16 bytes: lines of the ledger carry a code that nobody "
        "makes without it.",
    )
    boolean("debug", False, "Show the traceback of an error.")


def define_comparison() -> None:
    """Defines what a comparison is of, for the scripts that run one."""
    flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1, upper_bound=10_000)
    flags.DEFINE_integer("first_seed", 0, "The first seed.", lower_bound=0)
    flags.DEFINE_list(
        "methods",
        ["retrain", "finetune", "not"],
        "Methods to compare; all is every published one that can answer the request.",
    )
    flags.DEFINE_list(
        "keep_history",
        None,
        "What training remembers. Default: what the methods need; name it where methods that need "
        "more are to join later.",
    )


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


def given() -> set[str]:
    """The flags that were given, on the command line or in a file."""
    return {name for name in flags.FLAGS if flags.FLAGS[name].present}


def said() -> dict[str, set[str]]:
    """The flags that were typed (``given``), and those that a file alone has (``preset``).

    What goes on with a run in a work directory must be given as it was begun, and counts as these.
    """
    begun = os.path.exists(os.path.join(flags.FLAGS.workdir or "", "config.json"))
    known = set() if begun else typed(sys.argv[1:], flags.FLAGS)
    return dict(given=given() & known, preset=given() - known)


def typed(words: Sequence[str], known: Collection[str]) -> set[str]:
    """The flags in words of a command line.

    >>> sorted(typed(["--lr=1", "-clip", "2", "--nobackdoor"], ["lr", "clip", "backdoor"]))
    ['backdoor', 'clip', 'lr']
    """
    names = [word.lstrip("-").partition("=")[0] for word in words if word.startswith("-")]
    return {name if name in known else name.removeprefix("no") for name in names}


def _clients_of(forget: str) -> tuple[str, ...]:
    """The client ids in a request, as text."""
    _, _, after = forget.rpartition("client:")
    return tuple(after.split(",")) if "client:" in forget else ()


def workdir(config: Config, script: str, **more: Any) -> str:
    """The work directory: --workdir, or a name that no other configuration shares."""
    text = json.dumps(dataclasses.asdict(config) | more, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = os.path.splitext(os.path.basename(config.dataset))[0]
    return flags.FLAGS.workdir or os.path.join("runs", f"{script}-{name}-{digest}")
