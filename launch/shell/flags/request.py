"""Request: what to forget, and how a model recovers."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "forget",
        "client:0",
        "client:0,3 | class:7 | class:7@client:0 | fraction:0.1@client:0 | mask:FILE.npy (bool, "
        "one value for each training image). Without @client, the data of all clients.",
    )
    flags.DEFINE_integer(
        "recovery_rounds",
        None,
        "Rounds after the request. Default: half of --rounds.",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "recovery_lr",
        None,
        "Learning rate after the request. --lr_decay counts rounds from 0 again. Default: --lr.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "recovery_warmup_rounds",
        None,
        "Number of rounds after the request in which the rate rises linearly to --recovery_lr. A "
        "method's own rounds count too. not_blend has at least 4. Default: --warmup_rounds, as in "
        "training.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "recovery_lr_schedule",
        None,
        "As --lr_schedule, from --recovery_lr over --recovery_rounds. Default: --lr_schedule, as "
        "in training.",
    )
    flags.DEFINE_list(
        "layers",
        ["first"],
        "The layers that NoT negates: first, first_weight, last, all, positions in call order such "
        "as 0,2, or patterns that match whole paths, such as stem/.*. first: weight and bias of "
        "the first layer. first_weight: its weight alone, and the positions of a ViT.",
    )
    flags.DEFINE_boolean("weights_only", False, "Do not negate the biases of these layers.")
    flags.DEFINE_boolean(
        "follow_means",
        True,
        "Negate BatchNorm's running means after a negated layer, too.",
    )
    flags.DEFINE_list(
        "options",
        [],
        "Options of methods, instead of their published values: METHOD.OPTION=VALUE,... such as "
        "pgd.lr=0.003,mode.lam=0.9. A method's file in jfu/unlearn lists its options.",
    )
