"""Every unlearning method, by the name that flags and tables use.

A method is a file with a factory that returns an ``Unlearner``; this table says how the
factory is called in a ``Setting``. To add one, write its file and give it a line here.

In the methods' examples ``fed`` is a federation, ``model`` its ``Model`` and ``local(loss=...,
optimizer=..., epochs=...)`` makes a client's training, the usual one without arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jfu.select import by_layer
from jfu.types import ClientFn, FederatedAlgorithm, Model, Needs, Selector, Unlearner
from jfu.unlearn.anchored import anchored
from jfu.unlearn.deepest import deepest
from jfu.unlearn.fcu import fcu
from jfu.unlearn.federaser import federaser
from jfu.unlearn.fedosd import fedosd
from jfu.unlearn.fedquit import fedquit
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.fukd import fukd
from jfu.unlearn.ga import ga
from jfu.unlearn.mode import mode
from jfu.unlearn.needs import check_request
from jfu.unlearn.negation import check_changed, negate, negation
from jfu.unlearn.noise import add_noise, noise
from jfu.unlearn.none import none
from jfu.unlearn.permute import permute, shuffle
from jfu.unlearn.pgd import pgd
from jfu.unlearn.puf import puf
from jfu.unlearn.reinit import redraw, reinit
from jfu.unlearn.retrain import retrain


class Setting(NamedTuple):
    """What a method may be built from."""

    fed: FederatedAlgorithm
    model: Model
    selector: Selector  # the layers that perturbing methods change
    follows: tuple[tuple[str, str], ...] = ()  # running means that follow a negated layer
    weights_only: bool = False  # biases of chosen layers are left alone
    # A client's training in rounds that a method makes its own, with the limits and faults of all
    # rounds: local(loss=..., optimizer=..., epochs=...), the usual ones if not given.
    local: Callable[..., ClientFn] | None = None
    # The federation round work that was made of `local`, with its server and its sampling.
    around: Callable[[ClientFn], FederatedAlgorithm] | None = None
    epochs: int = 1  # usual local epochs
    batch_size: int = 32
    chunk: int | None = None  # clients at once; see fedavg
    within: int | None = None  # rounds that there are after the request
    proxy: jax.Array | None = None  # unlabelled examples at the server
    options: Mapping[str, Mapping[str, Any]] = {}  # keyword arguments by method

    def of(self, name: str, *common: str) -> dict[str, Any]:
        """Keyword arguments of a method: these fields, and its options over them."""
        return {field: getattr(self, field) for field in common} | dict(self.options.get(name, {}))


def _layers(setting: Setting, positions: int | slice) -> Selector:
    return by_layer(setting.model, positions, weights_only=setting.weights_only)


UNLEARNERS: dict[str, Callable[[Setting], Unlearner]] = {
    # yardsticks
    "retrain": lambda s: retrain(s.fed, s.model.init),
    "finetune": lambda s: finetune(s.fed),
    "none": lambda s: none(s.fed),
    # NoT, and the same with other layers
    "not": lambda s: negation(s.fed, s.selector, follows=s.follows),
    "not_all": lambda s: negation(s.fed, _layers(s, slice(None)), follows=s.follows),
    "not_last": lambda s: negation(s.fed, _layers(s, -1), follows=s.follows),
    # at the deepest cut that leaves nothing to read
    "not_deepest": lambda s: deepest(
        s.fed,
        s.model,
        **s.of("not_deepest", "weights_only", "follows", "batch_size", "chunk"),
    ),
    # its recovery anchored to the old model's answers
    "anchored": lambda s: anchored(
        s.fed, s.model, s.selector, s.local, **s.of("anchored", "follows", "around", "chunk")
    ),
    # the rivals of its paper
    "federaser": lambda s: federaser(
        s.fed, s.local(epochs=-(-s.epochs // 2)), **s.of("federaser", "within", "chunk")
    ),
    "fukd": lambda s: fukd(s.fed, s.model, s.proxy, **s.of("fukd", "batch_size")),
    "pgd": lambda s: pgd(s.fed, s.model, **s.of("pgd", "batch_size", "chunk")),
    "mode": lambda s: mode(s.fed, s.model, s.local, **s.of("mode", "within", "chunk")),
    "fcu": lambda s: fcu(s.fed, s.model, **s.of("fcu", "batch_size", "chunk")),
    # later ones, and the naive control
    "fedosd": lambda s: fedosd(
        s.fed, s.model, s.local, **s.of("fedosd", "within", "around", "chunk")
    ),
    "puf": lambda s: puf(s.fed, s.local(), **s.of("puf", "chunk")),
    "fedquit": lambda s: fedquit(s.fed, s.model, **s.of("fedquit", "batch_size", "chunk")),
    "ga": lambda s: ga(s.fed, s.model, **s.of("ga", "batch_size", "chunk")),
    # perturbations that keep each tensor's norm
    "noise": lambda s: noise(s.fed, s.selector),
    "reinit": lambda s: reinit(s.fed, s.selector, s.model.init),
    "permute": lambda s: permute(s.fed, s.selector),
}


def needs_of(name: str) -> Needs:
    """What a method of the table needs, before there is anything to build it from.

    >>> needs_of("pgd").history
    ('last',)
    """
    hollow = Setting(
        FederatedAlgorithm(None, None),
        Model(None, None, ("",), features=lambda variables, x: x, cuts=lambda: (("",),)),
        selector=None,
        local=lambda *args, **changes: None,
        batch_size=1,
        proxy=(0,),
    )
    return UNLEARNERS[name](hollow).needs


# What `all` means: the methods of the paper's table and later ones, without further controls.
COMPARED = ("retrain", "finetune", "federaser", "fukd", "pgd", "mode", "fcu")
COMPARED += ("fedosd", "puf", "fedquit", "ga", "not")

# Those whose perturbation must change the function, or nothing would be forgotten.
PERTURBING = ("not", "not_all", "not_last", "anchored", "noise", "reinit", "permute")

__all__ = [
    "COMPARED",
    "PERTURBING",
    "UNLEARNERS",
    "Setting",
    "add_noise",
    "anchored",
    "check_changed",
    "check_request",
    "deepest",
    "fcu",
    "federaser",
    "fedosd",
    "fedquit",
    "finetune",
    "fukd",
    "ga",
    "mode",
    "needs_of",
    "negate",
    "negation",
    "noise",
    "none",
    "on_retained",
    "permute",
    "pgd",
    "puf",
    "redraw",
    "reinit",
    "retrain",
    "shuffle",
]
