"""What a line of the table of methods is, and what a method is built from.

The table itself is ``METHODS`` in ``jfu.unlearn``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jfu.metrics import Judge, classes
from jfu.types import (
    ClientFn,
    FederatedAlgorithm,
    Model,
    Needs,
    Selector,
    Traits,
    Unlearner,
)
from jfu.unlearn.coun import Augment


class Setting(NamedTuple):
    """What a method may be built from."""

    fed: FederatedAlgorithm
    model: Model
    selector: Selector  # the layers that perturbing methods change
    follows: tuple[tuple[str, str], ...] = ()  # running means that follow a negated layer
    weights_only: bool = False  # biases of chosen layers stay as they are
    # local(loss=..., optimizer=..., epochs=..., augment=...) makes a client's training in rounds
    # of a method's own kind; what is not given is as usual. It has the limits and faults of all.
    local: Callable[..., ClientFn] | None = None
    # Makes a federation from a client's work (made by `local`), with its server and sampling.
    around: Callable[[ClientFn], FederatedAlgorithm] | None = None
    epochs: int = 1  # usual local epochs
    batch_size: int = 32
    # The federation of training with the clients that stay, as for retraining; else that is `fed`.
    training: FederatedAlgorithm | None = None
    chunk: int | None = None  # clients at once; see fedavg
    within: int | None = None  # the budget of rounds after the request
    proxy: jax.Array | None = None  # unlabelled examples at the server
    guess: float | None = None  # the loss of guessing, where the server may act on losses
    warmup: int = 0  # rounds of recovery in which the learning rate rises
    # The federation of recovery, with a learning rate that rises over so many rounds, and with
    # clients that report the loss of the model that they receive. Its optimizer reads the round
    # number with `halved`.
    eased: Callable[[int], FederatedAlgorithm] | None = None
    augment: Augment | None = None  # how clients change each example in training
    penalty: float = 1.0  # of ridge heads
    judge: Judge = classes  # the task's loss and score of each example
    options: Mapping[str, Mapping[str, Any]] = {}  # keyword arguments by method


class Method(NamedTuple):
    """A line of the table: a method's name, factory, needs, options and traits.

    >>> from jfu.unlearn import UNLEARNERS
    >>> UNLEARNERS["mode"].needs.target, UNLEARNERS["mode"].options["lam"]
    (True, 0.95)
    >>> UNLEARNERS["mode"].tried
    {'lam': (0.95, 0.9, 0.7, 0.5)}
    """

    name: str
    make: Callable[..., Unlearner]  # (setting, **options) -> the method
    needs: Needs = Needs()  # known before the method is built
    options: Mapping[str, Any] = {}  # what a user may set, with its published value
    traits: Traits = Traits()
    tried: Mapping[str, tuple[Any, ...]] = {}  # values to choose from, the published one first
    compared: bool = False  # whether `all` means it too

    def __call__(self, setting: Setting) -> Unlearner:
        """The method in a setting, with the setting's options for it.

        An option that only the setting has as a field replaces that field.
        """
        given = setting.options.get(self.name, {})
        shared = set(Setting._fields) - set(self.options)
        fields = {name: value for name, value in given.items() if name in shared}
        own = {name: value for name, value in given.items() if name not in shared}
        return self.make(setting._replace(**fields), **own)


def options_of(factory: Callable[..., Unlearner], names: str) -> dict[str, Any]:
    """Keyword arguments of a factory with their defaults.

    >>> from jfu.unlearn import deepest
    >>> options_of(deepest, "tells")
    {'tells': 0.05}
    """
    known = inspect.signature(factory).parameters
    return {name: known[name].default for name in names.split()}
