"""NoT at the deepest cut of the network whose negation makes predictions uninformative.

    theta(c) = theta* with every layer of cut c negated
    t(c)     = (I - E) / (H - E) of labels and predictions argmax z_theta(c)(x), x retained
    c*       = the last c in call order with t(c) <= tells, or the c with the least t;
    theta'   = theta(c*);   then rounds on the retained data

A cut is a set of layers that every path from input to output crosses. In a chain, any single layer
is a cut. In a residual network, cuts are the stem, the layers that lead into a stage, and the head.

If NoT negates the first of many layers, all later layers have to learn again. What the early layers
learned from all data is then lost too. A late cut preserves more of it. But negating the last
layers only turns right answers into reliably wrong ones, and recovery merely has to turn them back.

Retained data alone shows this in advance. The mutual information I measures what a prediction still
says about the label, right or wrong. E, its expected value under chance, is subtracted. The
difference is divided by the largest it can be, with H the labels' entropy. For each cut, every
client sends the server C x C counts, which are summed. This is the method's first round. It is not
in NoT's paper.

The adjustment for chance is from Vinh, Epps, Bailey. Information Theoretic Measures for Clusterings
Comparison. JMLR 11, 2010. Their E sums a hypergeometric law for each entry of the table. Here a
Poisson law with that law's variance takes its place, since it needs no loop over counts.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jfu.clients import sum_clients
from jfu.fedavg import summarise
from jfu.local import sized, take
from jfu.select import by_layer
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    FederatedAlgorithm,
    LocalInfo,
    Model,
    Needs,
    PyTree,
    RoundInfo,
    Unlearner,
    Variables,
)
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.negation import negated
from jfu.unlearn.phases import phases


def deepest(
    fed: FederatedAlgorithm,
    model: Model,
    cuts: Sequence[Sequence[str]] | None = None,
    *,
    tells: float = 0.05,
    weights_only: bool = False,
    follows: Sequence[tuple[str, str]] = (),
    batch_size: int = 32,
    chunk: int | None = None,
) -> Unlearner:
    """A round that chooses a cut and negates it, then rounds of ``fed``.

    The first round's metrics have two more entries. ``cut`` is the index of the chosen cut, and
    ``told`` its t(c). In later rounds they are -1 and 0.

    Args:
      cuts: paths of each cut's layers, by depth; ``model.cuts()`` if not given.
      tells: the largest t(c) in [0, 1] at which predictions count as uninformative.
      weights_only: whether biases keep their sign.
      follows: running means that change their sign too; see ``negation``.
      batch_size: examples in a forward pass; passes are counted in batches.

    Raises:
      ValueError: neither the model nor the caller names cuts, a cut has layers that the model does
        not have, or ``tells`` lies outside [0, 1].

    >>> deepest(fed, model, [["stem"], ["head"]]).needs.forget_data
    False
    """
    if not 0 <= tells <= 1:
        raise ValueError(f"tells is {tells}; it is a share and must lie in [0, 1]")
    if cuts is None:
        cuts = model.cuts() if model.cuts else ()
    how = dict(weights_only=weights_only, follows=follows, batch_size=batch_size, chunk=chunk)
    count = confusions(model, cuts, **how)

    def choose(state, request, key):
        del key
        counts, info = count(state.variables, request.retain)
        # Rows that are not finite are not counted, and then the cut cannot be judged.
        whole = counts.sum((1, 2)) >= info.weight.astype(jnp.int32).sum()
        remains = jnp.where(whole, jax.vmap(information)(counts), jnp.inf)
        usable = jnp.arange(len(cuts)) * (remains <= tells)
        best = jnp.where((remains <= tells).any(), usable.argmax(), remains.argmin())
        metrics = summarise(info) | dict(cut=best.astype(jnp.float32), told=remains[best])
        # Clients send counts, not a model.
        metrics["up"] *= counts.size / optax.tree.size(state.variables)
        signs = _signs(state.variables, cuts, weights_only, follows)
        variables = _signed(dict(state.variables), signs, best)
        state = state._replace(variables=variables, round=state.round + 1)
        return state, RoundInfo(info, metrics, request.retain.id)

    def later(state, request, key):
        state, info = on_retained(fed)(state, request, key)
        none = dict(cut=jnp.full((), -1.0), told=jnp.zeros(()))
        return state, info._replace(metrics=info.metrics | none)

    recover = phases(1, choose, later)
    return finetune(fed)._replace(recover=recover, needs=Needs(counts=True), own=1)


def confusions(
    model: Model,
    cuts: Sequence[Sequence[str]],
    *,
    weights_only: bool = False,
    follows: Sequence[tuple[str, str]] = (),
    batch_size: int = 32,
    chunk: int | None = None,
) -> Callable[[Variables, ClientData], tuple[jax.Array, LocalInfo]]:
    """Tables of labels against predictions with each cut negated, summed over clients.

    Examples with logits that are not finite, or with a label that is no class, are not counted.

    Returns:
      ``(variables, clients) -> (counts [cuts, C, C] int32, info)``; a row for each label.

    Raises:
      ValueError: there are no cuts, or a cut has layers that the model does not have.

    >>> from jfu.stacking import stack
    >>> clients = stack(jnp.zeros((3, 4, 4, 1), jnp.uint8), [0, 1, 2], [[0, 1], [2]])
    >>> count = confusions(model, [["stem"], ["head"]])
    >>> counts, _ = count(model.init(jax.random.key(0)), clients)
    >>> jax.vmap(information)(counts).shape  # t(c) of each cut
    (2,)
    """
    if not cuts:
        raise ValueError(
            "deepest chooses among cuts of the network, and this model names none; give "
            "cuts=[[layer, ...], ...], ordered by depth"
        )
    for cut in cuts:
        if isinstance(cut, str) or not set(cut) <= set(model.layers):
            raise ValueError(
                f"{cut!r} is no cut of this network: a cut is a list of layers, of "
                f"{', '.join(model.layers)}"
            )

    def count(variables, clients):
        signs = _signs(variables, cuts, weights_only, follows)
        work = _counting(model, signs, len(cuts), batch_size)
        shared = Broadcast(dict(variables), jnp.zeros((), jnp.int32))
        return sum_clients(work, chunk=chunk)(shared, clients, jax.random.key(0))

    return count


def information(counts: jax.Array) -> jax.Array:
    """Share of the rows' entropy that columns predict, adjusted for chance; scalar, at most 1.

    Args:
      counts: how often each row occurred together with each column, ``[R, C]``.

    >>> print(f"{information(jnp.array([[40.0, 0.0], [0.0, 40.0]])):.3f}")
    1.000
    >>> print(f"{information(jnp.array([[20.0, 20.0], [20.0, 20.0]])):.3f}")
    -0.009
    """
    counts = jnp.asarray(counts, jnp.float32)
    total = jnp.maximum(counts.sum(), 1)
    entropy = lambda counts: -jax.scipy.special.xlogy(counts / total, counts / total).sum()
    rows, columns = counts.sum(1), counts.sum(0)
    of_rows, chance = entropy(rows), _chance(rows, columns)
    shared = of_rows + entropy(columns) - entropy(counts)
    # With one label, or a label for each example, no information is possible.
    some = of_rows - chance > 1e-3
    return jnp.where(some, (shared - chance) / jnp.where(some, of_rows - chance, 1), 0)


def _chance(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Expected mutual information of random tables with these margins.

    An entry with expected count m adds E[N log(N / m)] / n, where N follows a Poisson law. This is
    1/2n for large m and nearly 0 for small m. Fixed margins reduce the entry's variance by the
    factor (1 - row / n)(1 - column / n).
    """
    total = jnp.maximum(rows.sum(), 1)
    mean = jnp.outer(rows, columns) / total
    spread = jnp.outer(1 - rows / total, 1 - columns / total)
    # m (E[log(1 + N)] - log m) equals E[N log(N / m)]; from m = 30 on its series is exact enough.
    near = jnp.clip(mean, 1e-6, 30.0)

    def add(k, found):
        probability = jnp.exp(k * jnp.log(near) - near - jax.scipy.special.gammaln(k + 1.0))
        return found + probability * jnp.log1p(k)

    logs = jax.lax.fori_loop(0, 90, add, jnp.zeros_like(near))
    exact = near * (logs - jnp.log(near))
    far = jnp.maximum(mean, 30.0)
    cells = jnp.where(mean < 30, exact, 1 / 2 + 1 / (12 * far))
    return (jnp.where(mean > 0, cells, 0) * spread).sum() / total


def _signs(variables: Variables, cuts: Sequence[Sequence[str]], weights_only, follows) -> PyTree:
    """-1 where a cut's negation changes a leaf, 1 elsewhere; ``[cuts]`` for each leaf."""
    ones = jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), dict(variables))
    whole = lambda cut: by_layer(cut, slice(None), weights_only=weights_only)
    signs = [negated(ones, whole(cut), follows) for cut in cuts]
    return jax.tree.map(lambda *signs: jnp.stack(signs), *signs)


def _signed(variables: Variables, signs: PyTree, cut: jax.Array) -> Variables:
    return jax.tree.map(lambda leaf, sign: leaf * sign[cut], variables, signs)


def _counting(model: Model, signs: PyTree, many: int, batch_size: int) -> ClientFn:
    """A client's work: for each cut, a table of labels against predictions."""

    def work(shared, client, key):
        del key
        size = min(batch_size, client.index.shape[0])
        batches = -(-client.mask.sum() // size)
        example = jax.ShapeDtypeStruct((1, *client.x.shape[1:]), client.x.dtype)
        classes = jax.eval_shape(lambda x: model.apply(shared.variables, x)[0], example).shape[-1]
        slots = client.mask.shape[0]

        def ordered(length):
            """Live slots first, as in training, then the number of slots as padding."""
            order = jnp.argsort(~client.mask[:length], stable=True).astype(jnp.int32)
            room = slots + -slots % size - length
            return jnp.pad(order, (0, room), constant_values=slots)

        order = sized(client.mask, None, ordered)

        def step(number, carry):
            counts, known = carry
            batch, _ = take(client, jax.lax.dynamic_slice(order, (number * size,), (size,)))
            label = jax.nn.one_hot(batch.y, classes, dtype=jnp.float32) * batch.mask[:, None]

            def met(cut):
                logits, _ = model.apply(_signed(dict(shared.variables), signs, cut), batch.x)
                said = jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.float32)
                met = label.T @ jnp.where(jnp.isfinite(logits).all(-1, keepdims=True), said, 0)
                return met.astype(jnp.int32)  # exact beyond 2^24 too

            return counts + jax.lax.map(met, jnp.arange(many)), known + label.sum()

        none = jnp.float32(0)
        start = jnp.zeros((many, classes, classes), jnp.int32), none
        counts, known = jax.lax.fori_loop(0, batches, step, start)
        return counts, LocalInfo(known, none, none, (many * batches).astype(jnp.float32))

    return work
