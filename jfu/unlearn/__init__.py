"""Every unlearning method, by the name that flags and tables use.

A method is a file with a factory that returns an ``Unlearner``; this table says how the
factory is called in a ``Setting``. To add one, write its file and give it a line here.
"""

from collections.abc import Callable
from typing import NamedTuple

from jfu.select import by_layer
from jfu.types import FederatedAlgorithm, Model, Selector, Unlearner
from jfu.unlearn.finetune import finetune, on_retained
from jfu.unlearn.negation import check_changed, negate, negation
from jfu.unlearn.noise import add_noise, noise
from jfu.unlearn.none import none
from jfu.unlearn.permute import permute, shuffle
from jfu.unlearn.reinit import redraw, reinit
from jfu.unlearn.retrain import retrain


class Setting(NamedTuple):
    """What a method may be built from."""

    fed: FederatedAlgorithm
    model: Model
    selector: Selector  # the layers that perturbing methods change
    follows: tuple[tuple[str, str], ...] = ()  # running means that follow a negated layer
    weights_only: bool = False  # biases of chosen layers are left alone


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
    # perturbations that keep each tensor's norm
    "noise": lambda s: noise(s.fed, s.selector),
    "reinit": lambda s: reinit(s.fed, s.selector, s.model.init),
    "permute": lambda s: permute(s.fed, s.selector),
}

__all__ = [
    "UNLEARNERS",
    "Setting",
    "add_noise",
    "check_changed",
    "finetune",
    "negate",
    "negation",
    "noise",
    "none",
    "on_retained",
    "permute",
    "redraw",
    "reinit",
    "retrain",
    "shuffle",
]
