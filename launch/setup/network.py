"""The network of a configuration: one of the table ``jfu.models.MODELS``, or the user's own."""

import warnings
from typing import Any

import jax

import jfu
import jfu.ledger
from jfu.tasks import TASKS
from launch.shell import hosts
from launch.shell.config import Config
from launch.shell.say import say


def build(config: Config, dataset: Any) -> jfu.Model:
    """The model that trains, for the examples of a data set.

    Raises:
      ValueError: there is none of this name, or it does not take such examples.
    """
    from jfu import models
    from jfu.models import own

    if not own.is_own(config.model):
        _check_kind(config)
        return _known(config, dataset)
    if config.norm:
        raise ValueError(f"--norm does nothing with --model={config.model}; leave it out")
    thing, shape = own.read(config.model), TASKS[config.task].shape(dataset)
    example = jax.ShapeDtypeStruct((2, *dataset.x_train.shape[1:]), dataset.x_train.dtype)
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always", UserWarning)
        model = own.as_model(thing, example, shape[-1], name=config.model)
    for text in dict.fromkeys(str(n.message) for n in noticed if n.category is UserWarning):
        say(f"note: {text}")
    own.check(model, example, shape, config.model)
    if TASKS[config.task].texts:
        own.check_causal(model, example, shape[-1], config.model)
    return models.at_precision(model, config.precision)


def _check_kind(config: Config) -> None:
    """Refuses a network of the table that reads other examples than the task's."""
    texts = TASKS[config.task].texts
    if texts != (config.model == "lm_tiny"):
        raise ValueError(
            f"--model={config.model} does not fit --task={config.task}; choose "
            f"{'lm_tiny' if texts else 'another, such as mlp'}, or a network of your own"
        )


def place(name: str | None) -> str:
    """The file or module of a user's own network, as the user wrote it; empty for other networks.

    >>> place("nets/net.py:Net"), place("cnn")
    ('nets/net.py', '')
    """
    return (name or "").rpartition(":")[0]


def same_on_hosts(config: Config) -> None:
    """Refuses hosts that have other files of the user's own network."""
    from jfu.models import own

    if own.is_own(config.model):
        hosts.same_content({f"the file of {config.model}": digest(config.model)})


def digest(name: str) -> str:
    """The digest of the file that has a user's own network; files that it imports do not count."""
    from jfu.models import own

    return jfu.ledger.digest(own.source(name))


def stock(config: Config, dataset: Any, model: jfu.Model) -> jfu.Model:
    """The model whose operations XLA counts: with its own convolutions, in full precision."""
    from jfu.models import own

    if own.is_own(config.model):
        return model
    return _known(config, dataset, precision=None, convolution=jax.lax.conv_general_dilated)


def _known(config: Config, dataset: Any, **changes: Any) -> jfu.Model:
    from jfu import models

    *_, outputs = TASKS[config.task].shape(dataset)
    sizes = dict(classes=outputs, image_shape=dataset.x_train.shape[1:])
    options = dict(norm=config.norm, precision=config.precision)
    return models.build(config.model, **sizes, **(options | changes))
