"""Privacy of clients."""

from absl import flags


def define() -> None:
    flags.DEFINE_boolean(
        "sum_only",
        False,
        "The server sees only sums of updates, as with secure aggregation. Methods, aggregators "
        "and histories that need single updates are refused. In some rounds of ga, fcu and fedquit "
        "a single client works alone. There the sum is that client's update.",
    )
    flags.DEFINE_float(
        "dp_clip",
        None,
        "Differential privacy of whole clients. Updates are clipped to this length and get equal "
        "weights, and the server adds noise to their sum. results.jsonl then gives epsilon of "
        "every model. It is null if there is no bound, or if the bound is unknown, as with "
        "--init_params.",
        lower_bound=0.0,
    )
    flags.DEFINE_float(
        "dp_noise", 1.0, "Standard deviation of this noise, in units of --dp_clip.", 0.0
    )
    flags.DEFINE_float(
        "dp_delta",
        1e-3,
        "The delta for which epsilon is given. Choose less than 1 / number of clients.",
        0.0,
        1.0,
    )
    flags.DEFINE_boolean(
        "dp_noise_from_seed",
        False,
        "Draw this noise from --seed and the other flags instead of from a secret. This is for "
        "tests, and to repeat a run. Anyone can compute and subtract such noise, so results give "
        "no epsilon.",
    )
