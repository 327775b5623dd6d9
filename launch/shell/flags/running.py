"""Running: where results go, how often models are evaluated, and on what devices."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "The folder for results and checkpoints. The same command continues a stopped run there. "
        "Default: runs/<script>-<dataset>-<hash of the flags>.",
    )
    flags.DEFINE_integer(
        "eval_every",
        0,
        "Rounds between evaluations. 0: every round if the data are small, else every round up to "
        "the 4th and then more and more seldom.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "attack_every",
        0,
        "Rounds between membership attacks. 0: only before and after recovery.",
        lower_bound=0,
    )
    flags.DEFINE_integer("checkpoint_every", 25, "Rounds between checkpoints.", lower_bound=1)
    flags.DEFINE_float(
        "max_minutes",
        None,
        "Stop, with a checkpoint, before the first round that would not end within this time. At "
        "least one round is run. The same command continues. Default: run to the end.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "devices",
        None,
        "Number of devices to spread clients over. The CPU of each host is split into this many. "
        "With accelerators, the first ones are used. Default: one for each core, or all "
        "accelerators.",
        lower_bound=1,
        upper_bound=256,
    )
    flags.DEFINE_integer(
        "chunk",
        None,
        "Clients that run at once on a device; 0 means all. Default (jfu.clients_at_once): 1 on "
        "CPU, elsewhere as many as the size of the model allows.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "A folder for compiled programs. The next start with the same shapes compiles nothing.",
    )
    flags.DEFINE_string(
        "key_file",
        None,
        "A file with a secret of at least 16 bytes. Every line of the ledger then has a code that "
        "cannot be made without this secret.",
    )
    flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")
