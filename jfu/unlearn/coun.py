"""CoUn: recovery that also tells two views of an example from those of others.

Each step of a retained client takes a batch (x, y) and makes two views of it, v and v'. With their
features z = f(v), z' = f(v') before the last layer, and s_nj = cos(z_n, z'_j) / T,

    minimise  CE(y, head(z)) + w C,
    C = - mean_n log( e^{s_nn} / sum_j e^{s_nj} ) - mean_n log( e^{s_nn} / sum_j e^{s_jn} ),

where n and j are live examples of the batch. Other examples are pushed apart, also those of one
class, and labels hold the classes together. Features of forgotten examples move with those of the
retained examples that are most like them. Forgotten data is not needed.

    coun       begins at the trained model
    not_coun   begins with negated layers, as NoT does

Khalil, Setayesh, Li. CoUn: Empowering Machine Unlearning via Contrastive Learning. NeurIPS 2025,
arXiv 2509.16391. T = 0.1 is best there; w was tuned between 0.1 and 6 for each table.

**Views.** As in the paper, both views come from the augmentation with which the federation trains,
and the first view is what training would see. Without an augmentation both views would be the same
picture, and the sums would only push. So there the second view is corrupted: each entry is, with
probability ``corrupt``, that of another example of the batch, drawn anew for each entry. This suits
tables and small pictures, for which flips and crops make no sense. It needs no scale, and works for
bytes, numbers and codes alike. Bahri, Jiang, Tay, Metzler. SCARF: Self-Supervised Contrastive
Learning using Random Feature Corruption. ICLR 2022, arXiv 2106.15147. Dropout differs between the
views, too.

Differences: the paper is about one place with batches of 256. In a federation other examples are
those of the same client's batch, so the batch size matters more. A last batch of one example has
C = 0.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jfu.faults import checked, guarded
from jfu.fedavg import fedavg
from jfu.local import cross_entropy
from jfu.types import (
    ClientFn,
    FederatedAlgorithm,
    Key,
    LossFn,
    Model,
    RecoverFn,
    Unlearner,
    check_numbers,
)
from jfu.unlearn.finetune import on_retained

Augment = Callable[[Key, jax.Array], jax.Array]

CORRUPT = 0.6  # SCARF's share, where there is no augmentation
SECOND, OTHERS = 1, 2  # set the second view's draws apart


def coun(
    start: Unlearner,
    model: Model,
    local: Callable[..., ClientFn],
    *,
    temperature: float = 0.1,
    weight: float = 1.0,
    corrupt: float | None = None,
    augment: Augment | None = None,
    around: Callable[[ClientFn], FederatedAlgorithm] | None = None,
    chunk: int | None = None,
) -> Unlearner:
    """The start of another method, then rounds on labels and on views.

    A step takes two forward and backward passes, and is counted as two.

    Args:
      start: a method with ordinary rounds, of which ``perturb`` is used: ``finetune(fed)`` makes
        CoUn, ``negation(fed, selector)`` NoT with CoUn's recovery.
      model: must have ``apply_features``.
      local: ``local(loss=..., augment=...) -> ClientFn``, a client's training on another loss.
      temperature: T, which divides similarities.
      weight: w of the contrast. With 0 and no batch statistics it is the method ``start``.
      corrupt: the share of entries of the second view that are another example's. If not given, it
        is 0 with an augmentation, and 0.6 without one.
      augment: the augmentation of the federation, ``(key, x [...]) -> x [...]`` for one example.
      around: makes a federation from a client's work, with its server and sampling;
        plain averaging if not given.

    Raises:
      ValueError: a number out of range, a model without ``apply_features``, or a start that has
        rounds of its own.

    >>> from jfu.unlearn.finetune import finetune
    >>> coun(finetune(fed), model, local, weight=0.3).needs.forget_data
    False
    """
    check_numbers("coun", "(0, inf)", temperature=temperature)
    check_numbers("coun", "[0, inf)", weight=weight)
    check_numbers("coun", "[0, 1]", corrupt=corrupt)
    if model.apply_features is None:
        raise ValueError("coun compares features; give the Model a function `apply_features`")
    if start.own or start.own_now is not None:
        raise ValueError("coun replaces ordinary rounds, and this start has rounds of its own")
    if corrupt is None:
        corrupt = CORRUPT if augment is None else 0.0
    loss = model.apply_features, temperature, weight, corrupt
    return start._replace(recover=on_views(loss, local, augment, around, chunk))


@functools.lru_cache(maxsize=64)
def on_views(
    loss: tuple,
    local: Callable[..., ClientFn],
    augment: Augment | None,
    around: Callable[[ClientFn], FederatedAlgorithm] | None,
    chunk: int | None,
) -> RecoverFn:
    """A round on views of the retained data, of the first arguments of ``coun_loss``.

    The same arguments always give the same function, as with ``on_retained``. So CoUn and NoT with
    its recovery share one compiled program.
    """
    around = around or functools.partial(fedavg, chunk=chunk)
    views = {} if augment is None else dict(augment=two_views(augment))
    learn = guarded(local(loss=coun_loss(*loss, augmented=bool(views)), **views))

    @checked
    def work(shared, client, key):
        update, info = learn(shared, client, key)
        return update, info._replace(steps=2 * info.steps)

    return on_retained(around(work))


def two_views(augment: Augment) -> Augment:
    """Two draws of an augmentation, ``(key, x [...]) -> [2, ...]``; the first is the usual one.

    >>> flip = lambda key, x: jnp.where(jax.random.bernoulli(key), -x, x)
    >>> two_views(flip)(jax.random.key(1), jnp.ones(3)).shape
    (2, 3)
    """

    def views(key, x):
        return jnp.stack([augment(key, x), augment(jax.random.fold_in(key, SECOND), x)])

    return views


def coun_loss(
    apply_features: Callable, temperature: float, weight: float, corrupt: float, augmented: bool
) -> LossFn:
    """Cross-entropy of the first view, and the contrast of both, mean over live rows.

    Args:
      apply_features: of a ``Model``.
      temperature, weight: T and w of the module's formula.
      corrupt: the share of entries of the second view that are another example's.
      augmented: whether batches have both views, ``x [B, 2, ...]``, or each example once.
    """

    def loss(variables, batch, key):
        first, second = (batch.x[:, 0], batch.x[:, 1]) if augmented else (batch.x, batch.x)
        if corrupt:
            second = corrupted(jax.random.fold_in(key, OTHERS), second, batch.mask, corrupt)
        see = functools.partial(apply_features, train=True, mask=batch.mask)
        logits, z, changed = see(variables, first, key=key)
        # As in the paper's code, each view is a pass and a step of the running statistics.
        again = jax.random.fold_in(key, SECOND)
        _, other, changed = see({**variables, **changed}, second, key=again)
        value = cross_entropy(logits, batch)
        return value + weight * contrast(z, other, batch.mask, temperature), changed

    return loss


def contrast(z: jax.Array, other: jax.Array, mask: jax.Array, temperature: float) -> jax.Array:
    """How badly each row finds its other view among all live rows, in both directions.

    Args:
      z, other: features of both views ``[B, D]``.
      mask: ``[B]``, 1 for live rows; others are nobody's negatives.
      temperature: divides the cosines.

    Returns:
      The mean over live rows, scalar float32; 0 with one of them.

    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0], [7.0, 7.0]])
    >>> live = jnp.array([1.0, 1.0, 0.0])
    >>> print(f"{contrast(z, z, live, 1.0):.4f}")  # 2 log(1 + 1 / e)
    0.6265
    """
    z, other = unit(z), unit(other)
    s = jnp.matmul(z, other.T, precision=jax.lax.Precision.HIGHEST) / temperature
    pairs = (mask[:, None] > 0) & (mask[None] > 0) | jnp.eye(len(mask), dtype=bool)
    s = jnp.where(pairs, s, -jnp.inf)
    lost = jax.nn.logsumexp(s, axis=1) + jax.nn.logsumexp(s, axis=0) - 2 * jnp.diagonal(s)
    return (lost * mask).sum() / jnp.maximum(mask.sum(), 1)


def unit(rows: jax.Array) -> jax.Array:
    """Rows ``[B, D]`` of length one, float32; a row of zeros stays one, and has no gradient."""
    rows = rows.astype(jnp.float32)
    square = (rows**2).sum(1, keepdims=True)
    there = square > 1e-16
    return jnp.where(there, rows * jax.lax.rsqrt(jnp.where(there, square, 1.0)), 0.0)


def corrupted(key: Key, x: jax.Array, mask: jax.Array, share: float) -> jax.Array:
    """``x [B, ...]`` with a share of all entries from other live rows, drawn for each entry.

    An entry is replaced by one at the same place, perhaps by itself. Rows that are not live stay.

    >>> x, live = jnp.array([[1, 10], [2, 20], [0, 0]]), jnp.array([1.0, 1.0, 0.0])
    >>> new = corrupted(jax.random.key(0), x, live, 0.5)
    >>> [sorted(set(column)) for column in new[:2].T.tolist()], new[2].tolist()
    ([[1, 2], [10, 20]], [0, 0])
    """
    live, rows = mask > 0, x.reshape(x.shape[0], -1)
    draw = jax.random.uniform(key, rows.shape)
    # Below ``share`` a draw, divided by it, is uniform again and says whose entry it is.
    count, order = live.sum(), jnp.argsort(~live, stable=True)
    which = jnp.floor(jnp.minimum(draw / share, 1) * count).astype(jnp.int32)
    new = jnp.take_along_axis(rows, order[jnp.minimum(which, count - 1)], axis=0)
    return jnp.where((draw < share) & live[:, None], new, rows).reshape(x.shape)
