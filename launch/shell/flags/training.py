"""Training: rounds, and what a client does in a round."""

from absl import flags


def define() -> None:
    flags.DEFINE_integer(
        "rounds",
        None,
        "Communication rounds of training, and of retraining. Default: 80 for digits, 20 for "
        "synthetic, 40 for the embedded tables and texts, 200 elsewhere.",
        lower_bound=1,
        upper_bound=1_000_000,
    )
    flags.DEFINE_integer("epochs", 1, "Local epochs in a round.", lower_bound=1, upper_bound=10_000)
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Local batch size. Default: 16 for embedded sets, 32 elsewhere.",
        lower_bound=1,
    )
    flags.DEFINE_enum("augment", "none", ["none", "crop", "crop_flip"], "Random changes of images.")
    flags.DEFINE_enum("optimizer", "sgd", ["sgd", "adam", "adamw"], "Local optimizer.")
    flags.DEFINE_float(
        "lr",
        None,
        "Local learning rate. Default: 0.15 for digits, 0.1 for synthetic, 0.01 for the embedded "
        "tables, 0.3 for the embedded texts, 0.05 elsewhere.",
        lower_bound=0.0,
    )
    flags.DEFINE_float("lr_decay", 1.0, "Every round multiplies --lr by this.", 0.0, 1.0)
    flags.DEFINE_string(
        "lr_schedule",
        "constant",
        "How the rate falls over --rounds, instead of --lr_decay. constant: by --lr_decay alone. "
        "step:F: times F after half of the rounds, and again after three quarters. cosine:E: along "
        "half a cosine to E. A warm-up multiplies it.",
    )
    flags.DEFINE_integer(
        "warmup_rounds",
        0,
        "Number of first rounds in which the rate rises linearly to --lr.",
        lower_bound=0,
    )
    flags.DEFINE_float("momentum", 0.0, "Momentum of local SGD.", 0.0, 1.0)
    flags.DEFINE_float("weight_decay", 0.0, "Weight decay of the local optimizer.", lower_bound=0.0)
    flags.DEFINE_float("proximal", 0.0, "FedProx's mu; 0 is FedAvg.", lower_bound=0.0)
    flags.DEFINE_float(
        "max_grad_norm",
        None,
        "Longer gradients are scaled down to this length. This holds for every local step of "
        "training and of ordinary rounds after a request. It does not hold for steps of methods "
        "that have their own rate.",
        lower_bound=0.0,
    )
