"""Every random stream of an experiment, numbered in one place. A number never changes its use.

A seed's key is ``jax.random.key(seed)``. Each stream folds one of the numbers below into it:

* Training, the fraction of a request, recovery, and each retraining have their own streams. All
  methods share the stream of recovery, so that chance makes no difference between them.
* After earlier requests, ``PAST`` is folded into a stream.
* Under ``--dp_clip``, ``launch.setup.private.apart`` also folds in a digest of settings and
  method. A run with secret noise uses ``launch.workdir.secret.key`` instead of the stream.

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
RESURFACE = 9  # an audit's further rounds on retained data

# The stream of a method's run; all others have RECOVER.
STREAMS = {
    "original": TRAIN,
    "train": TRAIN,
    "retrain": RETRAIN,
    "retrain_again": RETRAIN_AGAIN,
    "retrain_third": RETRAIN_THIRD,
}

# Folded into a stream, with the number of past requests. ``split(key)[i]`` is ``fold_in(key, i)``,
# so 0 and 1 are the two halves of a stream without past requests.
PAST = 8

# Below SHADOW: the halves of the examples, then each shadow's training, retraining and answers.
SHADOW_HALVES, SHADOW_TRAIN, SHADOW_RETRAIN, SHADOW_ANSWER = range(4)

# Streams of NumPy, after the seed.
POISON, MATCH, COMPARED = range(
    1, 4
)  # stamped rows; matched test images; rows of an audit's layers
CANARY = 4  # texts that begin with a canary


def request(seed: int) -> jax.Array:
    """The key that draws the fraction that a request names."""
    return jax.random.fold_in(jax.random.key(seed), REQUEST)


def run(
    key: jax.Array, method: str, past: Sequence[str] = (), *, frozen: bool = False
) -> jax.Array:
    """The key of a method's run on a seed. After earlier requests, no draw is repeated.

    Args:
      key: the seed's, ``jax.random.key(seed)``.
      past: the requests that were answered before.
      frozen: whether a key draws the layers that stay; retraining then has those of training.

    >>> key = jax.random.key(0)
    >>> bool(run(key, "not") == run(key, "finetune")), bool(run(key, "not") == run(key, "retrain"))
    (True, False)
    """
    method = "train" if frozen and method == "retrain" else method
    stream = jax.random.fold_in(key, STREAMS.get(method, RECOVER))
    return jax.random.fold_in(jax.random.fold_in(stream, PAST), len(past)) if past else stream


@jax.jit
def pair(stream: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of a run's perturbation and of its rounds: one program, not one for each."""
    perturbation, rounds = jax.random.split(stream)
    return perturbation, rounds


def poison(seed: int, client: int) -> int:
    """The seed that draws which of a client's rows are stamped."""
    return int(np.random.SeedSequence([seed, POISON, client]).generate_state(1)[0])


def match(seed: int) -> int:
    """The seed that draws the test images to compare with the forgotten ones."""
    return int(np.random.SeedSequence([seed, MATCH]).generate_state(1)[0])
