"""Every random stream of an experiment, numbered in one place. A number never changes its use.

A seed's key is ``jax.random.key(seed)``, and each stream folds one of the numbers below into it:

* training, a request's fraction, recovery and each retraining have one of their own. All methods
  share the recovery's, so that chance makes no difference between them.
* ``PAST`` is folded in below a stream where requests were answered before.
* Under ``--dp_clip`` ``launch.setup.private.apart`` folds a digest of settings and method in below
  that, and a run whose noise is secret takes ``launch.workdir.secret.key`` in place of the stream.

NumPy's draws begin with ``[seed, number, ...]`` and have numbers of their own. The split begins
with the seed alone (``jfu.data.partition``).
"""

from collections.abc import Sequence

import jax
import numpy as np

# Streams of JAX, folded into a seed's key.
TRAIN, REQUEST, RECOVER, RETRAIN, RETRAIN_AGAIN = range(1, 6)
RELEARN = 6  # an audit's rounds with the forgotten data
SHADOW = 7  # an audit's shadow federations
RETRAIN_THIRD = 8  # an audit's control

# The stream of a method's run; all that are not named here have RECOVER.
STREAMS = {
    "original": TRAIN,
    "train": TRAIN,
    "retrain": RETRAIN,
    "retrain_again": RETRAIN_AGAIN,
    "retrain_third": RETRAIN_THIRD,
}

# Below a stream, with the number of past requests. ``split(key)[i]`` is ``fold_in(key, i)``, so 0
# and 1 are the two halves of a stream where nothing is past.
PAST = 8

# Below SHADOW: who holds what, then each shadow's training, retraining and answers.
SHADOW_HALVES, SHADOW_TRAIN, SHADOW_RETRAIN, SHADOW_ANSWER = range(4)

# Streams of NumPy, after the seed.
POISON, MATCH, COMPARED = range(
    1, 4
)  # stamped rows; matched test images; rows of an audit's layers


def request(seed: int) -> jax.Array:
    """The key that draws the fraction that a request names."""
    return jax.random.fold_in(jax.random.key(seed), REQUEST)


def run(key: jax.Array, method: str, past: Sequence[str] = ()) -> jax.Array:
    """The key of a method's run on a seed. No draw comes a second time after what is past.

    Args:
      key: the seed's, ``jax.random.key(seed)``.
      past: the requests that were answered before.

    >>> key = jax.random.key(0)
    >>> bool(run(key, "not") == run(key, "finetune")), bool(run(key, "not") == run(key, "retrain"))
    (True, False)
    """
    stream = jax.random.fold_in(key, STREAMS.get(method, RECOVER))
    return jax.random.fold_in(jax.random.fold_in(stream, PAST), len(past)) if past else stream


def poison(seed: int, client: int) -> int:
    """The seed that draws which of a client's rows are stamped."""
    return int(np.random.SeedSequence([seed, POISON, client]).generate_state(1)[0])


def match(seed: int) -> int:
    """The seed that draws which test images stand beside the forgotten ones."""
    return int(np.random.SeedSequence([seed, MATCH]).generate_state(1)[0])
