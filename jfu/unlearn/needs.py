"""Whether a method can answer a request, said before anything runs."""

import numpy as np

from jfu.types import PyTree, Split, Unlearner


def check_request(
    method: Unlearner, request: Split, history: PyTree = (), name: str = "it"
) -> None:
    """Refuses a request that the method cannot answer with what there is.

    Args:
      history: what training recorded, a dict of ``jfu.recorded``'s names.
      name: the method, for the message.

    Raises:
      ValueError: it can forget clients only and a client keeps some of its examples; or it
        needs a history that was not recorded.
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
            "of them some of their examples; choose a method that forgets classes and examples, "
            "such as not"
        )
