"""The rounds after which a model is evaluated, and on what.

``--eval_every=E`` evaluates everything after every E-th round. By default a rule decides, from the
sizes of the data alone:

* A small evaluation takes less time than the rest of a round. It follows every round.
* A large one follows every round up to the 4th. Then it follows every 2nd round, from the 16th
  every 4th, from the 32nd every 8th, and so on. Curves bend early, and a count of rounds is too
  large by a quarter at most.
* If the test examples are more than the training examples, they are left out of a large evaluation
  between the first and the last round. What is left is what stopping rules need. The round at which
  a rule stops is evaluated on everything, and so is a round with membership attacks.
"""

import math

from jfu.evaluation import Evaluation

BY_RULE = 0  # the value of --eval_every
SMALL = 2**20  # numbers in all examples of a small evaluation, such as 1,337 images of 28x28
ALL = 4  # the first rounds, each of which is evaluated
STEPS = 4  # evaluations while the number of rounds doubles, from the 8th on


def of_tests(evaluation: Evaluation) -> int:
    """The number of test examples, with those that have the trigger."""
    return len(evaluation.test_y) * (1 if evaluation.target is None else 2)


def is_small(evaluation: Evaluation) -> bool:
    """Whether all examples of an evaluation have few numbers."""
    many = len(evaluation.retain) + of_tests(evaluation)
    return many * math.prod(evaluation.x.shape[1:]) <= SMALL


def due(number: int, every: int, small: bool) -> bool:
    """Whether the model is evaluated after a round that is not the last one.

    Args:
      number: of the round, from 1.
      every: ``--eval_every``.
      small: whether the evaluation is small.

    >>> [n for n in range(1, 50) if due(n, BY_RULE, False)]
    [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48]
    >>> [n for n in range(1, 10) if due(n, 3, False)]
    [3, 6, 9]
    """
    if every:
        return number % every == 0
    if small or number <= ALL:
        return True
    return number % max(2, 2 ** (number.bit_length() - 1) // STEPS) == 0


def without_tests(every: int, evaluation: Evaluation) -> bool:
    """Whether test examples are left out between the first and the last round."""
    if every or evaluation.where is not None or is_small(evaluation):
        return False
    return of_tests(evaluation) > len(evaluation.retain)
