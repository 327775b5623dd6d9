"""The rows of the paper's tables, and the known numbers in them.

Y. H. Khalil, L. Brunswic, S. Lamghari, X. Li, M. Beitollahi, X. Chen. NoT: Federated Unlearning via
Weight Negation. CVPR 2025, arXiv 2503.05657.

The numbers come from a published summary of the paper, because its text could not be read. So the
table of each number is not known here. The summary also names some rows without a number: other
requests, other splits, and the centralised case. The rows about kinds of normalisation are this
project's own questions.

Which tensors are the first layer's is open (``jfu.unlearn.negation``). The paper's numbers are
those of NoT as its authors run it, so they stand beside both readings.

The numbers of the centralised case are those of NoT in its first author's next paper:

Y. H. Khalil, M. Setayesh, H. Li. CoUn: Empowering Machine Unlearning via Contrastive Learning.
NeurIPS 2025, arXiv 2509.16391, table 2. Its fourth measure is another attack, ``efficacy``: the
share of forgotten examples that an attack on confidences takes for unseen.

Rows with accuracies can be checked: the gap is the mean of the four differences to retraining, to
the last digit. The gaps of the ablations (``cifar10_cnn_layers``, ``cifar10_cnn_perturbations``)
and of ``cifar100_resnet18_iid`` stand alone, so they cannot be checked.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jfu.metrics import GAP_MEASURES


class Row(NamedTuple):
    """A row: its preset is ``launch/presets/<name>.flags``."""

    title: str
    # By method: accuracies and the attack, percent; "gap"; and "d_retain" and so on if only
    # differences to retraining are known.
    known: Mapping[str, Mapping[str, float]]
    # The fields of a configuration that make it this row.
    config: Mapping[str, Any]
    note: str = ""  # what differs between the paper's measures and ours
    methods: tuple[str, ...] = ("not", "not_blend")  # that the row is about
    within: str = ""  # a row of the same configuration, whose runs hold this one's


def _federation(dataset: str, model: str, partition: str = "iid", **changes: Any) -> dict[str, Any]:
    """Ten clients, of which the first is forgotten."""
    common = dict(clients=10, forget="client:0", backdoor=False, follow_means=True)
    common |= dict(layers=("first",), weights_only=False, norm=None, drop_labels=())
    # No absent clients, no faults, no noise, no robust aggregator.
    common |= dict(sample=0, absent=0.0, faults=(), dp_clip=None, aggregator="mean")
    common |= dict(init_params=None, past=(), resplit=None)
    return dict(dataset=dataset, model=model, partition=partition, **common) | changes


def _resnet(dataset: str, partition: str = "iid", **changes: Any) -> dict[str, Any]:
    """Any normalisation, unless one is named, because the paper's is not known."""
    any_norm = _federation(dataset, "resnet18", partition)
    del any_norm["norm"]
    return any_norm | changes


def _vit(partition: str = "iid") -> dict[str, Any]:
    changes = dict(image_size=224, resplit=0.1, drop_labels=("background_google",))
    return _federation("caltech101", "vit_base", partition, **changes)


SKEW = "dirichlet:0.1"
EFFICACY = "efficacy"  # an attack that the centralised case has in place of ours


def _values(*numbers: float, kind: str = "") -> dict[str, float]:
    names = [kind + measure for measure in GAP_MEASURES] + ["gap"]
    return dict(zip(names[: len(numbers)], numbers, strict=True))


def _differences(*numbers: float) -> dict[str, float]:
    return _values(*numbers, kind="d_")


def _gap(number: float) -> dict[str, float]:
    return dict(gap=number)


def _with_efficacy(*numbers: float) -> dict[str, float]:
    names = ("retain", "forget", "test", EFFICACY, "gap")
    return dict(zip(names[: len(numbers)], numbers, strict=True))


# retain, forget, test, MIA, gap
CIFAR10_CNN_IID = {
    "retrain": _values(91.66, 83.05, 82.32, 50.23),
    "finetune": _values(92.48, 85.56, 82.36, 50.90, 1.01),
    "mode": _values(92.56, 85.25, 82.31, 50.70, 0.90),
    "not": _values(91.69, 83.86, 82.65, 50.23, 0.29),
}
ROWS: dict[str, Row] = {
    "cifar10_cnn_iid": Row("CIFAR-10, CNN, IID", CIFAR10_CNN_IID, _federation("cifar10", "cnn")),
    "cifar10_cnn_dirichlet": Row(
        "CIFAR-10, CNN, Dirichlet 0.1", {}, _federation("cifar10", "cnn", SKEW)
    ),
    "cifar100_cnn_iid": Row(
        "CIFAR-100, CNN, IID",
        {
            "retrain": _values(72.32, 53.31, 54.28, 49.70),
            "fcu": _values(73.40, 56.68, 55.37, 50.03, 1.47),
            "not": _values(72.25, 55.22, 55.23, 49.63, 0.75),
        },
        _federation("cifar100", "cnn"),
    ),
    "cifar100_cnn_dirichlet": Row(
        "CIFAR-100, CNN, Dirichlet 0.1", {}, _federation("cifar100", "cnn", SKEW)
    ),
    "cifar100_resnet18_iid": Row(
        "CIFAR-100, ResNet-18, IID",
        {"fcu": _gap(2.51), "not": _gap(4.73)},
        _resnet("cifar100"),
    ),
    "cifar100_resnet18_dirichlet": Row(
        "CIFAR-100, ResNet-18, Dirichlet 0.1", {}, _resnet("cifar100", SKEW)
    ),
    "caltech101_vit_iid": Row(
        "Caltech-101, ViT-B/16, IID",
        {
            "retrain": _values(99.73, 48.29, 48.02, 49.67),
            "finetune": _values(99.96, 94.23, 48.75, 73.80, 17.76),
            "not": _values(99.70, 50.81, 47.83, 50.07, 0.79),
        },
        _vit(),
    ),
    "caltech101_vit_dirichlet": Row(
        "Caltech-101, ViT-B/16, Dirichlet 0.1",
        {
            "finetune": _differences(1.38, 36.24, 2.19, 15.67, 13.87),
            "pgd": _differences(1.30, 32.14, 1.69, 13.53, 12.16),
            "not": _differences(0.71, 1.40, 0.37, 0.97, 0.86),
        },
        _vit(SKEW),
    ),
    # other requests; one client of ten is cifar10_cnn_iid
    **{
        f"cifar10_cnn_clients{many}": Row(
            f"{word} clients of ten", {}, _federation("cifar10", "cnn", forget=forget)
        )
        for many, word, forget in (
            (2, "two", "client:0,1"),
            (3, "three", "client:0,1,2"),
            (5, "five", "client:0,1,2,3,4"),
        )
    },
    "cifar10_cnn_class": Row(
        "a class of one client", {}, _federation("cifar10", "cnn", forget="class:0@client:0")
    ),
    "cifar10_cnn_instance": Row(
        "a tenth of one client's images",
        {},
        _federation("cifar10", "cnn", forget="fraction:0.1@client:0"),
    ),
    "cifar10_cnn_backdoor": Row(
        "a client with a backdoor", {}, _federation("cifar10", "cnn", backdoor=True)
    ),
    "cifar10_resnet18_centralised": Row(
        "centralised, a tenth of the images",
        {
            "retrain": _with_efficacy(100.00, 95.19, 94.67, 11.02),
            "finetune": _with_efficacy(99.99, 96.24, 94.70, 9.51, 0.65),
            "not": _with_efficacy(99.99, 95.81, 94.65, 10.45, 0.30),
        },
        _resnet("cifar10", clients=1, forget="fraction:0.1"),
        "The paper's gap includes another attack, ours includes MIA, of which it has no number.",
    ),
    # ablations
    "cifar10_cnn_layers": Row(
        "which layers",
        {"not": _gap(0.29), "not_all": _gap(0.84), "not_last": _gap(1.12)},
        _federation("cifar10", "cnn"),
        methods=("not", "not_first_weight", "not_all", "not_last"),
        within="cifar10_cnn_iid",
    ),
    "cifar10_cnn_perturbations": Row(
        "which perturbation",
        {"not": _gap(0.29), "noise": _gap(1.55), "reinit": _gap(3.23)},
        _federation("cifar10", "cnn"),
        methods=("not", "noise", "reinit", "permute"),
        within="cifar10_cnn_iid",
    ),
    "cifar10_cnn_weights_only": Row(
        "the first weight alone",
        CIFAR10_CNN_IID,
        _federation("cifar10", "cnn", weights_only=True),
        methods=("not_first_weight",),
        within="cifar10_cnn_iid",
    ),
    "cifar10_resnet18_group": Row("ResNet-18 with GroupNorm", {}, _resnet("cifar10", norm="group")),
    "cifar10_resnet18_batch": Row(
        "BatchNorm, running means follow", {}, _resnet("cifar10", norm="batch")
    ),
    "cifar10_resnet18_batch_stale": Row(
        "BatchNorm, running means left alone",
        {},
        _resnet("cifar10", norm="batch", follow_means=False),
    ),
}


def known(config: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers that the paper reports for a configuration, by method; empty if none is known.

    The row follows from the configuration (``launch.shell.config.Config`` as a dictionary): data
    set, model, partition, clients, request, layers, and a federation without faults. Scale and
    recipe are not compared.

    >>> known(dict(_federation("cifar10:3.0.2", "cnn")))["not_last"]
    {'gap': 1.12}
    >>> known(dict(_federation("cifar10", "cnn"), forget="client:0,1"))
    {}
    """
    found: dict[str, dict[str, float]] = {}
    for name, row in ROWS.items():
        if row.known and not differing(name, config):
            for method, numbers in row.known.items():
                found.setdefault(method, {}).update(numbers)
    return found


def notes(config: Mapping[str, Any]) -> list[str]:
    """What differs between the paper's measures and ours, in the rows of a configuration."""
    return [row.note for name, row in ROWS.items() if row.note and not differing(name, config)]


def differing(name: str, config: Mapping[str, Any]) -> list[str]:
    """The fields in which a configuration differs from a row.

    Both readings of the first layer are the same row. So are smaller images and a narrower network,
    which are scale.

    >>> differing("cifar10_cnn_iid", dict(_federation("cifar10", "cnn"), clients=20))
    ['clients']
    >>> differing("cifar10_cnn_iid", dict(_federation("cifar10", "cnn"), layers=["first_weight"]))
    []
    """
    plain = lambda v: tuple(v) if isinstance(v, list) else v
    mine = {field: plain(value) for field, value in config.items()}
    if mine.get("layers") == ("first_weight",):
        mine["layers"] = ("first",)
    mine["dataset"] = mine["dataset"].partition(":")[0]  # without its version
    mine["model"] = mine["model"].removesuffix("_narrow")
    return [field for field, value in ROWS[name].config.items() if mine.get(field) != value]


def expected(name: str) -> list[str]:
    """The known numbers of a row as lines of text, for the headers of presets.

    >>> expected("cifar10_cnn_iid")[-1]
    'not: retain 91.69, forget 83.86, test 82.65, MIA 50.23, gap 0.29'
    >>> expected("caltech101_vit_dirichlet")[0]
    'finetune: differences in retain 1.38, forget 36.24, test 2.19, MIA 15.67, gap 13.87'
    """
    lines = []
    for method, numbers in ROWS[name].known.items():
        called = {n: n.removeprefix("d_").replace("mia", "MIA") for n in numbers}
        kind = "differences in " if "d_retain" in numbers else ""
        words = ", ".join(f"{called[n]} {value:.2f}" for n, value in numbers.items())
        lines.append(f"{method}: {kind}{words}")
    return lines
