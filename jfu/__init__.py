"""jfu: federated unlearning in JAX.

Training is a pair of pure functions ``(init, round)``, and unlearning is a pair ``(perturb,
recover)``. Clients are rows of indices into one pool of examples. A mask says which of them take
part. ``jfu.unlearn`` lists every method. ``jfu.attacks``, ``jfu.distance`` and ``jfu.shadows`` test
whether a method forgets. ``jfu.evaluation`` computes all measures of a model in one call,
``jfu.results`` summarises the rows of a comparison, and ``jfu.tables`` prints the summary.

Models, data sets, files and ledgers are in ``jfu.models``, ``jfu.data``, ``jfu.io`` and
``jfu.ledger``. Import them by name.
"""

import importlib
from typing import TYPE_CHECKING

from jfu import faults, ridge
from jfu.aggregate import (
    Aggregator,
    clipped_mean,
    coordinate_median,
    geometric_median,
    krum,
    mixed,
    trimmed_mean,
    weighted_mean,
)
from jfu.augment import crop_and_flip
from jfu.clients import map_clients, sum_clients
from jfu.conv import check_convs, conv
from jfu.costs import nbytes, step_flops, wire
from jfu.devices import clients_at_once, clients_mesh, cpu_devices
from jfu.dot import dot_general
from jfu.fedavg import FedAvgState, fedavg, sender
from jfu.history import Recorded, recorded
from jfu.local import classification, cross_entropy, local_sgd
from jfu.loop import Done, rounds
from jfu.metrics import first_round_within, gap, gap_per_seed, match, mia, per_example
from jfu.participation import evened, fedau
from jfu.pools import spread
from jfu.requests import (
    forget_class,
    forget_client,
    forget_examples,
    forget_fraction,
    split,
)
from jfu.sampling import absent, sampled
from jfu.select import by_layer, by_path, describe, first_weight, select
from jfu.server import fedadam, fedyogi
from jfu.stacking import stack, weights
from jfu.streaming import streamed
from jfu.types import (
    Batch,
    Broadcast,
    ClientData,
    FederatedAlgorithm,
    LocalInfo,
    Model,
    Needs,
    RoundInfo,
    Split,
    Trained,
    Unlearner,
)

if TYPE_CHECKING:
    from jfu import (
        adversaries,
        attacks,
        chacha,
        distance,
        evaluation,
        privacy,
        results,
        shadows,
        tables,
        unlearn,
    )
    from jfu.unlearn import check_changed, negate, negation

__version__ = "0.1.0"

__all__ = [
    "Aggregator",
    "Batch",
    "Broadcast",
    "ClientData",
    "Done",
    "FedAvgState",
    "FederatedAlgorithm",
    "LocalInfo",
    "Model",
    "Needs",
    "Recorded",
    "RoundInfo",
    "Split",
    "Trained",
    "Unlearner",
    "absent",
    "adversaries",
    "attacks",
    "by_layer",
    "by_path",
    "chacha",
    "check_changed",
    "check_convs",
    "classification",
    "clients_at_once",
    "clients_mesh",
    "clipped_mean",
    "conv",
    "coordinate_median",
    "cpu_devices",
    "crop_and_flip",
    "cross_entropy",
    "describe",
    "distance",
    "dot_general",
    "evaluation",
    "evened",
    "faults",
    "fedadam",
    "fedau",
    "fedavg",
    "fedyogi",
    "first_round_within",
    "first_weight",
    "forget_class",
    "forget_client",
    "forget_examples",
    "forget_fraction",
    "gap",
    "gap_per_seed",
    "geometric_median",
    "krum",
    "local_sgd",
    "map_clients",
    "match",
    "mia",
    "mixed",
    "nbytes",
    "negate",
    "negation",
    "per_example",
    "privacy",
    "recorded",
    "results",
    "ridge",
    "rounds",
    "sampled",
    "select",
    "sender",
    "shadows",
    "split",
    "spread",
    "stack",
    "step_flops",
    "streamed",
    "sum_clients",
    "tables",
    "trimmed_mean",
    "unlearn",
    "weighted_mean",
    "weights",
    "wire",
]

# Training needs none of these, so `import jfu` does not wait for them: the name, and its module.
_LATER = {
    "adversaries": "jfu.adversaries",
    "attacks": "jfu.attacks",
    "chacha": "jfu.chacha",
    "check_changed": "jfu.unlearn",
    "distance": "jfu.distance",
    "evaluation": "jfu.evaluation",
    "negate": "jfu.unlearn",
    "negation": "jfu.unlearn",
    "privacy": "jfu.privacy",
    "results": "jfu.results",
    "shadows": "jfu.shadows",
    "tables": "jfu.tables",
    "unlearn": "jfu.unlearn",
}


def __getattr__(name: str):
    """One of the names above, imported when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'jfu' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    return module if _LATER[name] == f"jfu.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    """All public names, those too that were not imported yet."""
    return sorted({*globals(), *__all__})
