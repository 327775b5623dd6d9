"""Comparison: which methods, on how many seeds."""

from absl import flags


def define() -> None:
    flags.DEFINE_list(
        "methods",
        ["retrain", "finetune", "not"],
        "Methods to compare; all means every published one that can answer the request.",
    )
    flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1, upper_bound=10_000)
    flags.DEFINE_integer("first_seed", 0, "The first seed.", lower_bound=0)
    flags.DEFINE_list(
        "keep_history",
        None,
        "What to keep of training: start, norms, sums, first, last, updates, before. Default: what "
        "the methods need. Name more if you will add methods that need more.",
    )
