"""Data, and which client holds what."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "dataset",
        "digits",
        "digits (embedded), synthetic, the name of a prepared tensorflow-datasets set, or an own "
        "FILE.npz with x_train, y_train, x_test, y_test and optionally client.",
    )
    flags.DEFINE_string("data_dir", None, "The folder of prepared tensorflow-datasets sets.")
    flags.DEFINE_integer("train_size", None, "Use only so many training images.", lower_bound=1)
    flags.DEFINE_integer("test_size", None, "Use only so many test images.", lower_bound=1)
    flags.DEFINE_integer(
        "image_size", None, "Resize images to this height and width.", lower_bound=1
    )
    flags.DEFINE_float(
        "resplit",
        None,
        "Merge training and test images and split them anew; the value is the share for testing.",
    )
    flags.DEFINE_list(
        "drop_labels",
        [],
        "Classes to leave out, by name or number. The others are numbered anew; --forget=class: "
        "and --backdoor_label mean the new numbers.",
    )
    flags.DEFINE_integer("clients", 10, "Number of clients.", lower_bound=1)
    flags.DEFINE_string(
        "partition",
        "iid",
        "How examples are divided among clients: iid, dirichlet:B (label skew, stronger for a "
        "smaller B), shards:S (S shards of one label a client), or file:P (own index lists, .npz "
        "or .json).",
    )
    flags.DEFINE_integer(
        "min_examples", 1, "Every client gets at least so many examples.", lower_bound=1
    )
    flags.DEFINE_float(
        "proxy",
        None,
        "Share of the test images that the server holds without labels, for methods that need "
        "data there. Nothing is evaluated on it. Default: 0.1 where a method needs it, else 0.",
        0.0,
        0.9,
    )
