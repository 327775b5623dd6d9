"""Data, and how clients share it."""

from absl import flags


def define() -> None:
    flags.DEFINE_string(
        "dataset",
        "digits",
        "digits, synthetic, breast_cancer, diabetes or pydoc_topics (embedded), the name of a "
        "prepared tensorflow-datasets set, or a FILE.npz of your own. It has x_train, y_train, "
        "x_test, y_test and optionally client. Token ids [M, T] need no y_train and y_test.",
    )
    flags.DEFINE_enum(
        "task",
        None,
        ["classify", "regress", "tokens"],
        "What targets are: classes, numbers, or the next tokens of texts. Default: numbers if they "
        "are floats, and next tokens if x_train has token ids and there is no y_train.",
    )
    flags.DEFINE_boolean(
        "standardise",
        None,
        "Features of mean 0 and variance 1, from sums over all training examples, which clients "
        "would send. Float targets too. Default: on for breast_cancer and diabetes.",
    )
    flags.DEFINE_string("data_dir", None, "The folder of prepared tensorflow-datasets sets.")
    flags.DEFINE_integer("train_size", None, "Use only this many training images.", lower_bound=1)
    flags.DEFINE_integer("test_size", None, "Use only this many test images.", lower_bound=1)
    flags.DEFINE_integer(
        "image_size", None, "Resize images to this height and width.", lower_bound=1
    )
    flags.DEFINE_float(
        "resplit",
        None,
        "Merge training and test images and split them again. The value is the share for testing.",
    )
    flags.DEFINE_list(
        "drop_labels",
        [],
        "Classes to leave out, by name or number. The others get new numbers. --forget=class: "
        "and --backdoor_label use these new numbers.",
    )
    flags.DEFINE_integer("clients", 10, "Number of clients.", lower_bound=1)
    flags.DEFINE_string(
        "partition",
        "iid",
        "How clients share the examples: iid, dirichlet:B, shards:S or file:P. A smaller B skews "
        "labels more. Each client gets S shards of one label. P has your own lists of indices, as "
        ".npz or .json.",
    )
    flags.DEFINE_integer(
        "min_examples", 1, "Every client gets at least this many examples.", lower_bound=1
    )
    flags.DEFINE_float(
        "proxy",
        None,
        "Share of the test images that the server has, without labels, for methods that need data "
        "there. Evaluation does not use it. Default: 0.1 if a method needs it, else 0.",
        0.0,
        0.9,
    )
