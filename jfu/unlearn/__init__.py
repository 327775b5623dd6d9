"""Every unlearning method, by the name that flags and tables use.

A method is a file with a factory that returns an ``Unlearner``. A line of the table ``METHODS``
says how the factory is called in a ``Setting``. It also names what the method needs, which keyword
arguments a user may set, and what those who run it must know. Nothing else lists methods. To add a
method, write its file and add its line. ``Setting`` and ``Method`` are in ``jfu.unlearn.setting``.

In the methods' examples ``fed`` is a federation and ``model`` its ``Model``. ``local(loss=...,
optimizer=..., epochs=..., augment=...)`` makes a client's training; without arguments, the usual
training.
"""

from collections.abc import Callable
from typing import Any

from jfu.select import by_layer, first_weight
from jfu.types import Needs, Selector, Traits, Unlearner
from jfu.unlearn.amnesiac import amnesiac
from jfu.unlearn.anchored import anchored
from jfu.unlearn.blend import blend, blended
from jfu.unlearn.blindspot import blindspot
from jfu.unlearn.chosen import on_chosen, zeroed
from jfu.unlearn.coun import coun
from jfu.unlearn.deepest import deepest
from jfu.unlearn.fcu import fcu
from jfu.unlearn.federaser import federaser
from jfu.unlearn.fedmemprune import fedmemprune
from jfu.unlearn.fedosd import fedosd
from jfu.unlearn.fedquit import fedquit
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.fukd import fukd
from jfu.unlearn.ga import ga
from jfu.unlearn.ga_first import ga_first
from jfu.unlearn.mode import mode
from jfu.unlearn.modhifi import modhifi
from jfu.unlearn.needs import check_request
from jfu.unlearn.negation import answers_alike, check_changed, negate, negation
from jfu.unlearn.no_return import no_return
from jfu.unlearn.noise import add_noise, noise
from jfu.unlearn.none import none
from jfu.unlearn.npo import npo
from jfu.unlearn.permute import permute, shuffle
from jfu.unlearn.pgd import pgd
from jfu.unlearn.puf import puf
from jfu.unlearn.reinit import redraw, reinit
from jfu.unlearn.retrain import retrain
from jfu.unlearn.ridge import ridge, ridge_subtract
from jfu.unlearn.rollback import first_round, rollback
from jfu.unlearn.setting import Method, Setting, options_of
from jfu.unlearn.steady import halved, received_loss, steady
from jfu.unlearn.wagle import wagle

EASE = 4  # the fewest rounds over which the rate rises where a start is blended


def _layers(setting: Setting, positions: int | slice) -> Selector:
    return by_layer(setting.model, positions, weights_only=setting.weights_only)


def _blended(s: Setting, **options: Any) -> Unlearner:
    warmup = max(s.warmup, EASE)
    fed = s.eased(warmup) if s.eased else s.fed
    method = blended(fed, s.selector, s.model.init, follows=s.follows, **options)
    halves = s.eased is not None
    return steady(method, fed, s.model.init, s.guess, patience=warmup, halves=halves)


def _contrasted(s, start: Unlearner, **options: Any) -> Unlearner:
    given = dict(augment=s.augment, around=s.around, chunk=s.chunk)
    return coun(start, s.model, s.local, **given, **options)


def _then(s: Setting, name: str) -> Callable[[Selector], Unlearner]:
    """A method of the table on what a selector picks, in place of layers."""
    known = ["zero", *(m.name for m in METHODS if m.traits.selects and not m.needs.history)]
    if name not in known:
        raise ValueError(f"no method {name} takes chosen weights; there are {', '.join(known)}")
    if name == "zero":
        return lambda selector: zeroed(s.fed, selector)
    return lambda selector: UNLEARNERS[name](s._replace(selector=selector))


# Needs of methods in which the leaving client trains once more on the forgotten data.
_LEAVING = Needs(target=True, forget_data=True)
_NEGATES = Traits(perturbs=True, negates=True)
_SELECTS = Traits(perturbs=True, selects=True)
_SOLVES = Traits(recovers=False, solves=True)

METHODS = (
    # references
    Method(
        "retrain",
        lambda s: retrain(s.fed, s.model.init),
        traits=Traits(recovers=False),
        compared=True,
    ),
    Method(
        "rollback",
        lambda s: rollback(s.training or s.fed),
        Needs(history=("before",)),
        traits=Traits(recovers=False),
    ),
    Method("finetune", lambda s: finetune(s.fed), compared=True),
    Method("none", lambda s: none(s.fed), traits=Traits(recovers=False)),
    # NoT, and the same with other layers
    Method(
        "not",
        lambda s: negation(s.fed, s.selector, follows=s.follows),
        traits=_NEGATES._replace(selects=True),
        compared=True,
    ),
    Method(
        "not_first_weight",
        lambda s: negation(s.fed, first_weight(s.model), follows=s.follows),
        traits=_NEGATES._replace(weights=True),
    ),
    Method(
        "not_all",
        lambda s: negation(s.fed, _layers(s, slice(None)), follows=s.follows),
        traits=_NEGATES,
    ),
    Method(
        "not_last",
        lambda s: negation(s.fed, _layers(s, -1), follows=s.follows),
        traits=_NEGATES,
    ),
    # with a fresh model mixed in
    Method(
        "not_blend",
        _blended,
        options=options_of(blended, "keep"),
        traits=_NEGATES._replace(selects=True),
        compared=True,
    ),
    # at the deepest cut whose negation makes predictions uninformative
    Method(
        "not_deepest",
        lambda s, **options: deepest(
            s.fed,
            s.model,
            weights_only=s.weights_only,
            follows=s.follows,
            batch_size=s.batch_size,
            chunk=s.chunk,
            **options,
        ),
        Needs(counts=True),
        options_of(deepest, "tells"),
        Traits(labels=True, negates=True),
    ),
    # with a recovery that also compares two views of each example
    Method(
        "coun",
        lambda s, **options: _contrasted(s, finetune(s.fed), **options),
        options=options_of(coun, "temperature weight corrupt"),
        traits=Traits(labels=True, doubles=True),
        tried=dict(weight=(1.0, 0.1, 0.3, 3.0)),
    ),
    Method(
        "not_coun",
        lambda s, **options: _contrasted(
            s, negation(s.fed, s.selector, follows=s.follows), **options
        ),
        options=options_of(coun, "temperature weight corrupt"),
        traits=_NEGATES._replace(labels=True, selects=True, doubles=True),
        tried=dict(weight=(1.0, 0.1, 0.3, 3.0)),
    ),
    # with a recovery that does not go back towards the old model
    Method(
        "not_no_return",
        lambda s: no_return(negation(s.fed, s.selector, follows=s.follows)),
        traits=_NEGATES._replace(selects=True),
    ),
    # with a recovery that is anchored to the old model's predictions
    Method(
        "anchored",
        lambda s, **options: anchored(
            s.fed,
            s.model,
            s.selector,
            s.local,
            follows=s.follows,
            around=s.around,
            chunk=s.chunk,
            **options,
        ),
        options=options_of(anchored, "temperature anchor"),
        traits=_NEGATES._replace(labels=True, selects=True, teaches=True),
    ),
    # the methods that NoT's paper compares with
    Method(
        "federaser",
        lambda s, **options: federaser(
            s.fed, s.local(epochs=-(-s.epochs // 2)), within=s.within, chunk=s.chunk, **options
        ),
        Needs(history=("start", "norms", "first"), per_client=True, whole_clients=True),
        options_of(federaser, "interval"),
        tried=dict(interval=(2, 4, 8, 16)),
        compared=True,
    ),
    Method(
        "fukd",
        lambda s, **options: fukd(s.fed, s.model, s.proxy, batch_size=s.batch_size, **options),
        Needs(history=("sums",), per_client=True, proxy_data=True, whole_clients=True),
        options_of(fukd, "temperature lr momentum epochs"),
        Traits(labels=True, of_means=True),
        tried=dict(lr=(0.01, 0.1, 0.001, 0.0001)),
        compared=True,
    ),
    Method(
        "pgd",
        lambda s, **options: pgd(s.fed, s.model, batch_size=s.batch_size, chunk=s.chunk, **options),
        _LEAVING._replace(history=("last",), whole_clients=True),
        options_of(pgd, "lr momentum clip epochs margin draws"),
        Traits(labels=True, of_means=True),
        tried=dict(lr=(0.01, 0.1, 0.03, 0.003)),
        compared=True,
    ),
    Method(
        "mode",
        lambda s, **options: mode(
            s.fed, s.model, s.local, within=s.within, chunk=s.chunk, **options
        ),
        _LEAVING,
        options_of(mode, "lam degrade guide stay_lr"),
        traits=Traits(labels=True),
        tried=dict(lam=(0.95, 0.9, 0.7, 0.5)),
        compared=True,
    ),
    Method(
        "fcu",
        lambda s, **options: fcu(s.fed, s.model, batch_size=s.batch_size, chunk=s.chunk, **options),
        _LEAVING,
        options_of(fcu, "lr iterations every tau ratio low"),
        Traits(labels=True, lonely=True),
        tried=dict(lr=(1e-5, 1e-4, 1e-3, 1e-2)),
        compared=True,
    ),
    # later methods, and the naive control
    Method(
        "fedosd",
        lambda s, **options: fedosd(
            s.fed,
            s.model,
            s.local,
            within=s.within,
            around=s.around,
            chunk=s.chunk,
            **options,
        ),
        _LEAVING._replace(per_client=True),
        options_of(fedosd, "lr rounds"),
        traits=Traits(labels=True),
        tried=dict(lr=(4e-4, 4e-3, 4e-2, 4e-1)),
        compared=True,
    ),
    Method(
        "puf",
        lambda s, **options: puf(s.fed, s.local(), chunk=s.chunk, **options),
        _LEAVING,
        options_of(puf, "rate alone"),
        tried=dict(rate=(20.0, 10.0, 40.0, 80.0)),
        compared=True,
    ),
    Method(
        "fedquit",
        lambda s, **options: fedquit(
            s.fed, s.model, batch_size=s.batch_size, chunk=s.chunk, **options
        ),
        _LEAVING,
        options_of(fedquit, "lr epochs"),
        Traits(labels=True, lonely=True),
        tried=dict(lr=(1e-4, 1e-3, 1e-2, 1e-1)),
        compared=True,
    ),
    Method(
        "fedmemprune",
        lambda s, **options: fedmemprune(s.fed, **options),
        options=options_of(fedmemprune, "ratio"),
        tried=dict(ratio=(0.3, 0.4, 0.8, 0.85)),
    ),
    Method(
        "ga",
        lambda s, **options: ga(s.fed, s.model, batch_size=s.batch_size, chunk=s.chunk, **options),
        _LEAVING,
        options_of(ga, "lr epochs clip rounds"),
        Traits(labels=True, lonely=True),
        tried=dict(lr=(0.01, 0.1, 0.03, 0.003)),
        compared=True,
    ),
    Method(
        "ga_first",
        lambda s, **options: ga_first(s.fed, s.selector, **options),
        Needs(history=("first",), per_client=True, whole_clients=True),
        options_of(ga_first, "scale"),
        Traits(perturbs=True, selects=True),
        tried=dict(scale=(1.0, 3.0, 10.0, 30.0)),
    ),
    Method(
        "npo",
        lambda s, **options: npo(
            s.fed, s.model, batch_size=s.batch_size, judge=s.judge, chunk=s.chunk, **options
        ),
        _LEAVING,
        options_of(npo, "lr beta epochs calibrated margin"),
        Traits(lonely=True),
        tried=dict(lr=(0.01, 0.1, 0.03, 0.003)),
    ),
    # on single weights that a first round chooses, in place of layers
    Method(
        "wagle",
        lambda s, then="not", **options: wagle(
            s.model,
            _then(s, then),
            batch_size=s.batch_size,
            judge=s.judge,
            chunk=s.chunk,
            **options,
        ),
        _LEAVING,
        options_of(wagle, "ratio mu") | dict(then="not"),
        Traits(negates=True, lonely=True),
        tried=dict(ratio=(0.4, 0.8, 0.1, 0.02)),
    ),
    Method(
        "modhifi",
        lambda s, then="zero", **options: modhifi(
            s.model, _then(s, then), batch_size=s.batch_size, chunk=s.chunk, **options
        ),
        _LEAVING,
        options_of(modhifi, "ratio") | dict(then="zero"),
        Traits(lonely=True),
        tried=dict(ratio=(0.2, 0.1, 0.4, 0.05)),
    ),
    # of regressions: their formulas are for targets that are numbers
    Method(
        "blindspot",
        lambda s, **options: blindspot(
            s.fed, s.model, s.local, within=s.within, chunk=s.chunk, **options
        ),
        _LEAVING,
        options_of(blindspot, "lr attention exposed"),
        Traits(numbers=True),
        tried=dict(lr=(0.001, 0.01, 0.003, 0.0003)),
    ),
    Method(
        "amnesiac",
        lambda s, **options: amnesiac(s.fed, s.model, s.local, chunk=s.chunk, **options),
        _LEAVING,
        options_of(amnesiac, "lr"),
        Traits(numbers=True),
        tried=dict(lr=(0.001, 0.01, 0.003, 0.0003)),
    ),
    # of ridge heads on frozen features (``jfu.ridge``)
    Method(
        "ridge",
        lambda s: ridge(s.model, penalty=s.penalty, batch_size=s.batch_size, chunk=s.chunk),
        Needs(history=("statistics",), per_client=True),
        traits=_SOLVES,
    ),
    Method(
        "ridge_subtract",
        lambda s: ridge_subtract(
            s.model, penalty=s.penalty, batch_size=s.batch_size, chunk=s.chunk
        ),
        _LEAVING._replace(history=("total",)),
        traits=_SOLVES._replace(lonely=True),
    ),
    # perturbations that keep each tensor's norm
    Method("noise", lambda s: noise(s.fed, s.selector), traits=_SELECTS),
    Method("reinit", lambda s: reinit(s.fed, s.selector, s.model.init), traits=_SELECTS),
    Method("permute", lambda s: permute(s.fed, s.selector), traits=_SELECTS),
)

# By name; ``UNLEARNERS["pgd"](setting)`` builds a method.
UNLEARNERS = {method.name: method for method in METHODS}


def needs_of(name: str) -> Needs:
    """What a method of the table needs, without building it.

    >>> needs_of("pgd").history
    ('last',)
    """
    return UNLEARNERS[name].needs


def traits_of(name: str) -> Traits:
    """What is to be known of a method of the table; the usual traits for any other name.

    >>> traits_of("none").recovers, traits_of("original").recovers
    (False, True)
    """
    return UNLEARNERS[name].traits if name in UNLEARNERS else Traits()


# What `all` stands for: the methods of the paper's table and later ones, without further controls.
# NoT is the last of them, as published and blended.
COMPARED = tuple(sorted((m.name for m in METHODS if m.compared), key=lambda n: n.startswith("not")))

__all__ = [
    "COMPARED",
    "METHODS",
    "UNLEARNERS",
    "Method",
    "Setting",
    "add_noise",
    "amnesiac",
    "anchored",
    "answers_alike",
    "blend",
    "blended",
    "blindspot",
    "check_changed",
    "check_request",
    "coun",
    "deepest",
    "fcu",
    "federaser",
    "fedmemprune",
    "fedosd",
    "fedquit",
    "finetune",
    "first_round",
    "fukd",
    "ga",
    "ga_first",
    "halved",
    "mode",
    "modhifi",
    "needs_of",
    "negate",
    "negation",
    "no_return",
    "noise",
    "none",
    "npo",
    "on_chosen",
    "on_retained",
    "permute",
    "pgd",
    "puf",
    "received_loss",
    "redraw",
    "reinit",
    "retrain",
    "ridge",
    "ridge_subtract",
    "rollback",
    "shuffle",
    "steady",
    "traits_of",
    "wagle",
    "zeroed",
]
