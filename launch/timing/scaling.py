"""How the cost of a round grows: the points, each in a process of its own."""

import math
from typing import Any

from absl import flags

from launch.report import figures
from launch.shell.say import say
from launch.timing import points
from launch.timing.process import free, publish, told_by

FLAGS = flags.FLAGS

# The varied quantity, its title, its values, and the fixed sizes.
BASE = dict(clients=10, images=60, width=200, devices=1, chunk=1)
SWEEPS: dict[str, tuple[str, tuple[int, ...], dict[str, int]]] = {
    "clients": ("clients of 20 images", (10, 100, 1000, 10_000), dict(images=20)),
    "images": ("images of each of 10 clients", (10, 100, 1000, 10_000), {}),
    "width": ("parameters, 10 clients", (50, 200, 800, 3200), {}),
    "chunk": ("clients at once, of 64", (1, 4, 16, 64), dict(clients=64, width=800)),
    "devices": ("CPU devices, 64 clients", (1, 2, 4, 8), dict(clients=64, width=800)),
}

LABELS = dict(
    seconds="seconds a round",
    peak_mb="peak of the process",
    data_mb="images",
    temporary_mb="temporaries of the round",
)


def scaling() -> None:
    free(FLAGS.json)
    free(FLAGS.plot)
    rows = []
    for what in FLAGS.sweeps:
        name, values, fixed = SWEEPS[what]
        for value in values:
            asked = BASE | fixed | {what: value}
            say(f"{name}: {value}")
            rows.append(dict(sweep=what) | asked | measured(asked))
    publish(FLAGS.json, rows, markdown(rows))
    if FLAGS.plot:
        figures.drawn(draw, rows, FLAGS.plot)


def measured(asked: dict[str, int]) -> dict[str, Any]:
    return told_by(points.point, asked)


def slope(at: list[int], costs: list[float]) -> float:
    """The exponent between the last two points: 1 is linear, 0 constant."""
    return math.log(costs[-1] / costs[-2]) / math.log(at[-1] / at[-2])


def grown(row: dict) -> int:
    """The x-axis value of a row; for a wider network its parameters, not its units."""
    return row["parameters" if row["sweep"] == "width" else row["sweep"]]


def markdown(rows: list[dict]) -> str:
    from jfu import tables

    table = [["", "", "parameters", "s/round", "data MB", "temporary MB", "peak MB", "collectives"]]
    for row in rows:
        name, _, _ = SWEEPS[row["sweep"]]
        sizes = [f"{row[c]:.1f}" for c in ("data_mb", "temporary_mb", "peak_mb")]
        collectives = f"{row['all_reduces']} all-reduce, {row['gathers']} gather"
        table.append([name, str(grown(row)), f"{row['parameters']:,}"])
        table[-1] += [f"{row['seconds']:.4f}", *sizes, collectives]
    return tables.aligned(table)


def short(value: int) -> str:
    """
    >>> short(800), short(10_000), short(1_276_810), short(12_787_210)
    ('800', '10k', '1.3M', '13M')
    """
    for unit, size in ("M", 10**6), ("k", 10**3):
        if value >= max(size, 10**4):
            return f"{value / size:.{int(value < 10 * size)}f}{unit}"
    return f"{value:,}"


@figures.plain()
def draw(rows: list[dict], path: str) -> None:
    names = [what for what in SWEEPS if any(row["sweep"] == what for row in rows)]
    figure, axes = figures.sheet(
        2, len(names), size=(3.1 * len(names), 5.4), squeeze=False, sharex="col"
    )
    for (above, below), what in zip(axes.T, names, strict=True):
        mine = [row for row in rows if row["sweep"] == what]
        at = [grown(row) for row in mine]
        for axis, costs in (above, ("seconds",)), (below, ("peak_mb", "data_mb", "temporary_mb")):
            for cost in costs:
                axis.plot(at, [row[cost] for row in mine], "o-", label=LABELS[cost])
            axis.set(xscale="log", yscale="log", xticks=at, xticklabels=list(map(short, at)))
            axis.minorticks_off()
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        grows = slope(at, [row["seconds"] for row in mine])
        above.set_title(f"{SWEEPS[what][0]}\nlast step: time ~ n^{grows:.2f}", fontsize=9)
        if any(row["all_reduces"] for row in mine):
            reduces = ", ".join(str(row["all_reduces"]) for row in mine)
            below.set_title(f"all-reduces a round: {reduces}", fontsize=8)
        below.set_xlabel("parameters" if what == "width" else what)
    axes[0, 0].set_ylabel("seconds a round")
    axes[1, 0].set_ylabel("MB")
    figure.legend(
        *axes[1, 0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figures.save(figure, path)
