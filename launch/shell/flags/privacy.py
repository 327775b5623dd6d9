"""Privacy of clients."""

from absl import flags


def define() -> None:
    flags.DEFINE_boolean(
        "sum_only",
        False,
        "The server sees sums of updates only, as with secure aggregation. Methods, aggregators "
        "and histories that need single updates are refused. Where a single client works in a "
        "method's own round, as for ga, fcu and fedquit where one leaves, the sum is its update.",
    )
    flags.DEFINE_float(
        "dp_clip",
        None,
        "Differential privacy of whole clients. Updates are clipped to this length and count "
        "alike, and the server adds noise to their sum. results.jsonl then gives epsilon of every "
        "model; it is null where nothing bounds it, or where nobody knows, as with --init_params.",
        lower_bound=0.0,
    )
    flags.DEFINE_float(
        "dp_noise", 1.0, "Standard deviation of this noise, in units of --dp_clip.", 0.0
    )
    flags.DEFINE_float(
        "dp_delta",
        1e-3,
        "The delta for which epsilon is given; take less than one over the number of clients.",
        0.0,
        1.0,
    )
    flags.DEFINE_boolean(
        "dp_noise_from_seed",
        False,
        "Draw this noise from --seed and the other flags instead of from a secret: for tests, and "
        "to repeat a run. Anybody can compute such noise and take it off, so no epsilon is given.",
    )
