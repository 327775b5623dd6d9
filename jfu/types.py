"""The types of the library: two pairs of pure functions, and the data that they pass.

Training is a pair ``(init, round)``, and unlearning is a pair ``(perturb, recover)``. All other
functions of the library make such pairs, wrap them, or measure their results.

Letters of shapes: ``K`` clients, ``N`` slots of a client, ``M`` examples in the pool, ``B`` batch,
``C`` classes, ``D`` features, ``R`` rounds.

A mask says what takes part. Padding, absent clients and forgotten examples are zeros in
``ClientData.mask [K, N]``. Masked rows reach the loss as zeros, whatever the pool has there, so
they cannot change a bit.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

if TYPE_CHECKING:  # for the type alone: importing chex takes as long as all of this library
    import chex

    Params: TypeAlias = chex.ArrayTree  # nested dict of arrays, what gradients train
else:
    Params: TypeAlias = Any
Variables: TypeAlias = Mapping[str, Any]  # {"params": Params, ...}: what Linen's init returns
Key: TypeAlias = jax.Array  # one typed PRNG key, shape ()
PyTree: TypeAlias = Any


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number of at least ``least``, and not a bool.

    >>> is_whole(3, 1), is_whole(np.int32(0), 1), is_whole(2.5, 1), is_whole(float("nan"), 1)
    (True, False, False, False)
    """
    counts = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return counts and bool(value >= least)


def check_counts(who: str, least: int, **values: Any) -> None:
    """Raises an error unless every value is a whole number of at least ``least``.

    >>> check_counts("pgd", 1, draws=10)
    >>> check_counts("pgd", 1, draws=2.5)
    Traceback (most recent call last):
    ValueError: pgd was given draws=2.5; it must be a whole number from 1 on
    """
    for name, value in values.items():
        if not is_whole(value, least):
            raise ValueError(
                f"{who} was given {name}={value}; it must be a whole number from {least} on"
            )


def check_numbers(who: str, inside: str, **values: Any) -> None:
    """Raises an error unless every value is a number in an interval; NaN never is.

    Traced values and schedules pass, since their numbers are not known yet. None passes too.

    Args:
      who: the name of the function, for the message.
      inside: the interval, such as "[0, inf)".
      values: by the names of arguments.

    Raises:
      ValueError: names the first value that is outside.

    >>> check_numbers("fedadam", "[0, inf)", lr=0.1, b1=None)
    >>> check_numbers("fedadam", "[0, inf)", lr=float("nan"))
    Traceback (most recent call last):
    ValueError: fedadam was given lr=nan; it must be a number in [0, inf)
    """
    low, high = map(float, inside[1:-1].split(","))
    for name, value in values.items():
        if value is None or callable(value) or isinstance(value, jax.core.Tracer):
            continue
        if np.ndim(value) == 0 and not isinstance(value, bool | np.bool_ | str | bytes):
            number = float(value)
            least = number >= low if inside[0] == "[" else number > low
            if least and (number <= high if inside[-1] == "]" else number < high):
                continue
        raise ValueError(f"{who} was given {name}={value}; it must be a number in {inside}")


class Batch(NamedTuple):
    """One minibatch. Rows that are not live are zeros, whatever the pool has there."""

    x: jax.Array  # [B, ...]
    y: jax.Array  # [B] int32, float32 for a regression, or tokens [B, T] int32
    mask: jax.Array  # [B] float32, 1 for live rows, 0 for padding


class ClientData(NamedTuple):
    """A federation's data: one pool of examples, and a row of indices into it for every client.

    Short clients, padding clients, absent clients and forgotten examples are zeros in ``mask``.
    Client functions get the same class for one client: ``index`` and ``mask`` are ``[N]``, and
    ``id`` is a scalar. The pool is whole.

    After ``jfu.spread`` every device has its own pool, ``x [D, P, ...]`` and ``y [D, P]``.
    ``index`` then refers to the pool of the client's device (``jfu/pools.py``). Inside a client
    function that pool is ``[P, ...]``. After ``jfu.stack(..., host=True)`` all fields are NumPy
    arrays.
    """

    x: jax.Array  # [M, ...] the pool; uint8 images stay uint8 until the model
    y: jax.Array  # [M] int32, float32 for a regression, or tokens [M, T] int32
    index: jax.Array  # [K, N] int32, rows of the pool
    mask: jax.Array  # [K, N] bool, True if the client has the example and may use it
    id: jax.Array  # [K] int32, at least 0: the client's identity, from which its keys derive
    # [M], or [D, P] after spread, int32: rows of the whole pool, if this is a part or reordered
    row: jax.Array | None = None


class Split(NamedTuple):
    """A request: the same data twice, with complementary masks."""

    retain: ClientData
    forget: ClientData


class Broadcast(NamedTuple):
    """What the server sends to every client at the start of a round."""

    variables: Variables
    round: jax.Array  # [] int32, counts from 0


class LocalInfo(NamedTuple):
    """Scalars that a client reports beside its update; stacked to ``[K]`` by a round."""

    weight: jax.Array  # float32, live examples behind the update
    loss: jax.Array  # float32, mean training loss over the local steps
    steps: jax.Array  # float32, local steps taken: a forward and a backward pass each
    forwards: jax.Array  # float32, batches with a forward pass only, such as a teacher's
    left_out: jax.Array | float = 0.0  # float32, why its update was not used, see jfu.faults


class RoundInfo(NamedTuple):
    """Facts about a round for the user; the next round does not need them."""

    clients: LocalInfo  # [K] each
    metrics: dict[str, jax.Array]  # scalars, see fedavg.summarise
    ids: jax.Array  # [K] int32, the clients' ids for the rows of `clients` and `updates`
    updates: PyTree = None  # [K, ...], only if single updates were requested


class Trained(NamedTuple):
    """What the server has when a request arrives."""

    variables: Variables
    history: PyTree = ()


class InitFn(Protocol):
    def __call__(self, variables: Variables) -> PyTree:
        """The state before the first round: a pytree with ``.variables`` and ``.round``."""
        ...


class RoundFn(Protocol):
    def __call__(self, state: PyTree, clients: ClientData, key: Key) -> tuple[PyTree, RoundInfo]:
        """One communication round. Pure; the state keeps its structure, shapes and dtypes."""
        ...


class PerturbFn(Protocol):
    def __call__(self, trained: Trained, request: Split, key: Key) -> PyTree:
        """What happens when the request arrives, before any communication round."""
        ...


class RecoverFn(Protocol):
    def __call__(self, state: PyTree, request: Split, key: Key) -> tuple[PyTree, RoundInfo]:
        """One communication round after the request; the shape of ``RoundFn``."""
        ...


class Parts(NamedTuple):
    """A round in parts, for callers that bring clients to the devices in their own way.

    ``begin(state, key)`` gives the broadcast, the clients' key and the server's key. ``send`` is a
    client's work. Its first result is summed and its second stacked, as in ``sum_clients(send,
    chunk=chunk)``. ``finish(state, sum, info, ids, key)`` is the server's part.
    """

    begin: Callable[[PyTree, Key], tuple[Broadcast, Key, Key]]
    send: Callable[[Broadcast, ClientData, Key], tuple[PyTree, LocalInfo]]
    finish: Callable[[PyTree, PyTree, LocalInfo, jax.Array, Key], tuple[PyTree, RoundInfo]]
    chunk: int | None


class FederatedAlgorithm(NamedTuple):
    """Training: ``init`` makes a state, ``round`` maps it to the next one.

    ``watched(see)`` is ``round`` with a memory of each client, ``(state, clients, key, rows) ->
    (state, info, rows)``. ``rows`` is a pytree ``[K, ...]``. ``see(row, update, info, share)``
    makes a client's new row from what it sent; ``share`` is its part of the round's examples.
    ``parts`` exists if the round needs only a sum over clients.
    """

    init: InitFn
    round: RoundFn
    watched: Callable[[Callable], Callable] | None = None
    parts: Parts | None = None


class Needs(NamedTuple):
    """What an unlearner uses besides the trained model and the retained data."""

    history: tuple[str, ...] = ()  # what training must record, see jfu.history
    target: bool = False  # the leaving client takes part
    forget_data: bool = False  # the forgotten examples are read
    per_client: bool = False  # the server sees single updates, now or during training
    proxy_data: bool = False  # unlabelled data at the server
    counts: bool = False  # retained clients send counts, to which no noise is added
    whole_clients: bool = False  # it can forget clients, but not classes or single examples


class Traits(NamedTuple):
    """What those who run an unlearner must know of it besides its needs."""

    recovers: bool = True  # ordinary rounds go on from the old model; retraining's do not
    perturbs: bool = False  # `perturb` changes layers, so the function that they compute
    selects: bool = False  # they are those that a selector chooses
    negates: bool = False  # layers change their signs; without `perturbs`, in rounds of its own
    of_means: bool = False  # it takes the model for the mean of what clients sent
    lonely: bool = False  # its own rounds sum what leaving clients send, and nothing else
    weights: bool = False  # the layers are changed without their biases, whatever a setting says
    teaches: bool = False  # clients get the old model once, and ask it in every step
    doubles: bool = False  # in recovery a step is two forward and backward passes
    labels: bool = False  # its formulas are for classes, or its loss is cross-entropy
    numbers: bool = False  # its formulas are for targets that are numbers
    solves: bool = False  # it computes a head in closed form, in a federation of such heads


class ServerWork(NamedTuple):
    """What ``perturb`` computes at the server, in batches of the size that clients use."""

    steps: int = 0  # forward and backward
    forwards: int = 0


class Unlearner(NamedTuple):
    """Unlearning: ``perturb`` runs when the request arrives, ``recover`` is each round after it.

    ``perturb`` is work of the server. Anything that communicates is a round. The first ``own``
    rounds are the method's own, and recovery begins after them. ``own_now(state)`` says whether the
    next round combines clients by the method's own formula. If it is not given, these are the first
    ``own`` rounds.
    """

    perturb: PerturbFn
    recover: RecoverFn
    needs: Needs = Needs()
    server: ServerWork = ServerWork()
    own: int = 0
    own_now: Callable[[PyTree], jax.Array] | None = None


class Model(NamedTuple):
    """A network as pure functions, with the call order of its layers.

    ``apply(variables, x, *, train=False, mask=None, key=None)`` returns ``(logits [B, C],
    changed)``. ``changed`` has the collections that training steps replace, such as batch
    statistics, or is ``{}``. ``mask`` [B] keeps padding out of them.
    """

    init: Callable[[Key], Variables]
    apply: Callable[..., tuple[jax.Array, Mapping[str, Any]]]
    layers: tuple[str, ...] = ()  # paths of layers in call order; norms are not among them
    follows: tuple[tuple[str, str], ...] = ()  # (path of a running mean, the layer it follows)
    # (variables, x) -> [B, D], the last layer's input
    features: Callable[[Variables, jax.Array], jax.Array] | None = None
    # (variables, x) -> {layer: [B, ...]}, each layer's output, in call order
    outputs: Callable[[Variables, jax.Array], dict[str, jax.Array]] | None = None
    # () -> sets of layers, by depth, that every path from input to logits crosses
    cuts: Callable[[], tuple[tuple[str, ...], ...]] | None = None
    # takes what `apply` takes -> (logits, [B, D] the last layer's input, changed)
    apply_features: Callable[..., tuple[jax.Array, jax.Array, Mapping[str, Any]]] | None = None


LossFn: TypeAlias = Callable[[Variables, Batch, Key], Any]  # -> loss, or (loss, changed)
ClientFn: TypeAlias = Callable[[Broadcast, ClientData, Key], tuple[PyTree, LocalInfo]]
# (path joined by "/", leaf) -> selected?
Selector: TypeAlias = Callable[[str, Any], bool | np.bool_]
