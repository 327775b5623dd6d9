"""Federation: which clients take part in a round, and how the server combines updates."""

from absl import flags


def define() -> None:
    flags.DEFINE_enum(
        "federation",
        "fedavg",
        ["fedavg", "ridge"],
        "How the model comes about. fedavg: clients train, and the server averages. ridge: the "
        "network's layers are frozen, each client sends sums of its features once, and the server "
        "computes the last layer from them. Then deletion is exact (--method=ridge).",
    )
    flags.DEFINE_float(
        "penalty", 1.0, "Ridge penalty of the last layer, with --federation=ridge.", lower_bound=0.0
    )
    flags.DEFINE_string(
        "features",
        None,
        "With --federation=ridge, a model file (.safetensors or .msgpack) with the frozen layers. "
        "It must never have seen the clients' data. Its last layer does not count. Default: the "
        "network at its random start, from the seed.",
    )
    flags.DEFINE_integer(
        "sample", 0, "Number of clients drawn each round; 0 means all.", lower_bound=0
    )
    flags.DEFINE_float("absent", 0.0, "Probability that a client misses a round.", 0.0, 1.0)
    flags.DEFINE_list(
        "absent_each",
        [],
        "In place of --absent, the probability of each client, in their order: 0.9,0.5,0,0.",
    )
    flags.DEFINE_list(
        "faults",
        [],
        "Faults to plant, each with its probability for a client and a round, such as "
        "late:0.1,nan:0.05,long:0.01. late: the update misses the round. nan: it is not a number. "
        "long: it is a thousand times too long.",
    )
    flags.DEFINE_enum(
        "aggregator",
        "mean",
        ["mean", "fedau", "clipped", "median", "trimmed", "krum"],
        "How the server combines updates. mean: FedAvg's weighted mean. fedau: the same mean, with "
        "clients that come rarely weighed up. clipped: the same mean of "
        "updates clipped to --clip. median: the median of each coordinate. trimmed: a mean without "
        "the --trim largest and smallest of each coordinate. krum: for --byzantine bad clients. "
        "The last three see single updates. A method's own rounds use the method's own formula.",
    )
    flags.DEFINE_float("clip", 1.0, "Length to which --aggregator=clipped clips.", lower_bound=0.0)
    flags.DEFINE_float(
        "trim", 0.1, "Share of clients that --aggregator=trimmed drops at either end.", 0.0, 0.499
    )
    flags.DEFINE_integer(
        "byzantine", 1, "Number of bad clients that --aggregator=krum assumes.", lower_bound=0
    )
    flags.DEFINE_float(
        "max_update_norm",
        None,
        "Longer updates are left out of a round. Each of a method's own rounds moves the model by "
        "at most this length. The server's work before the first round is not bounded. Updates "
        "that are not finite never count, with or without this flag.",
        lower_bound=0.0,
    )
    flags.DEFINE_enum(
        "server",
        "sgd",
        ["sgd", "momentum", "adam", "yogi", "fedadam", "fedyogi"],
        "Server optimizer. sgd: FedAvg. momentum: FedAvgM. adam and yogi correct their bias. "
        "fedadam and fedyogi do not, as published.",
    )
    flags.DEFINE_float("server_lr", 1.0, "Server learning rate.", lower_bound=0.0)
