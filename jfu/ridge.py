"""Ridge heads on frozen features: a federation that forgets exactly.

    A_k = Phi_k^T Phi_k    B_k = Phi_k^T Y_k             client k sends these once
    W = (lambda I + sum_k A_k)^-1 sum_k B_k              the server's head

``Phi_k [n, d]`` has the frozen features of client k's examples, and a column of ones if the head
has a bias. ``Y_k [n, C]`` has ones for classes. The head depends on data through these two sums
alone. So a head that forgets is the head of sums without the forgotten data. Features must come
from something that never saw the data: a network at its random start, or one trained on other data.

Sums are float32 (float64 with float64 parameters), with full products on every device. The server
solves by Cholesky. With eps = 1.2e-7 in float32 and the condition ``kappa <= 1 + trace(sum_k A_k) /
lambda``, the head's relative error is at most about ``d eps kappa`` (Higham, Accuracy and Stability
of Numerical Algorithms, 2002, section 10.1). ``error_bound`` computes this. The error itself is
usually far smaller. On digits, with a penalty of 1, it was 6e-5 where the bound is 0.3.

There are two ways to forget. ``subtract`` takes the forgotten statistics from the total. It loses
digits: the rounding error of the former total stays, even if little remains of it. The trace in the
bound is then that of the former total. If the server keeps every client's statistics instead, it
adds up those that stay, in the order of training. This loses nothing: on one kind of device, the
head has the bits of retraining, after any requests in any order.

Quan, Wu, Montana. arXiv 2603.12977, 2026.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jfu import types
from jfu.clients import sum_clients
from jfu.faults import guarded
from jfu.fedavg import check_numbers, summarise
from jfu.local import take, unknown
from jfu.sums import squares, wide
from jfu.types import (
    Broadcast,
    ClientData,
    ClientFn,
    FederatedAlgorithm,
    Key,
    LocalInfo,
    Model,
    Params,
    RoundInfo,
    Variables,
)

KEPT = ("statistics", "total")  # what the server keeps: of each client, and of all together
EXACT = jax.lax.Precision.HIGHEST  # without it, products are TF32 or bfloat16 on accelerators


class Statistics(NamedTuple):
    """What a client sends: half of ``Phi^T Phi``, which is symmetric, and ``Phi^T Y``."""

    gram: jax.Array  # d (d + 1) / 2 numbers, see ``packed``
    moment: jax.Array  # [d, C]


class RidgeState(NamedTuple):
    """The state of a ridge federation."""

    variables: Variables  # frozen features, and the head
    history: Mapping[str, Any]  # "total": Statistics; perhaps "statistics": the same, [K, ...]
    round: jax.Array  # [] int32

    @property
    def params(self) -> Params:
        return self.variables["params"]


def federation(
    model: Model,
    *,
    penalty: float = 1.0,
    clients: int | None = None,
    batch_size: int = 256,
    chunk: int | None = None,
) -> FederatedAlgorithm:
    """A federation whose round computes the head of the clients that take part.

    One round is all: it does not read the head that was there before.

    Args:
      model: has ``features`` and ends with a dense layer on them.
      penalty: lambda, above 0.
      clients: K, if the server keeps every client's statistics, for ``jfu.unlearn.ridge``. Without
        it the server needs sums alone and keeps their total.
      batch_size: examples whose features are computed at once. It changes nothing but roundings.
      chunk: as in ``fedavg``.

    Returns:
      ``init(variables) -> state`` and ``round(state, clients, key) -> (state, info)``, as of
      ``fedavg``. A client whose statistics are not finite is left out, and counted. Losses are NaN:
      clients do not know the head.

    >>> from jfu import models, stack
    >>> model = models.build("mlp1", classes=2, image_shape=(2, 2, 1))
    >>> data = stack(np.eye(4).reshape(4, 2, 2, 1), [0, 0, 1, 1], [[0, 2], [1, 3]])
    >>> fed = federation(model, penalty=0.01)
    >>> state = fed.init(model.init(jax.random.key(0)))
    >>> state, _ = jax.jit(fed.round)(state, data, jax.random.key(0))
    >>> model.apply(state.variables, data.x)[0].argmax(1).tolist()
    [0, 0, 1, 1]
    """
    types.check_numbers("federation", "(0, inf)", penalty=penalty)
    collect = collecting(guarded(sender(model, batch_size=batch_size)), chunk=chunk)

    def init(variables: Variables) -> RidgeState:
        check_numbers(variables)
        variables = jax.tree.map(jnp.array, dict(variables))
        zeros = empty(model, variables)
        history = dict(total=zeros)
        if clients is not None:
            room = lambda a: jnp.zeros((clients, *a.shape), a.dtype)
            history |= dict(statistics=jax.tree.map(room, zeros))
        return RidgeState(variables, history, jnp.zeros((), jnp.int32))

    def round(state: RidgeState, clients: ClientData, key: Key) -> tuple[RidgeState, RoundInfo]:
        nothing = jax.tree.map(jnp.zeros_like, state.history.get("statistics"))
        kept, info = collect(state.variables, clients, key, nothing)
        state = state._replace(round=state.round + 1)
        return answered(model, state, kept, penalty, info, clients.id)

    return FederatedAlgorithm(init, round)


# ---------------------------------------------------------------- sums, and the head


def statistics(features: jax.Array, labels: jax.Array, classes: int) -> Statistics:
    """The statistics of some examples.

    Args:
      features: ``[n, d]``; rows of zeros add nothing.
      labels: ``[n]`` integers.

    >>> statistics(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0, 1]), 2).moment.tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    targets = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    product = lambda a, b: jnp.matmul(a.T, b, precision=EXACT)
    return Statistics(packed(product(features, features)), product(features, targets))


def head(total: Statistics, penalty: float) -> jax.Array:
    """The weights ``(lambda I + A)^-1 B``, ``[d, C]``; NaN if the matrix is singular in its type.

    >>> head(statistics(jnp.array([[1.0]]), jnp.array([1]), 2), penalty=3.0).tolist()
    [[0.0, 0.25]]
    """
    gram = unpacked(total.gram)
    with jax.default_matmul_precision("highest"):
        factor = jax.scipy.linalg.cho_factor(gram + penalty * jnp.eye(len(gram), dtype=gram.dtype))
        return jax.scipy.linalg.cho_solve(factor, total.moment)


def subtract(total: Statistics, gone: Statistics) -> Statistics:
    """What remains of a total; see above for the digits that this loses.

    >>> one, two = (statistics(jnp.array([[x]]), jnp.array([0]), 1) for x in (1.0, 2.0))
    >>> subtract(jax.tree.map(jnp.add, one, two), one).moment.tolist()
    [[2.0]]
    """
    return jax.tree.map(jnp.subtract, total, gone)


def error_bound(total: Statistics, penalty: float) -> jax.Array:
    """About the largest relative error of the head, in the Frobenius norm: ``d eps kappa``.

    After ``subtract``, give the total before it; the error is then relative to the longer of the
    heads before and after. Above 1 no digit need be right, and a larger penalty is needed.

    >>> float(error_bound(statistics(jnp.ones((9, 1)), jnp.zeros(9, int), 1), penalty=1.0)) < 2e-6
    True
    """
    gram = unpacked(total.gram)
    return len(gram) * jnp.finfo(gram.dtype).eps * (1 + jnp.trace(gram) / penalty)


def packed(square: jax.Array) -> jax.Array:
    """The upper triangle of ``[d, d]`` as a rectangle without empty places.

    Row i ends with the matrix's row i from the diagonal on. It begins with the last i entries of
    row d - i, backwards (for even d: with i + 1 entries of row d - 1 - i).

    >>> packed(jnp.array([[1, 2, 3], [2, 4, 5], [3, 5, 6]])).tolist()
    [[1, 2, 3], [6, 4, 5]]
    """
    odd, rows = len(square) % 2, -(-len(square) // 2)
    first, last = square[:rows], square[::-1, ::-1]
    last = jnp.pad(last, ((odd, 0), (0, 1 - odd)))[:rows]
    return jnp.where(_of_first(last), jnp.pad(first, ((0, 0), (1 - odd, 0))), last)


def unpacked(half: jax.Array) -> jax.Array:
    """The symmetric matrix of which ``packed`` made this.

    >>> unpacked(jnp.array([[1, 2, 3], [6, 4, 5]])).tolist()
    [[1, 2, 3], [2, 4, 5], [3, 5, 6]]
    """
    odd = _odd(half)
    size = 2 * len(half) - odd
    here = _of_first(half)
    first = jnp.where(here, half, 0)[:, 1 - odd :]
    last = jnp.where(here, 0, half)[odd:, :size][::-1, ::-1]
    upper = jnp.concatenate([first, last])
    return upper + jnp.triu(upper, 1).T


def _of_first(half: jax.Array) -> jax.Array:
    """Which places of a packed triangle have entries of the first half of the rows."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, half.shape, axis) for axis in (0, 1))
    return column > row - _odd(half)


def _odd(half: jax.Array) -> int:
    """Whether a packed triangle is that of an odd number of rows; it is one wider otherwise."""
    return int(half.shape[1] < 2 * len(half))


# ---------------------------------------------------------------- clients and server


def sender(model: Model, *, batch_size: int = 256) -> ClientFn:
    """A client's work: its statistics, a block of slots after the other.

    An example's place in its client's slots decides when it is added. So forgotten examples, which
    are zeros, change no bit of what the others add.
    """
    types.check_counts("ridge", 1, batch_size=batch_size)
    seen = inputs(model)

    def work(shared: Broadcast, client: ClientData, key: Key) -> tuple[Statistics, LocalInfo]:
        del key
        slots = client.mask.shape[0]
        size = min(batch_size, slots)
        zeros = empty(model, shared.variables)
        classes = zeros.moment.shape[1]

        def add(number, total):
            batch, _ = take(client, number * size + jnp.arange(size))
            live = batch.mask[:, None] > 0
            features = jnp.where(live, seen(shared.variables, batch.x), 0)
            more = statistics(features, batch.y, classes)
            wrong = (unknown(batch.y, classes) & (batch.mask > 0)).any()  # leaves the client out
            more = more._replace(moment=jnp.where(wrong, jnp.nan, more.moment))
            return jax.tree.map(jnp.add, total, more)

        # Up to the last live slot: forgetting leaves holes.
        extent = jnp.where(client.mask, jnp.arange(1, slots + 1), 0).max()
        blocks = -(-extent // size)
        total = jax.lax.fori_loop(0, blocks, add, zeros)
        one = jnp.ones((), jnp.float32)
        live = client.mask.sum().astype(jnp.float32)
        return total, LocalInfo(live, jnp.nan * one, 0 * one, blocks * one, 0 * one)

    return work


def silent(model: Model) -> ClientFn:
    """The work of a client that sends nothing: for what the server does alone."""

    def work(shared: Broadcast, client: ClientData, key: Key) -> tuple[Statistics, LocalInfo]:
        del client, key
        return empty(model, shared.variables), LocalInfo(*jnp.zeros(4, jnp.float32))

    return work


def collecting(send: ClientFn, *, chunk: int | None = None) -> Callable:
    """The sum of what clients send, ``(variables, clients, key, rows) -> (kept, info)``.

    Args:
      rows: every client's statistics ``[K, ...]``; who has live examples sends new ones in their
        place, and those of others count as they are. None if the server keeps none.

    Returns:
      ``kept`` has the ``total`` and, if there are rows, ``statistics``.
    """

    def again(shared, client, key, row):
        sent, info = send(shared, client, key)
        row = jax.tree.map(lambda new, old: jnp.where(client.mask.any(), new, old), sent, row)
        return row, info, row

    def collect(variables, clients, key, rows):
        shared = Broadcast(variables, jnp.zeros((), jnp.int32))
        if rows is None:
            total, info = sum_clients(send, chunk=chunk)(shared, clients, key)
            return dict(total=total), info
        check_rows(rows, clients)
        total, info, rows = sum_clients(again, chunk=chunk)(shared, clients, key, rows)
        return dict(total=total, statistics=rows), info

    return collect


def check_rows(rows: Statistics, clients: ClientData) -> None:
    """Raises an error unless there are statistics of each client."""
    if len(rows.moment) != clients.id.shape[0]:
        raise ValueError(
            f"the server keeps statistics of {len(rows.moment)} clients, and there are "
            f"{clients.id.shape[0]}; give the clients of training"
        )


def answered(
    model: Model, state: RidgeState, kept: dict, penalty: float, info: LocalInfo, ids: jax.Array
) -> tuple[RidgeState, RoundInfo]:
    """The state with the head of what the server now keeps, and the round's facts.

    If the head is not finite, the model stays as it was and ``metrics["not_applied"]`` is 1.
    """
    weights = head(kept["total"], penalty)
    usable = jnp.isfinite(squares(weights))
    new = with_head(model, state.variables, weights)
    new = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, state.variables)
    metrics = summarise(info) | dict(not_applied=1.0 - usable.astype(jnp.float32))
    return state._replace(variables=new, history=kept), RoundInfo(info, metrics, ids)


# ---------------------------------------------------------------- the last layer


def inputs(model: Model) -> Callable[[Variables, jax.Array], jax.Array]:
    """What the last layer sees, ``(variables, x) -> [B, d]``: features, and ones for a bias."""
    features = model.features
    if features is None or not model.layers:
        raise ValueError(
            "a ridge head needs the features before the last layer, and this model does not give "
            "them; give its Model `features` and `layers`, as jfu.models.from_linen does"
        )

    def seen(variables: Variables, x: jax.Array) -> jax.Array:
        like = empty(model, variables).moment
        found = features(variables, x).astype(like.dtype)
        if found.shape[1] == len(like):
            return found
        return jnp.concatenate([found, jnp.ones((len(found), 1), like.dtype)], 1)

    return seen


def with_head(model: Model, variables: Variables, weights: jax.Array) -> Variables:
    """The variables with these weights ``[d, C]`` in the last layer; the bias is the last row."""
    path = model.layers[-1].split("/")
    layer = _last(model, variables)
    parts = dict(kernel=weights[: len(layer["kernel"])], bias=weights[-1])
    layer = {name: parts[name].astype(a.dtype) for name, a in layer.items()}
    return {**variables, "params": _placed(variables["params"], path, layer)}


def empty(model: Model, variables: Variables) -> Statistics:
    """The statistics of no example."""
    layer = _last(model, variables)
    width, classes = layer["kernel"].shape
    width += "bias" in layer
    kind = wide(jax.tree.map(lambda a: jnp.zeros((), a.dtype), layer["kernel"])).dtype
    gram = jax.eval_shape(packed, jax.ShapeDtypeStruct((width, width), kind))
    return Statistics(jnp.zeros(gram.shape, kind), jnp.zeros((width, classes), kind))


def _last(model: Model, variables: Variables) -> Mapping[str, jax.Array]:
    """The last layer's parameters, a kernel and perhaps a bias."""
    layer: Any = variables["params"]
    for name in model.layers[-1].split("/"):
        layer = layer[name]
    if not {"kernel"} <= set(layer) <= {"kernel", "bias"} or layer["kernel"].ndim != 2:
        raise ValueError(
            f"the last layer {model.layers[-1]} has {', '.join(sorted(layer))}; a ridge head needs "
            "a dense layer with a kernel [D, C] and perhaps a bias [C]"
        )
    return layer


def _placed(params: Any, path: list[str], layer: Any) -> Any:
    if not path:
        return layer
    first, *rest = path
    return {**params, first: _placed(params[first], rest, layer)}
