"""Step 3: ``jfu.clients_at_once`` beside what was measured, and the limit that would serve best.

The rule runs as many clients at once as have a number of parameters together, in chunks of equal
size. A measured job says how long a round takes by clients at once. The cost of a limit is the
time of the way that it chooses over that of the fastest way with the same batches: 1 is best. Ways
that compute convolutions in another manner are compared apart, since the rule does not choose them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
LIMITS = tuple(2**power for power in range(16, 34))


def comparable(rows: Sequence[Row]) -> list[Row]:
    """jfu's timed rows with the job's own batches."""
    mine = [row for row in rows if row["name"] == "jfu" and not row["large"]]
    return [row for row in mine if row.get("seconds_median") is not None]


def plain(row: Row) -> bool:
    """Whether a row's convolutions are the network's own."""
    return ":" not in row["strategy"]


def default(rows: Sequence[Row]) -> Row | None:
    """The row of the rule's choice."""
    chosen = [row for row in rows if plain(row) and row["at_once"] == row["at_once_by_rule"]]
    return chosen[0] if chosen else None


def fastest(rows: Sequence[Row]) -> Row | None:
    return min(rows, key=lambda row: row["seconds_median"], default=None)


def at_once(limit: int, clients: int, parameters: int) -> int:
    """``jfu.clients_at_once`` with another limit.

    >>> at_once(2**28, 100, 11_000_000), at_once(2**10, 100, 11_000_000)
    (20, 1)
    """
    most = max(1, min(clients, limit // max(1, parameters)))
    return math.ceil(clients / math.ceil(clients / most))


def cost(limit: int, rows: Sequence[Row]) -> float | None:
    """Time of the measured way that is nearest to a limit's choice, over the fastest one's.

    None if there are fewer than two plain ways.

    Args:
      rows: comparable rows of one job and precision.
    """
    ways = [row for row in rows if plain(row)]
    best = fastest(ways)
    if best is None or len({row["at_once"] for row in ways}) < 2:
        return None
    wanted = at_once(limit, best["clients"], best["parameters"])
    near = min(ways, key=lambda row: abs(math.log(row["at_once"] / wanted)))
    return near["seconds_median"] / best["seconds_median"]


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Comparable rows by job and precision."""
    keys = dict.fromkeys((row["job"], row["precision"]) for row in rows if "job" in row)
    mine = lambda key: [r for r in rows if (r.get("job"), r.get("precision")) == key]
    return [found for key in keys if (found := comparable(mine(key)))]


def proposal(rows: Sequence[Row], limit: int) -> dict[str, Any]:
    """The limit with the lowest mean cost (geometric), beside the present one.

    Of equally good limits it is the one nearest to the present.

    Args:
      rows: of all jobs on one device.
      limit: the present one, ``jfu.devices.PARAMETERS_AT_ONCE``.

    Returns:
      ``limit``, ``cost``, ``proposed``, ``proposed_cost`` and the number of ``jobs`` that say
      something; costs are None without any.
    """

    def mean(limit: int) -> float | None:
        costs = [c for group in groups(rows) if (c := cost(limit, group)) is not None]
        return math.exp(sum(map(math.log, costs)) / len(costs)) if costs else None

    known = sum(cost(limit, group) is not None for group in groups(rows))
    if not known:
        return dict(limit=limit, cost=None, proposed=limit, proposed_cost=None, jobs=0)
    distance = lambda other: abs(math.log2(other / max(limit, 1)))
    best = min((*LIMITS, limit), key=lambda other: (round(mean(other) or 0, 3), distance(other)))
    found = dict(limit=limit, cost=mean(limit), proposed=best, proposed_cost=mean(best))
    return found | dict(jobs=known)


def markdown(rows: Sequence[Row], limit: int) -> str:
    """What each job says of the rule, and the proposal in a sentence."""
    from jfu import tables

    lines = [["job", "precision", "the rule's way", "x", "fastest way", "other convolutions", "x"]]
    for group in groups(rows):
        ways = [row for row in group if plain(row)]
        best, mine = fastest(ways), default(ways)
        other = fastest([row for row in group if not plain(row)])
        over = lambda row: f"{row['seconds_median'] / best['seconds_median']:.2f}"
        shown = lambda row: [row["strategy"], over(row)] if row and best else ["-", "-"]
        first = [group[0]["job"], group[0]["precision"], *shown(mine)]
        lines.append([*first, best["strategy"] if best else "-", *shown(other)])
    found = proposal(rows, limit)
    if not found["jobs"]:
        return tables.aligned(lines) + "\nNo job was run in two ways, so the rule stays.\n"
    words = f"\nThe rule's limit of {limit:,} parameters costs {found['cost']:.2f} of the fastest"
    words += f" ways' time, over {found['jobs']} jobs. "
    if found["proposed"] == limit:
        return tables.aligned(lines) + words + "No other limit is better.\n"
    words += f"A limit of {found['proposed']:,} would cost {found['proposed_cost']:.2f}.\n"
    return tables.aligned(lines) + words
