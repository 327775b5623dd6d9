"""Clients that come unevenly: FedAvg and FedAU, beside a federation in which all come."""

import pathlib

from jfu import tables
from launch.report import recorded

# The recorded files of a federation that was trained in three ways.
FILES = {
    "all come, FedAvg": "uneven-all-cpu",
    "two come rarely, FedAvg": "uneven-mean-cpu",
    "two come rarely, FedAU": "uneven-fedau-cpu",
}
COLUMNS = {
    "retain %": "retain",
    "test %": "test",
    "worst client %": "worst_client",
    "spread": "client_spread",
}


def markdown(results: pathlib.Path) -> str:
    """The trained model of each federation, with mean and standard deviation over seeds.

    Args:
      results: the folder of the recorded files.
    """
    lines, seeds = [["federation", *COLUMNS]], []
    for title, name in FILES.items():
        found = recorded.read(results / f"{name}.jsonl")
        model = found["methods"]["original"] or {}
        lines.append([title, *(tables.cell(model.get(key)) for key in COLUMNS.values())])
        seeds.append(f"{name} {len(found['seeds'])}")
    return f"{tables.aligned(lines)}\nSeeds: {', '.join(seeds)}.\n"
