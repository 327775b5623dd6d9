"""Methods on single weights that a first round chooses, in place of whole layers.

A method that perturbs layers takes a selector, and a selector may also pick single weights, by
bools of a parameter's shape. Which weights those should be can depend on the clients' data. Then
the first round asks the clients, and the method begins after it:

    round 1        clients send sums, from which the server scores weights; the chosen are perturbed
    from then on   rounds of the method

``wagle`` and ``modhifi`` are two such choices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jfu.faults import NOT_FINITE, with_variables
from jfu.local import sized, take
from jfu.select import paths, select, where
from jfu.sums import squares
from jfu.types import (
    Batch,
    ClientData,
    FederatedAlgorithm,
    Key,
    LocalInfo,
    Needs,
    Params,
    PyTree,
    RoundInfo,
    Selector,
    Split,
    Trained,
    Unlearner,
    Variables,
)
from jfu.unlearn.finetune import on_retained
from jfu.unlearn.phases import phases

# (variables, request, key) -> (bools in the shape of the parameters, the round's facts)
Choose = Callable[[Variables, Split, Key], tuple[PyTree, RoundInfo]]


class Chosen(NamedTuple):
    """A method's state ``inner``, whose rounds begin after the choice, and what was chosen."""

    inner: PyTree
    masks: PyTree  # bool, in the shape of the parameters
    round: jax.Array  # [] int32

    @property
    def variables(self) -> Variables:
        return self.inner.variables

    @property
    def params(self) -> Params:
        return self.inner.params


def on_chosen(choose: Choose, make: Callable[[Selector], Unlearner], needs: Needs) -> Unlearner:
    """A round that chooses weights, then a method on them.

    Args:
      choose: the choice, from messages of one round.
      make: the method on what a selector picks, such as ``lambda selector: jfu.negation(fed,
        selector)``. It has no rounds of its own and no history.
      needs: what the choice needs.

    Raises:
      ValueError: the method has rounds of its own, or needs more than the retained data.
    """
    method = make(lambda path, leaf: True)
    if method.own or method.own_now is not None or method.needs != Needs():
        raise ValueError(
            "single weights are chosen for methods that perturb layers and have no further needs "
            "and no rounds of their own, such as not, noise and reinit"
        )

    def perturb(trained, request, key):
        params = trained.variables["params"]
        nothing = jax.tree.map(lambda p: jnp.zeros(p.shape, bool), params)
        inner = make(picks(nothing)).perturb(trained, request, key)
        # A method may change more than what is picked, and nothing is to change yet.
        inner = with_variables(inner, dict(trained.variables))
        return Chosen(inner, nothing, jnp.zeros((), jnp.int32))

    def recover(state, request, key):
        def begin(state, request, key):
            choose_key, perturb_key = jax.random.split(key)
            masks, info = choose(state.variables, request, choose_key)
            trained = Trained(state.variables)
            inner = make(picks(masks)).perturb(trained, request, perturb_key)
            # Methods may report more; this round has none of it.
            told = jax.eval_shape(later, state, request, key)[1].metrics
            metrics = {name: info.metrics.get(name, jnp.float32(0)) for name in told}
            return Chosen(inner, masks, state.round + 1), info._replace(metrics=metrics)

        def later(state, request, key):
            inner, info = make(picks(state.masks)).recover(state.inner, request, key)
            return state._replace(inner=inner, round=state.round + 1), info

        return phases(1, begin, later)(state, request, key)

    return Unlearner(perturb, recover, needs, own=1)


def picks(masks: PyTree) -> Selector:
    """The selector that picks what bools in the shape of the parameters say.

    >>> mask = select({"w": jnp.zeros(2)}, picks({"w": jnp.array([True, False])}))
    >>> mask["w"].tolist()
    [True, False]
    """
    known = dict(zip(jax.tree.leaves(paths(masks)), jax.tree.leaves(masks), strict=True))
    return lambda path, leaf: known[path]


def zeroed(fed: FederatedAlgorithm, selector: Selector) -> Unlearner:
    """Sets to zero what ``selector`` picks, then rounds of ``fed``.

    >>> from jfu.types import Trained
    >>> trained = Trained({"params": {"w": jnp.ones(2)}})
    >>> method = zeroed(fed, picks({"w": jnp.array([True, False])}))
    >>> method.perturb(trained, None, None).params["w"].tolist()
    [0.0, 1.0]
    """

    def perturb(trained, request, key):
        del request, key
        params = trained.variables["params"]
        mask = select(params, selector)
        new = jax.tree.map(lambda p, m: where(m, lambda: jnp.zeros_like(p), p), params, mask)
        return fed.init({**trained.variables, "params": new})

    return Unlearner(perturb, on_retained(fed))


def over_batches(
    client: ClientData, size: int, step: Callable[[Any, Batch], Any], start: Any
) -> tuple[Any, jax.Array]:
    """``step(carry, batch)`` for each batch of a client's live examples, and their number.

    >>> from jfu.stacking import stack
    >>> data = stack([[1.0], [2.0], [4.0]], [0, 0, 0], [[0, 1, 2]])
    >>> client = data._replace(index=data.index[0], mask=data.mask[0], id=data.id[0])
    >>> total, many = over_batches(client, 2, lambda c, b: c + (b.x[:, 0] * b.mask).sum(), 0.0)
    >>> float(total), int(many)
    (7.0, 2)
    """
    slots = client.mask.shape[0]
    size = min(size, slots)

    def ordered(length):
        """Live slots first, then the number of slots as padding."""
        order = jnp.argsort(~client.mask[:length], stable=True).astype(jnp.int32)
        return jnp.pad(order, (0, slots + -slots % size - length), constant_values=slots)

    order, many = sized(client.mask, None, ordered), -(-client.mask.sum() // size)

    def one(number, carry):
        batch, _ = take(client, jax.lax.dynamic_slice(order, (number * size,), (size,)))
        return step(carry, batch)

    return jax.lax.fori_loop(0, many, one, start), many


def if_finite(sums: PyTree, info: LocalInfo) -> tuple[PyTree, LocalInfo]:
    """A client's sums, or zeros and the reason why it is left out."""
    usable = jnp.isfinite(squares(sums))
    kept = jax.tree.map(lambda a: jnp.where(usable, a, jnp.zeros_like(a)), sums)
    weight = jnp.where(usable, info.weight, 0)
    return kept, info._replace(weight=weight, left_out=jnp.where(usable, 0.0, NOT_FINITE))
