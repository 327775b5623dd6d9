"""Checks, before anything runs, whether a method can answer a request."""

import numpy as np

from jfu.types import PyTree, Split, Unlearner


def check_request(
    method: Unlearner, request: Split, history: PyTree = (), name: str = "it"
) -> None:
    """Raises an error if the method cannot answer the request.

    Args:
      history: what training recorded, a dict by ``jfu.recorded``'s names.
      name: the method's name, for the message.

    Raises:
      ValueError: the method can forget only whole clients, and a client keeps some of its
        examples; or it needs a history that was not recorded.
    """
    if missing := [kind for kind in method.needs.history if kind not in history]:
        raise ValueError(
            f"{name} needs what training recorded of {', '.join(missing)}, and there is "
            f"{', '.join(history) or 'no history'}; train with --keep_history="
            f"{','.join(method.needs.history)}, or wrap the federation in jfu.recorded"
        )
    keeps, loses = (np.asarray(side.mask).any(1) for side in request)
    if method.needs.whole_clients and (keeps & loses).any():
        raise ValueError(
            f"{name} takes whole clients out, and this request leaves {int((keeps & loses).sum())} "
            "of them some examples; choose a method that forgets classes and examples, such as not"
        )
