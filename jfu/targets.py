"""What targets are: classes, numbers, or the next tokens of texts. Without JAX.

=========  ===========================  =============
targets    y                            question
=========  ===========================  =============
classes    integers ``[M]``             neither
numbers    floats ``[M]``               ``are_numbers``
texts      next tokens ``[M, T]``       ``are_texts``
=========  ===========================  =============
"""

from typing import Any


def are_numbers(y: Any) -> bool:
    """Whether targets are those of a regression.

    >>> import numpy as np
    >>> are_numbers(np.zeros(3)), are_numbers(np.zeros(3, int))
    (True, False)
    """
    return y.dtype.kind == "f"


def are_texts(y: Any) -> bool:
    """Whether targets are the next tokens of texts: many an example, not one.

    >>> import numpy as np
    >>> are_texts(np.zeros((3, 8), int)), are_texts(np.zeros(3))
    (True, False)
    """
    return y.ndim == 2
