"""The picture of launch.power: what the audit notices, by the share of data that was put back."""

from collections.abc import Mapping, Sequence
from typing import Any

from launch.report import figures

Rows = Sequence[Mapping[str, Any]]


@figures.plain()
def draw(rows: Rows, path: str) -> None:
    """A panel for each request, a line for each number of seeds and of shadow federations."""
    kinds = list(dict.fromkeys(row["request"] for row in rows))
    figure, axes = figures.sheet(
        1, len(kinds), size=(4 * len(kinds), 3.6), sharey=True, squeeze=False
    )
    for kind, axis in zip(kinds, axes[0], strict=True):
        for number, (words, alike) in enumerate(grouped(rows).items()):
            mine = [row for row in alike if row["request"] == kind]
            shares = [100 * row["share"] for row in mine]
            for key, style in (("no", "-"), ("noticed", ":")):
                heights = [100 * row[key] for row in mine]
                label = words if key == "no" else None
                axis.plot(shares, heights, style, marker="o", ms=4, color=f"C{number}", label=label)
        axis.axhline(5, color="0.8", lw=1, zorder=0)
        axis.set_title(kind)
        axis.set_xlabel("forgotten data put back, %")
        axis.set_ylim(-3, 103)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("audits, %: no (line), no or a sign (dots)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figures.save(figure, path)


def grouped(rows: Rows) -> dict[str, Rows]:
    """Rows by what their line is called. Numbers of shadow federations with one curve are one line.

    >>> row = lambda shadows, no: dict(
    ...     request="labels", seeds=5, shadows=shadows, share=0.5, no=no, noticed=1.0
    ... )
    >>> list(grouped([row(0, 0.5), row(16, 0.5), row(64, 0.75)]))
    ['5 seeds, 0 or 16 shadows', '5 seeds, 64 shadows']
    """
    curves: dict[Any, dict[int, Rows]] = {}
    for seeds, shadows in dict.fromkeys((row["seeds"], row["shadows"]) for row in rows):
        mine = [row for row in rows if (row["seeds"], row["shadows"]) == (seeds, shadows)]
        curve = tuple((row["request"], row["share"], row["no"], row["noticed"]) for row in mine)
        curves.setdefault((seeds, curve), {})[shadows] = mine
    words = lambda counts: " or ".join(map(str, sorted(counts)))
    return {
        f"{seeds} seeds, {words(found)} shadows": next(iter(found.values()))
        for (seeds, _), found in curves.items()
    }
