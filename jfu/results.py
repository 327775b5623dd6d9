"""Rows of results, and what they come to."""

AGAIN = "retrain_again"  # the second retraining, whose gap is the noise floor


def as_original(row: dict) -> dict:
    """The last row of training as the request meets it: nothing has been spent on it yet.

    Who was left out of training, and what it told, is still said.
    """
    nothing_yet = dict(round=0, bytes_down=0, bytes_up=0, flops=0.0, storage=0, seconds=0.0)
    return row | dict(method="original") | nothing_yet
