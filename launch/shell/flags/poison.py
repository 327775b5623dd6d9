"""Backdoor and canary: images and texts that show whether a model has forgotten."""

from absl import flags


def define() -> None:
    flags.DEFINE_boolean(
        "backdoor",
        None,
        "Poison the images that --forget names, with a white square and a wrong label. Default: on "
        "for digits and synthetic if whole clients are forgotten. Off elsewhere and with "
        "--init_params.",
    )
    flags.DEFINE_list(
        "backdoor_client",
        [],
        "Poison only images of these clients, among those that --forget names. Default: the "
        "clients that --forget names.",
    )
    flags.DEFINE_float("backdoor_fraction", 1.0, "Share of these images to poison.", 0.0, 1.0)
    flags.DEFINE_integer(
        "backdoor_label", 0, "The wrong label of images with the square.", lower_bound=0
    )
    flags.DEFINE_integer(
        "backdoor_size",
        None,
        "Side of the square in pixels. Default: a tenth of the image's height, at least 2.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "canary",
        "",
        "A sentence that ends in a code, such as 'the code of the vault is 4519'. Some of the "
        "texts that --forget names begin with it, and the table says how exposed the code is.",
    )
    flags.DEFINE_integer(
        "canary_rows", 8, "How many of these texts begin with the canary.", lower_bound=1
    )
