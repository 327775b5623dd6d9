"""Federation: who takes part in a round, and what the server makes of the answers."""

from absl import flags


def define() -> None:
    flags.DEFINE_integer("sample", 0, "Clients drawn each round; 0 is all.", lower_bound=0)
    flags.DEFINE_float("absent", 0.0, "Probability that a client misses a round.", 0.0, 1.0)
    flags.DEFINE_list(
        "faults",
        [],
        "Planted faults, each with its probability for a client and a round, such as "
        "late:0.1,nan:0.05,long:0.01. late: the answer misses the round; nan: it is no number; "
        "long: it is a thousand times too long.",
    )
    flags.DEFINE_enum(
        "aggregator",
        "mean",
        ["mean", "clipped", "median", "trimmed", "krum"],
        "How the server combines updates. mean: FedAvg's weighted mean; clipped: the same of "
        "updates clipped to --clip; median: of each coordinate; trimmed: a mean without the --trim "
        "largest and smallest of each coordinate; krum: for --byzantine bad clients. The last "
        "three see single updates. In their own rounds methods combine updates by formulas of "
        "their own.",
    )
    flags.DEFINE_float("clip", 1.0, "Length that --aggregator=clipped clips to.", lower_bound=0.0)
    flags.DEFINE_float(
        "trim", 0.1, "Share of clients that --aggregator=trimmed drops at either end.", 0.0, 0.499
    )
    flags.DEFINE_integer(
        "byzantine", 1, "Clients that --aggregator=krum takes for bad.", lower_bound=0
    )
    flags.DEFINE_float(
        "max_update_norm",
        None,
        "Longer updates are left out of a round. Each of a method's own rounds moves the model by "
        "at most this length, ten of them by ten times as much. What the server does before the "
        "first round is not bounded. Updates that are not finite never count, with or without "
        "this flag.",
        lower_bound=0.0,
    )
    flags.DEFINE_enum(
        "server",
        "sgd",
        ["sgd", "momentum", "adam", "yogi", "fedadam", "fedyogi"],
        "Server optimizer. sgd: FedAvg; momentum: FedAvgM; adam and yogi correct their bias; "
        "fedadam and fedyogi do not, as published.",
    )
    flags.DEFINE_float("server_lr", 1.0, "Server learning rate.", lower_bound=0.0)
