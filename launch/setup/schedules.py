"""Learning rates by round, where they do not fall by ``--lr_decay``: optax's own schedules.

``--lr_schedule`` is over ``--rounds``, ``--recovery_lr_schedule`` over ``--recovery_rounds``.
"""

import re

import optax

CONSTANT = "constant"


def schedule(text: str, lr: float, rounds: int) -> optax.Schedule:
    """The rate of each round, which counts from 0.

      step:F     lr, times F from half of the rounds on, and times F again from three quarters on
      cosine:E   E + (lr - E) (1 + cos(pi round / rounds)) / 2, and E after the last round

    Half and three quarters of the rounds are rounded down.

    Args:
      text: one of these, that ``read`` takes.
      lr: the rate of round 0.
      rounds: the number of rounds.

    >>> step, cosine = schedule("step:0.1", 2.0, 4), schedule("cosine:0.5", 1.5, 4)
    >>> [round(float(step(number)), 3) for number in range(5)]
    [2.0, 2.0, 0.2, 0.02, 0.02]
    >>> [round(float(cosine(number)), 3) for number in range(5)]
    [1.5, 1.354, 1.0, 0.646, 0.5]
    """
    kind, value = read(text)
    if kind == "cosine":
        return optax.cosine_decay_schedule(lr, rounds, alpha=value / lr)
    falls = {max(1, rounds // 2): value, max(1, 3 * rounds // 4): value}
    return optax.piecewise_constant_schedule(lr, falls)


def read(text: str) -> tuple[str, float]:
    """A schedule's kind and its number.

    Raises:
      ValueError: it is not one, or its number is impossible.

    >>> read("step:0.1"), read("constant")
    (('step', 0.1), ('constant', 1.0))
    """
    if text == CONSTANT:
        return CONSTANT, 1.0
    found = re.fullmatch(r"(step|cosine):(\d*\.?\d+(?:e-?\d+)?)", text)
    if not found:
        raise ValueError(
            f"{text} is not understood; write constant, step:FACTOR or cosine:END, such as "
            "step:0.1 or cosine:0.0001"
        )
    kind, value = found[1], float(found[2])
    if kind == "step" and not 0 < value < 1:
        raise ValueError(f"{text} does not lower the rate; give a factor between 0 and 1")
    return kind, value


def check(text: str, lr: float) -> None:
    """Refuses what is no schedule for this rate.

    Raises:
      ValueError: as in ``read``, or the rate would rise.
    """
    kind, end = read(text)
    if kind == "cosine" and end >= lr:
        raise ValueError(f"{text} does not lower the rate of {lr:g}; give an end below it")
