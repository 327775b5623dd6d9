"""The shapes that carry the library: two pairs of pure functions and the data they pass.

Training is a pair ``(init, round)``, unlearning a pair ``(perturb, recover)``. Everything
else in the library makes such pairs, wraps them, or measures what they do.

Shape letters, used in every file: ``K`` clients, ``N`` example slots a client, ``M``
examples in the pool, ``B`` batch, ``C`` classes, ``D`` features, ``R`` rounds.

Who takes part is a mask. Ragged, absent and forgotten clients, classes and examples are zeros in
``ClientData.mask [K, N]``. Rows that are not live reach the loss as zeros, whatever the pool has
there, so they cannot change a bit.
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
    """Whether a number counts something: a whole one from ``least`` on, and no bool.

    >>> is_whole(3, 1), is_whole(np.int32(0), 1), is_whole(2.5, 1), is_whole(float("nan"), 1)
    (True, False, False, False)
    """
    counts = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return counts and bool(value >= least)


def check_counts(who: str, least: int, **values: Any) -> None:
    """Refuses numbers that count something and are not whole, or less than ``least``.

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
    """Refuses numbers outside of an interval, NaN among them, and what is no number.

    What is traced is not known yet, and a schedule says its numbers later: both pass.

    Args:
      who: what was asked for, in the message.
      inside: the interval, such as "[0, inf)".
      values: by the names that a user gave them; None, which was not given, passes.

    Raises:
      ValueError: the first that lies elsewhere.

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
    """One minibatch. Rows that are not live hold zeros, whatever the pool holds there."""

    x: jax.Array  # [B, ...]
    y: jax.Array  # [B] int32
    mask: jax.Array  # [B] float32, 1 for live rows, 0 for padding


class ClientData(NamedTuple):
    """A federation's data: one pool of examples, and every client a row of indices into it.

    Ragged sizes, padding clients, absent clients and forgotten examples are all zeros in
    ``mask``. Inside a client function the same class is one client's view: ``index`` and
    ``mask`` are ``[N]``, ``id`` is a scalar and the pool is whole.

    After ``jfu.spread`` every device has a pool of its own, ``x [D, P, ...]`` and ``y [D, P]``.
    ``index`` then counts within the pool of the client's device (``jfu/pools.py``). Inside a client
    function that pool is ``[P, ...]``. After ``jfu.stack(..., host=True)`` all fields are NumPy
    arrays.
    """

    x: jax.Array  # [M, ...] the pool; uint8 images stay uint8 until the model
    y: jax.Array  # [M] int32
    index: jax.Array  # [K, N] int32, rows of the pool
    mask: jax.Array  # [K, N] bool, True where the client holds and may use the example
    id: jax.Array  # [K] int32 from 0 on, the client's identity and the root of its randomness
    # [M], or [D, P] after spread, int32: where the pool is a part or reordered, rows of the whole
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
    forwards: jax.Array  # float32, batches that were only passed forward, by a teacher say
    left_out: jax.Array | float = 0.0  # float32, why its update was not used, see jfu.faults


class RoundInfo(NamedTuple):
    """Everything a human may want to see of a round and the next round does not need."""

    clients: LocalInfo  # [K] each
    metrics: dict[str, jax.Array]  # scalars, see fedavg.summarise
    ids: jax.Array  # [K] int32, who the rows of `clients` and `updates` are
    updates: PyTree = None  # [K, ...] only where single updates were asked for


class Trained(NamedTuple):
    """What the server holds when a request arrives."""

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
    """A round in parts, for those who bring clients to the devices in their own way.

    ``begin(state, key)`` gives what is broadcast, the key of clients and that of the server;
    ``send`` is a client's work, of whose results the first is summed and the second stacked, as
    ``sum_clients(send, chunk=chunk)`` does; ``finish(state, sum, info, ids, key)`` is the server's.
    """

    begin: Callable[[PyTree, Key], tuple[Broadcast, Key, Key]]
    send: Callable[[Broadcast, ClientData, Key], tuple[PyTree, LocalInfo]]
    finish: Callable[[PyTree, PyTree, LocalInfo, jax.Array, Key], tuple[PyTree, RoundInfo]]
    chunk: int | None


class FederatedAlgorithm(NamedTuple):
    """Training: ``init`` makes a state, ``round`` maps it to the next one.

    ``watched(see)`` is ``round`` with a memory of each client, ``(state, clients, key, rows) ->
    (state, info, rows)``. ``rows`` is a pytree ``[K, ...]``. ``see(row, update, info, share)``
    makes a client's new row of what it sent; ``share`` is its part of the round's examples.
    ``parts`` are those of a round that needs no more of its clients than a sum.
    """

    init: InitFn
    round: RoundFn
    watched: Callable[[Callable], Callable] | None = None
    parts: Parts | None = None


class Needs(NamedTuple):
    """What an unlearner reads besides the trained model and the retained data."""

    history: tuple[str, ...] = ()  # what training had to record, see jfu.history
    target: bool = False  # the leaving client takes part
    forget_data: bool = False  # the forgotten examples are read
    per_client: bool = False  # the server sees single updates, now or while training
    proxy_data: bool = False  # unlabelled data at the server
    counts: bool = False  # those who stay tell the server counts, which no noise covers
    whole_clients: bool = False  # it can forget clients, not classes or single examples


class Traits(NamedTuple):
    """What those who run an unlearner must know of it besides its needs."""

    recovers: bool = True  # ordinary rounds go on from the old model; retraining's do not
    perturbs: bool = False  # `perturb` changes layers, so the function that they compute
    selects: bool = False  # they are those that a selector chooses
    negates: bool = False  # layers change their signs; without `perturbs`, in rounds of its own
    of_means: bool = False  # it takes the model for the mean of what clients sent
    lonely: bool = False  # its own rounds sum what leaving clients send, and nothing else
    teaches: bool = False  # clients get the old model once, and ask it in every step


class ServerWork(NamedTuple):
    """What ``perturb`` computes at the server, in batches of the size that clients use."""

    steps: int = 0  # forward and backward
    forwards: int = 0


class Unlearner(NamedTuple):
    """Unlearning: ``perturb`` answers the request, ``recover`` is each round after it.

    ``perturb`` is work of the server; whatever communicates is a round. ``own`` of them come
    before ordinary rounds of the federation: until they are over nothing has been recovered.
    ``own_now(state)`` says whether the coming round combines clients by the method's own formula;
    where it is not given those are the rounds below ``own``.
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
    changed)``; ``changed`` holds the collections that training steps replace (batch
    statistics), ``{}`` where there are none. ``mask`` [B] keeps padding out of them.
    """

    init: Callable[[Key], Variables]
    apply: Callable[..., tuple[jax.Array, Mapping[str, Any]]]
    layers: tuple[str, ...] = ()  # paths of layers in call order; norms are not among them
    follows: tuple[tuple[str, str], ...] = ()  # (path of a running mean, the layer it follows)
    # (variables, x) -> [B, D], what the last layer is applied to
    features: Callable[[Variables, jax.Array], jax.Array] | None = None
    # (variables, x) -> {layer: [B, ...]}, what each layer gives, in call order
    outputs: Callable[[Variables, jax.Array], dict[str, jax.Array]] | None = None
    # () -> sets of layers, by depth, without which no input reaches the logits
    cuts: Callable[[], tuple[tuple[str, ...], ...]] | None = None


LossFn: TypeAlias = Callable[[Variables, Batch, Key], Any]  # -> loss, or (loss, changed)
ClientFn: TypeAlias = Callable[[Broadcast, ClientData, Key], tuple[PyTree, LocalInfo]]
# (path joined by "/", leaf) -> selected?
Selector: TypeAlias = Callable[[str, Any], bool | np.bool_]
