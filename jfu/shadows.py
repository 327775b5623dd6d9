"""Shadow federations: many small ones over one pool of examples, in one compiled program.

Attacks on single examples (U-LiRA, ``jfu.attacks.lira``) need models that saw an example and
models that did not. A shadow federation is the same federation with other randomness and other
members among the examples in question. Nothing else differs, so all of them are one program mapped
over keys and masks, and none waits for another.

Shadows come in pairs. One of a pair has an example and the other does not. Both are left out
together when their scores are computed. If only the scored model were left out, members and others
would be compared with samples of different sizes. Retraining against itself would then be below a
coin (0.44 in a test). An attack on a pair is fitted to all other pairs. A bootstrap over its scores
would ignore that fit and give intervals too narrow by a third. The jackknife of the whole attack
does not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jfu.collectives import in_batches
from jfu.types import Key, PyTree, Split, Trained, Unlearner


def halves(request: Split, key: Key, shadows: int) -> jax.Array:
    """Which examples each shadow trains on: each of those to forget is in half of the shadows.

    Args:
      request: the examples in question are those of ``request.forget``. If several clients share
        an example, either all of them have it or none.
      shadows: an even number.

    Returns:
      bool ``[S, K, N]``; shadows ``2 i`` and ``2 i + 1`` are complements.

    >>> from jfu import forget_client, split, stack
    >>> data = stack(np.zeros((4, 1)), np.arange(4), [[0, 1], [2, 3]])
    >>> held = halves(split(data, forget_client(data, [1])), jax.random.key(0), 4)
    >>> held.sum(0).tolist()
    [[0, 0], [2, 2]]
    """
    if shadows < 2 or shadows % 2:
        raise ValueError(
            f"{shadows} shadows cannot have each example in half of them; take an even number"
        )
    mask, index = (np.asarray(a) for a in (request.forget.mask, request.forget.index))
    _, first, row = np.unique(index[mask], return_index=True, return_inverse=True)
    coin = np.arange(mask.size).reshape(mask.shape)
    coin[mask] = coin[mask][first[row]]  # of a shared row, the coin of its first place
    coins = jax.random.bernoulli(key, 0.5, (shadows // 2, mask.size))[:, coin]
    both = jnp.stack([coins, ~coins], 1).reshape(shadows, *mask.shape)
    return both & mask[None]


def shadow(request: Split, held: jax.Array) -> Split:
    """The request of a shadow federation; of the examples to forget it has ``held [K, N]``."""
    forget = request.forget
    return Split(request.retain, forget._replace(mask=forget.mask & held))


def everything(request: Split) -> Split:
    """The data before the request, with nothing forgotten.

    >>> from jfu import forget_client, split, stack, weights
    >>> data = stack(np.zeros((4, 1)), np.arange(4), [[0, 1], [2, 3]])
    >>> weights(everything(split(data, forget_client(data, [1]))).retain).tolist()
    [2.0, 2.0]
    """
    retain, forget = request
    mask = retain.mask | forget.mask
    return Split(retain._replace(mask=mask), forget._replace(mask=jnp.zeros_like(mask)))


def answer(method: Unlearner, rounds: int) -> Callable[[Trained, Split, Key], PyTree]:
    """A method with its rounds as one pure function ``(trained, request, key) -> state``.

    It draws what ``method.perturb`` and ``jfu.rounds`` draw from ``jax.random.split(key)``. Rounds
    that the state has had already, as after a rollback, are not run again.
    Retraining is the training of the federation that is given to it, so
    ``answer(retrain(fed, init), rounds)(Trained(()), everything(request), key)`` trains one.
    """

    def run(trained: Trained, request: Split, key: Key) -> PyTree:
        first, later = jax.random.split(key)
        state = method.perturb(trained, request, first)

        def step(number, state):
            return method.recover(state, request, jax.random.fold_in(later, number))[0]

        return jax.lax.fori_loop(state.round, rounds, step, state)

    return run


def map_federations(run: Callable, *, chunk: int = 1) -> Callable:
    """``run(shared, row) -> result`` for every row; results stacked to ``[S, ...]``.

    Inside ``jax.set_mesh(clients_mesh())`` whole federations are spread over the devices, so
    that no device ever waits for another; a federation inside runs on one.

    Args:
      run: pure; ``shared`` is any pytree (a pool of examples, say), ``row`` a row of a pytree.
      chunk: federations at once on a device. 1 means one after the other; it suits CPUs, where
        products of batched matrices are slow. On an accelerator, use as many as fill it.

    Returns:
      A function ``(shared, rows [S, ...]) -> results [S, ...]``.

    >>> map_federations(lambda shared, row: shared * row)(2.0, jnp.arange(3.0)).tolist()
    [0.0, 2.0, 4.0]
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; at least 1 federation must run at once")

    def some(shared, rows):
        if chunk > 1:
            return jax.vmap(run, (None, 0))(shared, rows)
        # Not a vmap of width one: loop bounds stay scalars, dead batches are free.
        one = run(shared, jax.tree.map(lambda a: a[0], rows))
        return jax.tree.map(lambda a: jnp.asarray(a)[None], one)

    return in_batches(some, chunk)


def candidates(request: Split) -> np.ndarray:
    """Rows of the pool that a request forgets and nobody retains, int ``[n]``, each once.

    >>> from jfu import forget_client, split, stack
    >>> data = stack(np.zeros((4, 1)), np.arange(4), [[0, 1], [3, 2]])
    >>> candidates(split(data, forget_client(data, [1]))).tolist()
    [2, 3]
    """
    named = lambda side: np.asarray(side.index)[np.asarray(side.mask)]
    return np.setdiff1d(named(request.forget), named(request.retain))
