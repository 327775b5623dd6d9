"""How often recovery ends at chance: a table of recorded comparisons with many seeds.

Each file of the folder is what ``launch.table --record`` wrote for one setting.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jfu import tables
from jfu.files import read_lines
from jfu.results import learnt

METHODS = ("retrain", "not", "not_blend")


def line(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One setting: after each method's last round, the runs at chance and the lowest accuracy.

    At chance is a run that retains no more than half a point above naming one class.

    >>> config = dict(dataset="digits", partition="iid", optimizer="sgd", momentum=0.9, lr=0.1)
    >>> row = lambda name, seed, retain: dict(method=name, seed=seed, retain=retain, guess=10.0)
    >>> rows = [row(name, seed, 90.0 + seed) for name in METHODS for seed in (0, 1)]
    >>> rows += [row("not", 2, 10.0), row("not_blend", 2, 80.0) | dict(calmed=1)]
    >>> line(config, rows)
    ['digits', 'momentum, 0.1', '3', '0, 90.0 %', '1, 10.0 %', '0, 80.0 %', '1']
    """
    last = {(row["method"], row["seed"]): row for row in rows}
    name = config["dataset"].replace("_", "-")
    name += "" if config["partition"] == "iid" else f", {config['partition'].replace(':', ' ')}"
    how = config["optimizer"]  # the others take no notice of momentum
    how = "momentum" if how == "sgd" and config.get("momentum") else how
    warm = config.get("recovery_warmup_rounds")
    how += f", {config['lr']:g}" + f", recovery warms up over {warm}" * bool(warm)
    cells = [name, how, str(len({seed for _, seed in last}))]
    for method in METHODS:
        ends = [row for (one, _), row in last.items() if one == method]
        lost = sum(not learnt(row) for row in ends)
        cells.append(f"{lost}, {min(row['retain'] for row in ends):.1f} %")
    again = [row for (one, _), row in last.items() if one == "not_blend" and row.get("calmed")]
    return [*cells, str(len(again))]


def markdown(folder: pathlib.Path) -> str:
    """The table of all settings, in the order of their files' names."""
    header = ["data", "optimizer, rate", "seeds", "retraining: at chance, lowest"]
    header += ["NoT", "`not_blend`", "started again"]
    lines = [header]
    for path in sorted(folder.glob("*.jsonl")):
        first, *rows = read_lines(path)
        lines.append(line(first["config"], rows))
    return tables.aligned(lines)
