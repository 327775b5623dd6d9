"""NoT at the deepest cut of the network that leaves nothing to read in its predictions.

    theta(c) = theta* with every layer of cut c negated
    t(c)     = I(label; argmax z_theta(c)(x)) / H(label),   x retained
    c*       = the last c in call order with t(c) <= tells, or that of the least t;
    theta'   = theta(c*);   then rounds on what is retained

A cut is a set of layers without which no input reaches the output: any single layer of a chain, in
a residual network the stem, the layers that lead into a stage, the head. Where NoT negates the
first of many layers all others have to learn anew, and what the early ones know, which all data
taught them, is lost too. A late cut leaves more of it; but the sign of the last layers turns right
answers into reliably wrong ones, which recovery need only turn back. That is told beforehand, from
retained data alone: what a prediction still says of the label, right or wrong, is their mutual
information I, less what chance makes of it in n examples, (C - 1)^2 / 2n (Miller. Note on the bias
of information estimates. Information Theory in Psychology, 1955). Each client sends the server
C x C counts for each cut, which are summed; that is the first round. Not of NoT's paper.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jfu.clients import sum_clients
from jfu.fedavg import summarise
from jfu.local import take
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    FederatedAlgorithm,
    LocalInfo,
    Model,
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
    follows: Sequence[tuple[str, str]] = (),
    batch_size: int = 32,
    chunk: int | None = None,
) -> Unlearner:
    """A round that chooses a cut and negates it, then rounds of ``fed``.

    Args:
      cuts: paths of each cut's layers, by depth; ``model.cuts()`` if not given.
      tells: the largest share of the labels' entropy that predictions may still tell.
      follows: running means that change their sign too; see ``negation``.
      batch_size: of the passes forward, which are counted in batches.

    Raises:
      ValueError: a model that knows no cuts and none given, or a share outside [0, 1].

    >>> deepest(fed, model, cuts=[["stem"], ["head"]]).needs.forget_data
    False
    """
    if not 0 <= tells <= 1:
        raise ValueError(f"tells is {tells}; it is a share of the labels' entropy, in [0, 1]")
    if cuts is None:
        cuts = model.cuts() if model.cuts else ()
    if not cuts:
        raise ValueError(
            "deepest chooses among cuts of the network, and this model names none: give "
            "cuts=[[layer, ...], ...], by depth"
        )

    count = confusions(model, cuts, follows=follows, batch_size=batch_size, chunk=chunk)

    def choose(state, request, key):
        del key
        counts, info = count(state.variables, request.retain)
        told = jax.vmap(information)(counts)
        silent = jnp.arange(len(cuts)) * (told <= tells)
        best = jnp.where((told <= tells).any(), silent.argmax(), told.argmin())
        metrics = summarise(info)
        # Counts, not a model, are what is sent.
        metrics["up"] *= counts.size / optax.tree.size(state.variables)
        variables = _signed(dict(state.variables), _signs(state.variables, cuts, follows), best)
        state = state._replace(variables=variables, round=state.round + 1)
        return state, RoundInfo(info, metrics, request.retain.id)

    return finetune(fed)._replace(recover=phases(1, choose, on_retained(fed)), own=1)


def confusions(
    model: Model,
    cuts: Sequence[Sequence[str]],
    *,
    follows: Sequence[tuple[str, str]] = (),
    batch_size: int = 32,
    chunk: int | None = None,
) -> Callable[[Variables, ClientData], tuple[jax.Array, LocalInfo]]:
    """How often which label met which prediction once a cut is negated, summed over clients.

    Returns:
      ``(variables, clients) -> (counts [cuts, C, C], info)``, labels by row.

    >>> from jfu.clients import stack
    >>> clients = stack(jnp.zeros((3, 4, 4, 1), jnp.uint8), [0, 1, 2], [[0, 1], [2]])
    >>> count = confusions(model, [["stem"], ["head"]])
    >>> counts, _ = count(model.init(jax.random.key(0)), clients)
    >>> jax.vmap(information)(counts).shape  # what each cut's predictions still tell
    (2,)
    """

    def count(variables, clients):
        work = _counting(model, _signs(variables, cuts, follows), len(cuts), batch_size)
        shared = Broadcast(dict(variables), jnp.zeros((), jnp.int32))
        return sum_clients(work, chunk=chunk)(shared, clients, jax.random.key(0))

    return count


def information(counts: jax.Array) -> jax.Array:
    """Share of the rows' entropy that the columns tell, less the part that is chance; scalar.

    Args:
      counts: how often row and column met, ``[R, C]``.

    >>> print(f"{information(jnp.array([[40.0, 0.0], [0.0, 40.0]])):.3f}")
    0.991
    >>> print(f"{information(jnp.array([[20.0, 20.0], [20.0, 20.0]])):.3f}")
    -0.009
    """
    total = jnp.maximum(counts.sum(), 1)
    entropy = lambda counts: -jax.scipy.special.xlogy(counts / total, counts / total).sum()
    rows, columns = counts.sum(1), counts.sum(0)
    degrees = jnp.maximum((rows > 0).sum() - 1, 0) * jnp.maximum((columns > 0).sum() - 1, 0)
    shared = entropy(rows) + entropy(columns) - entropy(counts) - degrees / (2 * total)
    return shared / jnp.maximum(entropy(rows), 1e-6)


def _signs(variables: Variables, cuts: Sequence[Sequence[str]], follows) -> PyTree:
    """-1 where a cut's negation changes a leaf, 1 elsewhere; ``[cuts]`` for each leaf."""
    ones = jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), dict(variables))
    of = lambda cut: negated(ones, lambda path, leaf: path.rpartition("/")[0] in cut, follows)
    return jax.tree.map(lambda *signs: jnp.stack(signs), *map(of, cuts))


def _signed(variables: Variables, signs: PyTree, cut: jax.Array) -> Variables:
    return jax.tree.map(lambda leaf, sign: leaf * sign[cut], variables, signs)


def _counting(model: Model, signs: PyTree, many: int, batch_size: int) -> ClientFn:
    """A client's work: for each cut, how often which label met which prediction."""

    def work(shared, client, key):
        del key
        size = min(batch_size, client.index.shape[0])
        batches = -(-client.mask.sum() // size)
        example = jax.ShapeDtypeStruct((1, *client.x.shape[1:]), client.x.dtype)
        classes = jax.eval_shape(lambda x: model.apply(shared.variables, x)[0], example).shape[-1]
        # Live slots first, as in training.
        order = jnp.argsort(~client.mask, stable=True).astype(jnp.int32)
        order = jnp.pad(order, (0, -len(order) % size), constant_values=len(order))

        def step(number, counts):
            batch, _ = take(client, jax.lax.dynamic_slice(order, (number * size,), (size,)))
            label = jax.nn.one_hot(batch.y, classes) * batch.mask[:, None]

            def met(cut):
                other = _signed(dict(shared.variables), signs, cut)
                said = model.apply(other, batch.x)[0].argmax(-1)
                return label.T @ jax.nn.one_hot(said, classes)

            return counts + jax.lax.map(met, jnp.arange(many))

        counts = jax.lax.fori_loop(0, batches, step, jnp.zeros((many, classes, classes)))
        live = client.mask.sum().astype(jnp.float32)
        none = jnp.zeros(())
        return counts, LocalInfo(live, none, none, (many * batches).astype(jnp.float32))

    return work
